"""A causal language model as backbone, head and critic: rows of token ids in, log-probs of their responses out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from sims.core.objectives.batch import Outputs
from sims.core.spec import Spec, setting

from .copies import copy_module, half
from .forward import finish_logits, hidden_states, padding_free_states
from .layers import checkpoint_layers, checkpointed_layers
from .log_probs import chunked_log_probs


@dataclass(frozen=True)
class Scoring(Spec, kind="scoring"):
    """How log-probs are computed: memory against time. Only `precision` changes the numbers beyond rounding.

    >>> llm.Scoring(gradient_checkpointing=True).precision
    'stored'
    """

    gradient_checkpointing: bool = setting(
        False, "recompute a layer's activations in the backward pass instead of keeping them"
    )
    logits_at_a_time: int = setting(
        1 << 24, "entries of the float32 block of logits (tokens x vocabulary) held at once, 4 bytes each", at_least=1
    )
    group_by_length: bool = setting(
        False,
        "responses of like length in one pass, in updates too, which saves padding; rounding differs",
        omit_default=True,
    )
    padding_free: bool = setting(
        False,
        "score the responses of a pass as one sequence without padding (TRL's packing); saves time with "
        "attn_implementation = varlen or flash_attention_2, and costs it with others",
        omit_default=True,
    )
    score_batch_size: int = setting(64, "responses scored in one batch where no gradient is needed", at_least=1)
    precision: Literal["stored", "bfloat16"] = setting(
        "stored",
        "stored: compute in the precision of the weights; bfloat16: under autocast; log-softmax at least in float32",
    )


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

    def __init__(self, model: nn.Module, critic: Literal["shared", "own"] | None, scoring: Scoring) -> None:
        super().__init__()
        self.model, self.scoring = model, scoring
        if scoring.gradient_checkpointing and not checkpoint_layers(self.core):
            name = type(self.core).__name__
            raise ValueError(f"gradient_checkpointing = True: {name} has no layers that transformers can checkpoint")
        self.critic: Critic | None = None
        if critic is not None:
            parameter = next(model.parameters())
            trained = [p for p in model.parameters() if p.requires_grad]
            own = copy_module(self.backbone, trained) if critic == "own" else None
            self.critic = Critic(self.core.config.hidden_size, parameter, own)
        self.eval()

    @property
    def core(self) -> Any:
        """The model of transformers, its adapters inside."""
        adapted: Any = self.model
        return adapted.get_base_model() if hasattr(adapted, "get_base_model") else adapted

    @property
    def head(self) -> nn.Module:
        """From hidden states (..., H) to logits (..., V), but for `finish_logits`."""
        return self.core.get_output_embeddings()  # type: ignore[no-any-return]

    @property
    def backbone(self) -> nn.Module:
        """From token ids to hidden states."""
        core = self.core
        # Llama 4's text model names its backbone otherwise than it says, and is then its own `base_model`.
        inner = [child for child in core.children() if isinstance(child, PreTrainedModel)]
        return inner[0] if core.base_model is core and inner else core.base_model  # type: ignore[no-any-return]

    def logits(self, states: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., H)."""
        return finish_logits(self.head(states), self.core.config)

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
        with self._ready(tokens):
            return self.logits(hidden_states(self.backbone, tokens, attention, cache)[:, -1])

    def forward(
        self,
        tokens: Tensor,
        attention: Tensor,
        responses: Tensor,
        mask: Tensor,
        temperature: float = 1.0,
        values: bool = False,
        entropy: bool = False,
    ) -> Outputs:
        """Log-probs, values and entropies of responses: (N, L) each, 0 where mask is False.

        tokens, attention: (N, P + L − 1), prompts and all but the last token of the responses, and False on padding.
        responses, mask: (N, L). Values and entropies are those of the prefix before each token.
        """
        with self._ready(tokens):
            states = self._hidden(self.backbone, tokens, attention, mask)
            logp, entropies = chunked_log_probs(
                self.logits, states, responses[mask], self._chunk(), temperature=temperature, entropy=entropy
            )
            value = self._values(tokens, attention, mask, states) if values else None
        return Outputs(
            logp=_at(mask, logp),
            values=None if value is None else _at(mask, value),
            entropy=None if entropies is None else _at(mask, entropies),
        )

    def _values(self, tokens: Tensor, attention: Tensor, mask: Tensor, states: Tensor) -> Tensor:
        if self.critic is None:
            raise ValueError("values: this policy has no critic; make it with critic='shared' or critic='own'")
        if self.critic.backbone is not None:
            states = self._hidden(self.critic.backbone, tokens, attention, mask)
        return self.critic(states)  # type: ignore[no-any-return]

    def _hidden(self, backbone: nn.Module, tokens: Tensor, attention: Tensor, mask: Tensor) -> Tensor:
        """States before the tokens where mask (N, L) is True: (T, H)."""
        start = tokens.shape[1] - mask.shape[1]
        with checkpointed_layers(backbone, self.scoring.gradient_checkpointing and torch.is_grad_enabled()):
            if not self.scoring.padding_free:
                return hidden_states(backbone, tokens, attention)[:, start:][mask]
            states, place = padding_free_states(backbone, tokens, attention, start + 1)
            return states[place[:, start:][mask]]

    def _chunk(self) -> int:
        return max(1, self.scoring.logits_at_a_time // self.core.config.vocab_size)

    def _ready(self, like: Tensor) -> torch.autocast:
        if self.model.training:
            self.eval()  # code outside may have put the model into training mode
        return self.autocast(like.device)

    def autocast(self, device: torch.device) -> torch.autocast:
        """The autocast context that `precision` names."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.scoring.precision == "bfloat16")


class _HalfCache(DynamicCache):
    """Keys and values as attention computes with them under autocast: where rotary positions leave keys in float32,
    they would be cast again at every token."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = (x.to(half(x.dtype)) for x in (key_states, value_states))
        return super().update(keys, values, *args, **kwargs)


def _at(mask: Tensor, x: Tensor) -> Tensor:
    """Put x (T,) where mask (N, L) is True, and 0 elsewhere."""
    return x.new_zeros(mask.shape).masked_scatter(mask, x)


def check_parts(language_model: LanguageModel) -> None:
    """Refuse a model that does more between backbone and logits than its head and `finish_logits` (prompt learning)."""
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
