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
# # 9. Why? Five symptoms, and a thirty-second exact experiment for each
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/onoff/blob/main/notebooks/09_why.ipynb)
#
# After this you can
#
# - explain why DPO lowers the log-probs of chosen responses, and when it does not;
# - tell a harmless negative KL and a harmless loss of 0 from bugs;
# - say how many seeds a rare hack takes to be seen, and what a group of two can know.
#
# You need notebooks 1 to 3. Time: 40 minutes, of which the computer takes half a minute.

# %%
import importlib.util

from IPython import get_ipython

REPOSITORY = "https://github.com/OWNER/onoff"  # where the package is installed from if it is missing, as in Colab

if importlib.util.find_spec("sims") is None:
    get_ipython().run_line_magic("pip", f"install -q 'onoff-sims @ git+{REPOSITORY}'")

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammaln

import sims
from sims.core.objectives.advantages import leave_one_out, standardised
from sims.exact import kl_policy_ref, log_softmax, variance
from sims.teaching import BLUE, COLOURS, QUICK, VERMILION, curve, exercises_09, keep, picture, say, style
from sims.teaching.enumeration import every_group

style()
RUNS, UPDATES = (8, 60) if QUICK else (40, 150)

# %% [markdown]
# These five questions are asked again and again by users of every library. Each takes half a minute to answer, on a problem
# so small that everything can be summed. The form is always the same: symptom, guess, experiment, verdict. Make your guess
# before you read on.
#
# ## 1. "I run DPO, and the log-probs of the *chosen* responses fall"
#
# The loss falls, the margin grows, and the chosen responses become *less* likely. DPO's loss only asks that the margin
# $\log\pi(y_w) - \log\pi(y_l)$ grows. In a table, where each response has a logit of its own, the chosen one then always
# rises. In a network, responses share parameters.
#
# The smallest such network: each response has a feature vector φ in the plane, and its logit is $\theta\cdot\phi$. Chosen and
# rejected lie at an angle to each other. A third response lies at −60°, and nobody mentions it.
#
# **Predict.** One small step on the pair (chosen, rejected). At which angles does the chosen response become likelier?


# %%
def features(degrees):
    """Chosen at 0°, rejected at `degrees`, the third at −60°: (3, 2)."""
    angles = np.radians([0.0, degrees, -60.0])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def rates(phi, pi):
    """Change of each log π(y) per unit of step along φ_w − φ_l: (φ_y − E φ)·(φ_w − φ_l)."""
    return (phi - pi @ phi) @ (phi[0] - phi[1])


def trained(phi, steps, beta=0.1, learning_rate=1.0):
    """log π of the three responses after each step of gradient descent on DPO's loss of the one pair."""
    theta, phi = torch.zeros(2, dtype=torch.float64, requires_grad=True), torch.tensor(phi)
    found = []
    for _ in range(steps + 1):
        logp = (phi @ theta).log_softmax(-1)
        found.append(logp.detach().numpy())
        loss = sims.losses.dpo_loss(logp[0] - logp[1], beta)  # the reference is uniform: its log-ratio is 0
        (slope,) = torch.autograd.grad(loss, theta)
        theta = (theta - learning_rate * slope).detach().requires_grad_()
    return np.array(found)


uniform = np.full(3, 1 / 3)
angles = np.linspace(0, 180, 181)
by_angle = np.array([rates(features(a), uniform) for a in angles])
first_step = trained(features(30.0), 1, learning_rate=1e-4)
turning = float(angles[(by_angle[1:, 0] > 0).argmax() + 1])
path = trained(features(30.0), 400)

names = ("chosen", "rejected", "never mentioned")
with picture(columns=2, height=3.8) as (_, (left, right)):
    for number, name in enumerate(names):
        left.plot(angles, by_angle[:, number], label=name)
        right.plot(np.arange(401), path[:, number], label=name)
    left.axhline(0, color="grey", linewidth=0.8)
    left.axvline(30, color="black", linestyle=":", linewidth=1)
    left.set(xlabel="angle between chosen and rejected, degrees", ylabel="change of log π per unit of step")
    left.set(title="The first step (dotted: 30°)")
    right.set(xlabel="steps of gradient descent", ylabel="log π, nats", title="400 steps at 30°")
    right.legend(loc="lower left")

predicted = rates(features(30.0), uniform)
measured = (first_step[1] - first_step[0]) / (1e-4 * 0.1 * 0.5)  # learning rate · β · σ(0)
margin = path[:, 0] - path[:, 1]
say(
    f"**Verdict.** The chosen response rises only where it is at least {turning:.0f}° away from the rejected one. At 30° its "
    f"log-prob goes from {path[0, 0]:.2f} to {path[-1, 0]:.2f} while the margin grows from {margin[0]:.2f} to {margin[-1]:.2f}: "
    f"both fall, and the third one, which nobody compared, goes from {np.exp(path[0, 2]):.2f} to {np.exp(path[-1, 2]):.2f} in "
    f"probability. The rate is (φ_w − E φ)·(φ_w − φ_l), and a step of gradient descent agrees with it to "
    f"{np.abs(measured - predicted).max():.0e}. Alike responses, of which one is preferred, are the dangerous ones."
)
keep(turning=turning, chosen_after=path[-1, 0], other_after=path[-1, 2])

# %% [markdown]
# ## 2. "My KL is negative"
#
# A KL is never negative. What is logged is an estimate: the mean of $k_1 = \log\pi(y) - \log\pi_\mathrm{ref}(y)$ over a batch.
#
# **Predict.** How often is that mean negative for a batch of 16, if the true KL is 0.03 nats? Is a negative value a bug?

# %%
logp_ref = log_softmax(np.array([0.6, 0.2, -0.2, -0.6]))
logp = log_softmax(np.array([0.6, 0.2, -0.2, -0.6]) + np.array([0.31, -0.17, 0.13, -0.29]))
ratio = logp - logp_ref
true_kl = float(kl_policy_ref(logp, logp_ref))


def means(values, n):
    """Every mean that n samples can have, and its probability: over all counts of the four responses."""
    counts = variance.compositions(n, 4)
    log_probability = gammaln(n + 1) - gammaln(counts + 1).sum(1) + counts @ logp
    return counts @ values / n, np.exp(log_probability)


k3 = np.expm1(-ratio) + ratio
batches = (1, 2, 4, 8, 16, 32, 64, 128)
negative = {}
for name, values in (("k1", ratio), ("k3", k3)):
    negative[name] = np.array(
        [probability[mean < -1e-12].sum() for mean, probability in (means(values, n) for n in batches)]
    )

with picture(columns=2, height=3.8) as (_, (left, right)):
    for name, values, colour, hatch in (("k1", ratio, BLUE, ""), ("k3", k3, VERMILION, "//")):
        mean, probability = means(values, 16)
        left.hist(
            mean,
            bins=np.linspace(-0.3, 0.35, 40),
            weights=probability,
            alpha=0.6,
            color=colour,
            hatch=hatch,
            label=name,
        )
    left.axvline(true_kl, color="black", linestyle=":", label="KL(π‖π_ref)")
    left.set(xlabel="mean over a batch of 16, nats", ylabel="probability", title="What is logged as KL")
    left.legend()
    for name, found in negative.items():
        right.plot(batches, found, marker="o", label=name)
    right.set(
        xscale="log", xlabel="batch size", ylabel="P(the logged KL is negative)", title="How often it is negative"
    )
    right.set_xticks(batches, [str(n) for n in batches])
    right.minorticks_off()
    right.legend()

average = {name: float(np.dot(*means(values, 16))) for name, values in (("k1", ratio), ("k3", k3))}
say(
    f"**Verdict.** The KL is {true_kl:.4f} nats, and both estimates have it as their mean ({average['k1']:.4f}, "
    f"{average['k3']:.4f}). A batch of 16 logs a negative k1 with probability {negative['k1'][batches.index(16)]:.2f}, and one "
    f"of 128 with {negative['k1'][-1]:.2f}: no bug, but a small KL in a small batch. (The smallest "
    f"batches have but a few possible means, hence the zigzag.) k3 is never negative. A k1 that stays "
    f"*below* 0 over many batches is a bug: samples of another policy, or a log-ratio the wrong way round."
)
keep(negative_16=negative["k1"][batches.index(16)], negative_128=negative["k1"][-1], k1=average["k1"], k3=average["k3"])

# %% [markdown]
# ## 3. "GRPO's loss starts at 0, and then it *rises*"
#
# Notebook 2 says why it is 0: on fresh samples the policy-gradient part is minus the mean advantage. With β > 0 something is
# left: β times the mean of $k_3$.
#
# **Predict.** Then what does a rising loss tell you?

# %%
BETA = 0.04
random = np.random.default_rng(3)
small, small_ref = random.normal(size=(1, 4)), random.normal(size=(1, 4))
small_rewards = np.array([0.0, 0.1, 0.2, 1.0])
groups = every_group(sims.GRPO(beta=BETA), sims.TokenSpace(4), small, small_rewards, 4, logits_ref=small_ref)
exact_part = BETA * float(kl_policy_ref(log_softmax(small[0]), log_softmax(small_ref[0])))

grpo = sims.run(
    sims.GRPO(beta=BETA),
    sims.BanditR2(),
    runs=RUNS,
    updates=UPDATES,
    num_generations=8,
    batch_size=16,
    learning_rate=0.05,
)
with picture(columns=2, height=3.8) as (_, (left, right)):
    curve(left, grpo.updates, grpo.reward, "GRPO")
    left.set(xlabel="updates", ylabel="expected reward, exact", title=f"Mean of {RUNS} runs, 95 % band")
    curve(right, grpo.updates[1:], grpo.loss[:, 1:], "logged loss")
    curve(right, grpo.updates, BETA * grpo.kl_policy_ref, "β·KL(π‖π_ref), exact", color="black", linestyle="--")
    right.set(xlabel="updates", ylabel="loss", title="What the loss is")
    right.legend()

say(
    f"**Verdict.** Over all {len(groups.loss)} groups of 4 of a small problem the expected loss is {groups.expected_loss:.6f}, and "
    f"β·KL is {exact_part:.6f}: they differ by {abs(groups.expected_loss - exact_part):.0e}. In training the logged loss follows "
    f"β·KL upwards, to {grpo.loss[:, -1].mean():.4f}, as the reward goes from {grpo.reward[:, 0].mean():.2f} to "
    f"{grpo.reward[:, -1].mean():.2f}. A rising GRPO loss is the distance travelled."
)
keep(expected_loss=groups.expected_loss, beta_kl=exact_part)

# %% [markdown]
# ## 4. "One seed found a hack. The others did not"
#
# A reward model overrates some odd response beyond all bounds, and the reference gives that response twice in ten thousand
# times. One run in a few finds it and runs away with it; the others never do.
#
# **Predict.** Sixty runs, some three thousand samples each. How many find it? If you ran a single seed and saw nothing, what
# would you know?

# %%
ODD, MASS = 90, 2e-4


@dataclass(frozen=True)
class Overrated(sims.BanditR2, kind="overrated"):
    """R2, and one odd response that is overrated thirtyfold and that the reference hardly ever gives."""

    def rewards(self):
        rewards = super().rewards()
        rewards[:, ODD] = 30.0
        return rewards

    def data_policy(self):
        pi = super().data_policy()
        pi[ODD] = 0.0
        return np.where(np.arange(len(pi)) == ODD, MASS, pi / pi.sum() * (1 - MASS))


SEEDS = 20 if QUICK else 60
step = sims.Optimiser(method="sgd", learning_rate=5.0)  # a large reward makes a large step
hunted = sims.run(sims.RLOO(), Overrated(), runs=SEEDS, updates=100, batch_size=4, num_generations=8, optimiser=step)
odd_mass = np.exp(hunted.logp_final[:, 0, ODD].astype(float))
found = odd_mass > 0.5
samples = int(hunted.samples[-1])
bound = 1 - (1 - MASS) ** samples

with picture(columns=2, height=3.8) as (_, (left, right)):
    for run in range(SEEDS):
        look = dict(color=VERMILION, linestyle="--") if found[run] else dict(color=BLUE, linestyle="-", alpha=0.4)
        left.plot(hunted.samples, hunted.reward[run], linewidth=1.2, **look)
    left.set(xlabel="samples drawn per run", ylabel="reward, as the reward model sees it", yscale="log")
    left.set(title=f"{SEEDS} seeds: dashed ones found it")
    seeds = np.arange(1, 41)
    for share, label in (
        (bound, "if each finds it with the bound's probability"),
        (found.mean(), "with the share seen here"),
    ):
        right.plot(seeds, 1 - (1 - share) ** seeds, label=label)
    right.set(xlabel="seeds run", ylabel="P(at least one finds it)", ylim=(0, 1.02), title="How many seeds to look at")
    right.legend(loc="lower right", fontsize=9)

say(
    f"**Verdict.** {int(found.sum())} of {SEEDS} seeds found it and ended at {hunted.reward[found, -1].mean() if found.any() else 0:.0f}, "
    f"the others at {hunted.reward[~found, -1].mean():.2f}. The exact experiment takes one line: {samples} draws from the "
    f"*reference* see a response of mass {MASS:g} with probability 1 − (1 − p)^n = {bound:.2f}. A policy that meanwhile learns "
    f"something else draws it ever less, so fewer runs find it. A single seed that found nothing says next to nothing: even "
    f"at the bound {int(np.ceil(np.log(0.05) / np.log(1 - bound)))} seeds are needed to see the hack with 95 % probability, "
    f"and more at the share that was seen here. Look at single runs, not only at their mean."
)
keep(bound=bound)
keep(tolerance=0.2, sized=True, found=found.mean())

# %% [markdown]
# ## 5. "I use GRPO with a group of two"
#
# **Predict.** Two responses, of which the better one earns $d$ more. How does GRPO's advantage depend on $d$?

# %%
gaps = np.geomspace(0.001, 1.0, 30)
pairs = torch.tensor(np.stack([gaps, np.zeros_like(gaps)], axis=-1))  # (30, 2): the better one, and the worse
advantages = {"GRPO": standardised(pairs)[:, 0].numpy(), "RLOO": leave_one_out(pairs)[:, 0].numpy()}

even, uneven_rewards = np.zeros((1, 4)), np.array([0.0, 0.1, 0.2, 1.0])
pi = np.exp(log_softmax(even[0]))
towards = {}
for k in (2, 4, 8):
    algorithm = sims.GRPO(beta=0.0, std_epsilon=0.0)
    towards[f"GRPO, K = {k}"] = -every_group(algorithm, sims.TokenSpace(4), even, uneven_rewards, k).expected_gradient[
        0
    ]
towards["exact ∇E[r]"] = pi * (uneven_rewards - pi @ uneven_rewards)

wins = (uneven_rewards[:, None] > uneven_rewards) @ pi - (uneven_rewards[:, None] < uneven_rewards) @ pi
preference = pi * wins / np.sqrt(2)  # of two, each response is ahead or behind by 1/√2, whatever the gap

with picture(columns=2, height=3.8) as (_, (left, right)):
    for name, values in advantages.items():
        left.plot(gaps, values, label=name)
    left.set(
        xscale="log",
        xlabel="gap d between the two rewards",
        ylabel="advantage of the better one",
        title="A group of two",
    )
    left.legend()
    for number, (name, direction) in enumerate(towards.items()):
        right.bar(
            np.arange(4) + 0.2 * (number - 1.5),
            direction / np.linalg.norm(direction),
            width=0.2,
            color=(*COLOURS[:3], "black")[number],
            hatch=("", "//", "..", "")[number],
            label=name,
        )
    right.axhline(0, color="black", linewidth=0.8)
    right.set_xticks(range(4), [f"r = {r:g}" for r in uneven_rewards])
    right.set(
        ylabel="uphill gradient, scaled to length 1", title="What is learned about four responses", ylim=(-0.75, 1.05)
    )
    right.legend(fontsize=9, loc="upper left")

angles_off = {name: variance.angle(direction, towards["exact ∇E[r]"]) for name, direction in towards.items()}
gap_blind = float(np.ptp(advantages["GRPO"][gaps > 0.1]))
say(
    f"**Verdict.** GRPO's advantage is {advantages['GRPO'][-1]:.4f} = 1/√2 at every gap (but for the smallest, where δ, which is added "
    f"to the deviation, shows), RLOO's is d. A group of two knows who won and not by how much: its gradient is that of the "
    f"probability of winning against another sample of the same policy, within "
    f"{np.abs(towards['GRPO, K = 2'] - preference).max():.0e}. It stands {angles_off['GRPO, K = 2']:.0f}° off the gradient of the "
    f"reward here, and with K = 8 {angles_off['GRPO, K = 8']:.0f}°. That is no mistake if preferences are what you want. If you "
    f"want the reward, use larger groups, or do not divide (Dr. GRPO, RLOO)."
)
keep(off_2=angles_off["GRPO, K = 2"], off_8=angles_off["GRPO, K = 8"], flat=advantages["GRPO"][-1])

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** The first step of DPO: a function of `(phi, pi)` that returns the change of the log-prob of the *chosen*
# response per unit of step along φ_w − φ_l. `phi` is (N, D), chosen first and rejected second, and `pi` the probabilities of
# all N responses.

# %%
answer = ...

exercises_09.chosen_rate(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(phi, pi):
#     return (phi[0] - pi @ phi) @ (phi[0] - phi[1])
# ```
#
# </details>
#
# **Exercise 2.** How often is a single sample's $k_1$ negative? A function of `(logp, logp_ref)`, the log-probs of all responses
# under the policy, which is sampled, and the reference.

# %%
answer = ...

exercises_09.negative_k1(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(logp, logp_ref):
#     return np.exp(logp)[logp < logp_ref].sum()
# ```
#
# </details>
#
# **Exercise 3.** A function of `(mass, samples, seeds)` that returns the probability that at least one of so many seeds, each
# with so many samples of the reference, sees a response of that mass.

# %%
answer = ...

exercises_09.seen_by_any(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(mass, samples, seeds):
#     return 1 - (1 - mass) ** (samples * seeds)
# ```
#
# </details>
#
# ## What was taught

# %%
assert np.abs(measured - predicted).max() < 1e-4 and predicted[0] < 0 < predicted[2], (
    "the chosen one falls, a third rises"
)
assert (np.diff(margin) > 0).all(), "and the margin grows all the same"
assert all(abs(x - true_kl) < 1e-10 for x in average.values()), "k1 and k3 have the KL as their mean"
assert negative["k1"][0] > 0.2 > negative["k3"].max() == 0, "k1 of a batch can be negative, k3 cannot"
assert abs(groups.expected_loss - exact_part) < 1e-10, "GRPO's loss on fresh samples is β·KL on average"
assert found.mean() < bound < 0.5, "most single seeds would see nothing"
assert gap_blind < 1e-2, "a group of two does not know by how much"
assert np.abs(towards["GRPO, K = 2"] - preference).max() < 1e-10, "its gradient is that of winning"
