"""A causal language model as backbone, head and critic: rows of token ids in, log-probs of their responses out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from sims.core.objectives.batch import LOG_PROBS, OutputRequest, Outputs

from .copies import copy_module, half
from .forward import (
    chunked_log_probs,
    finished_head,
    hidden_states,
    max_positions,
    padding_free_states,
)
from .layers import check_layers, computed_layers
from .settings import Scoring


class Critic(nn.Module):
    """V = h·w + b on the last hidden state: of the policy's backbone, or of one of its own. Starts at V = 0."""

    def __init__(self, width: int, like: Tensor, backbone: nn.Module | None = None) -> None:
        super().__init__()
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.weight = nn.Parameter(torch.zeros(width, dtype=dtype, device=like.device))
        self.bias = nn.Parameter(torch.zeros((), dtype=dtype, device=like.device))
        self.backbone = backbone

    def forward(self, states: Tensor) -> Tensor:
        """states: (..., H); returns (...)."""
        return (states.to(self.weight.dtype) * self.weight).sum(-1) + self.bias


class LanguageModel(nn.Module):
    """Rows of token ids in, log-probs of their responses out. One module, so that it can be sharded as one.

    model: a causal LM of transformers, bare or with adapters of peft. critic: on the `shared` backbone, on its `own`
    copy of it, or None. Always in evaluation mode: dropout would make the policy differ from the one that sampled.
    """

    core: Any
    backbone: nn.Module
    head: nn.Module
    logits: Callable[[Tensor], Tensor]

    def __init__(self, model: nn.Module, critic: Literal["shared", "own"] | None, scoring: Scoring) -> None:
        super().__init__()
        self.model, self.scoring = model, scoring
        for name, part in _parts(model).items():
            object.__setattr__(self, name, part)  # not a module of its own: it is inside `model`
        config = self.core.config
        self.positions = max_positions(config)
        self.chunk = max(1, scoring.logits_at_a_time // config.vocab_size)
        check_layers(self.core, scoring)
        self.critic: Critic | None = None
        if critic is not None:
            parameter = next(model.parameters())
            trained = [p for p in model.parameters() if p.requires_grad]
            own = copy_module(self.backbone, trained) if critic == "own" else None
            self.critic = Critic(config.hidden_size, parameter, own)
        self.eval()

    def new_cache(self) -> DynamicCache:
        """An empty key-value cache."""
        cache: type[DynamicCache] = _HalfCache if self.scoring.precision == "bfloat16" else DynamicCache
        return cache(config=self.core.config)

    def attention_dtype(self, stored: torch.dtype) -> torch.dtype:
        """The precision that attention computes in, given keys or values of dtype `stored`."""
        return half(stored) if self.scoring.precision == "bfloat16" else stored

    def next_logits(self, tokens: Tensor, attention: Tensor, cache: DynamicCache) -> Tensor:
        """Logits of the token that follows: (N, V). tokens: (N, S), those not in the cache yet; attention: (N, P + S),
        False on padding, of the cached ones too."""
        with self.computing(tokens.device):
            return self.logits(hidden_states(self.backbone, tokens, attention, cache)[:, -1])

    def forward(
        self,
        prompts: Tensor,
        prompt_mask: Tensor,
        responses: Tensor,
        read: Tensor,
        mask: Tensor,
        temperature: float = 1.0,
        request: OutputRequest = LOG_PROBS,
    ) -> Outputs:
        """Log-probs of responses (N, L); if asked for, values and entropies of the prefix before each token, and the
        prompts' own log-probs (N, P − 1), of all tokens but the first. 0 where mask is False, and in padding.

        prompts: (N, P), padded on the left, where prompt_mask is False; columns that are padding in every row are left
        out of P first. responses, read, mask: (N, L), of which read is True on tokens that are there, and mask on those
        that the policy chose.
        """
        prompts, prompt_mask = trim_left(prompts, prompt_mask)
        tokens = torch.cat([prompts, responses[:, :-1]], -1)
        attention = torch.cat([prompt_mask, read[:, 1:]], -1)  # nothing is drawn after a row's last token
        ahead = prompts.shape[1] - 1 if request.prompt_logp else 0
        if ahead:  # the prompt's tokens after its first are scored as if they were the response's
            responses = torch.cat([prompts[:, 1:], responses], -1)
            mask = torch.cat([prompt_mask[:, 1:] & prompt_mask[:, :-1], mask], -1)

        def states_of(backbone: nn.Module) -> Tensor:
            """States before the tokens where mask is True: (T, H)."""
            start = tokens.shape[1] - mask.shape[1]
            with computed_layers(backbone, self.scoring):
                if not self.scoring.padding_free:
                    return hidden_states(backbone, tokens, attention)[:, start:][mask]
                states, place = padding_free_states(backbone, tokens, attention, start + 1)
                return states[place[:, start:][mask]]

        with self.computing(tokens.device):
            states = states_of(self.backbone)
            logp, entropies = chunked_log_probs(
                self.logits, states, responses[mask], self.chunk, temperature, request.entropy
            )
            found = {"logp": logp, "entropy": entropies}
            if request.values:
                if self.critic is None:
                    raise ValueError("values: this policy has no critic; make it with critic='shared' or critic='own'")
                own = self.critic.backbone
                found["values"] = self.critic(states if own is None else states_of(own))
        placed = {name: x.new_zeros(mask.shape).masked_scatter(mask, x) for name, x in found.items() if x is not None}
        return Outputs(
            **{name: x[:, ahead:] for name, x in placed.items()},
            prompt_logp=placed["logp"][:, :ahead] if request.prompt_logp else None,
        )

    def computing(self, device: torch.device) -> torch.autocast:
        """Around every computation: evaluation mode, whatever code outside has set, and the autocast that `precision`
        names."""
        if self.model.training:
            self.eval()
        return torch.autocast(device.type, torch.bfloat16, enabled=self.scoring.precision == "bfloat16")


def trim_left(prompts: Tensor, prompt_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts (N, P), padded on the left, and their mask, without the first columns that are padding in every row."""
    first = int(prompt_mask.any(0).int().argmax())
    return prompts[:, first:], prompt_mask[:, first:]


def _parts(model: nn.Module) -> dict[str, Any]:
    """core: the model of transformers, its adapters inside; backbone: from token ids to hidden states (..., H); logits:
    from these to logits (..., V), by the head and what the architecture does after it."""
    adapted: Any = model
    core = adapted.get_base_model() if hasattr(adapted, "get_base_model") else adapted
    # Llama 4's text model names its backbone otherwise than it says, and is then its own `base_model`.
    inner = [child for child in core.children() if isinstance(child, PreTrainedModel)]
    backbone = inner[0] if core.base_model is core and inner else core.base_model
    head = core.get_output_embeddings()
    return {"core": core, "backbone": backbone, "head": head, "logits": finished_head(head, core.config)}


class _HalfCache(DynamicCache):
    """Keys and values as attention computes with them under autocast: where rotary positions leave keys in float32,
    they would be cast again at every token."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = (x.to(half(x.dtype)) for x in (key_states, value_states))
        return super().update(keys, values, *args, **kwargs)


def check_parts(language_model: LanguageModel) -> None:
    """Refuse a model that does more between backbone and logits than `finished_head` (prompt learning)."""
    parameter = next(language_model.model.parameters())
    if parameter.is_meta:
        return
    # A few tokens, as the embedding of one may be 0, and with it all logits.
    tokens = torch.arange(min(4, language_model.core.config.vocab_size), device=parameter.device).unsqueeze(0)
    attention = torch.ones_like(tokens)
    with torch.no_grad():
        whole = language_model.model(input_ids=tokens, attention_mask=attention).logits
        ours = language_model.logits(hidden_states(language_model.backbone, tokens, attention))
    if not whole.isfinite().all():
        raise ValueError("its logits are not finite: must be numbers")
    if not torch.allclose(whole, ours, rtol=1e-5, atol=1e-6 * float(whole.abs().max()), equal_nan=True):
        name = type(language_model.core).__name__
        raise ValueError(f"model = {name}: must compute its logits as head(backbone(tokens)), without steps between")
