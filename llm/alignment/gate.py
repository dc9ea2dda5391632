"""Step 6: whether a candidate may go live, by checks that are all reported.

win rate            of the candidate against the live version, on held-out prompts, with the same random numbers
at equal length     the same, as it would be if both were equally long: σ(θ) of P(win) = σ(θ + γ·tanh(Δ/s)) with Δ the
                    difference of lengths and s its spread, fitted to all comparisons (Dubois et al. 2024)
gold, per skill     the mean gold score on the gold set, against the live version's, for each guarded skill
length, entropy     the mean length has not grown, and the entropy per token has not fallen, by more than the alarms

The first two must have their whole 95 % interval above `least_win_rate`: of candidates that are no better, one in forty
passes each. A skill fails where its gold score fell by more than `skill_margin`, or significantly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from llm.data import Text
from llm.embedded import find_folder
from sims.core.spec import SpecError
from sims.statistics import paired_effect
from sims.statistics.bounded import bounded_interval

from . import harness, registry, users
from .context import Context
from .generation import Drawn
from .gold import gold_items, guarded
from .label import Pair
from .labellers import check_readable, labeller_of
from .logistic import logistic, probability
from .registry import Version
from .store import Store

FEWEST = 8  # prompts of the comparison
Scores = tuple[NDArray[np.float64], NDArray[np.float64]]  # as the gate's answer key has them, and as they are


@dataclass(frozen=True)
class Check:
    """One check. said: what was measured, and against what, in a line."""

    name: str
    passed: bool
    said: str
    value: float
    low: float | None = None
    high: float | None = None


def gate(context: Context) -> str:
    """Measure the live version and the candidate of the cycle, if there is one, and write the verdict."""
    store, cycle = context.store, context.cycle
    live = registry.live(store)
    number = (store.done(cycle, "update") or {}).get("version")
    candidate = None if number is None else registry.find(store, number)
    golds = {"live": gold_scores(context, live)}
    if candidate is not None:
        golds["candidate"] = gold_scores(context, candidate)
    checks = [] if candidate is None else checked(context, candidate, live, golds["candidate"], golds["live"])
    passed = candidate is not None and all(check.passed for check in checks)
    with store.transaction():
        for side, scores in golds.items():
            for skill, (_, true) in scores.items():
                mean = bounded_interval(true, users.LOWEST, users.HIGHEST)
                for name, value in (("", mean.estimate), (" low", mean.low), (" high", mean.high)):
                    store.measure(cycle, f"gold {side}{name}/{skill}", value)
        if candidate is not None:
            report = json.dumps([asdict(check) for check in checks], allow_nan=False)
            store.insert("verdicts", version=candidate.version, cycle=cycle, passed=int(passed), report=report)
        store.finish(cycle, "gate", {"version": number, "against": live.version, "passed": passed})
    if candidate is None:
        return "no candidate"
    failed = [check for check in checks if not check.passed]
    if passed:
        return f"{candidate.name} passes against {live.name}: {checks[0].name} {checks[0].said}"
    return f"{candidate.name} is refused against {live.name}: {', '.join(check.name for check in failed)}"


def gold_scores(context: Context, version: Version) -> dict[str, Scores]:
    """Gold scores of one response to each gold prompt, by skill, as the gate's answer key has them and as they are: the
    same prompts and uniforms for every version. Of a task of lm-evaluation-harness, of each item: no key is wrong."""
    settings, found = context.settings.gating, {}
    keys = [gold_items(settings, context.simulated, key) for key in (context.settings.labelling.wrong_key, False)]
    for skill, items in keys[0].items():
        picked = [i % len(items) for i in range(settings.gold_prompts)]
        texts = [x.text for x in context.model(version).draw([items[i][0] for i in picked], f"gold {skill}", 0)]
        believed, true = (
            np.array([key[skill][i][1](text) for i, text in zip(picked, texts, strict=True)]) for key in keys
        )
        found[skill] = believed, true
    if settings.gold_tasks is not None:
        folder = find_folder(registry.model_of(context.store, version))
        tasks = harness.task_scores(settings.gold_tasks, folder, settings.gold_prompts)
        found |= {name: (scores, scores) for name, scores in tasks.items()}
    return found


def checked(
    context: Context, candidate: Version, live: Version, gold: dict[str, Scores], live_gold: dict[str, Scores]
) -> list[Check]:
    """All checks of a candidate. gold, live_gold: the gold scores of both."""
    settings = context.settings.gating
    prompts = held_out_prompts(context)
    mine, theirs = (context.model(version).draw(prompts, "gate", context.cycle) for version in (candidate, live))
    won = outcomes(context, prompts, mine, theirs)
    longer = np.array([len(a.tokens) - len(b.tokens) for a, b in zip(mine, theirs, strict=True)], np.float64)
    found = [win_rate(won, settings.least_win_rate), controlled_win_rate(won, longer, settings.least_win_rate)]
    for skill in guarded(settings, gold):
        found.append(skill_change(skill, gold[skill][0], live_gold[skill][0], settings.skill_margin))
    lengths = [float(np.mean([len(x.tokens) for x in side])) for side in (mine, theirs)]
    entropies = [float(np.mean([x.entropy for x in side])) for side in (mine, theirs)]
    grown, fallen = lengths[0] / lengths[1] - 1, 1 - entropies[0] / max(entropies[1], 1e-9)
    said = f"{lengths[1]:.1f} → {lengths[0]:.1f} tokens ({grown:+.0%}), allowed {settings.length_alarm:+.0%}"
    found.append(Check("length", grown <= settings.length_alarm, said, grown))
    said = f"{entropies[1]:.2f} → {entropies[0]:.2f} nats per token ({-fallen:+.0%})"
    said += f", allowed −{settings.entropy_alarm:.0%}"
    found.append(Check("entropy", fallen <= settings.entropy_alarm, said, -fallen))
    return found


def held_out_prompts(context: Context) -> list[Text]:
    """The prompts of the head-to-head comparison: the simulated users' held-out ones, or those of this cycle's log that
    no version was trained on."""
    settings = context.settings.gating
    rng = context.rng("gate")
    if context.simulated:
        return list(context.settings.users.mixed(context.cycle, settings.gate_prompts, "held_out", rng))
    rows = context.store.all(
        "SELECT DISTINCT prompt FROM log WHERE cycle = ? AND prompt NOT IN (SELECT prompt FROM pairs) ORDER BY prompt",
        context.cycle,
    )
    if len(rows) < FEWEST:
        rule = f"must leave at least {FEWEST} prompts of the cycle to the gate: {len(rows)} were not chosen for labels"
        raise SpecError("budget", context.settings.filtering.budget, rule)
    return [json.loads(rows[i]["prompt"]) for i in rng.permutation(len(rows))[: settings.gate_prompts]]


def outcomes(
    context: Context, prompts: Sequence[Text], mine: Sequence[Drawn], theirs: Sequence[Drawn]
) -> NDArray[np.float64]:
    """1 where the candidate wins, 0 where it loses, ½ for ties, equal responses and comparisons without an answer.

    They are compared by the simulated users' preference, with the labellers' answer key but without their bias to
    length, or by the model that the settings name."""
    settings = context.settings
    spec = settings.labelling.replace(labels=settings.gating.gate_labels, length_bias=0.0)
    labeller = labeller_of(settings.replace(labelling=spec), context.simulated)
    won = np.full(len(prompts), 0.5)
    differ = [i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a.text != b.text]
    pairs = [Pair(f"gate-{i:06d}", prompts[i], mine[i].text, theirs[i].text) for i in differ]
    answers = list(labeller.answers(pairs)) if pairs else []
    check_readable(spec, sum(answer.label is None for answer in answers), len(answers))
    for i, answer in zip(differ, answers, strict=True):
        won[i] = 0.5 if answer.label is None else answer.label
    return won


def win_rate(won: NDArray[np.float64], least: float) -> Check:
    """The mean outcome, with Gaffke's interval for bounded scores."""
    found = bounded_interval(won, 0.0, 1.0)
    said = f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}] on {len(won)} prompts, needed above {least:g}"
    return Check("win rate", found.low > least, said, found.estimate, found.low, found.high)


def controlled_win_rate(won: NDArray[np.float64], longer: NDArray[np.float64], least: float) -> Check:
    """The win rate at equal lengths, with the delta method's interval on the scale of θ."""
    theta, error = logistic_at_zero(won, np.tanh(longer / max(float(longer.std()), 1e-9)))
    value, low, high = (1 / (1 + math.exp(-x)) for x in (theta, theta - 1.96 * error, theta + 1.96 * error))
    said = f"{value:.3f} [{low:.3f}, {high:.3f}], needed above {least:g}"
    return Check("win rate at equal length", low > least, said, value, low, high)


def skill_change(skill: str, mine: NDArray[np.float64], theirs: NDArray[np.float64], margin: float) -> Check:
    """The change of a skill's mean gold score, with the bootstrap-t's interval, whose ends can lie far out where few
    prompts are scored differently: they are cut at the largest change that there can be."""
    effect, most = paired_effect(mine, theirs), users.HIGHEST - users.LOWEST
    low, high = max(effect.low, -most), min(effect.high, most)
    said = f"{effect.estimate:+.3f} [{low:+.3f}, {high:+.3f}], allowed −{margin:g}"
    return Check(f"gold, {skill}", effect.estimate >= -margin and high >= 0, said, effect.estimate, low, high)


def logistic_at_zero(won: NDArray[np.float64], x: NDArray[np.float64]) -> tuple[float, float]:
    """θ of P(win) = σ(θ + γ·x), and its standard error, by the sandwich estimator, which ties do not mislead (White
    1982). A normal prior of variance 100 keeps θ finite where all outcomes are equal."""
    design = np.stack([np.ones_like(x), x], 1)
    weight, hessian = logistic(design, won, 0.01)
    chance = probability(design @ weight)
    scores = design * (chance - won)[:, None]
    inverse = np.linalg.inv(hessian)
    return float(weight[0]), float(np.sqrt((inverse @ scores.T @ scores @ inverse)[0, 0]))


def report_of(store: Store, version: int) -> list[Check]:
    """The checks of a version's verdict; none before there is one."""
    report = store.one("SELECT report FROM verdicts WHERE version = ?", version)
    return [] if report is None else [Check(**check) for check in json.loads(report)]
