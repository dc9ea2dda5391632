"""Prompts of like length together: the same numbers in the same places, from fewer tokens."""

from __future__ import annotations

import torch

import sims
from llm.models.loading import build_policy, load_tokenizer
from llm.models.policy import CausalLMPolicy
from llm.models.settings import Scoring
from llm.models.spec import LanguageModelSpec
from sims.core.loop.learner import Learner, by_length
from sims.core.loop.optimise import Optimiser
from sims.core.objectives.batch import Batch, OutputRequest

EVERYTHING = OutputRequest(entropy=True, prompt_logp=True)


def policy(grouped: bool, size: int) -> CausalLMPolicy:
    spec = LanguageModelSpec(scoring=Scoring(group_by_length=grouped, score_batch_size=size))
    return build_policy(spec, load_tokenizer(spec), False, torch.float64, torch.device("cpu"))


def batch(prompts: int = 7, seed: int = 0) -> Batch:
    """Prompts and pairs of responses of very different lengths, with pads of an id that is none."""
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 9, (prompts,), generator=draw)
    lengths = torch.randint(1, 20, (prompts, 2), generator=draw)
    prompt_mask = torch.arange(8) >= 8 - sizes[:, None]
    mask = torch.arange(19) < lengths[..., None]
    ids = [torch.randint(4, 60, shape, generator=draw) for shape in (prompt_mask.shape, mask.shape)]
    return Batch(
        prompts=ids[0].masked_fill(~prompt_mask, 0),
        prompt_mask=prompt_mask,
        responses=ids[1].masked_fill(~mask, 0),
        mask=mask,
        logp_ref=torch.zeros(mask.shape, dtype=torch.float64),
        pairs=torch.tensor([0, 1]).repeat(prompts, 1, 1),
        pair_label=torch.ones(prompts, 1, dtype=torch.float64),
    )


@torch.no_grad()
def test_scores_are_in_their_places() -> None:
    grouped, plain = (policy(x, 3).forward(batch(), EVERYTHING) for x in (True, False))
    for name in ("logp", "entropy", "prompt_logp"):
        torch.testing.assert_close(getattr(grouped, name), getattr(plain, name), rtol=1e-10, atol=1e-10)


def read_tokens(model: CausalLMPolicy) -> list[int]:
    """Filled with the size of each block that the model reads, padding included."""
    found: list[int] = []
    model.language_model.backbone.register_forward_pre_hook(
        lambda _, __, given: found.append(given["input_ids"].numel()), with_kwargs=True
    )
    return found


def test_an_update_has_the_same_gradient_from_fewer_tokens() -> None:
    gradients, tokens = [], []
    for grouped in (True, False):
        model = policy(grouped, 64)
        counted = read_tokens(model)
        learner = Learner(model, Optimiser(), (), 2, grouped)
        algorithm, rows = sims.DPO(beta=0.1), batch(12)
        targets, _ = algorithm.targets(rows, {})
        found, _ = learner.gradient(algorithm, rows, algorithm.at_update(rows, targets, None))
        gradients.append(found)
        tokens.append(sum(counted))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert tokens[0] < tokens[1]


def test_every_prompt_keeps_its_targets() -> None:
    rows = batch(9)
    numbered = {"number": torch.arange(9)}
    found, targets = by_length(rows, numbered)
    for place, number in enumerate(targets["number"].tolist()):
        assert torch.equal(found.responses[place], rows.responses[number])
    lengths = found.mask.sum(-1).amax(-1) + found.need("prompt_mask").sum(-1)
    assert lengths.tolist() == sorted(lengths.tolist())
