"""A causal language model as backbone, head and critic, and log-probs from it a chunk of tokens at a time.

Log-probs of T tokens over a vocabulary of V need a float32 block of T x V, which at V = 50,304 takes most of the
memory. Here only tokens that the policy chose go through the head, a chunk of them at a time, and the backward pass
recomputes each chunk instead of keeping it.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from sims.core.objectives.batch import Outputs
from sims.core.spec import Spec, setting


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
        "flash_attention_2 or flex_attention, and costs it with others",
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
        return _half(stored) if self.scoring.precision == "bfloat16" else stored

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
            place = attention.flatten().cumsum(0).view_as(attention) - 1
            return padding_free_states(backbone, tokens, attention)[place[:, start:][mask]]

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
        keys, values = (x.to(_half(x.dtype)) for x in (key_states, value_states))
        return super().update(keys, values, *args, **kwargs)


def _half(dtype: torch.dtype) -> torch.dtype:
    """What autocast casts a tensor of this dtype to."""
    return torch.bfloat16 if dtype == torch.float32 else dtype


def hidden_states(
    backbone: nn.Module,
    tokens: Tensor,
    attention: Tensor,
    cache: DynamicCache | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """The last layer's states of `tokens`: (N, S, H). tokens: (N, S); attention: (N, at least S).

    Positions count real tokens only, so that padding on the left changes nothing, whether positions are learned or
    rotary. positions: (N, S), if they are known; attention is then the mask of scores, (N, 1, S, slots).
    """
    if positions is None:
        positions = (attention.long().cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        if cache is not None and _is_recurrent(cache):  # it masks the tokens that it is given, not those it has read
            attention = attention[:, -tokens.shape[1] :]
        attention = attention.long()
    return backbone(  # type: ignore[no-any-return]
        input_ids=tokens,
        attention_mask=attention,
        # A model without them has no positions (state spaces) or counts them by its mask (ALiBi).
        **({"position_ids": positions} if takes(backbone, "position_ids") else {}),
        use_cache=cache is not None,
        **({} if cache is None else {cache_keyword(backbone): cache}),
    ).last_hidden_state


def padding_free_states(backbone: nn.Module, tokens: Tensor, attention: Tensor) -> Tensor:
    """The last layer's states of the tokens that are there, row after row: (T, H), T = attention.sum().

    tokens, attention: (N, S), attention False on padding. The rows are one sequence in which positions start again with
    each; transformers keeps the rows apart by that, where an architecture is written so (`proof` looks). ValueError for
    one that takes no positions.
    """
    if not takes(backbone, "position_ids"):
        raise ValueError(f"{type(backbone).__name__} takes no positions: must be scored with padding_free = False")
    positions = (attention.long().cumsum(-1) - 1)[attention]
    found = backbone(input_ids=tokens[attention].unsqueeze(0), position_ids=positions.unsqueeze(0), use_cache=False)
    return found.last_hidden_state[0]  # type: ignore[no-any-return]


def _is_recurrent(cache: DynamicCache) -> bool:
    """Whether a cache holds states alone, and no keys and values (Mamba)."""
    layers = getattr(cache, "is_linear", ())  # since transformers 5
    return bool(layers) and all(layers)


def max_positions(config: Any) -> int | None:
    """The longest sequence that a model accepts, in tokens; None where its configuration names no limit."""
    for name in ("max_position_embeddings", "max_seq_len"):  # the second: MPT
        if isinstance(most := getattr(config, name, None), int):
            return most
    return None


def finish_logits(logits: Tensor, config: Any) -> Tensor:
    """What some architectures do after their head, by their configuration: scale logits (Cohere, Granite, Falcon-H1),
    then bound them by c·tanh(logits/c) (Gemma). `check_parts` refuses a model that does anything else."""
    for name in ("logit_scale", "lm_head_multiplier"):
        if (factor := getattr(config, name, None)) not in (None, 1.0):
            logits = logits * factor
    if (divisor := getattr(config, "logits_scaling", None)) not in (None, 1.0):
        logits = logits / divisor
    for name in ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"):
        if (cap := getattr(config, name, None)) is not None:
            logits = cap * torch.tanh(logits / cap)
    return logits


def cache_keyword(model: nn.Module) -> str:
    """The keyword argument of a model for the key-value cache.

    transformers 5 deprecates `past_key_values` in favour of `cache`, which version 4 does not know. ValueError for a
    state-space model of version 4, whose cache is of a kind of its own.
    """
    if takes(model, "cache"):
        return "cache"
    if takes(model, "cache_params") and not takes(model, "past_key_values"):
        raise ValueError(
            f"its cache is of a kind of its own in transformers {transformers.__version__}: needs 5 or later"
        )
    return "past_key_values"


def takes(model: nn.Module, keyword: str) -> bool:
    """Whether a model's forward has an argument of this name."""
    return keyword in _keywords(type(model).forward)


@lru_cache
def _keywords(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def log_distribution(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) over the last axis, in float32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)


def chunked_log_probs(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    tokens: Tensor,
    chunk: int,
    temperature: float = 1.0,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """log π of each token, and the entropy of the distribution it was drawn from if asked for: (T,) both,
    differentiable.

    states: (T, H), the hidden state before each token; tokens: (T,). No more than `chunk` rows of logits exist at a
    time, in the backward pass too, which recomputes each chunk.
    """
    arguments = list(zip(states.split(chunk), tokens.split(chunk), strict=True))
    if len(arguments) == 1 or not torch.is_grad_enabled():
        parts = [_log_probs(head, *pair, temperature, entropy) for pair in arguments]
    else:
        parts = [
            checkpoint(_log_probs, head, *pair, temperature, entropy, use_reentrant=False, preserve_rng_state=False)
            for pair in arguments
        ]
    logp, entropies = zip(*parts, strict=True)
    return torch.cat(logp), torch.cat(entropies) if entropy else None


def _log_probs(
    head: Callable[[Tensor], Tensor], states: Tensor, tokens: Tensor, temperature: float, entropy: bool
) -> tuple[Tensor, Tensor | None]:
    logp = log_distribution(head(states), temperature)
    entropies = -(logp.exp() * logp).sum(-1) if entropy else None
    return logp.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), entropies


def _at(mask: Tensor, x: Tensor) -> Tensor:
    """Put x (T,) where mask (N, L) is True, and 0 elsewhere."""
    return x.new_zeros(mask.shape).masked_scatter(mask, x)


@contextmanager
def checkpointed_layers(backbone: nn.Module, on: bool) -> Iterator[None]:
    """Gradient checkpointing inside the block. Layers do it only in training mode, which is set on these layers alone,
    so that dropout stays off."""
    layers = checkpoint_layers(backbone) if on else []
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    for layer in layers:
        layer.training = layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = again  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers:
            layer.training = layer.gradient_checkpointing = False


def checkpoint_layers(module: nn.Module) -> list[GradientCheckpointingLayer]:
    """Layers that transformers can checkpoint: they keep only their input, and recompute the rest for the gradient."""
    return [layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)]


def keep_as_computed(model: nn.Module, own: Iterable[Tensor]) -> None:
    """Weights of linear layers in bfloat16, to which autocast would cast them at each call: the same numbers from half
    the memory. own: the weights that may be changed. Those that are also an embedding stay."""
    for p in cast_at_each_call(model, own):
        p.data = p.data.to(_half(p.dtype))


def cast_at_each_call(model: nn.Module, own: Iterable[Tensor]) -> list[nn.Parameter]:
    """See `keep_as_computed`."""
    mine = {id(x) for x in own}
    linear = [x for x in model.modules() if isinstance(x, nn.Linear | Conv1D)]
    inside = {id(layer) for layer in linear}
    rest = {id(p) for x in model.modules() if id(x) not in inside for p in x.parameters(recurse=False)}
    kept = mine - rest
    found = {id(p): p for layer in linear for p in layer.parameters(recurse=False) if id(p) in kept}
    return list(found.values())


def copy_module(module: nn.Module, trained: Iterable[Tensor]) -> nn.Module:
    """A copy with `trained` parameters of its own; all others, like the base under an adapter, are shared."""
    own = {id(x) for x in trained}
    tensors = itertools.chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(x): x for x in tensors if id(x) not in own})


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
