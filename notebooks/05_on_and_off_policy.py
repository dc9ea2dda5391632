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
# # 5. On-policy, off-policy and in between: how stale may samples be?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/onoff/blob/main/notebooks/05_on_and_off_policy.ipynb)
#
# After this you can
#
# - say what is in reach of a reference under a KL penalty, before any algorithm is run;
# - name the three knobs that make samples stale, batch size, reuse and sync period, and compute how stale is too stale;
# - predict when offline training is as good as online training, and when semi-online training is enough.
#
# You need notebooks 1 to 4. Time: 45 minutes, of which the computer takes less than one.

# %%
import importlib.util

from IPython import get_ipython

REPOSITORY = "https://github.com/OWNER/onoff"  # where the package is installed from if it is missing, as in Colab

if importlib.util.find_spec("sims") is None:
    get_ipython().run_line_magic("pip", f"install -q 'onoff-sims @ git+{REPOSITORY}'")


import numpy as np
import torch
from IPython.display import Image, display

import sims
from sims import exact
from sims.teaching import COLOURS, LINES, QUICK, exercises_05, keep, picture, say, style
from sims.teaching.sliders import Board, sliders, train_grid

style()
RUNS, UPDATES = (4, 64) if QUICK else (20, 320)

# %% [markdown]
# ## 1. What is in reach?
#
# Two environments of Tajwar et al. (2024), with one reference and a bump of reward: at response 20, where the reference often
# goes (R2), or at 70, where it rarely goes (R1). A third, with a reference of its own that almost never goes to the
# bump, is in the right panel only.
#
# **Predict.** With β = 0.1, can the best policy collect R1's reward? With which β does it start to?

# %%
environments = {
    "R2, likely": sims.BanditR2(),
    "R1, unlikely": sims.BanditR1(),
    "very unlikely": sims.BanditOverlap(overlap=1e-6),
}
betas = np.geomspace(0.01, 3, 200)
reach, half_at = {}, {}
with picture(columns=2, width=5.8) as (_, (left, right)):
    left.fill_between(np.arange(100), np.exp(environments["R1, unlikely"].reference_logp()[0, 0]), color="0.8",
                      label="reference of R1 and R2")  # fmt: skip
    for colour, line, (name, environment) in zip(COLOURS, LINES, environments.items(), strict=False):
        logp_ref, rewards = environment.reference_logp()[0, 0], environment.rewards()[0]
        reach[name] = np.array([exact.expected_reward(exact.optimum(logp_ref, rewards, b), rewards) for b in betas])
        half_at[name] = betas[reach[name] >= 0.5].max()
        if name != "very unlikely":
            left.plot(0.08 * rewards, color=colour, linestyle=line, label=f"reward {name} (× 0.08)")
        overlap = environment.overlap_mass()
        right.plot(betas, reach[name], color=colour, linestyle=line, label=f"{name}: {overlap:.2g} within the bump")
    left.set(xlabel="response", ylabel="probability", ylim=(0, 0.115), title="One reference, two rewards")
    left.legend(fontsize=9, loc="upper center")
    right.set(
        xscale="log",
        xlabel="β, reward per nat",
        ylabel="expected reward of π*",
        title="The most that β allows",
        ylim=(0, 1.4),
    )
    right.legend(fontsize=9, loc="upper right")

# %%
keep(tolerance=0.01, **{f"half_{i}": beta for i, beta in enumerate(half_at.values())})
say(
    "**Exact answer.** Half of the largest reward is in reach from β = "
    + ", ".join(f"{beta:.2f} ({name})" for name, beta in half_at.items())
    + " downwards. To move the mass onto a bump of mass m costs about log(1/m) nats, and is worth it while β·log(1/m) < 1. "
    "**Verdict.** A reward can be out of reach in two ways. Here it is the *objective* that does not want it; no algorithm "
    "can mend that. The other way is that the optimum is there, but no sample ever shows it: the rest of this notebook."
)

# %% [markdown]
# **Exercise 1.** The expected reward of the best policy under a KL penalty: a function of `(logp_ref, rewards, beta)`.

# %%
answer = ...

exercises_05.in_reach(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(logp_ref, rewards, beta):
#     weights = np.exp(logp_ref + rewards / beta)
#     return (weights * rewards).sum() / weights.sum()
# ```
#
# </details>
#
# ## 2. First knob: the batch
#
# From here on the reward of a policy is given as its *score*: 0 for that of the reference, 1 for that of the best response.
# (It has nothing to do with the score ∇log π of notebook 2.)
#
# A batch of B prompts (here B times the same one) is collected and cut into minibatches of 16, one update each: B/16 updates are taken before fresh
# samples come. All arms see the same number of samples and take the same number of updates; only freshness differs.
#
# **Predict.** Which loses more from large batches, R1 or R2? A likelihood method (Best-of-N), a contrastive one (DPO), or
# PPO, which weighs stale samples by π/π_old and clips?

# %%
batches = (16, 256) if QUICK else (16, 64, 256, 1024)
algorithms = {"Best-of-2": sims.BestOfN(), "DPO": sims.DPO(beta=0.1), "PPO": sims.PPO()}
common = dict(runs=RUNS, learning_rate=0.1, evaluations=4)
score = {}
for place in ("R2, likely", "R1, unlikely"):
    for name, algorithm in algorithms.items():
        score[place, name] = np.array([
            sims.run(algorithm, environments[place], updates=UPDATES, batch_size=b, minibatch_size=16, **common).score[:, -1]
            for b in batches
        ])  # fmt: skip


MARKERS = "os^DvX"


def draw_scores(panel, x, name, scores, colour, line):
    """Mean score, and each run as a small mark. x: (settings,); scores: (settings, runs)."""
    marker = MARKERS[COLOURS.index(colour)]
    panel.plot(x, scores.mean(1), color=colour, linestyle=line, marker=marker, label=name)
    panel.plot(x, scores, marker, color=colour, alpha=0.3, markersize=3)


with picture(columns=2, width=5.8) as (_, panels):
    for panel, place in zip(panels, ("R2, likely", "R1, unlikely"), strict=True):
        for i, (colour, line, name) in enumerate(zip(COLOURS, LINES, algorithms, strict=False)):
            draw_scores(panel, np.arange(len(batches)) + 0.06 * (i - 1), name, score[place, name], colour, line)
        panel.set_xticks(range(len(batches)), [f"{b // 16}" for b in batches])
        panel.set(ylim=(-0.08, 1.1), xlabel="updates on each batch (1: on-policy)", title=f"{place}: mean, each run")
        panel.set_ylabel("score (0: reference, 1: best)")
    panels[0].legend(loc="lower left")

# %%
lost = {key: scores[0].mean() - scores[-1].mean() for key, scores in score.items()}
best = {key: batches[int(scores.mean(1).argmax())] // 16 for key, scores in score.items()}
keep(tolerance=0.3, sized=True, dpo_lost=lost["R1, unlikely", "DPO"])
say(
    f"**Verdict.** From {batches[0] // 16} to {batches[-1] // 16} updates a batch, DPO's score changes by "
    f"{-lost['R1, unlikely', 'DPO']:+.2f} on R1 and {-lost['R2, likely', 'DPO']:+.2f} on R2. Where the reward is likely, stale "
    "samples show the same thing as fresh ones; where it is not, the first batch hardly shows it, and only a policy that has "
    f"moved draws more of it. PPO's changes by {-lost['R1, unlikely', 'PPO']:+.2f} and {-lost['R2, likely', 'PPO']:+.2f}: its clip "
    "(section 4) lets one batch move a response only so far, likely or not, and with large batches there are few of them. "
    f"Best-of-2 on R1 is at its best with {best['R1, unlikely', 'Best-of-2']} updates a batch: freshness is not all, since "
    "imitation of every small fresh batch can settle on what the first few happened to hold. (One learning rate for all, "
    "untuned: this ranks no algorithm.)"
)

# %% [markdown]
# ## 3. How stale is too stale? An exact answer
#
# Samples of an old policy μ can stand in for samples of the present π if each is weighed by w = π/μ. Such an estimate is as
# noisy as one from a smaller number of fresh samples: the *effective share* of each draw is 1/E_μ[w²].
#
# **Predict.** Follow RLOO's average update on R1 and R2. When does the policy move fastest, and how many updates old may
# samples be then?

# %%
steps, lag_choices = 250, (1, 3, 10, 30)
effective, slowest = {}, {}
with picture(columns=2, width=5.8) as (_, panels):
    for panel, name in zip(panels, ("R2, likely", "R1, unlikely"), strict=True):
        environment = environments[name]
        path = exact.follow_gradient(
            sims.RLOO(beta=0.0),
            environment.reference_logp()[0, 0],
            environment.rewards()[0],
            learning_rate=5.0,
            updates=steps,
        )
        for lag in lag_choices:
            ratio_squared = np.exp(2 * path[lag:] - path[:-lag]).sum(-1)  # E_μ[w²] = Σ π²/μ
            effective[name, lag] = 1 / ratio_squared
            panel.plot(
                np.arange(lag, steps + 1), effective[name, lag], label=f"{lag} update{'s' if lag > 1 else ''} old"
            )
        reward = exact.expected_reward(path, environment.rewards()[0])
        panel.plot(reward, color="0.6", linestyle="-", linewidth=4, alpha=0.5, label="expected reward")
        panel.set(xlabel="updates (average gradient)", ylabel="effective share of a sample", ylim=(0, 1.05), title=name)
        panel.legend(fontsize=9, loc="lower right")

# %%
least = {key: share.min() for key, share in effective.items()}
keep(tolerance=1e-6, likely=least["R2, likely", 10], unlikely=least["R1, unlikely", 10])
say(
    f"**Exact answer.** At worst, a sample that is {', '.join(map(str, lag_choices))} updates old is worth "
    + ", ".join(f"{least['R2, likely', lag]:.2f}" for lag in lag_choices)
    + " of a fresh one on R2, and "
    + ", ".join(f"{least['R1, unlikely', lag]:.2g}" for lag in lag_choices)
    + " on R1, at the same step size. **Verdict.** Staleness is no number of updates: it is how far the policy has moved "
    "since. It moves most just when it discovers the reward; before and after, old samples are nearly as good as new ones."
)

# %% [markdown]
# **Exercise 2.** The effective share of a sample: a function of `(logp, logp_sampler)`, the log-probs of all responses under
# π and under the sampler μ.

# %%
answer = ...

exercises_05.effective_share(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(logp, logp_sampler):
#     return 1 / np.exp(2 * logp - logp_sampler).sum()  # E_μ[(π/μ)²] = Σ π²/μ
# ```
#
# </details>
#
# ## 4. Second knob: reuse
#
# Samples are dear, updates are cheap. So take T passes over each batch.
#
# **Predict.** At the same number of *samples*, does reuse help? Is there a T at which it starts to hurt? What is the clip
# for?

# %%
passes = (1, 8) if QUICK else (1, 2, 4, 8)
turns = 16 if QUICK else 48
reused = {
    name: np.array([
        sims.run(algorithm, environments["R1, unlikely"], updates=turns * t, epochs=t, batch_size=64, **common).score[:, -1]
        for t in passes
    ])
    for name, algorithm in algorithms.items()
}  # fmt: skip
ratio = np.linspace(0.4, 1.8, 141)
epsilon = 0.2
slopes = {}
for sign in (1.0, -1.0):
    logp = torch.log(torch.tensor(ratio)).requires_grad_()
    sims.losses.clipped_loss(logp, torch.full_like(logp, sign), epsilon, epsilon).sum().backward()
    slopes[sign] = -logp.grad.numpy()

with picture(columns=2, width=5.8) as (_, (left, right)):
    for i, (colour, line, name) in enumerate(zip(COLOURS, LINES, algorithms, strict=False)):
        draw_scores(left, np.arange(len(passes)) + 0.06 * (i - 1), name, reused[name], colour, line)
    left.set_xticks(range(len(passes)), [str(t) for t in passes])
    left.set(xlabel="passes over each batch", ylabel="score (0: reference, 1: best)", ylim=(-0.05, 1.1))
    left.set_title(f"R1, {turns * 128:,} samples for all")
    left.legend(loc="lower right")
    right.plot(ratio, slopes[1.0], label="advantage +1")
    right.plot(ratio, slopes[-1.0], label="advantage −1")
    for edge in (1 - epsilon, 1 + epsilon):
        right.axvline(edge, color="0.5", linewidth=1, linestyle=":")
    right.set(xlabel="π/π_old of a sample", ylabel="push on its log π", title=f"PPO's clip, ε = {epsilon:g}")
    right.legend()

# %%
gain = {name: scores[-1].mean() - scores[0].mean() for name, scores in reused.items()}
hurt = max(scores.mean(1).max() - scores[-1].mean() for scores in reused.values())
keep(tolerance=0.3, sized=True, **{f"reuse_{i}": x for i, x in enumerate(gain.values())})
say(
    f"**Verdict.** Taking {passes[-1]} passes instead of {passes[0]} changes the score by "
    + ", ".join(f"{x:+.2f} ({name})" for name, x in gain.items())
    + f", at the same {turns * 128:,} samples and {passes[-1]} times the updates: in this environment, with samples that dear, reuse pays. "
    f"Nor does it start to hurt by then: {passes[-1]} passes end at most {hurt:.2f} below the best T, within the scatter of the runs. "
    "The clip takes a sample's push away once the policy has moved it by more than ε in the direction that its advantage "
    "asked for, so that many passes cannot run away with it. It does not take the push away in the *other* direction: what was moved wrongly can come "
    "back."
)

# %% [markdown]
# **Exercise 3.** The gradient of PPO's loss −min(w·A, clip(w, 1 − ε, 1 + ε)·A) by log π of each sample: a function of
# `(ratio, advantage, epsilon)`.

# %%
answer = ...

exercises_05.clipped_slope(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(ratio, advantage, epsilon):
#     too_high = (advantage > 0) & (ratio > 1 + epsilon)
#     too_low = (advantage < 0) & (ratio < 1 - epsilon)
#     return np.where(too_high | too_low, 0.0, -ratio * advantage)
# ```
#
# </details>
#
# ## 5. Third knob: the sync period
#
# Online and offline training are the ends of one scale (Lanchantin et al. 2025): copy the policy to the sampler every s
# updates; s = 1 is online, s = ∞ draws from the reference for ever, and what lies between is *semi-online*. Move the bump
# away from the reference meanwhile, from half of its mass to one in ten thousand. The labels are noisy, so that DPO has an
# optimum at every β (notebook 3, section 6).
#
# **Predict.** Sketch the score over s, for each distance. Where is semi-online (s = 16) as good as online? Where is offline?

# %%
grid_betas, syncs, overlaps = (0.03, 0.1, 0.3, 1.0), (1, 4, 16, 64, np.inf), (0.5, 0.1, 0.03, 0.01, 1e-3, 1e-4)
if QUICK:
    grid_betas, syncs, overlaps = (0.1, 1.0), (1, 16, np.inf), (0.5, 0.03, 1e-4)
grid = train_grid(grid_betas, syncs, overlaps, runs=4 if QUICK else 8, updates=96 if QUICK else 192)
samples = int(grid[0.1, 1, 0.5].samples[-1])

with picture(width=8.5, height=4.2) as (_, (panel,)):
    for i, (colour, line, overlap) in enumerate(zip(COLOURS, LINES, overlaps, strict=False)):
        scores = np.array([grid[0.1, sync, overlap].score[:, -1] for sync in syncs])
        draw_scores(panel, np.arange(len(syncs)) + 0.04 * (i - 2), f"{overlap:g}", scores, colour, line)
        panel.plot(len(syncs) - 0.55, grid[0.1, 1, overlap].optimum.score, "*", color=colour, markersize=11)
    panel.set_xticks(
        [*range(len(syncs)), len(syncs) - 0.55], [*("∞" if np.isinf(s) else f"{s:g}" for s in syncs), "π*"]
    )
    panel.set(xlabel="updates between syncs (stars: the exact optimum)", ylabel="score (0: reference, 1: best)")
    panel.set_title(f"DPO, β = 0.1, {samples:,} samples: mean, and each of {len(grid[0.1, 1, 0.5].reward)} runs")
    panel.legend(title="reference's mass\nin the bump", loc="center left", bbox_to_anchor=(1, 0.5))

# %%
final = {key: result.score[:, -1].mean() for key, result in grid.items()}
near, middle, far = overlaps[0], 0.03, overlaps[-1]
shown = samples * far
keep(
    tolerance=0.15,
    sized=True,
    online=final[0.1, 1, middle],
    semi=final[0.1, 16, middle],
    offline=final[0.1, np.inf, middle],
)
say(
    f"**Verdict.** With {near:g} of the mass in the bump, offline is about as good as online ({final[0.1, np.inf, near]:.2f} and "
    f"{final[0.1, 1, near]:.2f}). With {middle:g}: online {final[0.1, 1, middle]:.2f}, s = 16 {final[0.1, 16, middle]:.2f}, offline "
    f"{final[0.1, np.inf, middle]:.2f}: semi-online keeps most of it. With {far:g} none finds it in {samples:,} samples "
    f"({final[0.1, 1, far]:.2f} online): the reference would show the bump {shown:.1f} times in all, though π\\* lies there "
    f"(score {grid[0.1, 1, far].optimum.score:.2f}). Freshness multiplies what has been found; it does not find."
)

# %% [markdown]
# ### Sliders
#
# β, the sync period and the distance (*overlap* is the reference's mass in the bump), live: in Jupyter, move them. Two things
# to look for: a β at which the exact optimum stays near the reference, so that even online training should not move; and a
# distance at which s = 64 is still online enough. Where sliders cannot run, three settings stand below.

# %%
board = Board(grid)
controls = sliders(board)
if controls is not None:
    display(controls)
for setting in ((0.1, 1, 0.03), (0.1, np.inf, 0.03), (1.0, 1, 0.03)):
    display(Image(board.draw(*setting)))

# %%
say(
    f"All {len(grid)} settings were trained beforehand, in {len(syncs)} stacks: a slider trains nothing, it only draws."
)

# %% [markdown]
# ## What was taught
#
# - What an algorithm can reach is bounded twice: by β (exactly, beforehand) and by what its samples show.
# - Batch size, reuse and sync period are one thing, the distance between the policy that draws and the one that learns.
# - Where the reference covers the reward, offline is enough; where it shows a little, semi-online is; where it shows
#   nothing, fresh samples do not help either.

# %%
assert half_at["R2, likely"] > half_at["R1, unlikely"] > half_at["very unlikely"], "the farther, the smaller β must be"
assert lost["R1, unlikely", "DPO"] > lost["R2, likely", "DPO"] - 0.02, (
    "large batches cost more where the reward is unlikely"
)
assert all(least[name, 1] > least[name, 30] for name in ("R2, likely", "R1, unlikely")), "older samples are worth less"
assert reused["PPO"][-1].mean() > reused["PPO"][0].mean() - 0.02, "with a clip, reuse does no harm here"
assert (slopes[1.0][ratio > 1.21] == 0).all() and (slopes[1.0][ratio < 0.79] > 0).all(), "the clip has one side"
assert abs(final[0.1, np.inf, near] - final[0.1, 1, near]) < 0.15, "a likely reward: offline is about as good as online"
assert final[0.1, 1, middle] > final[0.1, np.inf, middle] + 0.2, "an unlikely one: it is not"
assert final[0.1, 16, middle] > final[0.1, np.inf, middle] + 0.1, "semi-online keeps most of the difference"
assert final[0.1, 1, far] < 0.3 < grid[0.1, 1, far].optimum.score, "a reward that no sample shows is found by nobody"
