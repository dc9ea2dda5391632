"""Sampling and scoring from logits for every prompt and prefix; base of the table and the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sims.core.loop.checks import check_shape
from sims.core.loop.optimise import Optimiser, PerRunOptimiser
from sims.core.loop.protocols import SampleRequest, Samples
from sims.core.numerics.sampling import inverse_cdf
from sims.core.objectives.batch import LOG_PROBS, Batch, OutputRequest, Outputs, over
from sims.core.objectives.divergences import kl
from sims.core.spec import undefined
from sims.environments.space import EOS

from .stacked import StackedPolicy, check_fit


class CategoricalPolicy(StackedPolicy):
    """R policies over the responses of one token space; R is every tensor's leading axis.

    A subclass defines `logits()` (R, X, nodes, V) and, with a critic, `value_table()` (R, X, nodes).
    """

    def logits(self) -> Tensor:
        """(R, X, nodes, V)"""
        raise undefined(self, "logits", "(R, X, nodes, V)")

    def value_table(self) -> Tensor:
        """(R, X, nodes), the critic's value of each prefix."""
        raise undefined(self, "value_table", "(R, X, nodes), the critic's value of each prefix")

    def _check(self, logits: Tensor) -> None:
        """SpecError unless the logits are of the right shape."""
        shape = (*logits.shape[:2], self.space.nodes, self.space.vocabulary)
        check_shape(f"{type(self).__name__}.logits", logits, shape, "(R, X, nodes, V)")

    def _value_table(self, like: Tensor) -> Tensor:
        """`value_table()`; SpecError if it is of another shape than the logits, `like`, without their tokens."""
        values, shape = self.value_table(), tuple(like.shape[:-1])
        check_shape(f"{type(self).__name__}.value_table", values, shape, "(R, X, nodes)")
        return values

    @torch.no_grad()
    def sample(self, request: SampleRequest) -> Samples:
        """Draw K responses per prompt, token by token. prompts: (R, B) ids."""
        logits, space, prompts = self.logits().detach(), self.space, request.prompts.tokens
        if logits.shape[2:] != (space.nodes, space.vocabulary):
            self._check(logits)
        if request.blend is not None:
            other, share = request.blend[0].logits().detach().log_softmax(-1), over(request.blend[1], logits)
            logits = (1.0 - share) * logits.log_softmax(-1) + share * other
        logp = logits.log_softmax(-1)
        probabilities = logp.exp().flatten(1, 2)
        shape = (*prompts.shape, request.num_generations)  # (R, B, K)
        uniforms = request.noise.uniforms(request.stream, *shape[1:], space.length)
        row = (prompts * space.nodes).unsqueeze(-1).expand(shape) if logits.shape[1] > 1 else None
        tokens: list[Tensor] = []
        state, depth = torch.zeros((), dtype=torch.int64), 0
        for t in range(space.length):
            if tokens:
                state, depth = state * space.vocabulary + tokens[-1], depth + space.vocabulary ** (t - 1)
            rows = row if not tokens else depth + state if row is None else row + (depth + state)
            draws = uniforms[..., t].flatten(1)
            if rows is None:
                token = inverse_cdf(probabilities[:, 0], draws).view(shape)
            else:
                token = inverse_cdf(probabilities, draws, rows.flatten(1)).view(shape)
            if tokens and space.eos:
                token = torch.where(tokens[-1] == EOS, EOS, token)  # only padding after EOS
            tokens.append(token)
        responses = tokens[0].unsqueeze(-1) if len(tokens) == 1 else torch.stack(tokens, dim=-1)
        return Samples(responses, space.mask(responses), self._at(logp, prompts, responses))

    def _at(self, table: Tensor, prompts: Tensor, responses: Tensor) -> Tensor:
        """Entries of a table at given tokens, (R, X, nodes, V), or at their prefixes, (R, X, nodes): (R, B, K, L)."""
        space = self.space
        row = space.node_index(responses) if space.length > 1 else None
        if table.shape[1] > 1:
            first = (prompts * space.nodes)[..., None, None]
            row = first if row is None else first + row
        if table.dim() == 4:
            index = responses if row is None else row * space.vocabulary + responses
        elif row is None:
            # A copy: a table's values are its parameters, and a batch's must not change with them.
            return table[:, :, :, None].expand(responses.shape).clone()
        else:
            index = row.expand(responses.shape)
        return table.flatten(1).gather(1, index.flatten(1)).view(responses.shape)

    def forward(self, batch: Batch, request: OutputRequest = LOG_PROBS) -> Outputs:
        """Log-probs of responses (R, B, K, L) to prompts (R, B); values and entropies of their prefixes on request."""
        prompts, responses, logp = batch.prompts, batch.responses, self.logits().log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1) if request.entropy else None
        return Outputs(
            logp=self._at(logp, prompts, responses),
            values=self._at(self._value_table(logp), prompts, responses) if request.values else None,
            entropy=self._at(entropy, prompts, responses) if entropy is not None else None,
        )

    def all_log_probs(self) -> Tensor:
        """log π of every response to every prompt: (R, X, N), in the order of `space.all_responses`."""
        logits = self.logits()
        self._check(logits)
        runs, contexts = logits.shape[:2]
        if self.space.length == 1:
            return logits.log_softmax(-1)[:, :, 0]
        responses, mask = (x.to(logits.device) for x in self.space.all_responses)
        prompts = torch.arange(contexts, device=logits.device).expand(runs, contexts)
        shape = (runs, contexts, *responses.shape)
        logp = self.forward(Batch(prompts, responses.expand(shape), mask.expand(shape))).logp
        return torch.where(mask, logp, 0.0).sum(-1)


def fit_to(
    logp_data: Tensor, policy: CategoricalPolicy, trained: Sequence[Tensor], steps: int, learning_rate: float
) -> None:
    """Fit networks to the data policy: Adam steps on the exact KL(π‖π_data), mean over prompts. SpecError if a fit
    diverges. logp_data: (X, N), or (R, X, N); trained: the parameters that take part, in place."""
    optimiser = PerRunOptimiser(trained, trained[0].shape[:1], Optimiser(learning_rate=learning_rate))
    for parameter in trained:
        parameter.requires_grad_(True)
    for _ in range(steps):
        loss = kl(policy.all_log_probs(), logp_data).mean(-1).sum()
        check_fit(loss, learning_rate)
        gradients = torch.autograd.grad(loss, trained)
        optimiser.step(gradients, optimiser.grad_norm(gradients))
    for parameter in trained:
        parameter.requires_grad_(False)
