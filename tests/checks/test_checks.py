"""`sims.checks` finds each planted bug, raises no false alarm, and tells a user what it found."""

from __future__ import annotations

import random
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import sims
from sims.checks import FAMILIES, PROPERTIES, as_function, check_loss
from sims.checks.adapters import estimator
from sims.checks.bugs import BUGS
from sims.checks.claims import ALGORITHMS
from sims.checks.on_options import option, variants
from sims.checks.report import snippet
from sims.checks.running import run_property
from sims.checks.subject import make_subject
from sims.checks.trials import Violation, verify
from sims.core.algorithms import all_algorithms
from sims.core.spec import SpecError
from tests.checks import right
from tests.checks.planted import GETS_AWAY, NOT_A_LOSS, PLANTED, Planted
from tests.checks.right import RIGHT
from tests.core.drawn_batches import examples

ROOT = Path(__file__).parents[2]


# --- no false alarm


@pytest.fixture
def half_of_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the long tests run, which draw hundreds, all; but as many of what must be seen in some batch."""
    for name, found in PROPERTIES.items():
        if not found.some:
            fewer = replace(found, examples=examples(found.examples).max_examples)
            monkeypatch.setitem(PROPERTIES, name, fewer)


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.usefixtures("half_of_the_examples")
def test_a_right_loss_passes(name: str) -> None:
    report = check_loss(**RIGHT[name])
    assert report.ok, str(report)
    assert report["population_gradient"].status == "passed"


@pytest.mark.long
@pytest.mark.parametrize("name", ["dpo", "kto", "grpo", "clipped", "k3", "ppo", "sft"])
def test_a_right_loss_passes_over_200_seeds(name: str) -> None:
    """The first two batches that each of 200 seeds draws of each property, 400 of each. What is compared is
    deterministic, so that this test has no false alarm; that none is among 200 seeds says, with 95 % confidence, that
    fewer than 3 in 200 seeds have one (the rule of three)."""
    settings: dict[str, Any] = {"claim": None, "reduction": None, **RIGHT[name]}
    function, family, claim, reduction = (settings.pop(key) for key in ("function", "family", "claim", "reduction"))
    subject = make_subject(function, family, claim, reduction, settings)
    for found in PROPERTIES.values():
        if not found.why_not(subject):
            for seed in range(200):
                outcome = run_property(subject, replace(found, examples=40 if found.some else 2), seed, simplify=False)
                assert outcome.status == "passed", (seed, outcome)


# --- bugs


FOUND = [bug for bug in PLANTED if bug.found_by]


@pytest.mark.parametrize("bug", FOUND, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found_and_its_script_shows_it(bug: Planted) -> None:
    """The script is plain torch, and fails."""
    report = check_loss(**bug.check, only=[bug.found_by])
    (outcome,) = report.outcomes
    assert outcome.status == "failed" and outcome.violation is not None, str(report)
    script = snippet(report.subject, outcome.violation)
    assert "sims" not in script
    with pytest.raises((AssertionError, ValueError, RuntimeError, IndexError)):
        exec(script, {})


def test_every_row_is_planted_or_has_its_reason() -> None:
    rows = {row for bug in PLANTED for row in bug.rows}
    assert rows | NOT_A_LOSS.keys() == BUGS.keys()
    assert not rows & NOT_A_LOSS.keys()


def test_every_property_was_seen_to_fail() -> None:
    only_by_identity = {"response_order"}  # planted in the next test
    assert {bug.found_by for bug in FOUND} | only_by_identity == PROPERTIES.keys()


@pytest.mark.long
@pytest.mark.parametrize("bug", [bug for bug in PLANTED if not bug.found_by], ids=lambda bug: bug.name)
def test_what_gets_away_is_told(bug: Planted) -> None:
    assert check_loss(**bug.check).ok and GETS_AWAY[bug.name]


def test_the_first_response_as_the_baseline_is_seen() -> None:
    def loss(logps: Any, old: Any, reference: Any, mask: Any, rewards: Any) -> torch.Tensor:
        return -((rewards - rewards[:, :1]) * torch.where(mask, logps, 0.0).sum(-1)).mean()

    assert check_loss(loss, "group", only=["response_order"]).failures


def test_the_table_is_that_of_the_repository() -> None:
    text = (ROOT / "tests/BUGS.md").read_text().replace("\\|", "¦")
    rows = re.findall(r"^\| (\d+) \| (.*?) \| (.*?) \|", text, re.MULTILINE)
    assert {int(number): (bug, where) for number, bug, where in rows} == BUGS


def test_a_counterexample_is_simple() -> None:
    """Two pairs of the same simplest log-probs, of which the second is missing."""
    report = check_loss(lambda *x: right.dpo(*x).sum(), "pair", only=["micro_batches"])
    (outcome,) = report.outcomes
    assert outcome.violation is not None
    batch = outcome.violation.trial.named["whole"]
    assert {x.abs().max().item() for x in batch.values()} == {1 / 16}
    assert len(batch["policy_chosen_logps"]) == 2


# --- our own algorithms


# The others' properties are tested in tests/core/algorithms as well, in a fraction of the time.
ONE_OF_EACH_FAMILY = {"dpo", "kto", "grpo", "ppo", "sft"}
OURS = [
    pytest.param(kind, marks=[] if kind in ONE_OF_EACH_FAMILY else pytest.mark.long)
    for kinds in ALGORITHMS.values()
    for kind in kinds
]


@pytest.mark.parametrize("kind", OURS)
def test_our_own_algorithms_pass(kind: str) -> None:
    """Without favour: as anybody's functions."""
    (family,) = (family for family, kinds in ALGORITHMS.items() if kind in kinds)
    cls = all_algorithms()[kind]
    algorithm = cls().replace(baseline="none") if kind == "reinforce" else cls()
    report = check_loss(as_function(algorithm), family, algorithm)
    assert report.ok, str(report)


@pytest.mark.parametrize(("name", "claim"), [("k2", "kl_policy_ref"), ("k3", "kl_ref_policy")])
def test_our_own_estimators_pass(name: str, claim: str) -> None:
    report = check_loss(estimator(name), "token", claim)
    assert report.ok, str(report)
    assert report["kl_pull"].status == report["population_gradient"].status == "passed"


# --- what it says


def test_the_report_says_what_why_and_where() -> None:
    report = check_loss(lambda *x, beta: right.dpo(*x, beta=beta).sum(), claim="dpo", beta=0.1)
    text = str(report)
    assert not report.ok and "FAILED  micro_batches" in text and "passed  permutation" in text
    for part in ("row 10", "TRL #2615", "expected    loss(whole)", "a mean over rows", "policy_chosen_logps"):
        assert part in text
    found = report.to_json()
    (failed,) = (p for p in found["properties"] if p["name"] == "micro_batches")
    assert failed["status"] == "failed" and failed["rows"][0]["row"] == 10 and "torch" in failed["snippet"]
    assert all(p["reason"] for p in found["properties"] if p["status"] == "not applicable")


def test_an_expected_failure_needs_to_fail() -> None:
    reasons = {name: "sums" for name in ("micro_batches", "ranks", "duplicated")}
    report = check_loss(lambda *x: right.dpo(*x).sum(), expected_failures=reasons)
    assert report.ok and "as expected: sums" in str(report)
    report = check_loss(right.dpo, expected_failures={"ranks": "sums"})
    assert [o.tested.name for o in report.failures] == ["ranks"] and "although it was expected" in str(report)


def test_one_seed_gives_one_report_and_moves_no_generator() -> None:
    before = torch.get_rng_state()
    reports = [str(check_loss(lambda *x: right.dpo(*x).sum(), only=["ranks", "duplicated"])) for _ in range(2)]
    assert reports[0] == reports[1]
    assert torch.equal(before, torch.get_rng_state())


def test_the_first_item_of_a_tuple_is_the_loss() -> None:
    def loss(*x: Any, beta: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
        return right.dpo(*x, beta=beta), beta * (x[0] - x[2]).detach()

    assert check_loss(loss, claim="dpo", only=["population_gradient", "micro_batches"]).ok


@pytest.mark.parametrize("name", ["grpo", "clipped"])
def test_an_option_of_every_kind_is_varied(name: str) -> None:
    subject = make_subject(RIGHT[name]["function"], RIGHT[name]["family"], None, None, {})
    assert variants(subject)[0] == "epsilon"
    trial = option(subject, random.Random(0).randint, "epsilon")
    assert "epsilon=0.34" in trial.relations[0].got or "epsilon=0.1" in trial.relations[0].got


def backwards(*x: Any) -> torch.Tensor:
    loss = right.dpo(*x)
    loss.mean().backward()
    return loss


def other_order(
    policy_chosen_logps: Any, reference_chosen_logps: Any, policy_rejected_logps: Any, reference_rejected_logps: Any
) -> torch.Tensor:
    return right.dpo(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)


def test_a_loss_that_raises_on_some_batches_fails_there() -> None:
    def loss(*x: Any) -> torch.Tensor:
        if len(x[0]) < 2:
            raise ValueError("two pairs,\nor more")
        return right.dpo(*x)

    (outcome,) = check_loss(loss, only=["duplicated"]).outcomes
    assert outcome.status == "failed" and "ValueError: two pairs," in str(outcome.violation.got)


def test_a_narrow_loss_is_told_which_tolerance_it_needs() -> None:
    report = check_loss(lambda *x: right.dpo(*(y.half() for y in x)), only=["micro_batches"])
    assert "returns torch.float16" in str(report) and "a tolerance of 1e-01" in str(report)
    assert "try a tolerance" not in str(check_loss(right.dpo, claim="ipo", only=["step_0"]))


@pytest.mark.parametrize(
    ("function", "changes", "message"),
    [
        (lambda a, b: a, {}, "the pair family passes policy_chosen_logps, policy_rejected_logps"),
        (lambda a, b, c, d: a, {"beta": 0.1}, "got an unexpected keyword argument 'beta'"),
        (lambda a, b, c, d: None, {}, "'NoneType': must return a tensor"),
        (lambda a, b, c, d: sys.exit(), {}, "SystemExit: .*must not raise on a batch"),
        (lambda a, b, c, d: a > b, {}, "must return a tensor of floating-point numbers"),
        (lambda a, b, c, d: a[:, None] - b, {}, r"\(3, 3\): must return the mean loss or one per row: a shape of \(\)"),
        (lambda a, b, c, d: a.detach(), {}, "no gradient"),
        (lambda a, b, c, d: a @ torch.ones(9), {}, "RuntimeError: .*must not raise on a batch"),
        (right.dpo, {"family": "pairs"}, "family = 'pairs': must be one of pair, unpaired"),
        (right.dpo, {"claim": "dppo"}, "claim = 'dppo': the pair family knows dpo, cdpo"),
        (right.dpo, {"claim": "dpo(beta"}, "must be a name, or name"),
        (right.dpo, {"claim": sims.GRPO()}, "claim = 'grpo': the pair family knows .*; grpo is of the family group"),
        (right.dpo, {"reduction": "mean"}, "reduction = 'mean': must be one of"),
        (right.dpo, {"only": ["ranx"]}, "only = 'ranx': must be among shape"),
        (right.dpo, {"expected_failures": {"ranx": "."}}, "expected_failures = 'ranx'"),
        ("dpo", {}, "must be a function"),
        (torch.add, {}, "has no signature: wrap it in a Python function"),
        (right.dpo, {"claim": 3}, "claim = 3: the pair family knows"),
        (right.dpo, {"only": []}, "must be a list of at least one property"),
        (right.dpo, {"only": "ranks"}, "must be a list of at least one property"),
        (right.dpo, {"expected_failures": {"ranks": ""}}, "must have a reason"),
        (backwards, {}, "must leave backward"),
        (other_order, {}, "has its arguments in another order; the pair family passes policy_chosen_logps"),
    ],
)
def test_what_cannot_be_checked_is_told_in_one_line(function: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        check_loss(function, **changes)
    assert "\n" not in str(error.value)


def test_every_family_has_its_signature_and_a_claim() -> None:
    for family in FAMILIES.values():
        assert family.signature.startswith("loss(policy_") and set(family.trained) <= set(family.arguments)
        assert any(settings["family"] == family.name and settings["claim"] for settings in RIGHT.values())


def test_a_violation_is_what_a_wrong_relation_raises() -> None:
    subject = make_subject(right.dpo, "pair", None, None, {})
    trial = partial(PROPERTIES["duplicated"].trial, subject)(random.Random(0).randint)
    verify(subject, trial)
    wrong = make_subject(lambda *x: right.dpo(*x).sum(), "pair", None, None, {})
    with pytest.raises(Violation):
        verify(wrong, PROPERTIES["duplicated"].trial(wrong, random.Random(0).randint))
