"""What an algorithm is: hyper-parameters, needs, targets and a loss.

The methods, in the order in which they are called for one batch:

    targets(batch, state)        once per collected batch, without gradient: advantages, weights, winners; new state
    at_epoch(batch, ...)         once per further pass over the batch, for algorithms whose passes differ
    at_update(minibatch, ...)    once per minibatch, without gradient: what depends on all of it (shares, anchors)
    loss(outputs, batch, ...)    once per micro-batch, with gradient: (..., B), whose sum over the minibatch is its loss

**To add an algorithm**:

(1) Write its loss under its equation in `sims/core/losses/`, and list it in `sims/losses.py`.
(2) Add a frozen dataclass with a `kind` to the family's file in this folder; a new file is imported in `__init__`. A
    loss of a pair's margin is ten lines: `SLiC` in `sims/core/algorithms/contrastive.py`. List the class in
    `sims/__init__.pyi`, which makes it `sims.NAME`; its docstring and the loss's each have an example (`>>>`).
(3) Put the table that `python -m sims --algorithms` prints into the README.
(4) Give `sims/exact` its population weights: the recipe is in `sims/exact/population.py`.
(5) Give `tests/core/algorithms/test_every_algorithm_by_hand.py` its loss on one pair of responses, derived by hand, a
    check that is independent of `sims/exact`.

The command line finds it by its kind, and so do the tests: `pytest tests/core -k KIND` names what is missing or
wrong; `tests/test_public_face.py` and `tests/test_examples.py` say whether (1) and (2) are complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sims.core.objectives.batch import Batch, OutputRequest, Outputs, lengths, pick, sequence_sum
from sims.core.objectives.preferences import Pairing
from sims.core.objectives.reductions import shares
from sims.core.schedule import Schedule
from sims.core.spec import Spec, SpecError, setting, undefined

Targets = dict[str, Tensor]
State = dict[str, Tensor]


@dataclass(frozen=True)
class SlotDistribution:
    """The distribution that a response is drawn from. mixture: ∝ π^{1−share}·π_ref^share at each token."""

    name: Literal["policy", "reference", "mixture"]
    share: float | Tensor = 1.0


@dataclass(frozen=True)
class Algorithm(Spec):
    """Base class of all algorithms. Class variables declare its needs, and columns of the README's table.

    >>> sims.RLOO().min_generations, sims.DPO().needs_reference, sims.PPO.needs_critic
    (2, True, True)
    """

    min_generations: ClassVar[int] = 1  # least number of responses per prompt
    needs_critic: ClassVar[bool] = False
    needs_probes: ClassVar[bool] = False
    needs_rewards: ClassVar[bool] = True  # of responses; where pairs come labelled, a loss of pairs needs none
    single_labels: ClassVar[bool] = False  # recorded responses may be labelled one by one instead of in pairs
    penalises_reward: ClassVar[bool] = False  # subtracts the KL from the reward, at collection
    on_policy: ClassVar[bool] = False  # derived for samples of the current policy
    negative_gradient: ClassVar[bool] = False  # its loss lowers the likelihood of some responses
    sample_reuse: ClassVar[bool] = False  # derived for several updates on one batch
    source: ClassVar[str] = ""

    @property
    def needs_reference(self) -> bool:
        """Whether the loss uses a reference policy."""
        return False

    @property
    def label_pairing(self) -> Pairing | None:
        """Which pairs of responses must be labelled; None if the loss uses no labels."""
        return None

    def check_schedule(self, schedule: Schedule) -> None:
        """Raise SpecError for a schedule that these settings do not support, beyond what `check_run` checks."""

    def initial_state(self, lead: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> State:
        """Initial state, carried from batch to batch, per run (shape `lead`)."""
        return {}

    @cached_property
    def output_request(self) -> OutputRequest:
        """What the loss needs of the policy besides log-probs."""
        return OutputRequest(values=self.needs_critic)

    def slot_distributions(self, num_generations: int) -> tuple[SlotDistribution, ...]:
        """Which distribution each of the K responses is drawn from; slots of the policy come first."""
        return (SlotDistribution("policy"),) * num_generations

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        """Everything that the loss treats as constant, for the whole batch; and the next state."""
        return {}, state

    def at_epoch(self, batch: Batch, targets: Targets, epoch: int) -> Targets:
        """Targets of a further pass over the batch, for algorithms whose passes differ (ReST). epoch: counted from 0,
        the pass with the targets of `targets`."""
        return targets

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        """Targets of one minibatch, with each response's or pair's share of it, fixed before it is cut into
        micro-batches."""
        raise undefined(self, "at_update", "the targets of a minibatch, with each response's or pair's share of it")

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        """(..., B), each prompt's part of the minibatch's loss, which is their sum."""
        raise undefined(self, "loss", "(..., B), each prompt's part of the minibatch's loss")


def response_shares(batch: Batch, targets: Targets) -> Tensor:
    """(..., B, K): each response's share of the minibatch, by the targets' weight, else the batch's, else equal."""
    return shares(targets.get("weight", batch.weight), batch.need("rewards"))


def per_token(total: Tensor, batch: Batch) -> Tensor:
    """A sum over a response's tokens as their mean. total: (..., B, K), returns the same."""
    return total / lengths(batch.mask).clamp(min=1)


def present(batch: Batch) -> Tensor:
    """(..., B, K) bool: which responses are present."""
    if batch.weight is None:
        return torch.ones((), dtype=torch.bool, device=batch.mask.device).expand(batch.mask.shape[:-1])
    return batch.weight > 0


@dataclass(frozen=True)
class PairAlgorithm(Algorithm):
    """Algorithms on pairs: a loss of the margin of the first over the second, weighted by the probability that the
    first is preferred.

    >>> issubclass(sims.DPO, sims.PairAlgorithm), sims.DPO(pairing="best_worst").label_pairing
    (True, 'best_worst')
    """

    min_generations: ClassVar[int] = 2
    needs_rewards: ClassVar[bool] = False
    negative_gradient: ClassVar[bool] = True
    length_normalised = (
        False  # whether ρ is averaged over tokens; some make it a setting. No annotation: not a field here
    )

    pairing: Pairing = setting(
        "drawn",
        "which of a prompt's K responses are paired: drawn (0-1, 2-3, ...), best against worst, all, halves "
        "(0-K/2, 1-(K/2+1), ...), or correct against incorrect (reward above the environment's correct_above or not)",
    )

    @property
    def label_pairing(self) -> Pairing | None:
        return self.pairing

    @property
    def needs_reference(self) -> bool:
        return True

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        return {**targets, "share": shares(batch.pair_weight, batch.need("pair_label"))}

    def score(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Score whose difference is a pair's margin: ρ = ℓ − ℓ_ref, (..., B, K)."""
        ratio = sequence_sum(outputs.logp - batch.need("logp_ref"), batch.mask)
        return per_token(ratio, batch) if self.length_normalised else ratio

    def pair_loss(self, margin: Tensor) -> Tensor:
        """Loss if the first of the pair is chosen. margin: (..., B, Q), returns the same."""
        raise undefined(self, "pair_loss", "(..., B, Q), the loss of each pair if its first is chosen")

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        first, second = pick(self.score(outputs, batch), batch.need("pairs"))
        margin, label = first - second, batch.need("pair_label")
        if_first, if_second = self.pair_loss(margin), self.pair_loss(-margin)
        for loss in (if_first, if_second):  # a mean would mix prompts and runs unnoticed
            if getattr(loss, "shape", None) != margin.shape:
                raise _not_one_per_pair(self, loss, margin)
        return (targets["share"] * (label * if_first + (1.0 - label) * if_second)).sum(-1)


def _not_one_per_pair(algorithm: Algorithm, loss: object, margin: Tensor) -> SpecError:
    found = tuple(loss.shape) if isinstance(loss, Tensor) else loss
    rule = f"must be {tuple(margin.shape)}, one number per pair"
    return SpecError(f"{type(algorithm).__name__}.pair_loss: shape", found, rule)
