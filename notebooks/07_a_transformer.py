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
# # 7. The same code, a transformer: did the toy tell the truth?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/onoff/blob/main/notebooks/07_a_transformer.ipynb)
#
# After this you can
#
# - say what a language model changes in an experiment, and what it leaves as it was;
# - put a reward on a language and a reward on a bandit on one axis, by how likely the reference makes what they ask for;
# - compare two rankings of algorithms, and say what a toy's ranking promises and what it does not.
#
# You need notebooks 1 to 5. Time: 45 minutes, of which the computer takes about one.

# %%
import importlib.util

from IPython import get_ipython

REPOSITORY = "https://github.com/OWNER/onoff"  # where the package is installed from if it is missing, as in Colab

if importlib.util.find_spec("sims") is None:
    get_ipython().run_line_magic("pip", f"install -q 'onoff-sims @ git+{REPOSITORY}'")

from collections import Counter
from dataclasses import dataclass

import numpy as np

import llm
import sims
from figures.again import fragile
from figures.gallery import toy_to_lm
from figures.reading import committed_records
from llm.embedded.language import length_distribution, length_mass
from sims.experiments.measures import mean_scores
from sims.teaching import BLUE, COLOURS, LINES, QUICK, VERMILION, exercises_07, keep, picture, say, style

style()
TOY_RUNS, TOY_UPDATES = (5, 20) if QUICK else (20, 100)
MODEL_RUNS, MODEL_UPDATES, PROMPTS = (1, 4, 16) if QUICK else (4, 8, 64)

# %% [markdown]
# ## 1. One algorithm, two policies
#
# The bandit's policy is a table: a number for each of 100 responses. The language model is a transformer of 0.1 million
# parameters that comes with the package (GPT-NeoX, the architecture of Pythia). It was pretrained on a small templated
# language: a sum as the prompt, some chatter and an answer as the response.
#
# On both the same is asked for: a certain response. On the bandit the reward is a bump around response 70; on the language it
# is −| length − 9 |, in tokens. Both references give what is near that with the same probability (section 2).
#
# Here is DPO, with one thing added: it notes how many numbers its loss is given, and in which shape.
#
# **Predict.** One object, `algorithm`, trains both. What does its loss see of a transformer that it does not see of a table?
# Which arrays of the two records have the same name?

# %%
loss_was_given = Counter()


@dataclass(frozen=True)
class WatchedDPO(sims.DPO, kind="watched_dpo"):
    def pair_loss(self, margin):
        loss_was_given[tuple(margin.shape)] += 1
        return super().pair_loss(margin)


LENGTH = 9
algorithm = WatchedDPO(beta=0.1)
samples = dict(batch_size=16, num_generations=2, evaluations=4)
on_toys = dict(updates=TOY_UPDATES, runs=TOY_RUNS, learning_rate=0.3, **samples)
on_models = dict(updates=MODEL_UPDATES, runs=MODEL_RUNS, learning_rate=0.003, evaluation_prompts=PROMPTS, **samples)


def toy_of(length):
    """A bandit whose reference is as far from its reward as the language is from a length."""
    return sims.BanditOverlap(overlap=round(length_mass(length), 7), spread=4.7)


toy = sims.run(algorithm, toy_of(LENGTH), **on_toys)
shapes_of_toy = list(loss_was_given)
model = llm.run("tiny-mode-length", algorithm, mode=LENGTH, **on_models)
shapes_of_model = [shape for shape in loss_was_given if shape not in shapes_of_toy]


def draw_runs(axes, run, name, values, colour, line, marker):
    """Each run as a thin line, and their mean, over the samples drawn."""
    axes.plot(run.samples, values.T, color=colour, linestyle=line, linewidth=0.8, alpha=0.4)
    axes.plot(run.samples, values.mean(0), color=colour, linestyle=line, marker=marker, label=name)


def draw_both(axes, toy, model, what):
    for name, run, look in (
        ("bandit, table", toy, (BLUE, "-", "o")),
        ("language, transformer", model, (VERMILION, "--", "s")),
    ):
        draw_runs(axes, run, name, getattr(run, what), *look)
    axes.set_xscale("symlog", linthresh=32)
    axes.set(xlabel="samples drawn", xlim=(0, None))


with picture(columns=2, width=5.8) as (_, (left, right)):
    draw_both(left, toy, model, "score")
    draw_both(right, toy, model, "kl_policy_ref")
    left.axhline(1, color="black", linestyle=":", linewidth=1)
    left.set(ylabel="score (0: reference, 1: best)", title=f"DPO; {length_mass(LENGTH):.0%} of the reference is near")
    right.set(ylabel="KL(π‖π_ref), nats", title="The same arrays of two records")
    left.legend(loc="lower right", fontsize=9)

# %%
shared = sorted(set(toy.axes) & set(model.axes))
toy_only, model_only = (sorted(set(a.axes) - set(b.axes)) for a, b in ((toy, model), (model, toy)))
assert toy.experiment.algorithm is model.experiment.algorithm is algorithm


def listed(names):
    return ", ".join(f"`{name}`" for name in names)


say(
    f"**Verdict.** Nothing. The loss got a number for each pair, DPO's margin, in the shape {' and '.join(map(str, shapes_of_toy))} from the table "
    f"(runs, prompts, pairs) and {' and '.join(map(str, shapes_of_model))} from the transformer, whose runs are trained one after the other. "
    f"{len(shared)} arrays have the same name, meaning and axes in both records: {listed(shared)}. Only the bandit has "
    f"{listed(toy_only)}: its 100 responses can be listed. Only the language has {listed(model_only)}. What differs is *below* the "
    "algorithm: how a response is drawn, how its log-prob is found, and what a gradient step on one response does to the others."
)
keep(shared=len(shared))
keep(tolerance=0.15, sized=True, toy=toy.score[:, -1].mean(), model=model.score[:, -1].mean())

# %% [markdown]
# **Exercise 1.** What a transformer adds, before the algorithm: a response is several tokens, and its log-prob is made of theirs.
# A function of `(token_logp, length)`: log-probs of the tokens of one row of a padded batch, and the number of tokens before
# the end-of-sequence token (EOS). The model was asked for the EOS too.

# %%
answer = ...

exercises_07.sequence_logp(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(token_logp, length):
#     return token_logp[: length + 1].sum()  # EOS stands at `length`; behind it is padding
# ```
#
# </details>
#
# ## 2. One axis for both
#
# How hard is a reward? Tajwar et al. (2024) look at its *geometry*: whether its peak lies where the reference has its mass. On
# the bandit that is a setting, the `overlap`: the reference's probability of a response within the bump's width. On the
# language a response is near if its length is within five tokens of the one that is asked for; and the language's lengths are
# known exactly.
#
# **Predict.** The language's lengths are normal around 16 with a standard deviation of 2.5 tokens. How likely is a response
# near 16? Near 9, 6, 0? How many samples must be drawn to see one near 0?

# %%
asked = (16, LENGTH, 6, 0)
law = length_distribution()
masses = {length: length_mass(length) for length in asked}
toys = {length: toy_of(length) for length in asked}

with picture(columns=3, width=4.6, height=3.9) as (_, (left, middle, right)):
    left.bar(np.arange(len(law)), law, width=0.8, color="0.75", label="the language")
    right.fill_between(np.arange(100), 0.08 * toys[16].rewards()[0], color="0.85", label="reward (× 0.08)")
    for i, (length, colour, line) in enumerate(zip(asked, COLOURS, LINES, strict=False)):
        height = -0.014 * (i + 1)
        left.plot([max(0, length - 5), length + 5], [height, height], color=colour, linestyle=line, linewidth=2.5)
        left.text(length + 5.6, height, f"near {length}: {masses[length]:.2g}", va="center", fontsize=9)
        right.plot(np.exp(toys[length].reference_logp()[0, 0]), color=colour, linestyle=line, label=f"as near {length}")
        middle.plot(length, masses[length], "os^D"[i], color=colour, markersize=8)
    every = range(33)
    middle.plot(every, [length_mass(length) for length in every], color="black", linestyle="-", linewidth=1, zorder=0)
    middle.annotate("likely", (16, masses[16]), xytext=(8, -14), textcoords="offset points")
    middle.annotate("unlikely", (0, masses[0]), xytext=(10, -3), textcoords="offset points")
    left.axhline(0, color="black", linewidth=0.8)
    left.set(xlabel="length, tokens", ylabel="probability", title="The language's lengths", ylim=(-0.07, 0.17))
    left.set_yticks([0, 0.05, 0.1, 0.15])
    middle.set(
        yscale="log", xlabel="length asked for", ylabel="reference's mass near it", title="A length is an overlap"
    )
    right.set(xlabel="response", ylabel="probability", title="References of the bandits")
    right.legend(fontsize=9, loc="upper left")

# %%
seen = {length: 1 - (1 - mass) ** 256 for length, mass in masses.items()}
mean_length, started = float(np.arange(len(law)) @ law), float(model.length[:, 0].mean())
say(
    "**Exact answer.** Near "
    + ", ".join(f"{length}: {mass:.2g}" for length, mass in masses.items())
    + f". Among 256 samples there is one near 0 with probability {seen[0]:.4f}; for an even chance it takes "
    f"{np.log(0.5) / np.log1p(-masses[0]):,.0f}. The bandits are drawn to match, within {max(abs(toys[n].overlap_mass() / masses[n] - 1) for n in asked):.0e} of "
    f"each mass. Does the model follow its language? At the start its responses have {started:.1f} tokens in the mean, the language {mean_length:.1f}."
)
keep(tolerance=1e-9, **{f"near_{length}": mass for length, mass in masses.items()})

# %% [markdown]
# **Exercise 2.** The overlap: a function of `(probabilities, best, radius)`, of which `probabilities[n]` is the reference's
# probability of a response of n tokens.

# %%
answer = ...

exercises_07.overlap(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(probabilities, best, radius):
#     near = np.abs(np.arange(len(probabilities)) - best) <= radius
#     return probabilities[near].sum()
# ```
#
# </details>
#
# ## 3. Out of reach, on both?
#
# Ask for the shortest response: −length, where the reference is near the best in one of 100,000 samples. And train the bandit
# with the same overlap. The algorithm is the same DPO, online.
#
# **Predict.** Notebook 5 said: what no sample shows, no gradient finds. How far will each come?

# %%
far_toy = sims.run(algorithm, toys[0], **on_toys)
far_model = llm.run("tiny-min-length", algorithm, **on_models)


def spread_of_rewards(probabilities, rewards):
    """The standard deviation of a reward under a policy, as a share of the way from its mean to the best one."""
    mean = probabilities @ rewards
    return float(np.sqrt(probabilities @ (rewards - mean) ** 2) / (rewards.max() - mean))


centres = range(17)
spread_model = [spread_of_rewards(law, -np.abs(np.arange(len(law)) - length)) for length in centres]
spread_toy = [spread_of_rewards(toy_of(n).data_policy(), toy_of(n).rewards()[0]) for n in centres]

with picture(columns=2, width=5.8) as (_, (left, right)):
    draw_both(left, far_toy, far_model, "score")
    left.axhline(1, color="black", linestyle=":", linewidth=1)
    left.set(ylabel="score (0: reference, 1: best)", title=f"DPO; {masses[0]:.0e} of the reference is near")
    left.legend(loc="center left", fontsize=9)
    overlaps = [length_mass(length) for length in centres]
    right.plot(overlaps, spread_toy, "o-", color=BLUE, label="bandit, bump")
    right.plot(overlaps, spread_model, "s--", color=VERMILION, label="language, −|length − best|")
    right.set(xscale="log", yscale="log", xlabel="overlap", ylabel="sd of reward / way to the best")
    right.set_title("What the reference's samples tell apart")
    right.legend(fontsize=9)

# %%
reached = {name: float(run.score[:, -1].mean()) for name, run in (("toy", far_toy), ("model", far_model))}
say(
    f"**Verdict.** The bandit comes to {reached['toy']:.2f} after {int(far_toy.samples[-1]):,} samples, the language model to {reached['model']:.2f} after "
    f"{int(far_model.samples[-1]):,}: {far_model.length[:, -1].mean():.1f} tokens, of {far_model.length[:, 0].mean():.1f} at the start. **Here the toy did not tell the "
    "truth**, though both have one overlap. The right panel is exact, and gives a reason: out there the bandit's reward is flat, so that the reference's own samples "
    f"differ by {spread_toy[0]:.0e} of the way to the best; a length falls evenly, and they differ by {spread_model[0]:.2f} of it. Every pair "
    "shows the direction, none the goal. A second reason is the policy: a transformer that learns to stop earlier once does so after other words too, and goes past what it has "
    "seen; a table learns of each response by itself. This experiment does not tell the two reasons apart. Overlap is a "
    "measure of where the goal is, not of whether there is a slope that leads to it."
)
keep(tolerance=0.15, sized=True, **reached)
keep(tolerance=1e-6, spread_toy=spread_toy[0], spread_model=spread_model[0])

# %% [markdown]
# ## 4. Does the ranking carry over?
#
# A level need not carry over for a toy to be of use: that the better algorithm on the toy is the better one on the model would be enough.
# So 15 algorithms, on-policy, and 7 of them offline, were run on both sides, on tasks of the same overlap, each with a learning rate
# tuned on its task, and within a side at equal samples. That took longer than a notebook may; the records are part of the package, and are read here.
#
# Kendall's τ compares two rankings: of all pairs of algorithms, the share that stands in the same order minus the share
# in the other order. 1 is the same ranking, 0 is what chance gives. *Before* the runs it was said that τ must exceed 0.2 for
# the toys to be worth asking.
#
# **Predict.** τ for the on-policy algorithms, and for the offline ones. And what τ a ranking has with *itself*, from the odd
# and the even runs.

# %%
if QUICK:
    toy_to_lm.RESAMPLES = 20  # of the intervals; no τ depends on it
records = committed_records(toy_to_lm.FIGURE)
tasks = toy_to_lm.tasks_of(records)
sides = {group: toy_to_lm.sides_of(records, group, mean_scores) for group in toy_to_lm.GROUPS}
taus = {group: toy_to_lm.correlations(*side) for group, side in sides.items()}  # one of each task, and their mean
methods = {group: list(dict.fromkeys(name for task in side.toy for name in task)) for group, side in sides.items()}
itself = {
    (group, where): toy_to_lm.correlations(*toy_to_lm.halves(side))[-1].estimate
    for group, both in sides.items()
    for where, side in (("toy", both.toy), ("model", both.model))
}


def places(side, names):
    """Of each method its place among all, 1 for the best, by its mean rank over the tasks that it was run on."""
    ranks = {name: [] for name in names}
    for task in side:
        order = sorted(task, key=lambda name: -task[name].mean())
        for place, name in enumerate(order):
            ranks[name].append(place / max(1, len(order) - 1))
    order = sorted(names, key=lambda name: np.mean(ranks[name]))
    return {name: 1 + order.index(name) for name in names}


MARKERS = "os^vDPX<>p*hd8H"
with picture(columns=3, width=4.8, height=5.4) as (_, (left, middle, right)):
    for axes, group in ((left, "on-policy"), (middle, "offline")):
        on_toy, on_model = (places(side, methods[group]) for side in sides[group])
        for i, name in enumerate(methods[group]):
            look = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % 4], "marker": MARKERS[i]}
            axes.plot([0, 1], [on_toy[name], on_model[name]], **look)
            axes.text(-0.06, on_toy[name], name, ha="right", va="center", fontsize=9)
            axes.text(1.06, on_model[name], name, ha="left", va="center", fontsize=9)
        axes.set(xlim=(-0.9, 1.9), ylim=(len(methods[group]) + 0.7, 0.3), title=f"{group}, place over all tasks")
        axes.set_xticks([0, 1], ["toys", "language\nmodel"])
        axes.set_yticks([])
        axes.spines.left.set_visible(False)
        axes.grid(False)
    labels = [
        *(f"length {toy_to_lm.matched.LENGTHS[task]}{', skew' if task == 'skew' else ''}" for task in tasks),
        "mean",
    ]
    for group, colour, line, marker, shift in (("on-policy", BLUE, "-", "o", -0.14), ("offline", VERMILION, "--", "s", 0.14)):  # fmt: skip
        for i, tau in enumerate(taus[group]):
            label = group if i == 0 else None
            right.plot([tau.low, tau.high], [i + shift] * 2, color=colour, linestyle=line, linewidth=1.5)
            right.plot(tau.estimate, i + shift, marker, color=colour, markersize=6, label=label, linestyle="none")
    right.axvline(0, color="black", linewidth=0.8)
    right.axvline(0.2, color="black", linestyle=":", label="what would matter")
    right.set_yticks(range(len(labels)), labels)
    right.set(xlim=(-1.05, 1.05), ylim=(len(labels) - 0.4, -0.6), xlabel="Kendall's τ, 95 %", title="The same ranking?")
    right.set_xticks([-1, -0.5, 0, 0.5, 1])
    right.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)

# %%
SAYS = {
    "supported": "**the ranking carries over**",
    "opposite": "**the ranking is the other way round**",
    "too small": "**it does not carry over by as much as was said to matter**",
    "inconclusive": "**inconclusive**: the interval has both sides of what would matter, or as good a test came out otherwise",
    "no test": "**no test**: this τ answers nothing, whatever its sign",
}
rows = {row.part: fragile(row) for row in toy_to_lm.FIGURE.verdicts(records)}
sentences = []
for part, row in rows.items():
    closed = ", ".join(dict.fromkeys(gate.name for gate in row.gates if not gate.open))
    why = f" (conditions that do not hold: {closed})" if closed else ""
    sentences.append(f"- {part}: τ = {row.effect:+.2f} [{row.low:+.2f}, {row.high:+.2f}]; {SAYS[row.verdict]}{why}.")
say(
    f"**Verdict.** {len(methods['on-policy'])} on-policy and {len(methods['offline'])} offline methods on {len(tasks)} tasks, mean over the tasks:\n\n"
    + "\n".join(sentences)
    + "\n\nThe conditions of a verdict, each checked from the records. *size*: enough algorithms and tasks. *ranks*: a side's ranking, made "
    "from its odd runs, is that of its even ones. *grid edge*: no arm wants a learning rate that was not tried. "
    "A ranking's τ with itself, between halves of its runs, is "
    + ", ".join(f"{tau:.2f} ({group}, {where})" for (group, where), tau in itself.items())
    + ". A ranking that does not agree with itself cannot agree with another. The intervals count algorithms and tasks as drawn, so that they are wide: "
    f"{len(tasks)} tasks, which differ in little but a length, and one model are few."
)
keep(tolerance=1e-6, **{f"tau_{i}": row.effect for i, row in enumerate(rows.values())})
keep(tolerance=0.05, sized=True, **{f"tau_{i}_high": row.high for i, row in enumerate(rows.values())})  # by resampling

# %% [markdown]
# **Exercise 3.** Kendall's τ: a function of `(toy, model)`, the scores of the same methods on either side. No two scores of a
# side are the same.

# %%
answer = ...

exercises_07.kendall(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(toy, model):
#     first, second = np.triu_indices(len(toy), 1)  # every pair of methods, once
#     same = np.sign(toy[first] - toy[second]) * np.sign(model[first] - model[second])
#     return same.mean()  # +1 in the same order, −1 in the other
# ```
#
# </details>
#
# ## What was taught
#
# - An algorithm sees log-probs and rewards. A table and a transformer give it the same things, and one record loop measures both.
# - The reference's mass near the optimum puts tasks of both on one axis.
# - That axis is not all: with one overlap, a reward that slopes is found where a reward that is flat is not.
# - Whether rankings carry over is a question with a number, an interval, a margin that was said beforehand and conditions;
#   *no test* and *inconclusive* are honest ends of it.

# %%
assert toy.experiment.algorithm is model.experiment.algorithm, "one algorithm trained both"
assert all(toy.axes[name] == model.axes[name] for name in shared), "and their records have the same arrays"
assert {"reward", "score", "kl_policy_ref", "loss", "logp_chosen"} <= set(shared)
assert all(np.isclose(toys[n].overlap_mass(), masses[n], rtol=0.02) for n in asked), "one overlap on both sides"
assert masses[16] > 0.9 and masses[0] < 2e-5, "a length is near the reference or far from it"
assert reached["model"] > reached["toy"] + 0.3, "and what is far may be found all the same, if there is a slope"
assert spread_model[0] > 10 * spread_toy[0], "which the reference's samples show on the language and not on the bandit"
assert all(row.verdict in SAYS for row in rows.values()), "every row has one of the states of the rule"
assert {group: len(names) for group, names in methods.items()} == {"on-policy": 15, "offline": 7}, (
    "as many as the text says"
)
assert {row.margin for row in rows.values()} == {0.2}, "and the margin that it names"
assert all(tau > 0.5 for (_, where), tau in itself.items() if where == "toy"), "the toys' rankings are no noise"
