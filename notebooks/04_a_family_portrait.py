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
# # 4. A family portrait: what do the algorithms have in common, and where do they part?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/onoff/blob/main/notebooks/04_a_family_portrait.ipynb)
#
# After this you can
#
# - write any of the algorithms as *weights on responses*, and read off what it imitates and what it pushes away;
# - say when a negative gradient makes no difference at all, and what it does once samples are stale;
# - say what "mode-seeking" and "mode-covering" mean, and what they do not: on the four categories of Tajwar et al. (2024)
#   the published picture and exact gradient descent disagree.
#
# You need notebooks 1 and 3. Time: 40 minutes, of which the computer takes less than one.

# %%
import importlib.util

from IPython import get_ipython

REPOSITORY = "https://github.com/OWNER/onoff"  # where the package is installed from if it is missing, as in Colab

if importlib.util.find_spec("sims") is None:
    get_ipython().run_line_magic("pip", f"install -q 'onoff-sims @ git+{REPOSITORY}'")

import numpy as np

import sims
from sims import exact
from sims.exact import kl_dynamics
from sims.teaching import BLUE, QUICK, VERMILION, exercises_04, keep, picture, say, style

style()

# %% [markdown]
# ## 1. Every algorithm is a weight on each response
#
# A training step changes log-probabilities. Whatever the loss $L$ is, its gradient is
#
# $$\nabla_\theta L = \sum_y w(y)\,\nabla_\theta \log\pi(y), \qquad w(y) = \mathbb{E}\left[\frac{\partial L}{\partial \log\pi(y)}\right]$$
#
# so an algorithm is known, on average, by its weights: a negative $w$ pulls a response up, a positive one pushes it down.
# Three families differ in where the weights come from:
#
# | family | examples | weight of a drawn response |
# |---|---|---|
# | likelihood | SFT, Best-of-N, RAFT, RWR | ≤ 0: only imitates |
# | contrastive | DPO, IPO, SLiC, SimPO | < 0 for the chosen, > 0 for the rejected |
# | policy gradient | REINFORCE, RLOO, PPO, GRPO | −(reward − baseline): either sign |
#
# **Predict.** Two responses are drawn from the policy itself, at the start (π = π_ref). Best-of-2 imitates the better one.
# DPO pulls the better one and pushes the worse one. In which direction do the logits move *on average*: is DPO's
# negative half visible?

# %%
environment = sims.BanditR2()
logp_ref, rewards = environment.reference_logp()[0, 0], environment.rewards()[0]
family = {
    "likelihood: Best-of-2": sims.BestOfN(),
    "contrastive: DPO": sims.DPO(beta=0.1),
    "policy gradient: RLOO": sims.RLOO(),
}


def push_on_logits(algorithm, logp, sampler):
    """The direction −∂L/∂logits, scaled to length 1. sampler: what both responses are drawn from."""
    problem = exact.one_prompt(logp, logp_ref, rewards, np.exp([sampler, sampler]))
    weights = exact.population_weights(algorithm, problem).reshape(-1)
    push = np.exp(logp) * weights.sum() - weights
    return push / np.linalg.norm(push)


moved = exact.optimum(logp_ref, rewards, beta=0.3)  # a policy that has learned since the samples were drawn
cases = {"On-policy: drawn from π": (logp_ref, logp_ref), "Off-policy: π has learned since": (moved, logp_ref)}
pushes = {title: {name: push_on_logits(a, *case) for name, a in family.items()} for title, case in cases.items()}

with picture(columns=2, width=5.8) as (_, panels):
    for panel, (title, found) in zip(panels, pushes.items(), strict=True):
        for (name, push), width in zip(found.items(), (5, 1.8, 1.8), strict=True):
            panel.plot(push, label=name, linewidth=width, alpha=0.5 if width > 2 else 1)
        panel.axhline(0, color="0.5", linewidth=0.8, linestyle="-")
        panel.set(xlabel="response", ylabel="push on its logit (length 1 in all)", title=title)
    panels[0].legend(loc="upper right", fontsize=9)

# %%
same, other = (np.abs(found["likelihood: Best-of-2"] - found["contrastive: DPO"]).max() for found in pushes.values())
keep(on_policy_difference=same)
keep(off_policy_difference=other)
say(
    f"**Exact answer.** On-policy the directions of Best-of-2 and DPO are *equal* (largest difference {same:.0e}); "
    f"off-policy they differ by up to {other:.2f}: imitation "
    "now pushes the peak *down*, back to its data, while DPO pushes it on. Why: Σ π(y)·∇log π(y) = 0, so a constant may be added to all weights "
    "that are weighed by π itself. Best-of-2 weighs a response by −2·P(it wins), DPO by −β·(P(it wins) − P(it loses)) "
    "= −β·(2·P(it wins) − 1): the same, up to a constant and a scale. **Verdict.** On fresh samples, on average, at the "
    "start, imitation *is* contrast: what is not imitated falls anyway, as probabilities sum to 1. (On a finite batch "
    "they differ in noise.) RLOO looks at the size of rewards, where the other two see ranks. It is staleness that tells "
    "the families apart."
)

# %% [markdown]
# **Exercise 1.** From weights to logits: a function of `(weights, p)`, both of all responses, that returns ∂L/∂logits,
# where log π = logits − log Σ exp(logits).

# %%
answer = ...

exercises_04.gradient_on_logits(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(weights, p):
#     return weights - p * weights.sum()
# ```
#
# </details>
#
# ## 2. What a negative gradient does once samples are stale
#
# Now train on, with the average update of each algorithm. *On-policy*: the pairs always come from the current policy.
# *Off-policy*: they come from the reference for ever.
#
# **Predict** where each of the four curves ends: Best-of-2 and DPO, on-policy and off-policy. Which one has an end that you
# can write down?

# %%
small = sims.BanditR2(num_actions=20, peak=8, width=3)
small_ref, small_rewards = small.reference_logp()[0, 0], small.rewards()[0]
steps = 400 if QUICK else 1500
imitated = exact.best_of_n(small_ref, small_rewards, 2)
arms = {
    "Best-of-2, on-policy": (sims.BestOfN(), 2.0, 1),
    "Best-of-2, off-policy": (sims.BestOfN(), 2.0, np.inf),
    "DPO, on-policy": (sims.DPO(beta=0.1), 20.0, 1),  # at the start, steps of the same length as those of Best-of-2
    "DPO, off-policy": (sims.DPO(beta=0.1), 20.0, np.inf),
}
earned = {}
for name, (algorithm, rate, sync) in arms.items():
    path = exact.follow_gradient(
        algorithm, small_ref, small_rewards, learning_rate=rate, updates=steps, sync_every_updates=sync
    )
    earned[name] = exact.expected_reward(path, small_rewards)
ceiling = float((imitated * small_rewards).sum())

with picture(width=7.5, height=4) as (_, (panel,)):
    for name, reward in earned.items():
        panel.plot(np.arange(1, steps + 1), reward[1:], label=name)
    panel.axhline(ceiling, color="black", linewidth=1, linestyle=":", label="best-of-2 of the reference, exact")
    panel.set(xscale="log", xlabel="updates (average gradient)", ylabel="expected reward", ylim=(0, 1.05))
    panel.set_title("Fresh or stale pairs, with and without a negative gradient")
    panel.legend(fontsize=9)

# %%
ends = {name: reward[-1] for name, reward in earned.items()}
keep(tolerance=1e-6, sized=True, off_policy_imitation=ends["Best-of-2, off-policy"])
say(
    f"**Exact answer.** Off-policy imitation ends at what it imitates, {ceiling:.3f} (here {ends['Best-of-2, off-policy']:.3f}): "
    f"a likelihood has its optimum at the data. Off-policy DPO goes on, to {ends['DPO, off-policy']:.3f}: a margin can always "
    f"grow, and the rejected give the direction to grow in. On-policy both get there, {ends['Best-of-2, on-policy']:.3f} and "
    f"{ends['DPO, on-policy']:.3f}. **Verdict.** A negative gradient matters most where samples are *not* fresh; fresh samples "
    "let imitation repeat itself, best-of-2 of best-of-2 of …"
)

# %% [markdown]
# That is the good half. Notebook 3 showed the other: pushing one response down squeezes the mass onto the likeliest one.
#
# **Predict.** Push one response down with pairs from your own samples, or with recorded ones: same place in the end? Same
# way there?

# %%
p = np.array([0.44, 0.25, 0.15, 0.10, 0.06])
rejected = 3
only = np.eye(len(p))[rejected]
rate, updates = 0.5, 200
ways = {
    # Recorded: the response is pushed at every update. Own samples: as often as the policy still draws it.
    "off-policy: recorded": lambda problem: only,
    "on-policy: own samples": lambda problem: only * np.exp(problem.logp[0, :, 0]),
}
paths = {
    name: np.exp(exact.follow_gradient(weights, np.log(p), np.zeros(len(p)), learning_rate=rate, updates=updates))
    for name, weights in ways.items()
}
with picture(columns=2, width=5.8) as (_, (left, right)):
    for colour, line, (name, path) in zip((VERMILION, BLUE), ("-", "--"), paths.items(), strict=True):
        left.plot(rate * np.arange(updates + 1), path[:, 0], line, color=colour, label=f"likeliest, {name}")
        left.plot(rate * np.arange(updates + 1), path[:, rejected], line, color=colour, linewidth=1, marker="v",
                  markevery=0.1, markersize=4, label=f"pushed, {name}")  # fmt: skip
        right.plot(path[:, rejected], path[:, 0], line, color=colour, linewidth=4 if line == "-" else 2, label=name,
                   alpha=0.5 if line == "-" else 1)  # fmt: skip
    left.set(xlabel="η · updates", ylabel="probability", ylim=(0, 1.02), title="The clock")
    left.legend(fontsize=8, loc="center right")
    right.set(xlabel="probability of the pushed response", ylabel="probability of the likeliest one", title="The path")
    right.legend(fontsize=9)

# %%
off, on = paths.values()
interpolated = np.interp(on[:, rejected][::-1], off[:, rejected][::-1], off[:, 0][::-1])[::-1]
apart = np.abs(interpolated - on[:, 0]).max()
keep(tolerance=1e-6, off_top=off[-1, 0], on_top=on[-1, 0])
say(
    f"**Exact answer.** The same path (to {apart:.3f}, the length of the steps), another clock: on-policy a push is scaled by "
    f"π(rejected), and fades as the response goes. After the same time the likeliest response has {off[-1, 0]:.2f} off-policy "
    f"and {on[-1, 0]:.2f} on-policy. **Verdict.** Fresh samples turn a negative gradient off when its work is done; recorded "
    "ones push what is already gone, and everything else pays. That is what clipping (notebook 5), IPO's bounded margin (notebook 3) and "
    "terms that keep up the likelihood of the chosen are for."
)

# %% [markdown]
# **Exercise 2.** What off-policy imitation ends at: a function of `(p, rewards, n)` that returns the distribution of the
# best of n independent draws from p. Some rewards are equal; then one of the equally good draws is taken at random.

# %%
answer = ...

exercises_04.best_of_n(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(p, rewards, n):
#     below = np.array([p[rewards < r].sum() for r in rewards])
#     level = np.array([p[rewards == r].sum() for r in rewards])
#     return p / level * ((below + level) ** n - below**n)
# ```
#
# </details>
#
# ## 3. Two directions of the KL, on four categories
#
# Imitating samples of a target q descends the *forward* KL(q‖π). Policy gradients with a KL penalty descend the *reverse*
# KL(π‖π\*), with q = π\*. The one is called mode-covering, the other mode-seeking, and Tajwar et al. explain with it why
# on-policy and contrastive methods are faster: from p = (.3, .3, .1, .3) towards q = (.2, .1, .6, .1), their picture shows
# the reverse KL moving mass to the mode, category 3, faster than the forward KL.
#
# **Predict.** One gradient step of η = 2 on the logits: which direction gives category 3 more?

# %%
start, target, mode = np.array([0.3, 0.3, 0.1, 0.3]), np.array([0.2, 0.1, 0.6, 0.1]), 2
directions = {
    "forward": ("forward, KL(q‖p): likelihood", BLUE, "-"),
    "reverse": ("reverse, KL(p‖q): on-policy RL", VERMILION, "--"),
}
one = {kind: kl_dynamics.step(kind, "logits", start, target, eta=2.0) for kind in directions}

with picture(columns=2, width=5.8, height=3.9) as (_, (left, right)):
    bars = [("start p", start, "0.75", "")]
    bars += [
        (name, one[kind], colour, "//" if kind == "reverse" else "") for kind, (name, colour, _) in directions.items()
    ]
    bars += [("target q", target, "0.3", "")]
    for i, (name, heights, colour, hatch) in enumerate(bars):
        left.bar(
            np.arange(4) + 0.2 * (i - 1.5), heights, 0.18, color=colour, hatch=hatch, edgecolor="white", label=name
        )
    left.set_xticks(range(4), ["1", "2", "3: the mode", "4"])
    left.set(xlabel="category", ylabel="probability", ylim=(0, 0.9), title="One step of η = 2 on the logits")
    left.legend(fontsize=8.5, ncol=1, loc="upper left")
    for kind, (name, colour, line) in directions.items():
        path = kl_dynamics.follow(kind, "logits", start, target, eta=0.05, steps=800)
        right.plot(0.05 * np.arange(801), path[:, mode], line, color=colour, label=name)
    right.axhline(target[mode], color="black", linestyle=":", linewidth=1, label="target")
    right.set(xlabel="η · steps", ylabel="probability of the mode", ylim=(0, 0.7), title="Small steps")
    right.legend(fontsize=9, loc="lower right")

# %%
shown = {kind: ", ".join(f"{x:.3f}" for x in distribution) for kind, distribution in one.items()}
end = {kind: kl_dynamics.follow(kind, "logits", start, target, eta=0.5, steps=4000)[-1] for kind in directions}
distance = max(np.abs(distribution - target).max() for distribution in end.values())
keep(forward_mode=one["forward"][mode], reverse_mode=one["reverse"][mode])
say(
    f"**Exact answer.** Forward: ({shown['forward']}). Reverse: ({shown['reverse']}). The *forward* KL gives the mode more, "
    f"the opposite of the published annotation. On logits the reverse gradient is p·(log(p/q) − KL(p‖q)): damped by p, which is "
    f"small just where mass is to go; the forward one is p − q. And both end at q itself (to {distance:.0e}): **verdict**, a "
    "policy that can be any distribution covers and seeks alike in the end. The directions differ on the way there, or where "
    "q is out of the family's reach."
)

# %% [markdown]
# **Exercise 3.** The gradient of the *reverse* KL, KL(p‖q), by the logits of p: a function of `(p, q)`.

# %%
answer = ...

exercises_04.reverse_kl_gradient(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(p, q):
#     log_ratio = np.log(p / q)
#     return p * (log_ratio - (p * log_ratio).sum())
# ```
#
# </details>
#
# ## 4. Where mode-seeking lives
#
# Two places, then. *On the way*: a target with two modes, and a start that nearly lacks one of them. *In the end*: a family
# of policies that cannot be q, here a single bump for a target with two.
#
# **Predict.** Left: which direction finds the second mode first, and how much earlier? Right: where does the bump go?

# %%
two_start, two_target = np.array([0.994, 0.002, 0.002, 0.002]), np.array([0.46, 0.04, 0.04, 0.46])
x = np.arange(100)
bumps = np.exp(-0.5 * ((x - 28) / 6) ** 2) + 0.7 * np.exp(-0.5 * ((x - 68) / 6) ** 2) + 1e-4
bimodal = np.log(bumps / bumps.sum())
centres, widths = np.linspace(0, 99, 199), np.geomspace(2, 60, 60)
family_logp = exact.log_softmax(-0.5 * ((x - centres[:, None, None]) / widths[:, None]) ** 2)
kls = {"forward": exact.kl_ref_policy(family_logp, bimodal), "reverse": exact.kl_policy_ref(family_logp, bimodal)}
best = {kind: np.unravel_index(kl.argmin(), kl.shape) for kind, kl in kls.items()}

reached = {}
with picture(columns=2, width=5.8, height=3.9) as (_, (left, right)):
    right.fill_between(x, np.exp(bimodal), color="0.8", label="target, two modes")
    for kind, (name, colour, line) in directions.items():
        path = kl_dynamics.follow(kind, "logits", two_start, two_target, eta=0.05, steps=6000)[:, -1]
        reached[kind] = 0.05 * (path >= two_target[-1] / 2).argmax()
        left.plot(0.05 * np.arange(1, 6001), path[1:], line, color=colour, label=name)
        right.plot(x, np.exp(family_logp[best[kind]]), line, color=colour, label=f"nearest bump, {kind}")
    left.axhline(two_target[-1], color="black", linestyle=":", linewidth=1, label="target")
    left.set(xscale="log", xlabel="η · steps", ylabel="probability of the missing mode", title="On the way")
    left.legend(fontsize=9, loc="center left")
    right.set(xlabel="response", ylabel="probability", title="In the end, in the family of single bumps")
    right.legend(fontsize=9)

# %%
inside = {kind: np.exp(family_logp[best[kind]])[20:37].sum() for kind in directions}
valley = {kind: np.exp(family_logp[best[kind]])[41:56].sum() for kind in directions}
keep(tolerance=1e-6, forward_reached=reached["forward"], reverse_reached=reached["reverse"])
say(
    f"**Verdict.** On the way: half of the missing mode after {reached['forward']:.2f} units of time forward, after "
    f"{reached['reverse']:.2f} reverse: {reached['reverse'] / reached['forward']:.0f} times as long, for the damping by p. In the "
    f"end: the reverse KL puts {inside['reverse']:.0%} on the larger mode and {valley['reverse']:.0%} between the two; the forward "
    f"KL puts {valley['forward']:.0%} between them, where the target has {np.exp(bimodal)[41:56].sum():.1%}. So *seeking* and "
    "*covering* describe policies that cannot be the target, or have not had the time. A language model is both."
)

# %% [markdown]
# ## What was taught
#
# - On fresh samples, imitation and contrast have one average direction; stale samples part them.
# - Off-policy imitation stops at what it imitates; off-policy contrast goes on, and must be stopped.
# - A negative gradient on own samples fades by itself, on recorded ones it does not.
# - Mode-seeking is a property of a direction of the KL *and* of what the policy can be and where it started.
#
# Notebook 5 turns the three knobs that make samples stale.

# %%
assert same < 1e-12 < other, "Best-of-2 and DPO: one direction on-policy, two off-policy"
assert abs(ends["Best-of-2, off-policy"] - ceiling) < 0.01, "off-policy imitation ends at what it imitates"
assert ends["DPO, off-policy"] > ceiling + 0.1, "off-policy contrast goes beyond"
assert min(ends["Best-of-2, on-policy"], ends["DPO, on-policy"]) > 0.9, "on-policy both get there"
assert apart < 0.02 and off[-1, 0] > on[-1, 0] + 0.1, "one path, two clocks"
assert one["forward"][mode] > one["reverse"][mode], "one step of the four categories: forward is ahead"
assert distance < 1e-3, "and both end at the target"
assert reached["reverse"] > 3 * reached["forward"], "the reverse KL is slow to a mode that the policy nearly lacks"
assert inside["reverse"] > 0.75 and valley["forward"] > 3 * valley["reverse"], "a single bump seeks, or covers"
