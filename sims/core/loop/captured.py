"""Training whose updates are captured as graphs and replayed: no Python between the kernels of a GPU, or the loops of a
CPU (`compiled`).

Up to a thousand runs, an update on a GPU takes as long as Python needs to start its kernels. Updates that make the same
kernels with the same shapes need that once: they are recorded, one graph per update of a period after which a schedule
repeats itself, and replayed. The numbers are those of `Training.train` but for rounding; it stays the oracle
(tests/core/loop/test_captured.py). What differs between two updates is kept out of the graphs, or in tensors that they
read:

random numbers       drawn before each replay, from the same streams, and copied to where the graph reads them
Adam's count         a tensor, with its bias corrections in a table (`PerRunOptimiser.count_on_device`)
tensors that an update replaces by new ones (runs alive, an algorithm's state): copied back to where it read them
counts of Python     updates, samples, versions: moved on by what one period adds to them
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError

from .learner import UpdateStats
from .train import Training, Update

LONGEST = 64  # updates of a period: each is a graph with memory of its own
WARM = 3  # updates before the first capture, in which libraries choose and load their kernels


class Graph(Protocol):
    """A captured sequence of kernels, which can be run again on the same memory."""

    def capture(self, work: Callable[[], None]) -> None:
        """Record the kernels that `work` launches. Whether they also run then is left open."""

    def replay(self) -> None:
        """Run the captured kernels once."""


class CudaGraph:
    """A CUDA graph. Those of one training share their memory: they are replayed in the order of their capture."""

    def __init__(self, before: CudaGraph | None) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self._pool = None if before is None else before.graph.pool()

    def capture(self, work: Callable[[], None]) -> None:
        with torch.cuda.graph(self.graph, pool=self._pool):
            work()

    def replay(self) -> None:
        self.graph.replay()


def graph_of(device: torch.device) -> Callable[[Any], Graph]:
    """What makes graphs on a device."""
    if device.type != "cpu":
        return CudaGraph
    from .compiled import CompiledGraph  # takes a second

    return CompiledGraph


def period(training: Training) -> int:
    """Updates after which a training launches the same kernels again. SpecError where it never does, or after more than
    LONGEST."""
    schedule, collector = training.schedule, training.collector
    for field, value, captured in (
        ("source", schedule.source, ("policy", "pool")),
        ("labels", collector.labelling.labels, ("environment",)),
    ):
        if value not in captured:
            raise SpecError(field, value, f"must be {' or '.join(map(str, captured))} where updates are captured")
    if collector.deployment.gates:
        rule = "must be 0, and gate_gold_loss none, where updates are captured"
        raise SpecError("gate_comparisons", collector.deployment.gate_comparisons, rule)
    if training.advance is not None or hasattr(collector.environment, "state_dict"):
        rule = "must not change with time, as drifting does, where updates are captured"
        raise SpecError("environment", type(collector.environment).__name__, rule)
    lengths = [schedule.updates_per_batch, schedule.reference_every_updates or 1]
    if schedule.source == "pool":
        lengths.append(schedule.updates_per_batch * ((schedule.pool_size or 0) // schedule.batch_size))
    elif not math.isinf(schedule.sync_period):
        lengths.append(int(schedule.sync_period))
    found = math.lcm(*lengths)
    if found > LONGEST:
        rule = f"must be at most {LONGEST} where updates are captured, each of them as a graph"
        raise SpecError("updates until the schedule repeats itself", found, rule)
    return found


def train_captured(training: Training, updates: int, graph: Callable[[Any], Graph] | None = None) -> Iterator[Update]:
    """`Training.train`, with each update but the first few captured. What an update yields is valid until the next.

    graph: makes a graph, given the one that was captured before; None: that of the device. SpecError for a training
    whose updates do not repeat (`period`), or in which one waits for the device, which no graph can hold.
    """
    graph = graph or graph_of(training.noise.device)
    training.collector.read_later = True
    length, eager = period(training), training.train(updates)
    first = training.updates + max(WARM, 2 * length)  # a first period may draw what later ones reuse
    first += -first % length
    if first >= updates:
        yield from eager
        return
    while training.updates < first - length:
        yield next(eager)
    draws, graphs = _Draws(training.noise), list[tuple[Graph, Update]]()
    while training.updates < first:
        yield draws.noted(eager)
    training.learner.optimiser.count_on_device(updates)
    kept, counts = _Kept(training), [_counts(training)]
    for done in range(first, updates):
        again, number = divmod(done - first, length)
        draws.draw(number)
        if again == 0:
            made = graph(graphs[-1][0] if graphs else None)
            graphs.append(_capture(training, made, draws, eager, number, kept))
            counts.append(_counts(training))
        made, update = graphs[number]
        made.replay()
        a_period = zip(counts[number + 1], counts[0], counts[-1], strict=True)
        _set_counts(training, [count + again * (after - before) for count, before, after in a_period])
        stats = UpdateStats(*(x.clone() for x in vars(update.stats).values()))
        staleness = abs(done - int(training.collector.drawn_at))
        yield replace(update, number=done + 1, samples=training.collector.samples, staleness=staleness, stats=stats)
        if done % 256 == 0:
            kept.read_rewards()
    kept.read_rewards()
    training.learner.optimiser.count_here()


def _capture(
    training: Training, made: Graph, draws: _Draws, eager: Iterator[Update], number: int, kept: _Kept
) -> tuple[Graph, Update]:
    """The next update as a graph, and what it yields."""
    found: list[Update] = []

    def work() -> None:
        found.append(draws.given(eager, number))
        kept.copy_back()

    try:
        made.capture(work)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        name, cause = type(training.algorithm).__name__, error
        while isinstance(cause.__context__, RuntimeError):  # the end of a capture that failed fails too
            cause = cause.__context__
        why = str(cause).partition("\n")[0]
        raise SpecError("capture", True, f"must be false: an update of {name} cannot be captured ({why})") from error
    return made, found[0]


def _counts(training: Training) -> list[int]:
    """What Python counts in the course of training."""
    collector = training.collector
    assert isinstance(collector.drawn_at, int)
    counts = [training.updates, training.learner.optimiser.steps, training.reference.version]
    return [*counts, collector.samples, collector.batches, collector.synced_at, collector.drawn_at]


def _set_counts(training: Training, counts: list[int]) -> None:
    collector = training.collector
    training.updates, training.learner.optimiser.steps, training.reference.version = counts[:3]
    collector.samples, collector.batches, collector.synced_at, collector.drawn_at = counts[3:]


class _Draws:
    """The random numbers of the updates of one period, each at one place in memory."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise
        self._asked: list[list[tuple[str, tuple[int, ...]]]] = []  # by each update of the period, in order
        self._held: list[list[Tensor]] = []

    def noted(self, updates: Iterator[Update]) -> Update:
        """The next update; which random numbers it draws is noted."""
        asked: list[tuple[str, tuple[int, ...]]] = []
        draw = self.noise.uniforms

        def uniforms(stream: str, *shape: int) -> Tensor:
            asked.append((stream, shape))
            return draw(stream, *shape)

        with _instead(self.noise, uniforms):
            update = next(updates)
        self._asked.append(asked)
        return update

    def draw(self, number: int) -> None:
        """Draw what update `number` of the period needs."""
        if len(self._held) <= number:
            lead, device = self.noise.lead, self.noise.device
            shapes = [(*lead, *shape) for _, shape in self._asked[number]]
            self._held.append([torch.empty(shape, dtype=torch.float64, device=device) for shape in shapes])
        for (stream, shape), held in zip(self._asked[number], self._held[number], strict=True):
            held.copy_(self.noise.uniforms(stream, *shape))

    def given(self, updates: Iterator[Update], number: int) -> Update:
        """The next update, which reads what `draw` has drawn."""
        left = list(zip(self._asked[number], self._held[number], strict=True))

        def uniforms(stream: str, *shape: int) -> Tensor:
            asked, held = left.pop(0)
            assert asked == (stream, shape), f"{(stream, shape)} is drawn where {asked} was, a period before"
            return held

        with _instead(self.noise, uniforms):
            return next(updates)


@contextmanager
def _instead(noise: Noise, uniforms: Callable[..., Tensor]) -> Iterator[None]:
    noise.uniforms = uniforms  # type: ignore[method-assign]
    try:
        yield
    finally:
        del noise.uniforms  # the class's again


class _Kept:
    """What an update replaces by new tensors: copied back to where the next one, which is captured, reads it."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.alive = training.learner.alive = training.learner.alive.clone()
        self.state = {name: x.clone() for name, x in training.state.items()}
        training.state = dict(self.state)
        training.collector.read_rewards()
        self.rewards = torch.zeros((), dtype=torch.float64, device=training.noise.device)

    def copy_back(self) -> None:
        """The last step of a graph. Sums of rewards that are to be looked at are added up."""
        training = self.training
        for name, kept in self.state.items():
            if training.state[name] is not kept:
                kept.copy_(training.state[name])
        if training.learner.alive is not self.alive:
            self.alive.copy_(training.learner.alive)
        for total in training.collector.unread:
            self.rewards.add_(total)
        training.state, training.learner.alive, training.collector.unread = dict(self.state), self.alive, []

    def read_rewards(self) -> None:
        """SpecError if a reward was not finite."""
        self.training.collector.unread = [self.rewards]
        self.training.collector.read_rewards()
