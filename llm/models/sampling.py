"""Drawing responses from a language model: a loop over tokens with a key-value cache.

Randomness is one uniform per token, drawn before the loop starts: a response depends neither on which others are drawn
in the same batch nor on when they end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sims.core.loop.protocols import Samples
from sims.core.numerics.sampling import inverse_cdf

from .decoding import Decoding
from .forward import log_distribution
from .scoring import LanguageModel, trim_left
from .steps import STEPS

# Tokens between two looks of the host at what a device has drawn; 16 elsewhere. Computing a token for rows that have
# ended costs less on a GPU than waiting for it, and more on a CPU.
LOOK_EVERY = {"cpu": 1}


def truncate(logp: Tensor, top_p: float) -> Tensor:
    """The distribution of the fewest likeliest tokens that have probability top_p together, renormalised. logp: (...,
    V).

    The likeliest token always stays. Holtzman et al. 2020.
    """
    if top_p >= 1.0:
        return logp
    ordered, order = logp.sort(-1, descending=True)
    probability = ordered.double().exp()
    before = probability.cumsum(-1) - probability  # of likelier tokens; a token stays while this falls short of top_p
    dropped = (before >= top_p).scatter(-1, order, before >= top_p)
    return logp.masked_fill(dropped, -torch.inf).log_softmax(-1)


@torch.no_grad()
def generate(
    distributions: Sequence[tuple[LanguageModel, float | Tensor]],
    prompts: Tensor,
    prompt_mask: Tensor,
    uniforms: Tensor,
    decoding: Decoding,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    stopped: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Samples:
    """Draw one response per row from ∝ Π π_i^{share_i} per token, over the models and shares of `distributions`.

    prompts, prompt_mask: (N, P), padded on the left; uniforms: (N, L) float64. Returns tokens, mask and log-probs under
    the distribution that drew them, all (N, L): after a row's EOS pad_token_id, False and 0. The host looks at the
    device once every `LOOK_EVERY` tokens: rows that have ended leave the batch then, if the cache is dynamic, and the
    loop ends with the last. stopped: asked then for rows that need no further token, of their tokens so far and mask
    (n, t); they have ended too, and keep what they have.
    Raises FloatingPointError when logits are not finite."""
    (rows, length), device = uniforms.shape, prompts.device
    prompts, prompt_mask = trim_left(prompts, prompt_mask)
    every = LOOK_EVERY.get(device.type, 16)
    eos = torch.tensor(list(eos_token_ids), device=device)
    responses = torch.full((rows, length), pad_token_id, device=device)
    mask = torch.zeros((rows, length), dtype=torch.bool, device=device)
    logps = torch.zeros((rows, length), dtype=torch.float64, device=device)
    running = torch.arange(rows, device=device)
    alive = torch.ones(rows, dtype=torch.bool, device=device)  # of those running, which have not ended
    kind = STEPS[decoding.cache_implementation]
    steps = [kind(model, prompts, prompt_mask, length) for model, _ in distributions]
    token = None
    for t in range(length):
        distribution = torch.zeros((), device=device)
        for (_, share), step in zip(distributions, steps, strict=True):
            logits = step.first() if token is None else step.next(token)
            distribution = distribution + share * log_distribution(logits, decoding.temperature)
        if len(distributions) > 1:
            distribution = distribution.log_softmax(-1)
        distribution = truncate(distribution, decoding.top_p)
        token = inverse_cdf(distribution.exp(), uniforms[running, t : t + 1]).clamp(max=distribution.shape[-1] - 1)
        logp = distribution.gather(-1, token).squeeze(-1)
        token = token.squeeze(-1)
        responses[running, t] = torch.where(alive, token, pad_token_id)
        mask[running, t], logps[running, t] = alive, torch.where(alive, logp.double(), 0.0)
        alive = alive & torch.isin(token, eos, invert=True)
        if (t + 1) % every == 0 or t + 1 == length:
            if stopped is not None:
                alive = alive & ~stopped(responses[running, : t + 1], mask[running, : t + 1])
            going = _look(alive, logps)
            if len(going) == 0:
                break
            if len(going) < len(running) and kind.shrinks:
                running, token, alive = running[going], token[going], alive[going]
                for step in steps:
                    step.keep(going)
    return Samples(responses, mask, logps.to(distribution.dtype))


def _look(alive: Tensor, logps: Tensor) -> Tensor:
    """Which rows have not ended, as indices; the one wait for the device. FloatingPointError for a log-prob that is not
    finite: one entry of the logits that is not leaves none of its row finite."""
    *still, fine = torch.cat([alive, torch.isfinite(logps).all().unsqueeze(0)]).tolist()
    if not fine:
        t = int((~torch.isfinite(logps)).any(0).nonzero()[0])
        value = float(logps[:, t][~torch.isfinite(logps[:, t])][0])
        raise FloatingPointError(f"sampling: logits of response token {t} are {value}, not finite")
    return torch.tensor([i for i, going in enumerate(still) if going], dtype=torch.int64, device=alive.device)
