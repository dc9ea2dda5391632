# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10. Monday to Monday: how does a model stay aligned while what users ask changes?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/onoff/blob/main/notebooks/10_monday_to_monday.ipynb)
#
# After this you can
#
# - say what happens in a week of continuous alignment: log, watch, filter, label, update, gate, promote;
# - say which fault a gate refuses, which it cannot see, and who finds that one;
# - tell drift from chance, and a bad model from a hard week.
#
# You need notebooks 3 and 6. Time: 30 minutes, of which the computer takes about two.

# %%
import importlib.util

from IPython import get_ipython

REPOSITORY = "https://github.com/OWNER/onoff"  # where the package is installed from if it is missing, as in Colab

if importlib.util.find_spec("sims") is None:
    get_ipython().run_line_magic("pip", f"install -q 'onoff-sims @ git+{REPOSITORY}'")

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from llm.alignment import drift, loop, registry, users
from llm.alignment.context import STEPS, keep_settings
from llm.alignment.report import cycles, gold_by_cycle
from llm.alignment.settings import Settings
from llm.alignment.store import opened, read_only
from sims.core.objectives.preferences import preference_probability
from sims.teaching import BLUE, COLOURS, GREEN, LINES, QUICK, VERMILION, exercises_10, keep, picture, say, style

style()
disable_progress_bar()
torch.set_num_threads(1)
WEEKS = 2 if QUICK else 5
BIASED, WRONG = (2, 1) if QUICK else (2, 3)  # the weeks in which something goes wrong
FAULTS = {BIASED: {"length_bias": 0.3}, WRONG: {"wrong_key": True}}
# Two weeks of less traffic show the same if labels are nearly exact and the steps larger.
SMALL = dict(requests=700, share=0.9, budget=300, label_temperature=0.02, flip_rate=0.0, learning_rate=7e-4, epochs=5)
SMALL |= dict(gate_prompts=256, gold_prompts=48)
settings = Settings().changed(scenario="none", **(SMALL if QUICK else {}))
place = tempfile.TemporaryDirectory()
folder = Path(place.name) / "loop"

# %% [markdown]
# ## 1. One week
#
# A tiny language model, which comes with the package, answers users who ask sums. Their preference is known, so that it can
# be used to check what the loop only estimates: the *gold reward* of a response is 1 if its answer is right, less 0.02 for
# each token beyond 16. In the first weeks nearly all users add; later most of them subtract.
#
# Each week has seven steps, in this order:
#
# | step | what it does |
# |---|---|
# | log | some requests are kept, with what was answered, and the user's thumb up or down |
# | watch | is what users ask still what the live version was trained on? Is it rated worse than the version before? |
# | filter | near-duplicates are dropped; rows are chosen for labelling: some by rules, some because labellers are likely to reject them, as a small classifier says from the second week on, some because the reward is uncertain, some by chance |
# | label | to each chosen row a second response is drawn, and a labeller says which one is better |
# | update | DPO from the live version on the new pairs and some old ones gives a *candidate* |
# | gate | the candidate is compared with the live version on prompts that nobody trained on |
# | promote | what passed the gate goes live |
#
# It is the loop of `python -m llm align`, called from Python, and all of it is kept in a store on disk.
#
# **Predict.** About a thousand requests are logged. How many of them need a label for one update? How large a win rate would
# you ask for before a candidate may go live?


# %%
def run_week(week):
    """All steps of a week: what each of them says."""
    with opened(folder) as store:
        keep_settings(store, settings.changed(**FAULTS.get(week, {})))
        context = loop.context_of(store)
        return {step: loop.perform(context, step) for step in STEPS}


first_week = run_week(1)
say("| step | week 1 |\n|---|---|\n" + "\n".join(f"| {step} | {said} |" for step, said in first_week.items()))

# %% [markdown]
# ## 2. What was labelled, and why
#
# A label costs more than a response, so that few rows get one. A row that is like another teaches little; one that the
# reward model is unsure about teaches much; and without some rows drawn by chance, the labelled rows would say nothing about
# the others.
#
# Labels are noisy: the labeller prefers the first of two responses with probability σ((g₁ − g₂)/T), T = 0.1, and 5 % of the
# labels are flipped. That is a labeller without a fault.
#
# **Predict.** What share of the labels agrees with the users' preference? Is a share of 0.9 enough to train on?


# %%
def labelled_pairs(store, week):
    """Of each labelled pair of a week: the difference of gold rewards, of lengths, and the label; ties are left out."""
    rows = store.all(
        "SELECT p.prompt, p.first, p.second, a.label FROM pairs p JOIN answers a ON a.row = p.row "
        "WHERE p.cycle = ? AND a.label NOT NULL AND a.label != 0.5 ORDER BY p.row",
        week,
    )
    asked = [json.loads(row["prompt"]) for row in rows]
    gold, length = (
        np.array([[value(x, row[side]) for x, row in zip(asked, rows, strict=True)] for side in ("first", "second")])
        for value in (users.gold, lambda x, response: len(response.split()))
    )
    return gold[0] - gold[1], length[0] - length[1], np.array([row["label"] for row in rows])


def agreement(differences, labels):
    """The share of labels for the response with the larger value, where there is one."""
    told = differences != 0
    return float((np.sign(differences[told]) == np.sign(labels[told] - 0.5)).mean())


with read_only(folder) as store:
    reasons = cycles(store)[0].reasons
    gold, longer, labels = labelled_pairs(store, 1)

with picture(columns=2, width=5.8) as (_, (left, right)):
    colours = {"chosen": BLUE, "kept": "0.75", "dropped": VERMILION}
    names = [f"{decision}: {reason}" for decision, reason, _ in reasons]
    bars = left.barh(names, [rows for *_, rows in reasons], color=[colours[decision] for decision, *_ in reasons])
    left.bar_label(bars, padding=3)
    left.margins(x=0.12)
    left.set(xlabel="logged rows", title="What the filter decided, and why")
    left.invert_yaxis()
    jitter = np.random.default_rng(0).uniform(-0.04, 0.04, len(labels))
    right.plot(gold, labels + jitter, "o", color=BLUE, markersize=3, alpha=0.4, label="a pair")
    x = torch.linspace(-1.3, 1.3, 200, dtype=torch.float64)
    spec = settings.labelling
    chance = preference_probability(x, torch.zeros(()), spec.label_temperature)
    right.plot(
        x, spec.flip_rate + (1 - 2 * spec.flip_rate) * chance, color=VERMILION, label="a labeller without a fault"
    )
    right.set(xlabel="gold, first response − second", ylabel="label (1: first is better)", title="Labels of week 1")
    right.legend(loc="center right", fontsize=9)

told = gold != 0
wrong = told & (np.sign(gold) != np.sign(labels - 0.5))
counts = {decision: sum(rows for d, _, rows in reasons if d == decision) for decision in ("chosen", "kept", "dropped")}
say(
    f"**Verdict.** Of {sum(counts.values()):,} logged rows {counts['chosen']} were chosen, {counts['dropped']} dropped and {counts['kept']} only kept. "
    f"{len(labels)} pairs have a label that is no tie, and {agreement(gold, labels):.0%} of those whose responses differ in gold agree with the users' preference. "
    f"Of the pairs whose label disagrees, {(np.abs(gold[wrong]) < 0.2).mean():.0%} differ by less than 0.2, where a wrong label costs little. Noise makes an update slower. "
    "A fault that is the same in every label leads it elsewhere, and that is what comes next."
)

# %% [markdown]
# **Exercise 1.** A labeller with a fault: it adds `bias` for each token to what it sees of a response. A function of
# `(gold, length, bias, temperature, flip_rate)`, of which `gold` and `length` have two numbers each, that returns the
# probability that the *first* response is preferred.

# %%
answer = ...

exercises_10.label_probability(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(gold, length, bias, temperature, flip_rate):
#     seen = gold + bias * length
#     first = 1 / (1 + np.exp(-(seen[0] - seen[1]) / temperature))
#     return (1 - flip_rate) * first + flip_rate * (1 - first)
# ```
#
# </details>
#
# ## 3. Two faults
#
# In week 2 the labellers favour long responses: 0.3 for each token, where a right answer is worth 1. In week 3 the answer
# key is wrong: it takes right answers for wrong ones. The labellers have that key, and so has the gate.
#
# **Predict.** The gate passes a candidate if the 95 % intervals of its win rate, and of its win rate at equal length, lie
# above one half, no skill lost more than 0.1 on the gold set, responses grew by no more than 30 %, and the entropy did not
# halve. Which of the two faults does it stop? Who can stop the other one?

# %%
for week in range(2, WEEKS + 1):
    run_week(week)

with read_only(folder) as store:
    weeks = cycles(store)
    pairs = {week.number: labelled_pairs(store, week.number) for week in weeks}
    live_now = registry.live(store).name

SAID = {BIASED: "labels favour length", WRONG: "the answer key is wrong"}
lines = [f"| {week.number} | {SAID.get(week.number, '–')} | {week.happened} |" for week in weeks]
say("| week | fault | what happened |\n|---|---|---|\n" + "\n".join(lines) + f"\n\nIn the end {live_now} is live.")

# %%
with picture(columns=3, width=4.8, height=3.9) as (_, (left, middle, right)):
    numbers = [week.number for week in weeks]
    for name, which, colour, line, marker in (
        ("gold prefers", 0, BLUE, "-", "o"),
        ("is longer", 1, VERMILION, "--", "s"),
    ):
        shares = [agreement(pairs[number][which], pairs[number][2]) for number in numbers]
        left.plot(numbers, shares, color=colour, linestyle=line, marker=marker, label=f"for the one that {name}")
    left.axhline(0.5, color="black", linestyle=":", linewidth=1)
    left.set(ylim=(0, 1.05), ylabel="share of the labels", title="Labels")
    left.legend(loc="lower right", fontsize=9)
    for week in weeks:
        checks = {check.name: check for check in week.checks}
        for name, colour, marker, shift in (
            ("win rate", BLUE, "o", -0.08),
            ("win rate at equal length", GREEN, "^", 0.08),
        ):
            if check := checks.get(name):
                middle.plot([week.number + shift] * 2, [check.low, check.high], "-", color=colour)
                fill = colour if check.passed else "white"
                label = name if week is weeks[0] else None
                middle.plot(week.number + shift, check.value, marker, color=colour, markerfacecolor=fill, label=label)
        for i, skill in enumerate(users.SKILLS):
            if check := checks.get(f"gold, {skill}"):
                at, colour = week.number + 0.14 * (i - 1), COLOURS[i]
                right.plot([at] * 2, [check.low, check.high], "-", color=colour)
                fill = colour if check.passed else "white"
                label = skill if week is weeks[0] else None
                right.plot(at, check.value, "os^"[i], color=colour, markerfacecolor=fill, label=label)
    middle.axhline(settings.gating.least_win_rate, color="black", linestyle=":", linewidth=1)
    middle.set(ylabel="candidate against live version", title="The gate: filled passes, hollow fails")
    right.axhline(-settings.gating.skill_margin, color="black", linestyle=":", linewidth=1)
    right.set(ylabel="change of gold, by the gate's key", title="The gate's gold set, by skill")
    for axes in (left, middle, right):
        axes.set_xticks(numbers)
        axes.set(xlabel="week", xlim=(0.6, WEEKS + 0.4))
    for axes in (middle, right):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=9)

by_week = {week.number: week for week in weeks}
failed = [f"{check.name} ({check.said})" for check in by_week[BIASED].checks if not check.passed]
win = by_week[WRONG].checks[0]
controlled = by_week[BIASED].checks[1]
say(
    f"**Verdict.** *Labels that favour length*, week {BIASED}: {agreement(*pairs[BIASED][1:]):.0%} of them are for the longer response. The gate refused the candidate: "
    f"{'; '.join(failed)}. At equal length its win rate would be {controlled.value:.2f} [{controlled.low:.2f}, {controlled.high:.2f}]. The gate's comparison has no such bias, and that is why it sees the fault.\n\n"
    f"*The wrong key*, week {WRONG}: {agreement(*pairs[WRONG][::2]):.0%} of the labels are for what gold prefers. The candidate "
    f"{'passed' if by_week[WRONG].passed else 'was refused'}, with a win rate of {win.value:.2f} [{win.low:.2f}, {win.high:.2f}], because labels, comparison and gold set "
    "share one mistake. What is wrong everywhere inside of the loop cannot be seen from inside."
)
keep(tolerance=0.15, sized=True, win_biased=by_week[BIASED].checks[0].value, win_wrong=win.value)

# %% [markdown]
# ## 4. What users say
#
# From outside come two things. The prompts: their distance to those that the live version was trained on, the *energy
# distance* of hidden states, against the level that chance exceeds once in twenty weeks. And thumbs: while a new version is
# live, its predecessor still serves 30 % of the requests, so that both are rated in the same week.
#
# **Predict.** Does a large drift mean that the model got worse? Does a falling share of thumbs up?

# %%
with read_only(folder) as store:
    distance, level = (
        [value for (_, rest), value in sorted(store.measured(name).items()) if not rest]
        for name in ("drift", "drift level")
    )
    thumbs = store.measured("rating v")
    gold_of_live = gold_by_cycle(store)

watched = [week.notes["watch"] for week in weeks]
with picture(columns=3, width=4.8, height=3.9) as (_, (left, middle, right)):
    left.plot(numbers, distance, "o-", color=BLUE, label="distance")
    left.plot(numbers, level, "s--", color="0.5", label="exceeded by chance once in 20")
    share = left.twinx()
    asked = [settings.users.share_of_differences(number) for number in numbers]
    share.plot(numbers, asked, "^:", color=VERMILION, label="share of differences (right axis)")
    share.set(ylim=(0, 1))
    share.grid(False)
    left.set(ylabel="energy distance of the prompts", title="What users ask")
    left.legend(handles=[*left.lines, *share.lines], loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=9)
    for name, colour, marker, live in (("live version", BLUE, "o", True), ("its predecessor", "0.5", "s", False)):
        points = [(c, value) for (c, number), value in sorted(thumbs.items()) if (int(number) == watched[c - 1]["version"]) == live]  # fmt: skip
        middle.plot(*zip(*points, strict=True), marker, linestyle="-" if live else "none", color=colour, label=name)
    middle.set(ylabel="share of thumbs up", title="What users say on Monday")
    for i, skill in enumerate(users.SKILLS):
        c, mean, low, high = np.array(gold_of_live[skill]).T
        errors = [mean - low, high - mean]
        right.errorbar(
            c + 0.1 * (i - 1), mean, errors, marker="os^"[i], color=COLOURS[i], linestyle=LINES[i], label=skill
        )
    right.set(ylabel="true gold reward", title="The live version at each week's end")
    for axes in (left, middle, right):
        axes.set_xticks(numbers)
        axes.set(xlabel="week", xlim=(0.6, WEEKS + 0.4))
    for axes in (middle, right):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=9)

rollbacks = [(week.number, week.notes["watch"]) for week in weeks if week.rolled_back]
above = [number for number, d, b in zip(numbers, distance, level, strict=True) if d > b]
changes = [f"{skill} {points[0][1]:.2f} → {points[-1][1]:.2f}" for skill, points in gold_of_live.items()]
say(
    f"**Verdict.** The distance exceeds its level in {('weeks ' if len(above) > 1 else 'week ') + ', '.join(map(str, above)) if above else 'no week'}, while differences go from {asked[0]:.0%} to {asked[-1]:.0%} of "
    "the requests. Drift says that something else is asked, not that it is answered badly: it says when new labels are worth their price. "
    "And a share of thumbs up moves with what is asked: only two versions in the same week can be compared.\n\n"
    + "\n\n".join(
        f"On Monday of week {number} v{note['version']} was rated {note['rating'][0]:+.2f} [{note['rating'][1]:+.2f}, {note['rating'][2]:+.2f}] against its predecessor on requests of "
        f"the same week, and rolled back to v{note['to']}. "
        f"{'It is the version that the wrong key had made, and only the users found it' if number == WRONG + 1 else 'It had passed the gate'}."
        for number, note in rollbacks
    )
    + f"\n\nTrue gold of the live version, from the end of week 1 to that of week {WEEKS}: {', '.join(changes)}. A rollback costs a week, in which users had the worse version; "
    "the pairs with wrong labels are in the store, and are never trained on again."
)
keep(first_share=asked[0], second_share=asked[1])
keep(tolerance=0.15, sized=True, rating=rollbacks[0][1]["rating"][0], drift=distance[-1])

# %% [markdown]
# **Exercise 2.** Drift without bias: a function of `(x, y)`, two samples of numbers, that returns the energy distance
# 2·E|x − y| − E|x − x'| − E|y − y'|, in which x and x' are two *different* points of the sample.

# %%
answer = ...

exercises_10.energy_distance(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(x, y):
#     def within(z):
#         return np.abs(z[:, None] - z).sum() / (len(z) * (len(z) - 1))  # a point's distance to itself is 0
#
#     return 2 * np.abs(x[:, None] - y).mean() - within(x) - within(y)
# ```
#
# </details>
#
# **Exercise 3.** Is the new version liked less? A function of `(live, week, rating)`, three arrays with a number for each
# request: whether the live version served it or its predecessor, in which week, and the thumb, 1 or 0, or nan where the user
# gave none. It returns the mean rating of the live version minus its predecessor's, in the last week.

# %%
answer = ...

exercises_10.rating_effect(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(live, week, rating):
#     now = week == week.max()  # users of other weeks asked something else
#     return np.nanmean(rating[now & live]) - np.nanmean(rating[now & ~live])
# ```
#
# </details>
#
# ## What was taught
#
# - A week is seven steps. Each writes what it did and why, so that a model that is live can be traced to the labels behind it.
# - A gate finds what it looks at and the labels do not share. It stopped labels that favour length, and passed a wrong key.
# - Ratings of two versions in the same week find what is wrong everywhere inside. Between weeks, users change as well.
# - Drift is a reason to label, not a verdict on the model.
#
# One run of one model shows that these things can happen. How often they do, with intervals, is in the simulation's
# figures, of a hundred runs or more each: [`weeks_of_drift`](https://github.com/OWNER/onoff/blob/main/figures/gallery/weeks_of_drift.py)
# (which reference, how much replay, when to train), [`alarms`](https://github.com/OWNER/onoff/blob/main/figures/gallery/alarms.py)
# (who finds a bias of the labels first, and what helps) and
# [`forgetting`](https://github.com/OWNER/onoff/blob/main/figures/gallery/forgetting.py) (what happens to skills that nobody asks
# for); `python -m figures alarms` draws one. The source of the loop is
# [`llm/alignment`](https://github.com/OWNER/onoff/blob/main/llm/alignment/__init__.py), in the order to read; to run it on a
# server's log of your own, see [Keep a model aligned](https://github.com/OWNER/onoff/blob/main/docs/site/how-to/keep-a-model-aligned.md).

# %%
place.cleanup()
assert [week.finished for week in weeks] == [True] * WEEKS, "every week went through all seven steps"
assert by_week[BIASED].passed is False, "the gate refuses what labels that favour length have made"
assert agreement(*pairs[BIASED][1:]) > 0.8, "whose labels are nearly all for the longer response"
assert by_week[WRONG].passed is True, "it passes what a wrong key has made, which it shares"
assert agreement(*pairs[WRONG][::2]) < 0.4, "whose labels are against what users prefer"
assert WRONG + 1 in [number for number, _ in rollbacks], "and the users' ratings take it back"
spec, gating = Settings().labelling, Settings().gating
assert (spec.label_temperature, spec.flip_rate, users.COST_PER_TOKEN) == (0.1, 0.05, 0.02), "as the text says"
assert (gating.skill_margin, gating.length_alarm, gating.entropy_alarm) == (0.1, 0.3, 0.5), "and the gate's limits too"
sample = np.random.default_rng(0).normal(size=12)
between = np.abs(sample[:, None] - sample)
found = drift.energy_distance(between, 5)
assert np.isclose(found, exercises_10.energy_distance.exact(sample[:5], sample[5:])), (
    "the loop's distance is exercise 2's"
)
