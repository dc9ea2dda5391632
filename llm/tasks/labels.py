"""How pairs of responses are labelled by their rewards."""

from __future__ import annotations

from dataclasses import dataclass

from llm.data.recorded import OnTies
from sims.core.objectives.preferences import Labeller
from sims.core.spec import Spec, SpecError, setting


@dataclass(frozen=True)
class Labels(Spec):
    """The settings of a task for labels, of fresh samples and of recorded pairs, from rewards."""

    label_temperature: float = setting(
        0.0, "temperature of the Bradley-Terry labeller, in units of the reward; 0: noiseless", at_least=0
    )
    flip_rate: float = setting(0.0, "probability that a label is flipped", at_least=0, at_most=0.5)
    correct_above: float = setting(0.5, "responses with a larger reward count as correct (pairing = correct_incorrect)")
    relabel: bool = setting(
        False, "label recorded pairs by this task's reward, not by the rows; those of the language always are",
        omit_default=True,
    )  # fmt: skip
    on_ties: OnTies = setting(
        "drop", "pairs of two equal rewards, with relabel: drop, or label by a fair coin", omit_default=True
    )

    def check(self) -> None:
        super().check()
        if self.on_ties != "drop" and not self.relabel:
            raise SpecError("on_ties", self.on_ties, "only means something with relabel")

    @property
    def labeller(self) -> Labeller:
        return Labeller(self.label_temperature, self.flip_rate, self.correct_above)
