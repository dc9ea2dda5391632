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
# # 1. One prompt, a hundred answers: what is the best policy under a KL penalty?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/onoff/blob/main/notebooks/01_one_prompt.ipynb)
#
# After this you can
#
# - say what preference tuning maximises, $J(\pi) = \mathbb{E}_\pi[r] - \beta\,\mathrm{KL}(\pi\,\|\,\pi_\mathrm{ref})$, and why the KL is there;
# - write down the policy that maximises it, $\pi^* = \pi_\mathrm{ref}\,e^{r/\beta}/Z$, and what β does to it;
# - read a plot of reward against KL, and tell whether an algorithm lost something on the way.
#
# You need softmax and gradient descent. Time: 25 minutes, of which the computer takes less than half a minute.

# %%
import importlib.util

from IPython import get_ipython

REPOSITORY = "https://github.com/OWNER/onoff"  # where the package is installed from if it is missing, as in Colab

if importlib.util.find_spec("sims") is None:
    get_ipython().run_line_magic("pip", f"install -q 'onoff-sims @ git+{REPOSITORY}'")

import numpy as np

import sims
from sims.teaching import QUICK, curve, exercises_01, keep, picture, say, style

style()
RUNS, UPDATES = (4, 200) if QUICK else (20, 400)

# %% [markdown]
# ## One prompt, a hundred answers
#
# A language model that answers a prompt is a distribution over responses, $\pi(y)$: a *policy*. Let there be a single prompt
# and only 100 possible responses, numbered 0 to 99. Then everything can be computed by summing over the responses, and
# nothing has to be believed. Such a problem is called a *bandit*.
#
# The **reference** $\pi_\mathrm{ref}$ is the model before tuning. The **reward** $r$ says how good each response is; here
# it is largest at response 70, where the reference seldom goes.

# %%
environment = sims.BanditR1()
logp_ref = environment.reference_logp()[0, 0]  # log-probs of the 100 responses to the one prompt
rewards = environment.rewards()[0]
responses = np.arange(100)

with picture(columns=2) as (_, (left, right)):
    left.bar(responses, np.exp(logp_ref), width=1.0)
    left.set(title="The reference", xlabel="response", ylabel="probability under π_ref")
    right.plot(responses, rewards)
    right.set(title="The reward", xlabel="response", ylabel="reward")

reference_reward = float(sims.exact.expected_reward(logp_ref, rewards))
say(
    f"The reference earns {reference_reward:.3f} on average; the best response, number {rewards.argmax()}, would earn "
    f"{rewards.max():.0f}, and the reference gives it with probability {np.exp(logp_ref[rewards.argmax()]):.4f}. "
    f"(The bars at both ends are where the tails of the distribution were collected.)"
)

# %% [markdown]
# ## What is maximised
#
# To give response 70 always would earn the most. It would also be a model that says one thing. And the reward is usually
# a guess, learned from a few comparisons, that is right near what it has seen: far away from the reference it can be
# anything. So one asks for reward *and* for closeness to the reference:
#
# $$J(\pi) = \mathbb{E}_{y\sim\pi}[r(y)] - \beta\,\mathrm{KL}(\pi\,\|\,\pi_\mathrm{ref}), \qquad
# \mathrm{KL}(\pi\,\|\,\pi_\mathrm{ref}) = \sum_y \pi(y)\log\frac{\pi(y)}{\pi_\mathrm{ref}(y)}$$
#
# The KL is measured in nats (log to the base e). β is the price of a nat, in units of reward.
#
# **Predict.** Before you run the next cell: what does the best policy look like for a very large β? For a very small one?
# In between: will it be a bump around 70, a mixture of the reference and a bump, or the reference with its weights changed?

# %%
betas = (1.0, 0.3, 0.1, 0.03)
optima = {beta: sims.exact.optimum(logp_ref, rewards, beta) for beta in betas}

with picture(width=7.5, height=4) as (_, (axes,)):
    axes.plot(responses, np.exp(logp_ref), color="grey", linestyle="-", linewidth=4, alpha=0.4, label="reference")
    for beta, logp in optima.items():
        axes.plot(responses, np.exp(logp), label=f"β = {beta}")
    axes.set(yscale="log", ylim=(1e-6, 1), xlabel="response", ylabel="probability (log scale)")
    axes.set_title("The best policy for four prices of a nat")
    axes.legend(ncol=3, loc="lower left")

# %% [markdown]
# **The exact answer.** Write $\pi^*(y) = \pi_\mathrm{ref}(y)\,e^{r(y)/\beta}/Z$ with $Z = \sum_y \pi_\mathrm{ref}(y)\,e^{r(y)/\beta}$.
# Then $r(y) = \beta\log\frac{\pi^*(y)}{\pi_\mathrm{ref}(y)} + \beta\log Z$. Put this into $J$, and the reference drops out:
#
# $$J(\pi) = \beta\log Z - \beta\,\mathrm{KL}(\pi\,\|\,\pi^*)$$
#
# A KL is never negative, and 0 only between equals. So π* is the best policy, the only one, and any other loses exactly
# β times its KL to π*. It is the reference with each weight multiplied by $e^{r/\beta}$: on the log scale above, r/β
# is *added* to the reference, less the constant log Z. Where the reference has no mass there is none to multiply.
#
# Does it hold? Walk away from π* in random directions and watch $J$.

# %%
beta = 0.1
best = optima[beta]
best_objective = float(sims.exact.objective(best, logp_ref, rewards, beta))
log_z = float(np.log((np.exp(logp_ref) * np.exp(rewards / beta)).sum()))

random = np.random.default_rng(1)
walks = np.linspace(-2, 2, 81)
gaps = []
with picture(width=7, height=3.8) as (_, (axes,)):
    for number in range(5):
        policies = sims.exact.log_softmax(best + walks[:, None] * random.normal(size=100))
        objectives = sims.exact.objective(policies, logp_ref, rewards, beta)
        gaps.append(objectives - (beta * log_z - beta * sims.exact.kl_policy_ref(policies, best)))
        axes.plot(walks, objectives, label=f"direction {number + 1}")
    axes.axhline(beta * log_z, color="black", linestyle=":", label="β log Z")
    axes.set(xlabel="distance from π*, in units of a random change of the logits", ylabel="J, in units of reward")
    axes.set_title("No direction leads up from π* (β = 0.1)")
    axes.legend(ncol=2, loc="lower center")

say(
    f"**Verdict.** The top is at π*, J = {best_objective:.6f}, and β log Z = {beta * log_z:.6f}. Over all "
    f"{np.size(gaps)} policies of the picture, J and β log Z − β KL(π‖π*) differ by at most {np.abs(gaps).max():.0e}."
)
keep(best_objective=best_objective, beta_log_z=beta * log_z)

# %% [markdown]
# ## What a nat buys
#
# Each β has its best policy, and each of these an expected reward and a KL. Together they are a curve: the *frontier*. No
# policy of the same KL earns more.
#
# There is a way to raise the reward without any training. **Best-of-n**: draw n responses from the reference and keep the
# best. It too is a distribution over responses, known exactly, so it has its place on the same plot.
#
# **Predict.** Does best-of-n lie on the frontier, a bit below, or far below? And what is the slope of the frontier?

# %%
prices = np.geomspace(20.0, 1e-4, 2000)
frontier = np.array([sims.exact.optimum(logp_ref, rewards, price) for price in prices])
frontier_reward = sims.exact.expected_reward(frontier, rewards)
frontier_kl = sims.exact.kl_policy_ref(frontier, logp_ref)

counts = 2 ** np.arange(11)
best_of = np.array([sims.exact.best_of_n(logp_ref, rewards, int(n)) for n in counts])
best_of = np.log(np.maximum(best_of, 1e-300))  # the best of 1024 is never the worst response, in float64
best_of_reward = sims.exact.expected_reward(best_of, rewards)
best_of_kl = sims.exact.kl_policy_ref(best_of, logp_ref)


def draw_frontier(axes):
    axes.plot(frontier_kl, frontier_reward, color="black", linestyle="-", label="frontier: π* for every β")
    axes.set(xlabel="KL(π‖π_ref), nats", ylabel="expected reward", ylim=(0, 1.05))


with picture(width=7, height=4) as (_, (axes,)):
    draw_frontier(axes)
    axes.plot(
        best_of_kl, best_of_reward, linestyle="", marker="o", color="#0072B2", label="best of n, from the reference"
    )
    for n, x, y in zip(counts, best_of_kl, best_of_reward, strict=True):
        if n in (1, 4, 16, 64, 256, 1024):
            axes.annotate(
                f"n = {n}", (x, y), textcoords="offset points", xytext=(8, -12 if n > 100 else -4), fontsize=9
            )
    for price in (0.3, 0.1, 0.03):
        logp = optima[price]
        x, y = sims.exact.kl_policy_ref(logp, logp_ref), sims.exact.expected_reward(logp, rewards)
        axes.plot(x, y, marker="*", markersize=12, color="#D55E00", linestyle="")
        axes.annotate(f"β = {price}", (x, y), textcoords="offset points", xytext=(-48, 5), fontsize=9)
    axes.set_title("What a nat of KL buys")
    axes.legend(loc="lower right")

on_frontier = np.interp(best_of_kl, frontier_kl, frontier_reward)
lost = on_frontier - best_of_reward
near = np.array([sims.exact.optimum(logp_ref, rewards, price) for price in (0.101, 0.099)])
slope = np.diff(sims.exact.expected_reward(near, rewards))[0] / np.diff(sims.exact.kl_policy_ref(near, logp_ref))[0]
say(
    f"**Verdict.** Best-of-n lies below: at n = {counts[lost.argmax()]} it earns {lost.max():.3f} less than the frontier at "
    f"its own KL. Most responses here are worth next to nothing, and to pick the best of a few of them moves mass, which "
    f"costs KL, from one worthless response to another. From n = 128 on it loses {lost[7]:.4f} or less, at a cost of n samples per "
    f"answer. The slope of the frontier at β = 0.1 is {slope:.3f}: β itself. That is why β is a price: at the optimum the "
    f"next nat buys just what it costs."
)
keep(worst_loss=lost.max())

# %% [markdown]
# ## Does training get there?
#
# The formula needs all 100 rewards. A learner sees samples: it draws responses from its own policy, is told their rewards,
# and follows an estimate of the gradient of $J$ (how is the subject of notebook 2). `sims.run` trains several independent
# policies, called *runs*, side by side. The algorithm is RLOO; one arm of the experiment has β = 0.1, the other pays nothing
# for the KL.
#
# **Predict.** Where in the plane will each of the two end? And on the way there, do they keep to the frontier?

# %%
schedule = dict(updates=UPDATES, runs=RUNS, learning_rate=0.1)
paying = sims.run(sims.RLOO(beta=beta), environment, **schedule)
free = sims.run(sims.RLOO(beta=0.0), environment, **schedule)

with picture(columns=2, height=4) as (_, (left, right)):
    for result, label in ((paying, "β = 0.1"), (free, "β = 0")):
        curve(left, result.samples, result.kl_policy_ref, label)
        right.plot(result.kl_policy_ref.mean(0), result.reward.mean(0), marker="o", markersize=4, label=label)
    left.axhline(paying.optimum.kl_policy_ref, color="black", linestyle=":", label="π* at β = 0.1")
    left.set(xlabel="samples drawn per run", ylabel="KL(π‖π_ref), nats", title=f"Mean of {RUNS} runs, 95 % band")
    left.legend()
    draw_frontier(right)
    right.plot(
        paying.optimum.kl_policy_ref, paying.optimum.reward, "*", markersize=13, color="black", label="π* at β = 0.1"
    )
    right.set_title("The way through the plane")
    right.legend(loc="lower right")

# %%
trained = paying.logp_final[:, 0].astype(float)  # (runs, responses)
trained = sims.exact.log_softmax(trained)
left_over = beta * sims.exact.kl_policy_ref(trained, best)
below = [  # how far the mean way lies below the frontier, at its own KL
    np.interp(result.kl_policy_ref.mean(0), frontier_kl, frontier_reward) - result.reward.mean(0)
    for result in (paying, free)
]

with picture(width=7.5, height=4) as (_, (axes,)):
    axes.plot(responses, np.exp(logp_ref), color="grey", linewidth=4, alpha=0.4, linestyle="-", label="reference")
    axes.plot(responses, np.exp(best), color="black", linestyle="-", label="π*, exact")
    axes.plot(
        responses, np.exp(trained).mean(0), color="#D55E00", linestyle="--", label=f"trained, mean of {RUNS} runs"
    )
    axes.fill_between(
        responses, np.exp(trained).min(0), np.exp(trained).max(0), color="#D55E00", alpha=0.25, label="all runs"
    )
    axes.set(yscale="log", ylim=(1e-6, 1), xlabel="response", ylabel="probability (log scale)")
    axes.set_title("The trained policy beside the exact one, β = 0.1")
    axes.legend(loc="lower left", ncol=2)

say(
    f"**Verdict.** With β = 0.1 the runs end at a reward of {paying.reward[:, -1].mean():.3f} and "
    f"{paying.kl_policy_ref[:, -1].mean():.2f} nats; the exact optimum has {paying.optimum.reward:.3f} and "
    f"{paying.optimum.kl_policy_ref:.2f}. What is left of J to be gained, β KL(π‖π*), is {left_over.mean():.4f}. Without "
    f"the price they end at {free.reward[:, -1].mean():.3f} and {free.kl_policy_ref[:, -1].mean():.2f} nats: "
    f"{free.reward[:, -1].mean() - paying.reward[:, -1].mean():+.3f} of reward for "
    f"{free.kl_policy_ref[:, -1].mean() - paying.kl_policy_ref[:, -1].mean():+.2f} nats. On the way both lie below the "
    f"frontier, by up to {below[0].max():.3f} and {below[1].max():.3f} of reward at their own KL: a policy on "
    f"its way to the π* of one β is not the π* of another. At the end they lie {below[0][-1]:.3f} and {below[1][-1]:.3f} below it."
)
keep(tolerance=0.02, sized=True, paying_reward=paying.reward[:, -1].mean(), left_over=left_over.mean())
keep(tolerance=0.3, sized=True, paying_kl=paying.kl_policy_ref[:, -1].mean(), free_kl=free.kl_policy_ref[:, -1].mean())

# %% [markdown]
# Outside of the bump the trained policies lie above the exact one, for all their reward. Responses that a policy hardly
# gives any more are hardly sampled any more, so nothing corrects their probability. It costs next to nothing of $J$, since
# π weighs it. An algorithm that learns from *other* samples than its own is wrong in other places: notebooks 4 and 5.
#
# ## Exercises
#
# Each checker tries your function on random problems, against the exact answer, and says what is wrong.
#
# **Exercise 1.** Write the optimum: a function of `(logp_ref, rewards, beta)` that returns the log-probs of π*.

# %%
answer = ...

exercises_01.optimum(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(logp_ref, rewards, beta):
#     score = logp_ref + rewards / beta
#     return score - np.log(np.exp(score).sum())
# ```
#
# </details>
#
# **Exercise 2.** Write KL(π‖π_ref), a function of `(logp, logp_ref)`, both the log-probs of all responses.

# %%
answer = ...

exercises_01.kl(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(logp, logp_ref):
#     return (np.exp(logp) * (logp - logp_ref)).sum()
# ```
#
# </details>
#
# **Exercise 3.** Read the formula backwards: somebody hands you a policy and swears that it is π* for some reward. Write a
# function of `(logp, logp_ref, beta)` that returns that reward for all responses, up to a constant (the checker subtracts
# the first one). This is the idea from which DPO is made, in notebook 3.

# %%
answer = ...

exercises_01.implied_reward(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(logp, logp_ref, beta):
#     return beta * (logp - logp_ref)
# ```
#
# </details>
#
# ## What was taught
#
# If this cell runs, it held on this machine.

# %%
assert abs(best_objective - beta * log_z) < 1e-10, "J at π* is β log Z"
assert np.abs(gaps).max() < 1e-10, "any other policy loses β KL(π‖π*)"
assert (lost > -1e-4).all(), "nothing lies above the frontier, best-of-n included"
assert abs(slope - beta) < 0.005, "the slope of the frontier is β"
assert left_over.mean() < 0.05, "RLOO with the KL in the reward ends near π*"
assert free.kl_policy_ref[:, -1].mean() > paying.kl_policy_ref[:, -1].mean(), "without a price it goes further away"
