"""A small causal transformer, one per run: minGPT's, with every weight stacked over the runs, (R, in, out)."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, layer_norm

from sims.core.loop.protocols import SampleRequest, Samples
from sims.core.numerics.cache_blocks import pieces
from sims.core.numerics.sampling import inverse_cdf
from sims.core.objectives.batch import LOG_PROBS, Batch, OutputRequest, Outputs, over
from sims.core.objectives.divergences import entropy as entropy_of
from sims.environments.space import EOS, TokenSpace

from .stacked import StackedPolicy

PER_BLOCK = 12  # tensors of a block: norm, attention, projection, norm, inner, outer; a weight and a bias each
_SLOPE, _CUBE = math.sqrt(2.0 / math.pi), 0.044715


class _TanhGELU(torch.autograd.Function):
    """½x(1 + tanh(√(2/π)(x + 0.044715x³))), as minGPT writes it. Hendrycks & Gimpel 2016.

    Built on tanh, a run's result does not depend on the number of runs to the last bit, as `torch.nn.functional.gelu`
    may. It works on cache-sized slices of the leading axis, in less than half the time.
    """

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        found, kept = torch.empty_like(x), torch.empty_like(x)
        for part, out, bent in _side_by_side(x, found, kept):
            _bend(part, bent)
            torch.add(bent, 1.0, out=out).mul_(part).mul_(0.5)
        context.save_for_backward(x, kept)
        return found

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        x, tanh = context.saved_tensors
        found = torch.empty_like(x)
        for part, bent, above, inner in _side_by_side(x, tanh, gradient, found):
            torch.mul(part, part, out=inner).mul_(3.0 * _SLOPE * _CUBE).add_(_SLOPE).mul_(part)
            inner.addcmul_(bent * bent, inner, value=-1.0)  # times 1 − tanh², the derivative of tanh
            inner.add_(bent).add_(1.0).mul_(above).mul_(0.5)
        return found


def _side_by_side(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Corresponding cache-sized slices of tensors of one shape."""
    return (tuple(x[rows] for x in tensors) for rows in pieces(tensors[0]))


def _bend(x: Tensor, out: Tensor | None = None) -> Tensor:
    """tanh(√(2/π)(x + 0.044715x³))"""
    return torch.mul(x, x, out=out).mul_(_SLOPE * _CUBE).add_(_SLOPE).mul_(x).tanh_()


def gelu(x: Tensor) -> Tensor:
    """The tanh form of GELU, of any shape. Without gradient it overwrites x."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _TanhGELU.apply(x)  # type: ignore[no-any-return]
    for rows in pieces(x):
        x[rows].mul_(_bend(x[rows]).add_(1.0)).mul_(0.5)
    return x


def probabilities(scores: Tensor) -> Tensor:
    """Softmax over the last axis, in place; entries of −∞ get at most e^−80. torch.softmax takes 17 ns per number on
    such short rows, and exp ten times as long for −∞ as for finite numbers."""
    scores.sub_(scores.amax(-1, keepdim=True)).clamp_(min=-80.0).exp_()
    return scores.div_(scores.sum(-1, keepdim=True))


class _Attention(torch.autograd.Function):
    """Causal attention, softmax(q·kᵀ/√size)·v over the tokens so far, per head. Vaswani et al. 2017.

    Plain matrix products: on sequences of ten tokens, forward and backward are faster than torch's attention, which is
    optimised for long ones.
    """

    @staticmethod
    def forward(context: Any, joint: Tensor, heads: int) -> Tensor:
        sequences, length, width = joint.shape
        size = width // (3 * heads)
        q, k, v = joint.view(sequences, length, 3, heads, size).permute(2, 0, 3, 1, 4).reshape(3, -1, length, size)
        later = joint.new_full((length, length), -torch.inf).triu(1)
        weights = probabilities(torch.bmm(q, k.mT).mul_(size**-0.5).add_(later)).tril_()
        context.save_for_backward(q, k, v, weights)
        mixed = torch.bmm(weights, v).view(sequences, heads, length, size)
        return mixed.transpose(1, 2).reshape(sequences, length, heads * size)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        q, k, v, weights = context.saved_tensors
        (sequences, length, width), size = gradient.shape, q.shape[-1]
        gradient = gradient.view(sequences, length, -1, size).transpose(1, 2).reshape(-1, length, size)
        by_weight = torch.bmm(gradient, v.mT)
        by_score = by_weight.sub_((by_weight * weights).sum(-1, keepdim=True)).mul_(weights).mul_(size**-0.5)
        joint = gradient.new_empty((3, *q.shape))
        torch.bmm(by_score, k, out=joint[0])
        torch.bmm(by_score.mT, q, out=joint[1])
        torch.bmm(weights.mT, gradient, out=joint[2])
        joint = joint.view(3, sequences, -1, length, size).permute(1, 3, 0, 2, 4)
        return joint.reshape(sequences, length, 3 * width), None


def attention(joint: Tensor, heads: int) -> Tensor:
    """Causal attention: the values of all tokens up to each, weighted. joint: (S, T, 3D), queries, keys and values;
    returns (S, T, D)."""
    return _Attention.apply(joint, heads)  # type: ignore[no-any-return]


def look_back(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """`attention` of one new token to T cached ones, itself included: (S, H·d). q: (H, d, S); keys, values:
    (T, H, d, S).

    Sequences are the last axis, so that operations run over long rows: batched products of (1, T) matrices, one per
    sequence and head, take four times as long.
    """
    scores = q.new_zeros((len(keys), q.shape[0], q.shape[2]))
    for i in range(q.shape[1]):
        scores.addcmul_(keys[:, :, i], q[:, i])
    scores.mul_(q.shape[1] ** -0.5)
    weights = scores.sub_(scores.amax(0)).exp_()
    total, mixed = torch.zeros_like(weights[0]), torch.zeros_like(q)
    for weight, value in zip(weights, values, strict=True):
        total.add_(weight)  # one by one: the last bits of a sum over the first axis depend on the number of sequences
        mixed.addcmul_(weight.unsqueeze(1), value)
    return mixed.div_(total.unsqueeze(1)).flatten(0, 1).T.contiguous()


def folded(scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer after a LayerNorm, with the norm's scale and shift folded in, once instead of per
    token.

    (x·scale + shift) @ weight + bias = x @ (scale·weight) + (shift @ weight + bias). scale, shift: (R, in, 1);
    weight: (R, in, out); bias: (R, 1, out).
    """
    moved = (shift * weight).sum(-2, keepdim=True)
    return scale * weight, moved if bias is None else moved + bias


def normed(x: Tensor) -> Tensor:
    """LayerNorm without scale and shift, over the last axis."""
    return layer_norm(x, x.shape[-1:])


class TransformerPolicy(StackedPolicy):
    """R transformers over the responses of one token space.

    parameters: tokens (R, E, D), the vocabulary's V and then the prompts' own, if any; positions
    (R, L + 1, D); PER_BLOCK per block; the last norm; the head (R, D, V); with a critic its weight (R, 1, D) and bias
    (R, 1). prompt_rows: (X,), which row of the tokens each prompt is.
    """

    def __init__(self, space: TokenSpace, prompt_rows: Tensor, parameters: Sequence[Tensor], heads: int) -> None:
        super().__init__(space, parameters)
        self.prompt_rows, self.heads = prompt_rows, heads
        self.blocks = (len(self._parameters) - 5) // PER_BLOCK  # a critic adds two tensors, fewer than a block

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
        offset = (torch.arange(runs, device=tokens.device) * count).view(runs, 1, 1)
        return embedding(rows + offset, tokens.flatten(0, 1)) + positions[:, None, start : start + rows.shape[-1]]

    def hidden(self, rows: Tensor) -> Tensor:
        """The last block's output after each token. rows: (R, N, T); returns (R, N·T, D), before the last norm."""
        x = self.embed(rows).flatten(1, 2)
        for layers in self._layers():
            joint = torch.baddbmm(layers[1], normed(x), layers[0]).view(-1, rows.shape[-1], 3 * x.shape[-1])
            x = self._mix(layers, x, attention(joint, self.heads))
        return x

    @staticmethod
    def _mix(layers: tuple[Tensor, ...], x: Tensor, mixed: Tensor) -> Tensor:
        """The rest of a block: the output projection of attention, and the two-layer MLP."""
        _, _, project, project_bias, inner, inner_bias, outer, outer_bias = layers
        x = x + torch.baddbmm(project_bias, mixed.view(x.shape), project)
        return x + torch.baddbmm(outer_bias, gelu(torch.baddbmm(inner_bias, normed(x), inner)), outer)

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, S, V) of the next token, from (R, S, D)."""
        weight, bias = self._head()
        return torch.baddbmm(bias, normed(hidden), weight)

    def _rows(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """The input: the prompt and all tokens but the last. Returns (R, B·K, L)."""
        first = self.prompt_rows[prompts][..., None, None].expand(*responses.shape[:-1], 1)
        return torch.cat([first, responses[..., :-1]], dim=-1).flatten(1, 2)

    def token_log_probs(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """Log-probs of every token after each prefix of responses (R, B, K, L): (R, B, K, L, V)."""
        logits = self.logits(self.hidden(self._rows(prompts, responses)))
        return logits.log_softmax(-1).view(*responses.shape, logits.shape[-1])

    def forward(self, batch: Batch, request: OutputRequest = LOG_PROBS) -> Outputs:
        """Log-probs of responses (R, B, K, L) to prompts (R, B); values and entropies of their prefixes on request."""
        responses = batch.responses
        hidden = self.hidden(self._rows(batch.prompts, responses))
        logp = self.logits(hidden).log_softmax(-1)
        return Outputs(
            logp=logp.gather(-1, responses.reshape(*logp.shape[:2], 1)).view(responses.shape),
            values=self._values(hidden).view(responses.shape) if request.values else None,
            entropy=entropy_of(logp).view(responses.shape) if request.entropy else None,
        )

    def _values(self, hidden: Tensor) -> Tensor:
        """(R, S) the critic's value after each token."""
        scale, shift, _, weight, bias = self._tail()
        # Multiply and sum: the last bits of a matmul of width 1 depend on the number of runs.
        return ((normed(hidden) * scale.mT + shift.mT) * weight).sum(-1) + bias

    def steps(self, prompts: Tensor, num_generations: int) -> Generator[Tensor, Tensor, None]:
        """A coroutine: it yields the logits of the next token, (R, N, V), and is sent the tokens drawn, (R, B·K).

        N is B for the first token, whose prefix all responses to a prompt share, then B·K. Keys and values are cached
        (KV cache), so that each token is read once.
        """
        rows = self.prompt_rows[prompts].unsqueeze(-1)
        layers, (head, head_bias) = self._layers(), self._head()
        caches: list[Tensor] = []  # of each block (2, L, H, D/H, R·B·K)
        for t in range(self.space.length):
            x = self.embed(rows, t).flatten(1, 2)
            for i, block in enumerate(layers):
                joint = torch.baddbmm(block[1], normed(x), block[0])
                q, *read = joint.flatten(0, 1).T.reshape(3, self.heads, -1, x.shape[:2].numel())
                if t == 0:
                    caches.append(self._cache(read, num_generations))
                    mixed = joint.chunk(3, -1)[2].contiguous()  # the first token attends only to itself
                else:
                    caches[i][:, t] = torch.stack(read)
                    mixed = look_back(q, *caches[i][:, : t + 1])
                x = self._mix(block, x, mixed)
            rows = (yield torch.baddbmm(head_bias, normed(x), head)).unsqueeze(-1)

    def _cache(self, first: Sequence[Tensor], num_generations: int) -> Tensor:
        """Memory for keys and values of all tokens, with the prompt's, (H, D/H, R·B) each, filled in."""
        repeated = torch.stack(list(first)).repeat_interleave(num_generations, -1)
        cache = repeated.new_empty((2, self.space.length, *repeated.shape[1:]))
        cache[:, 0] = repeated
        return cache

    @torch.no_grad()
    def sample(self, request: SampleRequest) -> Samples:
        """Draw K responses per prompt, token by token. prompts: (R, B) ids."""
        return self.sample_with_log_probs(request)[0]

    @torch.no_grad()
    def sample_with_log_probs(self, request: SampleRequest) -> tuple[Samples, Tensor]:
        """`sample`, and log-probs of all tokens at each position, as `token_log_probs` gives them: (R, B, K, L, V)."""
        prompts, num_generations, blend = request.prompts.tokens, request.num_generations, request.blend
        (runs, batch), length = prompts.shape, self.space.length
        uniforms = request.noise.uniforms(request.stream, batch, num_generations, length).flatten(1, 2)
        readers = [p.steps(prompts, num_generations) for p in ((self,) if blend is None else (self, blend[0]))]
        tokens: list[Tensor] = []
        steps: list[Tensor] = []
        for t in range(length):
            logits = [next(reader) if t == 0 else reader.send(tokens[-1]) for reader in readers]
            if blend is not None:
                share = over(blend[1], logits[0])
                logits[0] = (1.0 - share) * logits[0] + share * logits[1]  # normalised below
            log_probs = logits[0].log_softmax(-1)
            draws = uniforms[..., t].unflatten(1, (log_probs.shape[1], -1))
            token = inverse_cdf(log_probs.exp(), draws).flatten(1)
            if tokens and self.space.eos:
                token = torch.where(tokens[-1] == EOS, EOS, token)  # only padding after EOS
            tokens.append(token)
            steps.append(log_probs.repeat_interleave(num_generations, 1) if t == 0 else log_probs)
        responses = torch.stack(tokens, dim=-1).view(runs, batch, num_generations, length)
        log_probs = torch.stack(steps, dim=2).view(*responses.shape, -1)
        logp = log_probs.gather(-1, responses.unsqueeze(-1)).squeeze(-1)
        return Samples(responses, self.space.mask(responses), logp), log_probs

    def all_log_probs(self) -> Tensor:
        """log π of every response to every prompt: (R, X, N), in the order of `space.all_responses`."""
        device = self._parameters[0].device
        responses, mask = (x.to(device) for x in self.space.all_responses)
        runs, contexts = self._parameters[0].shape[0], len(self.prompt_rows)
        shape = (runs, contexts, *responses.shape)
        prompts = torch.arange(contexts, device=device).expand(runs, contexts)
        logp = self.forward(Batch(prompts, responses.expand(shape), mask.expand(shape))).logp
        return torch.where(mask, logp, 0.0).sum(-1)
