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
# # 2. Following the gradient: what does a baseline buy, and why is GRPO's loss 0?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/onoff/blob/main/notebooks/02_following_the_gradient.ipynb)
#
# After this you can
#
# - write the policy gradient from samples, $\mathbb{E}[r\,\nabla\log\pi]$, and say why a baseline does not bias it;
# - compare REINFORCE, RLOO, Dr. GRPO and GRPO by the noise, the length and the direction of their gradients;
# - explain to a colleague why GRPO logs a loss of 0 while it learns.
#
# You need notebook 1. Time: 30 minutes, of which the computer takes less than half a minute.

# %%
import importlib.util

from IPython import get_ipython

REPOSITORY = "https://github.com/OWNER/onoff"  # where the package is installed from if it is missing, as in Colab

if importlib.util.find_spec("sims") is None:
    get_ipython().run_line_magic("pip", f"install -q 'onoff-sims @ git+{REPOSITORY}'")

import numpy as np

import sims
from sims.exact import expected_reward, log_softmax, variance
from sims.teaching import BLUE, COLOURS, LINES, QUICK, VERMILION, curve, exercises_02, keep, picture, say, style
from sims.teaching.enumeration import every_group

style()
RUNS, UPDATES, DRAWS = (4, 100, 200) if QUICK else (20, 200, 600)

# %% [markdown]
# ## The gradient, exactly
#
# A policy is a softmax of logits $z$. What happens to the expected reward $J = \mathbb{E}_\pi[r]$ if the logits move a
# little? From $\partial\pi(y)/\partial z = \pi(y)\,\nabla\log\pi(y)$,
#
# $$\nabla J = \mathbb{E}_{y\sim\pi}\big[r(y)\,\nabla\log\pi(y)\big], \qquad
# \frac{\partial\log\pi(y)}{\partial z_i} = \mathbb{1}[i = y] - \pi(i).$$
#
# The right-hand side is an average over samples of the policy, and that is all that can be had where responses cannot be
# listed. To draw some and average is **REINFORCE**. $\nabla\log\pi(y)$ is called the *score* of y.
#
# One prompt, five responses, rewards between 2 and 3, so that the sum can also be taken exactly:

# %%
space = sims.TokenSpace(5)
rewards = np.array([2.0, 2.25, 2.5, 2.75, 3.0])
logits = np.array([[0.8, 0.5, 0.3, 0.0, -0.6]])
pi = np.exp(log_softmax(logits[0]))
all_responses, all_masks = (x.numpy() for x in space.all_responses)
answers = variance.table_answers(logits[None], rewards[None], all_responses, all_masks)
gradient = variance.reward_gradient(answers)[0]

with picture(columns=2) as (_, (left, right)):
    left.bar(range(5), pi)
    left.set(xlabel="response", ylabel="probability", title="The policy; rewards rise from 2 to 3")
    right.bar(range(5), gradient)
    right.axhline(0, color="black", linewidth=0.8)
    right.set(xlabel="logit of response", ylabel="∂J/∂logit, reward per unit", title="The exact gradient")

say(
    f"The policy earns {expected_reward(np.log(pi), rewards):.3f} on average. All five rewards are positive, and yet the "
    f"gradient lowers the logits of the first {int((gradient < 0).sum())} responses: what counts is whether a response is "
    f"better than the average, π(y)·(r(y) − J)."
)

# %% [markdown]
# ## A cloud around it
#
# REINFORCE draws 16 responses and averages $r(y)\,\nabla\log\pi(y)$. Every reward is positive, so it *raises* each response
# that it happened to draw, the worst one too.
#
# **Predict.** Is that gradient right on average? What would be gained if a constant $b$ (a **baseline**) were subtracted
# from all rewards, say the mean reward: $(r(y) - b)\,\nabla\log\pi(y)$?

# %%
random = np.random.default_rng(0)
drawn = random.choice(5, size=(DRAWS, 16), p=pi)
scores = np.eye(5) - pi  # row y: the score of response y
mean_reward = float(pi @ rewards)
clouds = {
    "no baseline": (rewards[drawn][..., None] * scores[drawn]).mean(1),
    "baseline: the mean reward": ((rewards[drawn] - mean_reward)[..., None] * scores[drawn]).mean(1),
}
with picture(columns=2, width=4.8, height=4.2) as (_, panels):
    for axes, (name, cloud), colour in zip(panels, clouds.items(), COLOURS, strict=False):
        axes.plot(cloud[:, 0], cloud[:, 4], ".", color=colour, alpha=0.35, markersize=5, label=f"{DRAWS} batches of 16")
        axes.plot(gradient[0], gradient[4], "*", color="black", markersize=14, label="exact gradient")
        axes.axhline(0, color="grey", linewidth=0.8, linestyle=":")
        axes.axvline(0, color="grey", linewidth=0.8, linestyle=":")
        axes.set(xlim=(-1.1, 0.9), ylim=(-0.4, 1.1), xlabel="∂J/∂logit of the worst response", title=name)
        axes.set_ylabel("∂J/∂logit of the best response")
        axes.legend(loc="upper right")

# %% [markdown]
# **The exact answer.** A baseline changes nothing on average, since $\mathbb{E}_\pi[b\,\nabla\log\pi] = b\sum_y \nabla\pi(y) =
# b\,\nabla 1 = 0$. It changes the scatter. `sims.exact.variance` sums the scatter over all responses; divided by the
# gradient's squared length it says how many times larger the noise of a batch is than its signal.

# %%
baselines = np.linspace(0.0, 4.0, 161)


def noise(moments, prompts):
    return variance.batch_noise(moments, prompts).relative


by_baseline = np.array([noise(variance.reinforce(answers, 16, b), 1) for b in baselines])
squares = (scores**2).sum(1)  # |∇ log π(y)|²
best_baseline = float((pi * squares) @ rewards / (pi @ squares))
off = max(np.abs(variance.reinforce(answers, 16, b).mean[0] - gradient).max() for b in (0.0, mean_reward, 4.0))

with picture(width=6.5, height=3.8) as (_, (axes,)):
    axes.plot(baselines, by_baseline)
    for b, label, marker in (
        (mean_reward, "mean reward", "o"),
        (best_baseline, "least noise", "s"),
        (0.0, "none", "^"),
    ):
        axes.plot(b, noise(variance.reinforce(answers, 16, b), 1), marker, color="black", label=f"{label}: b = {b:.2f}")
    axes.set(yscale="log", xlabel="baseline b", ylabel="noise / signal (log scale)")
    axes.set_title("Noise of a batch of 16, by its baseline; its mean is the same everywhere")
    axes.legend()

none, mean, least = (noise(variance.reinforce(answers, 16, b), 1) for b in (0.0, mean_reward, best_baseline))
say(
    f"**Verdict.** The mean does not move: three baselines give expected gradients within {off:.0e} of the exact one. The "
    f"noise falls from {none:.1f} times the signal to {mean:.2f}, by a factor of {none / mean:.0f}. The mean reward is not "
    f"quite the best baseline: that weighs each reward by the squared length of its score, and here has "
    f"{1 - least / mean:.1%} less noise."
)
keep(none=none, mean=mean, least=least, best_baseline=best_baseline)

# %% [markdown]
# ## Where to take the mean from
#
# How much better a response is than the average, $r(y) - J$, is called its *advantage*. The mean reward J is not known, but
# several responses to the same prompt (a *group* of K) give an estimate of it:
#
# | algorithm | what stands for the advantage of response k |
# |---|---|
# | RLOO | $r_k$ − mean of the *other* K−1 rewards |
# | Dr. GRPO | $r_k$ − mean of all K rewards |
# | GRPO | ($r_k$ − mean of all K rewards) / (their standard deviation) |
#
# **Predict.** All with 48 samples for a batch. Which has the least noise at K = 2? At K = 24? And which of them still have
# the exact gradient as their mean, or at least its direction?

# %%
sizes = np.array([2, 3, 4, 6, 8, 12, 24])
estimators = {
    "RLOO": variance.rloo,
    "Dr. GRPO": variance.dr_grpo,
    "GRPO": variance.grpo,
    "REINFORCE, exact mean": lambda a, k: variance.reinforce(a, k, mean_reward),
}
with picture(columns=3, width=4.1, height=3.9) as (_, panels):
    looks = zip(COLOURS, LINES, ("o", "s", "^", "D"), (9, 5, 5, 4), strict=False)
    for (name, estimator), (colour, line, marker, size) in zip(estimators.items(), looks, strict=False):
        moments = [estimator(answers, int(k)) for k in sizes]
        look = {"color": colour, "linestyle": line, "marker": marker, "markersize": size, "label": name}
        panels[0].plot(sizes, [noise(m, 48 // k) for m, k in zip(moments, sizes, strict=True)], **look)
        panels[1].plot(sizes, [np.linalg.norm(m.mean) / np.linalg.norm(gradient) for m in moments], **look)
        panels[2].plot(sizes, [variance.angle(m.mean[0], gradient) for m in moments], **look)
    panels[0].set(ylabel="noise / signal, 48 samples", title="Noise")
    panels[1].set(ylabel="length of the mean / exact length", title="Length")
    panels[2].set(ylabel="angle to the exact gradient, degrees", title="Direction")
    panels[0].legend(fontsize=9)
    for axes in panels:
        axes.set(xlabel="group size K", xscale="log")
        axes.set_xticks(sizes, [str(k) for k in sizes])
        axes.minorticks_off()

(rloo2, rloo24), (grpo2, grpo24) = (
    [noise(estimator(answers, k), 48 // k) for k in (2, 24)] for estimator in (variance.rloo, variance.grpo)
)
shrunk = np.linalg.norm(variance.dr_grpo(answers, 4).mean) / np.linalg.norm(gradient)
tilt = variance.angle(variance.grpo(answers, 4).mean[0], gradient)
say(
    f"**Verdict.** RLOO's mean is the exact gradient at every K; its noise falls from {rloo2:.3f} at K = 2 to {rloo24:.3f} "
    f"at K = 24, next to the {noise(variance.reinforce(answers, 48, mean_reward), 1):.3f} of a mean that is known. Dr. GRPO "
    f"has its own reward in the mean: at K = 4 it is {shrunk:.4f} = (K−1)/K of the gradient, which a learning rate undoes; "
    f"relative to its signal it is as noisy as RLOO. GRPO divides by the spread of the group, and so points elsewhere, by "
    f"{tilt:.2f} degrees at K = 4. For that it is the noisiest at K = 2, {grpo2:.3f}, and the least noisy at K = 24, {grpo24:.3f}, "
    f"less than with a mean that is known: noise about another direction. With several prompts it also makes up for the small spread of those that are nearly solved "
    f"or nearly hopeless, which then weigh more."
)
keep(rloo2=rloo2, rloo24=rloo24, shrunk=shrunk, tilt=tilt)

# %% [markdown]
# ## Why is GRPO's loss 0?
#
# Everybody who starts GRPO sees it: the logged loss is 0, update after update. Is the training broken?
#
# Its loss for a fresh group is $-\frac1K\sum_k w_k A_k$, with the ratio $w_k = \pi(y_k)/\pi_\mathrm{old}(y_k)$, and with
# advantages $A_k$ that have mean 0 in each group.
#
# **Predict.** What is $w_k$ before the first update on a batch? Then what is the loss? And its gradient?
#
# There are $5^4 = 625$ groups of 4. The next cell runs the package's GRPO on every one of them.

# %%
groups = every_group(sims.GRPO(beta=0.0), space, logits, rewards, generations=4)
lengths = np.linalg.norm(groups.gradient[:, 0], axis=1)
teaches = lengths > 1e-12

with picture(columns=2, height=3.8) as (_, (left, right)):
    left.hist(np.abs(groups.loss), bins=np.linspace(0, 1, 21), color=VERMILION, weights=groups.probability)
    left.set(xlabel="|loss|", ylabel="probability of such a group", title="The loss of every group of 4")
    right.hist(lengths, bins=20, color=BLUE, weights=groups.probability)
    right.set(xlabel="length of the gradient", ylabel="probability of such a group", title="Its gradient")

mean_gradient = -groups.expected_gradient[0]
say(
    f"Over all {len(groups.loss)} groups the loss is at most {np.abs(groups.loss).max():.0e}. The gradient is 0 only in groups "
    f"of equal rewards, which come with probability {groups.probability[~teaches].sum():.4f}; else its length is "
    f"{lengths[teaches].min():.2f} to {lengths[teaches].max():.2f}. Its mean agrees with the exact one of the last section "
    f"to {np.abs(mean_gradient - variance.grpo(answers, 4).mean[0]).max():.0e}."
)
keep(largest_loss=np.abs(groups.loss).max(), without_gradient=groups.probability[~teaches].sum())

# %% [markdown]
# **The exact answer.** All ratios are 1, so the loss is minus the mean advantage: 0 by construction, whatever the policy.
# The gradient is not the derivative of that 0 "with the numbers put in": $w_k$ moves with the logits, each with its own
# advantage as weight. A surrogate loss is made to have the right *slope* where one stands. Its *height* says nothing.
#
# Take one step along the gradient and look back at the same batches: the line has height 0 and a slope. (Where it bends, on
# the right, ratios have left the range of 1 ± 0.2 outside of which the loss is cut off, the *clip*; notebook 5 draws it.)

# %%
direction = mean_gradient / np.linalg.norm(mean_gradient)
steps = np.linspace(-0.4, 0.4, 17)
algorithm = sims.GRPO(beta=0.0)
heights = [
    every_group(algorithm, space, logits + step * direction, rewards, 4, logits_sampler=logits).expected_loss
    for step in steps
]
slope = float((heights[9] - heights[7]) / (steps[9] - steps[7]))

with picture(width=6.5, height=3.8) as (_, (axes,)):
    axes.plot(steps, heights, marker="o", markersize=4, label="expected loss on batches drawn before the step")
    axes.plot(steps, -np.linalg.norm(mean_gradient) * steps, color="black", linestyle=":", label="slope −|gradient|")
    axes.plot(0, 0, "*", color="black", markersize=14, label="what is logged at the first pass: 0")
    axes.set(xlabel="step along the gradient, in logits", ylabel="loss", title="Height 0, and a slope")
    axes.legend()

# %% [markdown]
# Now in training. One arm takes a single update on each batch, as GRPO mostly does. The other takes four passes: from the
# second on the ratios are no longer 1.

# %%
environment = sims.BanditR2()
common = dict(runs=RUNS, num_generations=8, batch_size=16, learning_rate=0.05, evaluations=25)
once = sims.run(sims.GRPO(beta=0.0), environment, updates=UPDATES, **common)
again = sims.run(sims.GRPO(beta=0.0), environment, updates=UPDATES, epochs=4, **common)

with picture(columns=2, height=3.9) as (_, (left, right)):
    for result, label in ((once, "1 pass over each batch"), (again, "4 passes")):
        curve(left, result.updates, result.reward, label)
        curve(right, result.updates[1:], result.loss[:, 1:], label)
    left.set(xlabel="updates", ylabel="expected reward, exact", title=f"Mean of {RUNS} runs, 95 % band")
    right.set(xlabel="updates", ylabel="logged loss of the last update", title="What is logged meanwhile")
    left.legend()
    right.legend()

logged = np.abs(once.loss[:, 1:]).max()
say(
    f"**Verdict.** The logged loss of the one-pass arm is never above {logged:.0e} in size, and its reward rises from "
    f"{once.reward[:, 0].mean():.2f} to {once.reward[:, -1].mean():.2f}. With four passes the last pass logs a negative "
    f"loss, {again.loss[:, -1].mean():.4f} at the end: it says how far the policy has moved from the one that drew the "
    f"batch, not how good it is. Watch the reward, the KL and the share of groups with equal rewards; not the loss."
)
keep(tolerance=0.03, sized=True, once_reward=once.reward[:, -1].mean(), again_reward=again.reward[:, -1].mean())

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** The score: a function of `(pi, y)`, the probabilities of all responses and the number of one, that returns
# $\partial\log\pi(y)/\partial z$ for all logits.

# %%
answer = ...

exercises_02.score(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(pi, y):
#     score = -pi
#     score[y] += 1
#     return score
# ```
#
# </details>
#
# **Exercise 2.** RLOO's advantages: a function of `rewards`, those of one group of K responses, that returns $r_k$ minus the
# mean of the others.

# %%
answer = ...

exercises_02.leave_one_out(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(rewards):
#     others = (rewards.sum() - rewards) / (len(rewards) - 1)
#     return rewards - others
# ```
#
# </details>
#
# **Exercise 3.** The baseline with the least noise: a function of `(pi, rewards)`. (Write the second moment
# $\mathbb{E}[(r-b)^2\,|\nabla\log\pi|^2]$, which is all of the variance that depends on b, and set its derivative to 0.)

# %%
answer = ...

exercises_02.best_baseline(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(pi, rewards):
#     scores = np.eye(len(pi)) - pi
#     squares = (scores**2).sum(1)
#     return (pi * squares * rewards).sum() / (pi * squares).sum()
# ```
#
# </details>
#
# ## What was taught

# %%
assert off < 1e-10, "a baseline does not move the mean of the gradient"
assert least < mean < none, "it moves its noise, and the mean reward is nearly the best"
assert abs(shrunk - 3 / 4) < 1e-10, "the group's mean with the own reward in it shrinks the gradient to (K−1)/K"
assert variance.angle(variance.rloo(answers, 4).mean[0], gradient) < 1e-5 < tilt, "GRPO's mean points elsewhere"
assert np.abs(groups.loss).max() < 1e-10, "GRPO's loss is 0 on every fresh group"
assert groups.probability[teaches].sum() > 0.8, "and its gradient is not"
assert abs(slope + np.linalg.norm(mean_gradient)) < 1e-2, "height 0, slope −|gradient|"
assert once.reward[:, -1].mean() > once.reward[:, 0].mean() + 0.1, "a loss of 0 has trained a policy"
