"""A small causal transformer, one a run: minGPT's, with every weight stacked over the runs, (R, in, out)."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import embedding, layer_norm, scaled_dot_product_attention

from ..core.batch import Outputs, over
from ..core.divergences import entropy as entropy_of
from ..core.noise import Noise
from ..core.protocols import Samples
from ..core.sampling import inverse_cdf
from ..space import EOS, TokenSpace

PER_BLOCK = 12  # tensors of a block: norm, attention, projection, norm, inner, outer; a weight and a bias each
_SLOPE, _CUBE = math.sqrt(2.0 / math.pi), 0.044715


class _TanhGELU(torch.autograd.Function):
    """½x(1 + tanh(√(2/π)(x + 0.044715x³))), as minGPT writes it. Hendrycks & Gimpel 2016.

    `torch.nn.functional.gelu` does not keep a run's bits as the number of runs changes; tanh does. Written with its
    derivative, it keeps two tensors for the way back where plain operations would keep seven.
    """

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        tanh = (x * x).mul_(_SLOPE * _CUBE).add_(_SLOPE).mul_(x).tanh_()
        context.save_for_backward(x, tanh)
        return (tanh + 1.0).mul_(x).mul_(0.5)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        x, tanh = context.saved_tensors
        inner = (x * x).mul_(3.0 * _SLOPE * _CUBE).add_(_SLOPE).mul_(x)
        return inner.mul_(1.0 - tanh * tanh).add_(tanh).add_(1.0).mul_(0.5).mul_(gradient)


def gelu(x: Tensor) -> Tensor:
    """The tanh form of GELU, of any shape."""
    return _TanhGELU.apply(x)  # type: ignore[no-any-return]


def folded(scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer that follows a norm, with the norm's own numbers in them: there are few of these,
    and many tokens.

    (x·scale + shift) @ weight + bias = x @ (scale·weight) + (shift @ weight + bias). scale, shift: (R, in, 1);
    weight: (R, in, out); bias: (R, 1, out).
    """
    moved = (shift * weight).sum(-2, keepdim=True)
    return scale * weight, moved if bias is None else moved + bias


def normed(x: Tensor) -> Tensor:
    """LayerNorm without numbers of its own, over the last axis."""
    return layer_norm(x, x.shape[-1:])


class TransformerPolicy:
    """R transformers over the responses of one token space.

    parameters: tokens (R, E, D), the response's V and then the prompts' own if they have any; positions
    (R, L + 1, D); PER_BLOCK a block; the last norm; the head (R, D, V); with a critic its weight (R, 1, D) and bias
    (R, 1). prompt_rows: (X,), which row of the tokens each prompt is.
    """

    def __init__(self, space: TokenSpace, prompt_rows: Tensor, parameters: Sequence[Tensor], heads: int) -> None:
        self.space, self.prompt_rows, self.heads = space, prompt_rows, heads
        self._parameters = list(parameters)
        self.blocks = (len(self._parameters) - 5) // PER_BLOCK  # a critic's two tensors are less than a block

    def parameters(self) -> Sequence[Tensor]:
        return self._parameters

    @torch.no_grad()
    def copy_from(self, other: Self) -> None:
        self.blend_from(other, 1.0)

    @torch.no_grad()
    def blend_from(self, other: Self, rate: float) -> None:
        for mine, theirs in zip(self._parameters, other._parameters, strict=True):
            mine.lerp_(theirs.detach(), rate)

    def clone(self) -> Self:
        """A copy with parameters of its own, without gradient."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._parameters = [p.detach().clone() for p in self._parameters]
        return twin

    def _layers(self) -> list[tuple[Tensor, ...]]:
        """Weight and bias of each block's four layers, norms folded in, in the order in which a block uses them."""
        layers = []
        for start in range(2, 2 + PER_BLOCK * self.blocks, PER_BLOCK):
            first, second = self._parameters[start : start + 6], self._parameters[start + 6 : start + PER_BLOCK]
            layers.append((*folded(*first[:4]), *first[4:], *folded(*second[:4]), *second[4:]))
        return layers

    def _tail(self) -> list[Tensor]:
        """The last norm's scale and shift, the head, and the critic if there is one."""
        return self._parameters[2 + PER_BLOCK * self.blocks :]

    def _head(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the head, the last norm folded in."""
        scale, shift, head = self._tail()[:3]
        return folded(scale, shift, head, None)

    def embed(self, rows: Tensor, start: int = 0) -> Tensor:
        """Tokens, as rows of the embedding, at positions from `start` on. rows: (R, N, T); returns (R, N, T, D)."""
        tokens, positions = self._parameters[:2]
        runs, count = tokens.shape[:2]
        offset = (torch.arange(runs) * count).view(runs, 1, 1)
        return embedding(rows + offset, tokens.flatten(0, 1)) + positions[:, None, start : start + rows.shape[-1]]

    def hidden(self, rows: Tensor) -> Tensor:
        """The last block's output after each token. rows: (R, N, T); returns (R, N·T, D), before the last norm."""
        sequences, x = rows.shape[0] * rows.shape[1], self.embed(rows).flatten(1, 2)
        for layers in self._layers():
            q, k, v = self._queries_keys_values(layers, x, sequences)
            x = self._mix(layers, x, scaled_dot_product_attention(q, k, v, is_causal=True))
        return x

    def _queries_keys_values(self, layers: tuple[Tensor, ...], x: Tensor, sequences: int) -> tuple[Tensor, ...]:
        """(R·N, H, T, D/H) each. x: (R, N·T, D); sequences: R·N."""
        joint = torch.baddbmm(layers[1], normed(x), layers[0])
        return joint.view(sequences, -1, 3, self.heads, x.shape[-1] // self.heads).permute(2, 0, 3, 1, 4).unbind(0)

    @staticmethod
    def _mix(layers: tuple[Tensor, ...], x: Tensor, mixed: Tensor) -> Tensor:
        """The rest of a block: the projection of what attention mixed, and the two layers of each token alone."""
        _, _, project, project_bias, inner, inner_bias, outer, outer_bias = layers
        x = x + torch.baddbmm(project_bias, mixed.transpose(1, 2).reshape(x.shape), project)
        return x + torch.baddbmm(outer_bias, gelu(torch.baddbmm(inner_bias, normed(x), inner)), outer)

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, S, V) of the next token, from (R, S, D)."""
        weight, bias = self._head()
        return torch.baddbmm(bias, normed(hidden), weight)

    def _rows(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """What is read: the prompt and all tokens but the last. Returns (R, B·K, L)."""
        first = self.prompt_rows[prompts][..., None, None].expand(*responses.shape[:-1], 1)
        return torch.cat([first, responses[..., :-1]], dim=-1).flatten(1, 2)

    def token_laws(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """Log-probs of every token after each prefix of responses (R, B, K, L): (R, B, K, L, V)."""
        logits = self.logits(self.hidden(self._rows(prompts, responses)))
        return logits.log_softmax(-1).view(*responses.shape, logits.shape[-1])

    def forward(
        self,
        prompts: Tensor,
        responses: Tensor,
        mask: Tensor,
        values: bool = False,
        entropy: bool = False,
        prompt_mask: Tensor | None = None,
        prompt_logp: bool = False,
    ) -> Outputs:
        """Log-probs of responses (R, B, K, L) to prompts (R, B); values and entropies of their prefixes when asked."""
        hidden = self.hidden(self._rows(prompts, responses))
        logp = self.logits(hidden).log_softmax(-1)
        return Outputs(
            logp=logp.gather(-1, responses.reshape(*logp.shape[:2], 1)).view(responses.shape),
            values=self._values(hidden).view(responses.shape) if values else None,
            entropy=entropy_of(logp).view(responses.shape) if entropy else None,
        )

    def _values(self, hidden: Tensor) -> Tensor:
        """(R, S) the critic's value after each token."""
        scale, shift, _, weight, bias = self._tail()
        # Multiply and sum: a matmul of width 1 does not keep its bits as the number of runs changes.
        return ((normed(hidden) * scale.mT + shift.mT) * weight).sum(-1) + bias

    def steps(self, prompts: Tensor, num_generations: int) -> Generator[Tensor, Tensor, None]:
        """A coroutine: it yields the logits of the next token, (R, N, V), and is sent the tokens drawn, (R, B·K).

        N is B for the first token, whose prefix a prompt's responses share, then B·K. Keys and values of what was
        read are kept, so that each token is read once.
        """
        rows = self.prompt_rows[prompts].unsqueeze(-1)
        caches: list[list[Tensor]] = []
        layers, (head, head_bias) = self._layers(), self._head()
        for t in range(self.space.length):
            x = self.embed(rows, t).flatten(1, 2)
            for i, block in enumerate(layers):
                q, k, v = self._queries_keys_values(block, x, rows.shape[0] * rows.shape[1])
                if t == 0:
                    caches.append([self._cache(k, num_generations), self._cache(v, num_generations)])
                else:
                    for cache, new in zip(caches[i], (k, v), strict=True):
                        cache[:, :, t] = new[:, :, 0]
                    k, v = (cache[:, :, : t + 1] for cache in caches[i])
                x = self._mix(block, x, scaled_dot_product_attention(q, k, v))
            rows = (yield torch.baddbmm(head_bias, normed(x), head)).unsqueeze(-1)

    def _cache(self, first: Tensor, num_generations: int) -> Tensor:
        """Room for the keys, or the values, of all tokens: (R·B·K, H, L, D/H), the prompt's (R·B, H, 1, D/H) in."""
        cache = first.new_empty((first.shape[0] * num_generations, self.heads, self.space.length, first.shape[-1]))
        cache[:, :, 0] = first[:, :, 0].repeat_interleave(num_generations, 0)
        return cache

    @torch.no_grad()
    def sample(
        self,
        prompts: Tensor,
        num_generations: int,
        noise: Noise,
        stream: str = "responses",
        blend: tuple[Self, float | Tensor] | None = None,
        prompt_mask: Tensor | None = None,
    ) -> Samples:
        """Draw K responses a prompt, token by token. prompts: (R, B) ids, which have no mask."""
        (runs, batch), length = prompts.shape, self.space.length
        uniforms = noise.uniforms(stream, batch, num_generations, length).flatten(1, 2)
        readers = [p.steps(prompts, num_generations) for p in ((self,) if blend is None else (self, blend[0]))]
        tokens: list[Tensor] = []
        logp: list[Tensor] = []
        for t in range(length):
            logits = [next(reader) if t == 0 else reader.send(tokens[-1]) for reader in readers]
            if blend is not None:
                share = over(blend[1], 2)
                logits[0] = (1.0 - share) * logits[0].log_softmax(-1) + share * logits[1].log_softmax(-1)
            law = logits[0].log_softmax(-1)
            draws = uniforms[..., t].unflatten(1, (law.shape[1], -1))
            token = inverse_cdf(law.exp(), draws)
            logp.append(law.gather(-1, token).flatten(1))
            token = token.flatten(1)
            if tokens and self.space.eos:
                token = torch.where(tokens[-1] == EOS, EOS, token)  # behind an EOS there is only padding
            tokens.append(token)
        responses = torch.stack(tokens, dim=-1).view(runs, batch, num_generations, length)
        return Samples(responses, self.space.mask(responses), torch.stack(logp, dim=-1).view(responses.shape))

    def all_log_probs(self) -> Tensor:
        """log π of every response to every prompt: (R, X, N), in the order of `space.all_responses`."""
        responses, mask = self.space.all_responses
        runs, contexts = self._parameters[0].shape[0], len(self.prompt_rows)
        shape = (runs, contexts, *responses.shape)
        prompts = torch.arange(contexts).expand(runs, contexts)
        logp = self.forward(prompts, responses.expand(shape), mask.expand(shape)).logp
        return torch.where(mask, logp, 0.0).sum(-1)
