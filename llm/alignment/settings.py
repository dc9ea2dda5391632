"""The settings of every step; those of the users and of serving are with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from llm.judges import JudgeSettings
from sims.core.algorithms import PairAlgorithm, find_algorithm
from sims.core.algorithms.base import Algorithm
from sims.core.spec import Spec, SpecError, setting

from .generation import Serving
from .users import Users

Source = Literal["simulated", "reward_model", "judge", "people"]
ReferenceRule = Literal["fixed", "previous", "average"]


@dataclass(frozen=True)
class Filtering(Spec, kind="filtering"):
    """Which logged rows are labelled. Budget: first those that a rule flags, then those that labellers are likely to
    reject, then the most uncertain, then others at random, so that the labelled rows say something about all rows."""

    budget: int = setting(400, "rows labelled per cycle", at_least=1)
    flagged_share: float = setting(0.2, "largest share of the budget for rows that a rule flags", at_least=0, at_most=1)
    rejected_share: float = setting(
        0.1,
        "largest share of the budget for rows that labellers are likely to reject, as a classifier of hidden states "
        "says that is fitted to the labels of earlier cycles; 0: none is fitted",
        at_least=0,
        at_most=1,
    )
    flag_above: float = setting(
        0.6, "probability of rejection above which that classifier flags a row", above=0, below=1
    )
    random_share: float = setting(0.3, "share of the budget that is drawn at random", at_least=0, at_most=1)
    duplicate_similarity: float = setting(
        0.999, "cosine of two rows' vectors from which on the later one is a near-duplicate", above=0, at_most=1
    )
    shortest: int = setting(4, "responses of fewer words are flagged", at_least=0)
    longest: int = setting(26, "responses of more words are flagged", at_least=1)
    repetition: float = setting(
        0.3, "responses of whose three-word sequences a larger share repeats are flagged", at_least=0, at_most=1
    )

    def check(self) -> None:
        if self.flagged_share + self.rejected_share + self.random_share > 1:
            raise SpecError("random_share", self.random_share, "must be at most 1 - flagged_share - rejected_share")
        if self.longest <= self.shortest:
            raise SpecError("longest", self.longest, f"must be more than shortest = {self.shortest}")


@dataclass(frozen=True)
class LabelSource(JudgeSettings, kind="label_source"):
    """What labels pairs, and how wrong the simulated labellers are."""

    labels: Source = setting(
        "simulated", "simulated (the users' gold preference with noise and bias), reward_model, judge, or people"
    )
    label_temperature: float = setting(
        0.1, "temperature of the simulated labellers' Bradley-Terry choice, in units of the gold reward", at_least=0
    )
    flip_rate: float = setting(0.05, "probability that a simulated label is flipped", at_least=0, at_most=0.5)
    length_bias: float = setting(0.0, "added per token to what the simulated labellers see: an exploit")
    wrong_key: bool = setting(False, "whether the simulated labellers and the gate have an answer key that is wrong")
    label_model: str | None = setting(None, "folder of a reward model (labels = reward_model)")
    tries: int = setting(3, "how often a pair without a usable answer is asked about", at_least=1)

    def check(self) -> None:
        super().check()
        self.check_source("labels", self.labels)

    def check_source(self, field: str, source: Source) -> None:
        """SpecError unless the model that labels is named, where a setting asks for one."""
        name = {"reward_model": "label_model", "judge": "judge_model"}.get(source)
        if name is not None and getattr(self, name) is None:
            raise SpecError(name, None, f"must be given with {field} = {source}")


@dataclass(frozen=True)
class Updating(Spec, kind="updating"):
    """When and how a candidate is trained, from the live version."""

    trigger: int = setting(100, "new labelled pairs from which on a candidate is trained", at_least=1)
    replay: float = setting(0.25, "share of the training pairs that is drawn from earlier ones", at_least=0, below=1)
    reference_rule: ReferenceRule = setting(
        "previous",
        "reference: fixed (version 1), previous (the live version), or average (of all live versions' weights)",
    )
    algorithm: str = setting("dpo", "an algorithm that learns from recorded pairs: dpo, ipo, simpo, ...")
    beta: float | None = setting(0.1, "its beta, if it has one; none: its default", above=0)
    epochs: int = setting(6, "how often a candidate is trained on each of its pairs", at_least=1)
    batch_size: int = setting(32, "pairs per update", at_least=1)
    learning_rate: float = setting(3e-4, "learning rate", above=0)
    save_every: int = setting(20, "updates between checkpoints", at_least=1)

    def check(self) -> None:
        found = find_algorithm(self.algorithm.replace("-", "_"))
        if not issubclass(found, PairAlgorithm):
            raise SpecError("algorithm", self.algorithm, "must learn from pairs, as dpo, ipo or simpo do")

    def made(self) -> Algorithm:
        """The algorithm with its settings."""
        found = find_algorithm(self.algorithm.replace("-", "_"))
        given: dict[str, Any] = {"beta": self.beta} if self.beta is not None and "beta" in found.names() else {}
        return found(**given)


@dataclass(frozen=True)
class Gating(Spec, kind="gating"):
    """What a candidate must pass to go live."""

    gate_labels: Source = setting(
        "simulated",
        "what compares the two versions: simulated (without length bias), or reward_model or judge, as for labels",
    )
    gate_prompts: int = setting(768, "held-out prompts of the head-to-head comparison", at_least=8)
    least_win_rate: float = setting(
        0.5, "the interval of the win rate, and of the length-controlled one, must lie above this", at_least=0, below=1
    )
    gold_prompts: int = setting(96, "gold prompts per skill, at most so many of a task", at_least=8)
    gold_set: str | None = setting(
        None, "JSON lines with prompt, skill and answer; none: the simulated users' held-out prompts"
    )
    gold_tasks: str | None = setting(
        None,
        "FOLDER:TASK,TASK: more skills, which are tasks of lm-evaluation-harness in a folder of YAML files, whose data "
        "are local files (pip install 'lm-eval[hf]')",
        omit_default=True,
    )
    guarded: str = setting("all", "skills whose gold score must not fall, separated by commas, or all")
    skill_margin: float = setting(0.1, "largest fall of a guarded skill's mean gold score", at_least=0)
    length_alarm: float = setting(0.3, "largest relative growth of the mean length", above=0)
    entropy_alarm: float = setting(0.5, "largest relative fall of the entropy per token", above=0, at_most=1)

    def check(self) -> None:
        if self.gate_labels == "people":
            raise SpecError("gate_labels", "people", "must be simulated, reward_model or judge")


@dataclass(frozen=True)
class Settings(Spec, kind="alignment"):
    """The settings of the loop, from a cycle on; a changed one holds from the cycle in which it is changed."""

    serving: Serving = setting(Serving())
    users: Users = setting(Users())
    filtering: Filtering = setting(Filtering())
    labelling: LabelSource = setting(LabelSource())
    updating: Updating = setting(Updating())
    gating: Gating = setting(Gating())

    def check(self) -> None:
        self.labelling.check_source("gate_labels", self.gating.gate_labels)

    def changed(self, **values: Any) -> Settings:
        """With some fields of its parts changed. SpecError for a name that no part has."""
        parts = {name: getattr(self, name) for name in self.names()}
        for name, value in values.items():
            owner = next((part for part, spec in parts.items() if name in spec.names()), None)
            if owner is None:
                raise SpecError(name, value, "is no setting of the loop")
        by_part = {
            part: {name: value for name, value in values.items() if name in spec.names()}
            for part, spec in parts.items()
        }
        return self.replace(**{part: parts[part].replace(**own) for part, own in by_part.items() if own})
