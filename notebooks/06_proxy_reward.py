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
# # 6. A reward model is not the reward: what happens when you optimise it?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/onoff/blob/main/notebooks/06_proxy_reward.ipynb)
#
# After this you can
#
# - read a picture of gold and proxy reward over KL, and say why the proxy cannot tell you where to stop;
# - say which errors of a reward model more pairs mend, and which only other responses do;
# - predict when an error is exploited in training, and tell a longer policy from a better one.
#
# You need notebooks 1 to 3. Time: 45 minutes, of which the computer takes less than one.

# %%
import importlib.util

from IPython import get_ipython

REPOSITORY = "https://github.com/OWNER/onoff"  # where the package is installed from if it is missing, as in Colab

if importlib.util.find_spec("sims") is None:
    get_ipython().run_line_magic("pip", f"install -q 'onoff-sims @ git+{REPOSITORY}'")

import numpy as np

import sims
from figures.again import fragile
from figures.arms import proxies as networks
from figures.gallery import gold_and_proxy, lm_preferences
from figures.reading import committed_records
from sims import exact
from sims.core.numerics.noise import Noise
from sims.teaching import BLUE, COLOURS, LINES, QUICK, VERMILION, curve, exercises_06, keep, picture, say, style

style()
RUNS, UPDATES = (6, 100) if QUICK else (20, 300)

# %% [markdown]
# ## 1. From pairs to a proxy
#
# So far the reward was given. In practice it is learned: people compare pairs of responses, a *reward model* is fitted to the
# comparisons (notebook 3: Bradley–Terry), and the policy is trained on what that model says. What the people wanted is the
# **gold** reward. What the policy sees is a **proxy**.
#
# Here gold is a bump at response 70. The reference draws 512 pairs; each is labelled by gold, with noise. The reward model is a
# sum of eight cosines over the line of responses, smooth, as a network would be. It is fitted exactly: this loss has one
# minimum. Twenty times: twenty sets of pairs, twenty proxies.
#
# **Predict.** Where will the twenty proxies agree with gold, and where with each other?

# %%
environment = sims.ProxyBandit(overlap=0.2, spread=10, label_temperature=0.25, num_pairs=512, num_features=8)
logp_ref, gold = environment.reference_logp()[0, 0], environment.rewards()[0]
proxies = environment.tables(Noise.of(0, 20))["scores"][:, 0]  # (20, 100)
# A score is known up to a constant only; we choose it so that the reference has the same mean of proxy as of gold.
proxies += float(exact.expected_reward(logp_ref, gold)) - exact.expected_reward(logp_ref, proxies)[:, None]
responses = np.arange(100)
shown = np.exp(logp_ref) * 2 * 512 > 1  # expected more than once among the 1,024 responses of the pairs

with picture(columns=2, width=5.8) as (_, (left, right)):
    left.bar(responses, np.exp(logp_ref), width=1.0, color="0.7", label="reference")
    left.plot(responses, 0.05 * gold, color=BLUE, label="gold (× 0.05)")
    left.set(xlabel="response", ylabel="probability", title="Who draws the pairs")
    left.legend()
    right.axvspan(*responses[shown][[0, -1]], color="0.88", label="in the pairs more than once")
    right.plot(responses, proxies.T, color=VERMILION, linestyle="--", alpha=0.35, linewidth=1)
    right.plot([], [], color=VERMILION, linestyle="--", label="20 proxies")
    right.plot(responses, gold, color=BLUE, linestyle="-", label="gold")
    right.set(xlabel="response", ylabel="reward", ylim=(-1.5, 3), title="What was learned")
    right.legend(loc="upper center", fontsize=9)

spread = proxies.std(0)
wrong = np.abs(proxies - gold).mean(0)
favourite = proxies.argmax(1)
say(
    f"**Verdict.** Where the pairs are (responses {responses[shown][0]} to {responses[shown][-1]}), a proxy is off by "
    f"{wrong[shown].mean():.2f} on average; elsewhere by {wrong[~shown].mean():.1f}, and the twenty disagree among each other by a "
    f"standard deviation of {spread[~shown].mean():.1f} (inside: {spread[shown].mean():.2f}). {int((~shown)[favourite].sum())} of the 20 "
    "have their largest score where they have seen nothing. No label is to blame: eight numbers were fitted to what was seen, and go on somehow."
)
keep(tolerance=1e-6, inside=wrong[shown].mean(), outside=wrong[~shown].mean())

# %% [markdown]
# **Exercise 1.** What moves a score? The slope of the loss Σ −log σ(s_w − s_l), summed over the pairs, by the score of each
# response: a function of `(scores, chosen, rejected)`; the last two hold the numbers of the responses of each pair.

# %%
answer = ...

exercises_06.fitting_slope(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(scores, chosen, rejected):
#     surprise = 1 / (1 + np.exp(scores[chosen] - scores[rejected]))  # 1 − σ(s_w − s_l)
#     slope = np.zeros_like(scores)
#     np.add.at(slope, chosen, -surprise)
#     np.add.at(slope, rejected, surprise)
#     return slope
# ```
#
# </details>
#
# ## 2. Pushing harder
#
# The best policy for a proxy is known exactly: π_ref·exp(proxy/β)/Z. A smaller β pushes harder, and goes further from the
# reference. Best-of-n by the proxy pushes harder with n.
#
# **Predict.** Sketch the *proxy* over KL(π‖π_ref), and the *gold* reward of the same policies. Which one turns? Could you see
# the turn without gold? Is best-of-n better or worse than the optimum at the same KL?

# %%
betas = np.geomspace(10, 0.01, 120)
optima = np.array([[exact.optimum(logp_ref, proxy, beta) for beta in betas] for proxy in proxies])  # (20, 120, 100)
kl = exact.kl_policy_ref(optima, logp_ref)
seen_reward = exact.expected_reward(optima, proxies[:, None])
true_reward = exact.expected_reward(optima, gold)
win = exact.win_rate(optima, np.broadcast_to(logp_ref, optima.shape), gold)
frontier = np.array([exact.optimum(logp_ref, gold, beta) for beta in betas])
frontier_kl, frontier_reward = exact.kl_policy_ref(frontier, logp_ref), exact.expected_reward(frontier, gold)

counts = 2 ** np.arange(0, 17)
best_of = np.array([[exact.best_of_n(logp_ref, proxy, int(n)) for n in counts] for proxy in proxies])  # (20, 17, 100)
best_of_log = np.log(np.maximum(best_of, 1e-300))
best_of_kl, best_of_gold = exact.kl_policy_ref(best_of_log, logp_ref), exact.expected_reward(best_of_log, gold)

with picture(columns=2, width=5.8, height=4) as (_, (left, right)):
    for axes, theirs, title in ((left, seen_reward, "What the learner sees"), (right, true_reward, "What was wanted")):
        axes.plot(kl.T, theirs.T, color=VERMILION, linestyle="--", linewidth=1, alpha=0.4)
        axes.plot([], [], color=VERMILION, linestyle="--", label="optima of the 20 proxies")
        axes.plot(frontier_kl, frontier_reward, color="black", linestyle="-", label="optima of gold")
        axes.set(xlabel="KL(π‖π_ref), nats", title=title, xlim=(0, 10))
    right.plot(
        best_of_kl.mean(0), best_of_gold.mean(0), "o:", color=BLUE, markersize=4, label="best of n by proxy, mean"
    )
    for n, dx in ((4, 8), (64, 8), (65536, 8)):
        at = list(counts).index(n)
        right.annotate(
            f"n = {n:,}", (best_of_kl.mean(0)[at], best_of_gold.mean(0)[at]),
            textcoords="offset points", xytext=(dx, -12), fontsize=9, color=BLUE,
        )  # fmt: skip
    left.set_ylabel("proxy reward")
    right.set_ylabel("gold reward")
    left.legend(loc="lower right")
    right.legend(loc="lower center", fontsize=9)

# %%
turns = true_reward.argmax(1)
kl_at_turn = np.take_along_axis(kl, turns[:, None], 1)[:, 0]
at_turn = true_reward.max(1)
fell = at_turn - true_reward[:, -1] > 0.05
rises = np.diff(seen_reward, axis=1).min()
say(
    f"**Verdict.** The proxy only ever rises. Gold rises with it at first, to {at_turn.mean():.2f} at {kl_at_turn.mean():.1f} nats in "
    f"the mean, and then {int(fell.sum())} of the 20 fall, to {true_reward[fell, -1].mean():.2f} in the mean "
    f"(the reference has {float(exact.expected_reward(logp_ref, gold)):.2f}). This is *over-optimisation* (Gao et al. 2022), and Goodhart's law: pushed hard "
    "enough, a measure selects its own errors. Nothing in the left panel shows the turn, and its place differs from proxy to proxy "
    f"(from {kl_at_turn[fell].min():.1f} to {kl_at_turn[fell].max():.1f} nats). Best-of-n pays more KL for the same gold at first, and falls later: the best of "
    f"65,536 still has {best_of_gold[:, -1].mean():.2f}, since it can choose nothing that was not drawn."
)
keep(tolerance=1e-6, kl_at_turn=kl_at_turn.mean(), at_turn=at_turn.mean(), best_of_65536=best_of_gold[:, -1].mean())

# %% [markdown]
# **Exercise 2.** The expected gold reward of the best of n by the proxy: a function of `(logp, proxy, gold, n)`. No two
# proxy scores are the same.

# %%
answer = ...

exercises_06.best_by_proxy(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(logp, proxy, gold, n):
#     p = np.exp(logp)
#     at_most = np.array([p[proxy <= s].sum() for s in proxy])
#     below = np.array([p[proxy < s].sum() for s in proxy])
#     return ((at_most**n - below**n) * gold).sum()
# ```
#
# </details>
#
# ## 3. Does a learner fall into it?
#
# The optimum is what an algorithm would reach if it saw everything. A learner sees samples. Three of them, each trained
# on its run's own proxy or pairs: RLOO with no price on the KL, so that its objective is the very fall of section 2; RLOO with
# β = 0.1; and DPO *offline*, on the recorded pairs, with no reward model at all.
#
# **Predict.** Which of the three loses gold in the end? Write down a KL and a gold reward for each.

# %%
common = dict(runs=RUNS, updates=UPDATES, learning_rate=0.1, evaluations=12)
learners = {
    "RLOO, β = 0": sims.run(sims.RLOO(), environment, **common),
    "RLOO, β = 0.1": sims.run(sims.RLOO(beta=0.1), environment, **common),
    "DPO on the pairs": sims.run(sims.DPO(beta=0.1), environment, source="dataset", batch_size=64, **common),
}
with picture(columns=2, width=5.8, height=4) as (_, (left, right)):
    left.plot(kl.T, true_reward.T, color="0.75", linestyle="-", linewidth=1)
    left.plot([], [], color="0.75", linestyle="-", label="optima of the proxies")
    for (name, run), colour, line in zip(learners.items(), COLOURS, LINES, strict=False):
        left.plot(
            run.kl_policy_ref.mean(0),
            run.gold.mean(0),
            color=colour,
            linestyle=line,
            marker="o",
            markersize=4,
            label=name,
        )
        curve(right, run.updates, run.gold, name, color=colour, linestyle=line)
    left.set(
        xlabel="KL(π‖π_ref), nats", ylabel="gold reward", xlim=(0, 10), title=f"Mean of {RUNS} runs, each its own proxy"
    )
    left.legend(loc="upper right", fontsize=9)
    right.set(xlabel="updates", ylabel="gold reward", title="95 % bands", ylim=(0.1, 1.03))
    right.legend(loc="lower right")

# %%
free = learners["RLOO, β = 0"]
final = {name: (run.kl_policy_ref[:, -1].mean(), run.gold[:, -1].mean()) for name, run in learners.items()}
samples = int(free.samples[-1])
trap = ~shown[proxies.argmax(1)]
# How often the reference would show any response that its run's proxy prefers to the best response of gold.
overrated = np.array(
    [np.exp(logp_ref)[proxy > proxy[70]][np.abs(responses[proxy > proxy[70]] - 70) > 15].sum() for proxy in proxies]
)
say(
    "**Verdict.** None, here. They end at "
    + ", ".join(f"{g:.2f} of gold after {k:.1f} nats ({name})" for name, (k, g) in final.items())
    + f". RLOO without a price on KL *wants* the fall: its optimum is the proxy's favourite, which is a bad response for {int(trap.sum())} of 20 proxies. But it "
    f"drew {samples:,} samples, and the reference gives the overrated far responses with probability {np.median(overrated):.0e} (median). What no "
    "sample shows, no gradient finds (notebook 9, symptom 4: a rare hack is found by one seed in many). DPO on the pairs "
    "has no reward model, and a policy with a number of its own for each response: it cannot extend an error to what it "
    "has not seen, but it learns the *noise* of its labels instead, and ends below. **Over-optimisation takes two: an error, "
    "and a path to it.** Exploration, a larger policy, more samples or a network that generalises shorten the path."
)
keep(tolerance=0.06, sized=True, **{f"gold_{i}": g for i, (_, g) in enumerate(final.values())})

# %% [markdown]
# ## 4. More pairs, or other pairs?
#
# The remedy that comes to mind is more data. Give the reward model from 64 to 16,384 pairs, drawn by the reference; or the
# same number, of which one response in ten is drawn evenly from *all* responses.
#
# **Predict.** Which has the larger accuracy on the reference's own pairs? And which is the better reward to optimise hard, at
# β = 0.01: 16,384 pairs of the reference, or 256 mixed ones?

# %%
sizes = (64, 256, 4096) if QUICK else (64, 256, 1024, 4096, 16384)
repeats = 6 if QUICK else 20
truth = exact.preference_matrix(gold, temperature=environment.label_temperature)
ordered = np.sign(gold[:, None] - gold)


def agreement(scores, weight):
    """How often scores order two responses as gold does, each drawn from `weight`, of those that gold tells apart."""
    both = weight[:, None] * weight * (ordered != 0)
    return (both * (np.sign(scores[:, None] - scores) == ordered)).sum() / both.sum()


even = np.full(100, 0.01)
random = np.random.default_rng(1)
arms = {"the reference": 0.0, "one in ten drawn evenly": 0.1}
at_home, pushed = {}, {}
for name, share in arms.items():
    draws_from = (1 - share) * np.exp(logp_ref) + share * even
    at_home[name], pushed[name] = np.zeros((len(sizes), repeats)), np.zeros((len(sizes), repeats))
    for i, size in enumerate(sizes):
        for repeat in range(repeats):
            pairs = random.choice(100, p=draws_from, size=(size, 2))
            labels = (random.uniform(size=size) < truth[pairs[:, 0], pairs[:, 1]]).astype(float)
            scores = environment.fit(np.zeros(size, dtype=int), pairs, labels)[0][0]
            at_home[name][i, repeat] = agreement(scores, np.exp(logp_ref))
            pushed[name][i, repeat] = exact.expected_reward(exact.optimum(logp_ref, scores, 0.01), gold)

with picture(columns=2, width=5.8) as (_, (left, right)):
    for axes, found in ((left, at_home), (right, pushed)):
        for i, (name, colour, line) in enumerate(zip(arms, COLOURS, LINES, strict=False)):
            axes.plot(sizes, found[name].mean(1), color=colour, linestyle=line, marker="os"[i], label=name)
            axes.plot(np.array(sizes) * (0.94, 1.06)[i], found[name], "os"[i], color=colour, alpha=0.25, markersize=3)
        axes.set(xscale="log", xlabel="pairs")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
    left.set(ylabel="accuracy on pairs of the reference", title="How good the reward model looks")
    right.set(ylabel="gold reward of its optimum, β = 0.01", title="What it is worth when pushed", ylim=(-0.05, 1.05))
    left.legend(title="responses drawn from", loc="lower right")

# %%
many, few = sizes[-1], 256
worst = pushed["the reference"][-1].min()
say(
    f"**Verdict.** With {many:,} pairs of its own the reference's reward model orders {at_home['the reference'][-1].mean():.2f} of the reference's pairs as gold does; "
    f"the mixed one with {few} orders {at_home['one in ten drawn evenly'][1].mean():.2f}. Yet the policy that pushes the first has "
    f"{pushed['the reference'][-1].mean():.2f} of gold in the mean and {worst:.2f} in the worst of {repeats}; the second has "
    f"{pushed['one in ten drawn evenly'][1].mean():.2f}, and {pushed['one in ten drawn evenly'][1].min():.2f} in the worst. "
    "Held-out accuracy is measured where the pairs came from, and the policy goes elsewhere. Pairs mend the error where they "
    "are: **coverage, not number**. This is also why one labels again with the policy's own responses as it moves."
)
keep(
    tolerance=0.05,
    sized=True,
    accuracy_many=at_home["the reference"][-1].mean(),
    mixed_few=pushed["one in ten drawn evenly"][1].mean(),
)

# %% [markdown]
# ## 5. The length that was liked
#
# Now an error that is *not* out of reach. Responses are sequences of up to four tokens, and end early by an end-of-sequence
# token. Gold is some number for each of the 31 responses. But people who compare take a longer answer for a better one: a
# token of length counts as 0.3 of reward to them. The reward model is a bag of words: a score for each token.
#
# **Predict.** What will the policy's length do, its proxy reward, and its *win rate* by gold against the reference?

# %%
TREES, BIAS = (10, 0.3) if QUICK else (40, 0.3)
one = dict(table_seed=27, vocabulary=3, max_length=4, num_pairs=512, label_temperature=0.25)
train = dict(runs=RUNS, updates=UPDATES, learning_rate=0.03, evaluations=12)
fair = sims.run(sims.RLOO(beta=0.05), sims.ProxyTree(**one), **train)
biased = sims.run(sims.RLOO(beta=0.05), sims.ProxyTree(length_bias=BIAS, **one), **train)

with picture(columns=3, width=4.2) as (_, panels):
    for axes, what, label in (
        (panels[0], "reward", "proxy reward, from the start"),
        (panels[1], "length", "expected length, tokens"),
        (panels[2], "win_rate", "win rate by gold, against the reference"),
    ):
        for run, name in ((fair, "fair labels"), (biased, "labels that like length")):
            values = getattr(run, what)
            curve(axes, run.updates, values - values[:, :1] if what == "reward" else values, name)
        axes.set(xlabel="updates", ylabel=label)
    panels[2].axhline(0.5, color="black", linestyle=":", linewidth=1)
    panels[1].legend(loc="center right", fontsize=9)

say(
    f"**Verdict.** The proxy of the biased labels rises by {(biased.reward[:, -1] - biased.reward[:, 0]).mean():.2f}: the better looking of the two "
    f"curves. Its length goes from {biased.length[:, 0].mean():.1f} to {biased.length[:, -1].mean():.1f} tokens of 4 (fair: {fair.length[:, -1].mean():.1f}), and it "
    f"wins against the reference {biased.win_rate[:, -1].mean():.0%} of the time, by gold (fair: {fair.win_rate[:, -1].mean():.0%}). Unlike in section 3 the way "
    "is short: every sample that is one token longer earns more, from the first update on."
)
keep(tolerance=0.06, sized=True, win_fair=fair.win_rate[:, -1].mean(), win_biased=biased.win_rate[:, -1].mean())

# %% [markdown]
# That was one tree, and it was chosen: in it, longer responses are not better. So here are many, drawn by lot, and for
# each the exact optimum of its proxies at β = 0.1. And a remedy: take a *length penalty* of c per token off the proxy.
#
# **Predict.** Does the length bias always lower gold? Which c is best?

# %%
penalties = np.linspace(0, 0.6, 13)


def change(policies, logp, worth):
    """By how much more the policies have of something than the reference has, in the mean."""
    return (exact.expected_reward(policies, worth) - exact.expected_reward(logp, worth)).mean()


longer, gained, mended = {}, {}, np.zeros((TREES, len(penalties)))
for bias in (0.0, BIAS):
    longer[bias], gained[bias] = np.zeros(TREES), np.zeros(TREES)
    for seed in range(TREES):
        tree = sims.ProxyTree(**one | dict(table_seed=seed, length_bias=bias))
        logp_tree, gold_tree, lengths = np.log(tree.response_probabilities()[0]), tree.rewards()[0], tree.lengths()
        scores = tree.tables(Noise.of(0, 6))["scores"][:, 0]
        best = np.array([exact.optimum(logp_tree, s, 0.1) for s in scores])
        longer[bias][seed], gained[bias][seed] = change(best, logp_tree, lengths), change(best, logp_tree, gold_tree)
        if bias:
            for i, c in enumerate(penalties):
                shorter = np.array([exact.optimum(logp_tree, s - c * lengths, 0.1) for s in scores])
                mended[seed, i] = change(shorter, logp_tree, gold_tree)

with picture(columns=2, width=5.8) as (_, (left, right)):
    for bias, marker, colour, name in (
        (0.0, "o", BLUE, "fair labels"),
        (BIAS, "s", VERMILION, "labels that like length"),
    ):
        left.plot(longer[bias], gained[bias], marker, color=colour, label=name, alpha=0.7)
    left.axhline(0, color="black", linewidth=0.8)
    left.set(
        xlabel="change of the expected length, tokens",
        ylabel="change of gold",
        title=f"{TREES} trees, exact optima, β = 0.1",
    )
    left.legend(loc="lower left", fontsize=9)
    curve(right, penalties, mended, "labels that like length", color=VERMILION)
    right.axhline(gained[0.0].mean(), color=BLUE, linestyle="--", label="fair labels, no penalty")
    right.axvline(BIAS, color="black", linestyle=":", label="the bias")
    right.set(
        xlabel="length penalty c, reward per token", ylabel="change of gold", title="A penalty, mean and 95 % band"
    )
    right.legend(loc="upper left", fontsize=9)
    right.set_ylim(top=0.19)

# %%
best_penalty = penalties[mended.mean(0).argmax()]
lowered = int((gained[BIAS] < gained[0.0]).sum())
say(
    f"**Verdict.** In {lowered} of {TREES} trees gold ends lower with the bias than without; the mean is {gained[BIAS].mean():+.3f} against {gained[0.0].mean():+.3f}, "
    f"with {longer[BIAS].mean():+.1f} tokens against {longer[0.0].mean():+.1f}. Not always: where longer responses happen to be better, the bias even helps. Of the "
    f"penalties {best_penalty:.2f} is the best, and there gold is back at {mended.mean(0).max():+.3f}; the bias was {BIAS}. Too large a penalty is a bias of its own. In the proxy "
    "alone none of this can be seen: a bag of words has no way to tell a good long answer from a liked one."
)
keep(tolerance=1e-6, sized=True, biased=gained[BIAS].mean(), fair=gained[0.0].mean(), best_penalty=best_penalty)

# %% [markdown]
# **Exercise 3.** The win rate, exactly: the probability that a response of one policy has more reward than an independent one of
# another, ties one half. A function of `(logp, logp_other, rewards)`.

# %%
answer = ...

exercises_06.win_rate(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(logp, logp_other, rewards):
#     better = (np.sign(rewards[:, None] - rewards) + 1) / 2  # 1, ½ or 0
#     return np.exp(logp) @ better @ np.exp(logp_other)
# ```
#
# </details>
#
# ## 6. What trained networks do
#
# A table keeps an error where it was made; a network carries it to other responses. The package has tested what the
# literature says of learned rewards on networks that learn from 128 pairs, on sequences, and on a tiny language model whose
# reward model learns from 512. Before the runs each row named an effect, its sign, and a margin that would matter. The records
# are part of the package, and are read here.
#
# **Predict.** Which of these claims hold, and where: *online RL exploits a reward model's errors* (C11), *DPO errs through data
# that it has not seen, too* (C12), *online beats offline at equal KL* (C13), *gold rises, then falls* (C14), *a length bias is
# hacked online* (C42)?

# %%
ASKED = ("C11", "C12", "C13", "C14", "C42")
NAMES = {"mlp": "networks", "token": "sequences", "lm": "the language model"}
figures = (gold_and_proxy.FIGURE, lm_preferences.FIGURE)
rows = [row for figure in figures for row in figure.verdicts(committed_records(figure))]
tested = sorted((fragile(row) for row in rows if row.id in ASKED), key=lambda row: ASKED.index(row.id))
states = {(row.id, row.setting): [] for row in tested}
for row in tested:
    states[row.id, row.setting].append(row.verdict)
lines = [
    f"| {row.id} {row.part} | {row.setting} | {row.effect:+.2f} [{row.low:+.2f}, {row.high:+.2f}] | {row.wanted} | {row.verdict} |"
    for row in tested
]
say(
    "| row | on | effect [95 %] | claimed | state |\n|---|---|---|---|---|\n"
    + "\n".join(lines)
    + "\n\n**Verdict.** "
    + "; ".join(
        f"{id} on {NAMES[where]}: " + ", ".join(f"{found.count(state)} {state}" for state in dict.fromkeys(found))
        for (id, where), found in states.items()
    )
    + ". *Too small*: the effect is below the margin. *Inconclusive*: the interval has both sides of the margin, or as good "
    "a test came out otherwise. *No test*: the effect could not have come out otherwise, or is not about the claim. Only the "
    "first of these is an answer."
)
keep(rows=len(tested))
keep(tolerance=1e-6, **{f"effect_{i}": row.effect for i, row in enumerate(tested)})

# %% [markdown]
# The length bias of section 5 is exploited wherever it was tried. The fall of section 2 is another matter: it is a fall of the
# *optimum*, and a learner has to get there. No row of C14 on the networks, which were trained for 160 updates, says that gold
# fell by more than the margin. The language model got there online: with DPO and with PPO, its gold falls once the reward
# model is pushed hard. The report has each row with its gates and history.
#
# ## What was taught
#
# - Optimised hard, a proxy's own errors are selected. The proxy rises all the while; only gold shows the turn.
# - Whether a learner falls in depends on the way there: a far error may never be sampled, a bias that pays at every step is.
# - More pairs from where the policy was do not help where it goes. Accuracy on held-out pairs does not see that.
# - A length bias in the labels makes longer policies, and better ones only by luck.
# - The turn of an optimum is exact; whether a trained policy goes that far is a question for runs, with a margin and a state.

# %%
assert wrong[~shown].mean() > 3 * wrong[shown].mean(), "a reward model is wrong where it has seen nothing"
assert rises > -1e-9, "the proxy of its own optimum rises as β falls"
assert fell.sum() >= 5 and (true_reward[fell, -1] < at_turn[fell]).all(), "gold turns for many proxies"
assert free.gold[:, -1].mean() > 0.9 > true_reward[:, -1].mean(), (
    "a learner that never samples an error does not exploit it"
)
assert learners["DPO on the pairs"].gold[:, -1].mean() < free.gold[:, -1].mean(), "DPO learns the noise of its labels"
assert pushed["one in ten drawn evenly"][1].mean() > pushed["the reference"][-1].mean(), "coverage, not number"
assert at_home["the reference"][-1].mean() > 0.85, "and accuracy where the pairs came from does not show it"
assert biased.length[:, -1].mean() > fair.length[:, -1].mean() + 1, "a length bias is exploited"
assert biased.win_rate[:, -1].mean() < fair.win_rate[:, -1].mean() - 0.05, "and does not make a better policy"
assert gained[BIAS].mean() < gained[0.0].mean() and best_penalty > 0, "a penalty gives back some of what a bias takes"
assert set(states["C42", "token"]) == {"supported"}, "a length bias is exploited wherever it was tried"
assert set(states["C14", "mlp"]) <= {"too small", "inconclusive"}, "no row says that trained networks turn"
online = {
    row.part.partition(",")[0]
    for row in tested
    if row.id == "C14" and row.setting == "lm" and row.verdict == "supported"
}
assert online == {"dpo", "ppo"}, "the language model turns online, by either algorithm"
assert (networks.UPDATES, networks.PAIRS, lm_preferences.PAIRS) == (160, 128, 512), "what the text says of the runs"
