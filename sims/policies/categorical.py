"""Sampling and scoring from logits for every prompt and prefix; base of the table and the network."""

from __future__ import annotations

import torch
from torch import Tensor

from sims.core.loop.checks import check_shape
from sims.core.loop.protocols import SampleRequest, Samples
from sims.core.numerics.sampling import inverse_cdf
from sims.core.objectives.batch import LOG_PROBS, Batch, OutputRequest, Outputs, over
from sims.environments.space import EOS

from .stacked import StackedPolicy


class CategoricalPolicy(StackedPolicy):
    """R policies over the responses of one token space; R is every tensor's leading axis.

    A subclass defines `logits()` (R, X, nodes, V) and, with a critic, `value_table()` (R, X, nodes).
    """

    def logits(self) -> Tensor:
        """(R, X, nodes, V)"""
        raise NotImplementedError

    def value_table(self) -> Tensor:
        """(R, X, nodes), the critic's value of each prefix."""
        raise NotImplementedError

    def _logits(self) -> Tensor:
        """`logits()`; SpecError if they are of another shape."""
        logits, space = self.logits(), self.space
        shape = (*logits.shape[:2], space.nodes, space.vocabulary)
        check_shape(f"{type(self).__name__}.logits", logits, shape, "(R, X, nodes, V)")
        return logits

    def _value_table(self, like: Tensor) -> Tensor:
        """`value_table()`; SpecError if it is of another shape than the logits, `like`, without their tokens."""
        values, shape = self.value_table(), tuple(like.shape[:-1])
        check_shape(f"{type(self).__name__}.value_table", values, shape, "(R, X, nodes)")
        return values

    @torch.no_grad()
    def sample(self, request: SampleRequest) -> Samples:
        """Draw K responses per prompt, token by token. prompts: (R, B) ids."""
        prompts, num_generations, logits = request.prompts.tokens, request.num_generations, self._logits().detach()
        if request.blend is not None:
            other, share = request.blend[0].logits().detach().log_softmax(-1), over(request.blend[1], logits)
            logits = (1.0 - share) * logits.log_softmax(-1) + share * other
        runs, contexts, nodes, vocabulary = logits.shape
        logp = logits.log_softmax(-1)
        probabilities = logp.exp().flatten(1, 2)
        batch, length = prompts.shape[-1], self.space.length
        uniforms = request.noise.uniforms(request.stream, batch, num_generations, length)
        first_node = None if contexts == 1 else (prompts * nodes).unsqueeze(-1).expand(runs, batch, num_generations)
        tokens: list[Tensor] = []
        state, depth = torch.zeros((), dtype=torch.int64), 0
        for t in range(length):
            if tokens:
                state, depth = state * vocabulary + tokens[-1], depth + vocabulary ** (t - 1)
            rows = self._rows(first_node, depth + state if tokens else None)
            draws = uniforms[..., t].flatten(1)
            flat = None if rows is None else rows.flatten(1)
            distributions = probabilities[:, 0] if flat is None else probabilities
            token = inverse_cdf(distributions, draws, flat).view(runs, batch, num_generations)
            if tokens and self.space.eos:
                token = torch.where(tokens[-1] == EOS, EOS, token)  # only padding after EOS
            tokens.append(token)
        responses = tokens[0].unsqueeze(-1) if length == 1 else torch.stack(tokens, dim=-1)
        return Samples(responses, self.space.mask(responses), self._lookup(logp, prompts, responses, contexts))

    @staticmethod
    def _rows(first: Tensor | None, node: Tensor | None) -> Tensor | None:
        if first is None or node is None:
            return node if first is None else first
        return first + node

    def _lookup(self, logp: Tensor, prompts: Tensor, responses: Tensor, contexts: int) -> Tensor:
        """Entries of a table (R, X, nodes, V) at given tokens: (R, B, K, L)."""
        index = responses
        node = self.space.node_index(responses)
        row = self._rows(None if contexts == 1 else (prompts * self.space.nodes)[..., None, None], node)
        if row is not None:
            index = row * self.space.vocabulary + index
        return logp.flatten(1).gather(1, index.flatten(1)).view(responses.shape)

    def _at_nodes(self, table: Tensor, prompts: Tensor, responses: Tensor, contexts: int) -> Tensor:
        """Entries of a table (R, X·nodes) at the prefixes of given tokens: (R, B, K, L)."""
        node = self.space.node_index(responses)
        row = self._rows(None if contexts == 1 else (prompts * self.space.nodes)[..., None, None], node)
        if row is None:
            # A copy: a table's values are its parameters, and a batch's must not change with them.
            return table[:, :, None, None].expand(responses.shape).clone()
        return table.gather(1, row.expand(responses.shape).flatten(1)).view(responses.shape)

    def forward(self, batch: Batch, request: OutputRequest = LOG_PROBS) -> Outputs:
        """Log-probs of responses (R, B, K, L) to prompts (R, B); values and entropies of their prefixes on request."""
        prompts, responses = batch.prompts, batch.responses
        logp = self._logits().log_softmax(-1)
        contexts = logp.shape[1]
        value = (
            self._at_nodes(self._value_table(logp).flatten(1), prompts, responses, contexts) if request.values else None
        )
        entropies = -(logp.exp() * logp).sum(-1).flatten(1) if request.entropy else None
        return Outputs(
            logp=self._lookup(logp, prompts, responses, contexts),
            values=value,
            entropy=None if entropies is None else self._at_nodes(entropies, prompts, responses, contexts),
        )

    def all_log_probs(self) -> Tensor:
        """log π of every response to every prompt: (R, X, N), in the order of `space.all_responses`."""
        logits = self._logits()
        runs, contexts = logits.shape[:2]
        if self.space.length == 1:
            return logits.log_softmax(-1)[:, :, 0]
        responses, mask = self.space.all_responses
        prompts = torch.arange(contexts).expand(runs, contexts)
        shape = (runs, contexts, *responses.shape)
        logp = self.forward(Batch(prompts, responses.expand(shape), mask.expand(shape))).logp
        return torch.where(mask, logp, 0.0).sum(-1)
