"""The survey's two questions: what a row says of them, and that the page's section follows from the rows."""

from dataclasses import replace

import pytest

from figures.catalogue import catalogue
from figures.committed import Committed
from figures.report import page, sections, survey
from figures.report.reading import Row

ROW = Row(
    id="C33", part="dpo", setting="mlp", state="supported", claim="", measure="", unit="score", claimed="> 0.05",
    effect=0.2, low=0.1, high=0.3, margin=0.05, runs=20, note="", figure="sync_period", command="", spec_hashes=(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("state", "says"),
    [("supported", "yes"), ("opposite", "no"), ("too small", "no"), ("inconclusive", ""), ("no test", "")],
)
def test_what_a_row_says(state: str, says: str) -> None:
    row = replace(ROW, state=state)
    assert survey.speaks(row, "yes") == says
    assert survey.speaks(row, "no") == {"yes": "no", "no": "yes"}.get(says, "")


def test_a_question_counts_its_rows_and_links_to_them() -> None:
    rows = [ROW, replace(ROW, part="ipo", state="too small"), replace(ROW, part="grpo", setting="lm", state="no test")]
    found = survey.survey(sections.sections(rows))
    assert found is not None and found.carries is None
    reinforcement, sampling = found.questions
    assert (reinforcement.head, reinforcement.lines) == ("Open", [])
    assert (sampling.head, sampling.said[:21]) == ("It depends", "1 of 2 decided rows s")
    (line,) = sampling.lines
    assert (line.yes, line.no, line.undecided, line.sections[0].anchor) == (1, 1, 1, "C33")
    assert found.ends.startswith("2 of these 3 rows are of toys (mlp)") and "1 are of a language model" in found.ends
    one = survey.survey(sections.sections([ROW]))
    assert one is not None and one.questions[1].head == "Yes"
    text = page._environment().get_template("survey.html").render(survey=found)
    assert '<a href="#C33">C33</a>' in text and "undecided 1" in text


def test_nothing_is_said_without_rows() -> None:
    assert survey.survey(sections.sections([])) is None
    assert survey.survey(sections.sections([replace(ROW, id="C01")])) is None


def test_every_claim_is_in_the_catalogue() -> None:
    named = {id for groups in survey.QUESTIONS.values() for claims in groups.values() for id in claims}
    assert named | {survey.CARRIES} <= catalogue().keys()


def test_what_it_says_of_the_language_models_rewards_is_so() -> None:
    named = {id for groups in survey.QUESTIONS.values() for claims in groups.values() for id in claims}
    figures = {row.figure for id in named for row in catalogue()[id].rows if "lm" in row.settings}
    specs = [file.record(key).spec for name in figures if (file := Committed(name).file) for key in file.keys]
    kinds = {spec["environment"]["kind"] for spec in specs if "of" not in spec}
    # proxy_reward's pairs are labelled by lengths; verifiable is of sums
    of_lengths, others = {"min_length", "mode_length", "skew_length", "proxy_reward"}, {"forbidden_words", "verifiable"}
    assert len(figures) > 3 and kinds <= of_lengths | others and kinds & of_lengths and others <= kinds
    found = survey.survey(sections.sections([replace(ROW, setting="lm")]))
    assert found is not None and "rewards are of lengths, of words to avoid or of sums" in found.ends.replace("\n", " ")


@pytest.mark.parametrize(("effect", "said"), [(0.3, "yes"), (-0.3, "no")])
def test_a_stale_sampler_that_loses_says_that_fresh_samples_matter(effect: float, said: str) -> None:
    """C32 is opposite either way, and only one that is ahead speaks against them."""
    row = replace(ROW, id="C32", state="opposite", effect=effect)
    assert survey.speaks(row, "yes") == said
    assert survey.speaks(replace(row, id="C33"), "yes") == "no"
