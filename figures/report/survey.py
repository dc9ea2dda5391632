"""The two questions of the survey that the catalogue starts from, answered by the states of rows alone.

Each question names claims, and for each claim whether its being so speaks for yes or for no. Rows are counted, nothing
is averaged; what the page says follows from the rows that are there, and changes with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .answers import join
from .reading import Row
from .sections import Section
from .states import State, state_of

TOYS = ("bandit", "mlp", "token")
# What a supported row of a claim speaks for. Of a claim that nothing is lost, "opposite" is a loss.
QUESTIONS = {
    "Is reinforcement learning needed for high-quality alignment?": {
        "PPO on a reward model against DPO on the same preferences": {"C43": "yes"},
        "online contrastive training instead of PPO or GRPO": {"C34": "no", "C68": "no"},
        "imitating the better of two samples of an online run": {"C23": "no"},
        "supervised and offline methods where the optimum is likely": {"C31": "no"},
        "what the data lack": {"C49": "yes"},
        "a critic over many steps": {"C65": "yes"},
    },
    "Is sampling on-policy training data important?": {
        "online against offline at equal KL": {"C13": "yes"},
        "where the reward's optimum is unlikely under the reference": {"C25": "yes"},
        "offline behind semi-online": {"C33": "yes"},
        "semi-online as good as online": {"C32": "yes"},
        "the same batches, shuffled": {"C16": "yes"},
        "good data of another policy": {"C18": "yes"},
        "new rounds of pairs for DPO": {"C08": "yes"},
    },
}
# Of a claim of none: where a stale sampler loses, fresh samples matter the more; only where it is ahead they do not.
LOSS_SPEAKS_ALIKE = {"C32"}
CARRIES = "toy→lm"  # the claim that says whether toys' rankings hold for a language model


@dataclass(frozen=True)
class Line:
    """What speaks to a question. sections: its claims, to link to; yes, no, open: (state, rows) that speak for either,
    and undecided ones."""

    words: str
    sections: Sequence[Section]
    yes: int
    no: int
    undecided: int


@dataclass(frozen=True)
class Question:
    """A question, its answer in a word or two, the sentence after it, and what it rests on."""

    text: str
    head: str
    said: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Survey:
    """Both questions, and a sentence on where toy evidence ends, with the claim that it rests on, if that is there."""

    questions: Sequence[Question]
    ends: str
    carries: Section | None
    states: Sequence[tuple[State, int]]


def survey(found: Sequence[Section]) -> Survey | None:
    """What the rows say of both questions; None where no row speaks to either."""
    by_id = {section.id: section for section in found if section.rows}
    questions = [_question(text, groups, by_id) for text, groups in QUESTIONS.items()]
    rows = [row for q in questions for line in q.lines for section in line.sections for row in section.rows]
    if not rows:
        return None
    carries = by_id.get(CARRIES)
    states = [] if carries is None else [(state_of(word), n) for word, n in _states(carries.rows).items()]
    return Survey(questions, _ends(rows), carries, states)


def speaks(row: Row, supported: str) -> str:
    """ "yes", "no" or "": what a row says of a question that its claim answers so where it is supported."""
    other = {"yes": "no", "no": "yes"}[supported]
    loses = row.state == "opposite" and row.id in LOSS_SPEAKS_ALIKE and row.effect is not None and row.effect > 0
    if row.state in ("supported", "theorem") or loses:
        return supported
    return other if row.state in ("opposite", "too small") else ""


def _question(text: str, groups: dict[str, dict[str, str]], by_id: dict[str, Section]) -> Question:
    lines, voices = [], {"yes": 0, "no": 0, "": 0}
    for words, claims in groups.items():
        sections = [by_id[id] for id in claims if id in by_id]
        said = [speaks(row, claims[section.id]) for section in sections for row in section.rows]
        for voice in said:
            voices[voice] += 1
        if sections:
            lines.append(Line(words, sections, said.count("yes"), said.count("no"), said.count("")))
    decided = voices["yes"] + voices["no"]
    head = "It depends" if voices["yes"] and voices["no"] else "Yes" if voices["yes"] else "No" if decided else "Open"
    share = f"{voices['yes']} of {decided} decided rows say that it is, {voices['no']} that it is not"
    return Question(text, head, f"{share}; {voices['']} are undecided or no test.", lines)


def _states(rows: Sequence[Row]) -> dict[str, int]:
    return {word: sum(row.state == word for row in rows) for word in dict.fromkeys(row.state for row in rows)}


def _ends(rows: Sequence[Row]) -> str:
    """Where these rows were tested."""
    toys = sum(row.setting in TOYS for row in rows)
    settings = join(sorted({row.setting for row in rows if row.setting in TOYS}))
    models = [row for row in rows if row.setting == "lm"]
    decided = sum(row.state not in ("inconclusive", "no test") for row in models)
    if not models:
        return f"All {toys} rows are of toys ({settings}); no language model was tested here."
    return (
        f"{toys} of these {len(rows)} rows are of toys ({settings}), with known rewards and tables or networks of a "
        f"few thousand parameters. {len(models)} are of a language model of this package's own, {decided} of them "
        "decided: it is tiny, and its rewards are of lengths, of words to avoid or of sums. None is of a model that "
        "people use."
    )
