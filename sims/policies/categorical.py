"""Sampling and scoring from logits for every prompt and prefix; base of the table and the network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from sims.core.loop.checks import check_shape
from sims.core.loop.optimise import Optimiser, PerRunOptimiser
from sims.core.loop.protocols import SampleRequest, Samples
from sims.core.numerics.sampling import inverse_cdf
from sims.core.objectives.batch import LOG_PROBS, Batch, OutputRequest, Outputs, over
from sims.core.objectives.divergences import kl
from sims.core.spec import undefined
from sims.environments.space import EOS, TokenSpace

from .stacked import StackedPolicy, check_fit


class CategoricalPolicy(StackedPolicy):
    """R policies over the responses of one token space; R is every tensor's leading axis.

    A subclass defines `logits()` (R, X, nodes, V) and, with a critic, `value_table()` (R, X, nodes): functions of its
    parameters and of constants, asked once for as long as no parameter changes (`_table`).
    """

    def __init__(self, space: TokenSpace, parameters: Sequence[Tensor]) -> None:
        super().__init__(space, parameters)
        # By whether it is of values: the parameters' state and the parameters, and the table without and with a graph.
        self._known: dict[bool, tuple[list[tuple[int, int]], list[Tensor], Tensor, Tensor | None]] = {}

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

    def clone(self) -> Self:
        copy = super().clone()
        copy._known = {}
        return copy

    def _table(self, values: bool = False) -> Tensor:
        """log π of every token after every prefix, (R, X, nodes, V); or the critic's value of each prefix.

        It is computed once for as long as no parameter changes: for a reference, once. What is asked for without
        gradient is computed with its graph, and the first to ask with gradient gets that: an on-policy update goes
        through the network once, to sample and to train. A graph serves one backward pass. Not on a GPU, where a
        captured graph changes parameters and tells nobody.
        """
        parameters, kept = self._parameters, self._known.get(values)
        if not all(p.is_cpu for p in parameters):
            return self.value_table() if values else self.logits().log_softmax(-1)
        wanted = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
        now = [(id(p), p._version) for p in parameters]  # each is counted up with every change in place
        if kept is None or kept[0] != now or (wanted and kept[3] is None):
            with torch.enable_grad():
                whole = self.value_table() if values else self.logits().log_softmax(-1)
            graph = whole if whole.requires_grad else None
            kept = (now, list(parameters), whole.detach(), graph)  # an id is used again only of what is not held
        self._known[values] = (*kept[:3], None) if wanted else kept
        return kept[2] if kept[3] is None or not wanted else kept[3]

    def _value_table(self, like: Tensor) -> Tensor:
        """`value_table()`; SpecError if it is of another shape than the logits, `like`, without their tokens."""
        values, shape = self._table(values=True), tuple(like.shape[:-1])
        check_shape(f"{type(self).__name__}.value_table", values, shape, "(R, X, nodes)")
        return values

    @torch.no_grad()
    def sample(self, request: SampleRequest) -> Samples:
        """Draw K responses per prompt, token by token. prompts: (R, B) ids."""
        logp, space, prompts = self._table(), self.space, request.prompts.tokens
        if logp.shape[2:] != (space.nodes, space.vocabulary):
            self._check(logp)
        if request.blend is not None:
            other, share = request.blend[0]._table(), over(request.blend[1], logp)
            logp = ((1.0 - share) * logp + share * other).log_softmax(-1)
        probabilities = logp.exp().flatten(1, 2)
        shape = (*prompts.shape, request.num_generations)  # (R, B, K)
        uniforms = request.noise.uniforms(request.stream, *shape[1:], space.length)
        row = (prompts * space.nodes).unsqueeze(-1).expand(shape) if logp.shape[1] > 1 else None
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
        prompts, responses, logp = batch.prompts, batch.responses, self._table()
        entropy = -(logp.exp() * logp).sum(-1) if request.entropy else None
        return Outputs(
            logp=self._at(logp, prompts, responses),
            values=self._at(self._value_table(logp), prompts, responses) if request.values else None,
            entropy=self._at(entropy, prompts, responses) if entropy is not None else None,
        )

    def all_log_probs(self) -> Tensor:
        """log π of every response to every prompt: (R, X, N), in the order of `space.all_responses`."""
        every = self._table()
        self._check(every)
        runs, contexts = every.shape[:2]
        if self.space.length == 1:
            return every[:, :, 0]
        responses, mask = (x.to(every.device) for x in self.space.all_responses)
        prompts = torch.arange(contexts, device=every.device).expand(runs, contexts)
        shape = (runs, contexts, *responses.shape)
        logp = self._at(every, prompts, responses.expand(shape))
        return torch.where(mask, logp, 0.0).sum(-1)


_FITTED_BYTES = 1 << 26  # of parameters that are kept
_fitted: dict[tuple[type, bytes], list[Tensor]] = {}  # fitted parameters of one run, by what they came from


@torch.no_grad()
def fit_to(
    logp_data: Tensor, policy: CategoricalPolicy, trained: Sequence[Tensor], steps: int, learning_rate: float
) -> None:
    """Fit networks to the data policy: Adam steps on the exact KL(π‖π_data), mean over prompts. SpecError if a fit
    diverges. logp_data: (X, N), or (R, X, N); trained: the parameters that take part, in place.

    A run is fitted once in a process: arms of one seed start from the same reference, and so do all points of a tuning.
    """
    runs = len(trained[0])
    held = {name: x for name, x in vars(policy).items() if name not in ("_parameters", "_known")}
    for_all = repr([steps, learning_rate, {name: x for name, x in held.items() if not isinstance(x, Tensor)}])
    by_run = [*(x for x in held.values() if isinstance(x, Tensor)), *trained, logp_data.expand(runs, -1, -1)]
    keys = [(type(policy), _digest_of(for_all, [x[run] for x in by_run])) for run in range(runs)]
    missing = {key: run for run, key in enumerate(keys) if key not in _fitted}
    if missing:
        # One run alone would go through other kernels than several do.
        rows = sorted(missing.values()) if len(missing) > 1 or runs == 1 else sorted({*missing.values(), 0, runs - 1})
        places = [[x is p for p in policy.parameters()].index(True) for x in trained]
        some = policy.of_runs(rows)
        of_some = logp_data if logp_data.dim() == 2 else logp_data[rows]
        _fit(of_some, some, [some.parameters()[i] for i in places], steps, learning_rate)
        for row, run in enumerate(rows):
            _fitted[keys[run]] = [some.parameters()[i][row].clone() for i in places]
    for run, key in enumerate(keys):
        for parameter, fitted in zip(trained, _fitted[key], strict=True):
            parameter[run] = fitted
    kept = sum(x.nbytes for x in _fitted[keys[0]])
    while len(_fitted) * kept > _FITTED_BYTES:
        del _fitted[next(iter(_fitted))]


def _digest_of(text: str, tensors: Sequence[Tensor]) -> bytes:
    """Of a text, and of the shapes, types and numbers of tensors."""
    found = hashlib.blake2b(text.encode())
    for x in tensors:
        found.update(f"{x.dtype}{tuple(x.shape)}".encode() + x.contiguous().numpy().tobytes())
    return found.digest()


@torch.enable_grad()
def _fit(
    logp_data: Tensor, policy: CategoricalPolicy, trained: Sequence[Tensor], steps: int, learning_rate: float
) -> None:
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
