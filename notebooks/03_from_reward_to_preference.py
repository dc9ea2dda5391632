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
# # 3. If all you know is which of two responses is better, what can you learn?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/onoff/blob/main/notebooks/03_from_reward_to_preference.ipynb)
#
# People seldom give rewards; they say which of two responses they like better. This notebook goes from rewards to
# preferences (Bradley and Terry 1952), from the optimum of notebook 1 to DPO (Rafailov et al. 2023), and then to the
# places where DPO's assumptions break.
#
# After this you can
#
# - say what preferences reveal about a reward, and what they never do;
# - derive DPO's loss in four lines, and say which policy it has as its minimum, and under which labels;
# - predict when the *chosen* response loses probability, and when responses that no data show gain it;
# - say why noiseless labels leave DPO without an optimum, and what IPO changes.
#
# You need notebook 1: the optimum π\* = π_ref·exp(r/β)/Z. Time: 40 minutes, of which the computer takes less than one.

# %%
import importlib.util

from IPython import get_ipython

REPOSITORY = "https://github.com/OWNER/onoff"  # where the package is installed from if it is missing, as in Colab

if importlib.util.find_spec("sims") is None:
    get_ipython().run_line_magic("pip", f"install -q 'onoff-sims @ git+{REPOSITORY}'")

import numpy as np

import sims
from sims import exact
from sims.teaching import QUICK, curve, exercises_03, keep, picture, say, style

style()
RUNS = 8 if QUICK else 20

# %% [markdown]
# ## 1. A preference is a coin whose bias is a difference of rewards
#
# Bradley and Terry's model says that the first of two responses is preferred with probability σ(r₁ − r₂), where
# σ(x) = 1/(1 + e^{−x}).
#
# **Predict.** Somebody adds 5 to every reward. What do the labellers say now? And: how many labels does it take to see
# that one response is better by 0.5?

# %%
rng = np.random.default_rng(0)
gaps, labels = np.linspace(-3, 3, 13), 100
won = rng.random((len(gaps), labels)) < 1 / (1 + np.exp(-gaps[:, None]))

counts = np.array([3, 10, 30, 100, 300, 1000])
wins = np.array([[rng.binomial(n, 1 / (1 + np.exp(-0.5))) for _ in range(2000)] for n in counts])
# Half a win for each side keeps the estimate finite where one side has won every time.
estimates = np.log((wins + 0.5) / (counts[:, None] - wins + 0.5))
low, middle, high = np.quantile(estimates, [0.025, 0.5, 0.975], axis=1)

with picture(columns=2) as (_, (left, right)):
    fine = np.linspace(-3.2, 3.2, 200)
    left.plot(fine, 1 / (1 + np.exp(-fine)), label="σ(r₁ − r₂)")
    share = won.mean(1)
    half = 1.96 * np.sqrt(share * (1 - share) / labels)
    left.errorbar(gaps, share, half, fmt="o", color="#D55E00", markersize=4, label=f"share of {labels} labels, 95 %")
    left.set(xlabel="r₁ − r₂", ylabel="P(first is preferred)", title="Only the difference counts")
    left.legend()
    right.fill_between(counts, low, high, alpha=0.2, linewidth=0)
    right.plot(counts, middle, "o-", label="estimate: median, 95 % of 2000 draws")
    right.axhline(0.5, color="black", linestyle=":", label="true r₁ − r₂")
    right.axhline(0, color="0.6", linewidth=1, linestyle="-")
    right.set(xscale="log", xlabel="labels of one pair", ylabel="estimated r₁ − r₂", title="What labels tell")
    right.legend()

# %%
rewards = np.array([0.0, 0.5, 1.0, 2.0])
moved = np.abs(exact.preference_matrix(rewards + 5.0, 1.0) - exact.preference_matrix(rewards, 1.0)).max()
first_clear = counts[low > 0][0]
say(
    f"**Verdict.** With 5 more for everybody no preference moves (largest change: {moved:.0e}): *a constant for each "
    f"prompt can never be learned from preferences*. It takes some {first_clear} labels of the same pair until 95 % of "
    "all estimates have the right sign. Labels are cheap to give and poor in information."
)

# %% [markdown]
# **Exercise 1.** Write a function of `(rewards)`, N numbers, that returns an (N, N) array: row i, column j is the
# probability that i is preferred to j. The checker tries it on random problems and says what is wrong.

# %%
answer = ...

exercises_03.preference_probability(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(rewards):
#     return 1 / (1 + np.exp(-(rewards[:, None] - rewards)))
# ```
#
# </details>
#
# ## 2. DPO: the reward that a policy implies
#
# The obvious way is to fit a *reward model*, a function that predicts rewards, to the preferences, and then to maximise what
# it predicts. Four lines lead from notebook 1 to a loss that needs none.
#
# 1. The optimum under a KL penalty is π\*(y) = π_ref(y)·exp(r(y)/β)/Z.
# 2. Solve it for the reward: r(y) = β·log(π\*(y)/π_ref(y)) + β·log Z.
# 3. Preferences only need a difference, and Z cancels:
#    r_w − r_l = β·[log(π\*(w)/π_ref(w)) − log(π\*(l)/π_ref(l))] = β·h.
# 4. So fit the policy as one fits a reward model: minimise −log σ(β·h) over pairs, w the chosen, l the rejected.
#
# β·log(π/π_ref) is the *implicit reward* of a policy.
#
# **Predict.** Preferences are drawn by Bradley–Terry from true rewards, and DPO is trained on its own fresh samples.
# Where does it end? Does it need a reward model to get there?

# %%
beta, N = 0.5, 6
environment = sims.BanditR1(num_actions=N, peak=4, width=1.5, label_temperature=1.0)
logp_ref, rewards = environment.reference_logp()[0, 0], environment.rewards()[0]
optimum = exact.optimum(logp_ref, rewards, beta)

# What DPO does on average: gradient descent on its expected loss, over every pair and label that could be drawn.
average = exact.follow_gradient(
    sims.DPO(beta=beta), logp_ref, rewards, learning_rate=20.0, updates=400, label_temperature=1.0
)
# What it does on samples: the package's DPO, 20 runs.
updates = 100 if QUICK else 400
sampled = sims.run(sims.DPO(beta=beta), environment, updates=updates, runs=RUNS, learning_rate=0.02, batch_size=128)
final = np.exp(sampled.logp_final[:, 0].astype(float))

with picture(columns=2, width=5.5) as (_, (left, right)):
    x = np.arange(N)
    bars = [(np.exp(logp_ref), "0.75", "", "reference"), (np.exp(optimum), "#0072B2", "//", "π*, exact")]
    for i, (p, colour, hatch, label) in enumerate(bars):
        left.bar(x + 0.27 * (i - 1), p, 0.25, color=colour, hatch=hatch, edgecolor="white", label=label)
    half = 1.96 * final.std(0, ddof=1) / np.sqrt(RUNS)
    left.bar(x + 0.27, final.mean(0), 0.25, yerr=half, color="#D55E00", label=f"DPO, {RUNS} runs, 95 %")
    left.set(xlabel="response", ylabel="probability", title="Where DPO ends")
    left.legend()
    implied = beta * (np.log(final) - logp_ref)
    implied -= implied.mean(1, keepdims=True)
    true = rewards - rewards.mean()
    right.plot([true.min(), true.max()], [true.min(), true.max()], color="black", linestyle=":", label="equal")
    half = 1.96 * implied.std(0, ddof=1) / np.sqrt(len(implied))
    right.errorbar(true, implied.mean(0), half, fmt="o", color="#D55E00", label="DPO's runs, 95 %")
    right.set(xlabel="true reward − mean", ylabel="β·log(π/π_ref) − mean", title="Its implicit reward")
    right.legend()

# %%
gap = np.abs(np.exp(average[-1]) - np.exp(optimum)).max()
keep(distance_to_optimum=gap)
say(
    f"**Exact answer.** DPO's average update ends at π\\*, to {gap:.0e} in every probability; sampled runs scatter about "
    "it. **Verdict.** With Bradley–Terry labels at the reward's own scale, and pairs that show every response, DPO "
    "solves the same problem as RL under a KL penalty, and the policy *is* the reward model. Each of these conditions "
    "can fail, and the rest of this notebook breaks them one by one."
)

# %% [markdown]
# **Exercise 2.** DPO's loss of each of several pairs: a function of
# `(logp_chosen, logp_rejected, ref_chosen, ref_rejected, beta)`.

# %%
answer = ...

exercises_03.dpo_loss(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(logp_chosen, logp_rejected, ref_chosen, ref_rejected, beta):
#     margin = (logp_chosen - ref_chosen) - (logp_rejected - ref_rejected)
#     return np.log1p(np.exp(-beta * margin))  # -log sigmoid(x) = log(1 + exp(-x))
# ```
#
# </details>
#
# ## 3. Where it bites, first: the chosen response can lose
#
# The loss knows only the *difference* h. Take one recorded pair and train on it again and again.
#
# **Predict.** Will the chosen response become likelier? Once for a table, where every response has a logit of its own;
# once for a policy whose logits are z = Φ·θ, so that responses with similar features move together, as in any network.

# %%
names = ["chosen", "rejected", "never shown, unlike the rejected", "never shown, unrelated"]
reference = np.log([0.3, 0.3, 0.2, 0.2])
features = np.array([[1.0, 0.2, 0.0], [1.6, -0.6, 0.0], [-0.3, 1.0, 0.0], [0.0, 0.0, 1.0]])
one_pair, prefers_first = np.eye(4)[[0, 1]], [1.0, 0.0, 0.0, 0.0]


def train(kernel):
    return exact.follow_gradient(
        sims.DPO(beta=0.5), reference, prefers_first, learning_rate=0.5, updates=60, sampler=one_pair, kernel=kernel
    )


followed = {"a table": train(None), "shared features": train(features @ features.T)}
with picture(columns=2, width=5.5) as (_, panels):
    for panel, (title, logp) in zip(panels, followed.items(), strict=True):
        for name, change in zip(names, (logp - logp[0]).T, strict=True):
            panel.plot(change, label=name)
        panel.axhline(0, color="0.5", linewidth=0.8, linestyle="-")
        panel.set(xlabel="updates", ylabel="log π − log π_ref, nats", title=f"One pair, {title}")
    panels[0].set_ylim(panels[1].get_ylim())
    panels[0].legend(loc="lower left")

# %% [markdown]
# The exact reason takes one line. A step on the pair moves θ along φ_w − φ_l, so the chosen response's log-probability
# moves, at first, along
#
# (φ_w − Σ_y π(y)·φ_y) · (φ_w − φ_l).
#
# In a table the features are the unit vectors, and this is 1 − π(w) + π(l): always positive. With shared features it is
# negative where the chosen response points the same way as the rejected one, but less far: a *better* answer made of the
# same words. Razin et al. (2024) call what follows likelihood displacement.

# %%
direction_shared = (features[0] - np.exp(reference) @ features) @ (features[0] - features[1])
direction_table = 1 - np.exp(reference[0]) + np.exp(reference[1])
falls = {title: logp[-1, 0] < logp[0, 0] for title, logp in followed.items()}
to_third = np.exp(followed["shared features"][-1, 2])
margins = {title: np.diff((logp[-1] - logp[0])[[1, 0]])[0] for title, logp in followed.items()}
keep(
    direction_shared=direction_shared,
    direction_table=direction_table,
    third=to_third,
    margin_shared=margins["shared features"],
)
say(
    f"**Verdict.** First direction of the chosen response: {direction_table:+.2f} in a table, {direction_shared:+.2f} with shared features. "
    f"After training, the margins are {margins['a table']:.1f} and {margins['shared features']:.1f} nats: by its own loss "
    "DPO did well both times. But with shared features *both* responses of the pair fell, and a response that no pair "
    f"shows holds {to_third:.0%} of the mass. A loss on differences does not say where the mass goes."
)

# %% [markdown]
# ## 4. Second: responses that no data show
#
# Xu et al. (2024) ask whether DPO favours responses outside its data. Here are 8 prompts with 8 responses each, and one
# recorded pair for each prompt, so that 6 of the 8 responses are never shown (`sims.Contextual`). A table and a network
# learn from it; the reference is nearly uniform, or favours the responses that lose in the pairs.
#
# **Predict** for each of the four: does the mass on unseen responses grow or shrink? Does the end of the curve have the
# same sign as its start? And does the chosen response rise?

# %%
UPDATES = 120 if QUICK else 600
policies = {"table": (sims.Table(), 0.03), "network (MLP)": (sims.MLP(hidden=(32, 32), fit_steps=200), 0.003)}
references = {"none": "Nearly uniform reference", "losers": "Reference favours the losers"}
results = {}
for tilt in references:
    for name, (policy, rate) in policies.items():
        environment = sims.Contextual(coverage=0.25, tilt=tilt)
        data = dict(source="dataset", batch_size=environment.recorded_pairs)
        settings = dict(updates=UPDATES, runs=RUNS, learning_rate=rate)
        results[tilt, name] = sims.run(sims.DPO(beta=0.5), environment, policy, **settings, **data)

with picture(columns=3, width=4.4) as (_, (*panels, right)):
    for panel, (tilt, title) in zip(panels, references.items(), strict=True):
        for name in policies:
            curve(panel, results[tilt, name].updates, results[tilt, name].unseen_mass, name)
        start = results[tilt, "table"].unseen_mass[:, 0].mean()
        panel.axhline(start, color="black", linestyle=":", linewidth=1, label="at the start")
        panel.set(xlabel="updates", ylabel="mass on unseen responses", ylim=(0, 1), title=title)
        panel.legend(loc="center right", bbox_to_anchor=(1, 0.57))
    for name in policies:
        result = results["none", name]
        change = result.logp_chosen[:, 1:] - result.logp_chosen[:, 1:2]  # the first evaluation is before any batch
        curve(right, result.updates[1:], change, name)
    right.axhline(0, color="black", linestyle=":", linewidth=1)
    right.set(xlabel=f"updates, from {result.updates[1]} on", ylabel="change of the chosen's log π, nats")
    right.set_title("Nearly uniform reference")
    right.legend()

# %%
unseen = {key: result.unseen_mass.mean(0) for key, result in results.items()}
chosen = {name: results["none", name].logp_chosen.mean(0) for name in policies}
table, network = unseen["losers", "table"], unseen["losers", "network (MLP)"]
keep(tolerance=0.15, sized=True, rise=table.max() - table[0], network_rise=network[-1] - network[0])
say(
    f"**Verdict.** In a *table* the unseen mass ends low, at {unseen['none', 'table'][-1]:.2f} and {table[-1]:.2f}. But "
    f"where the reference favours losers it rises first, {table[0]:.2f} → {table.max():.2f}: pushing a likely response "
    "down frees mass, which goes to everything else until the chosen one has taken over. In the *network* it rises and "
    f"stays, {network[0]:.2f} → {network[-1]:.2f}, and from the nearly uniform reference {unseen['none', 'network (MLP)'][0]:.2f} "
    f"→ {unseen['none', 'network (MLP)'][-1]:.2f}: prompts share their hidden layers, and the chosen response itself loses "
    f"{chosen['network (MLP)'][1] - chosen['network (MLP)'][-1]:.1f} nats, as in section 3. So whether DPO favours unseen responses "
    "depends on the reference, on what the policy shares, and on when you stop. "
    "(`python -m figures unseen_responses` sweeps all three, and compares with RL on a reward model of the same pairs.)"
)

# %% [markdown]
# ## 5. Third: squeezing
#
# Now look at the negative half of the loss alone: take a policy, and make *one* response less likely by a gradient step
# on its log-probability.
#
# **Predict.** You push down a response that is already rare. Who gets its mass, and does anybody else lose?

# %%
p = np.array([0.44, 0.25, 0.15, 0.08, 0.05, 0.03])
rejected, steps = 5, 50


def push_down(problem):
    """The weight ∂L/∂ℓ of the loss L = log π(rejected): a negative gradient, on recorded data."""
    return np.eye(len(p))[rejected]


pushed = np.exp(exact.follow_gradient(push_down, np.log(p), np.zeros(len(p)), learning_rate=0.2, updates=steps))
move = p - np.eye(len(p))[rejected]  # what a small step adds to the logits
threshold = (p * move).sum()
with picture(columns=2, width=5.5) as (_, (left, right)):
    change = p * (move - threshold)
    for sign, colour, hatch, label in ((1, "#0072B2", "", "gains"), (-1, "#D55E00", "//", "loses")):
        part = np.where(np.sign(change) == sign, change, 0.0)
        left.bar(np.arange(len(p)), part, color=colour, hatch=hatch, edgecolor="white", label=label)
    left.axhline(0, color="black", linewidth=0.8, linestyle="-")
    left.set_xticks(range(len(p)), [f"{x:.2f}" for x in p])
    left.set(xlabel="response, by its probability (the last is pushed down)", ylabel="dπ/dη", title="One small step")
    left.legend()
    for i, path in enumerate(pushed.T):
        right.plot(0.2 * np.arange(steps + 1), path, label=f"{p[i]:.2f}" + (", pushed down" if i == rejected else ""))
    right.set(xlabel="η · updates", ylabel="probability", title="Many steps", ylim=(0, 1))
    right.legend(title="at the start", fontsize=8, loc="center right")

# %%
losers = [f"{x:.2f}" for x, c in zip(p[:-1], change[:-1], strict=True) if c < 0]
keep(threshold=threshold, largest=pushed[-1, 0])
say(
    f"**Exact answer.** With Δz, what the step adds to the logits, log π(y) changes by Δz(y) − Σ π·Δz. For a response that is not "
    f"pushed Δz(y) = π(y), so it loses exactly where π(y) < Σ π·Δz = {threshold:.3f}. **Verdict.** Nobody asked for it, "
    f"but the responses with {', '.join(losers)} lose as well; only those above the threshold gain, and in the long run "
    f"the likeliest one takes all: {p[0]:.2f} → {pushed[-1, 0]:.2f}. Ren and Sutherland (2024) call it squeezing. The "
    "rarer the rejected response, the nearer the threshold is to Σ π², and the more of the others pay."
)

# %% [markdown]
# **Exercise 3.** A function of `(p, rejected)`, the probabilities and the number of one response, that returns a Boolean
# array: which probabilities fall in a small gradient step that pushes this response down?

# %%
answer = ...

exercises_03.falls_when_pushed(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(p, rejected):
#     move = p - np.eye(len(p))[rejected]  # -d(log p_rejected)/dz
#     return move - (p * move).sum() < 0   # d(log p) = dz - the average of dz under p
# ```
#
# </details>
#
# ## 6. Fourth: labels without noise have no optimum
#
# In section 2 the labels were noisy: the better response won with probability σ(r_w − r_l). Suppose now that the better
# one *always* wins, as with a majority vote, a verifier, or a single label of each pair in the data.
#
# **Predict.** Which margin h does DPO stop at? Does a larger β help? IPO (Azar et al. 2024) replaces −log σ(βh) by
# (h − 1/(2β))²: where does it stop?

# %%
updates = 300 if QUICK else 3000
two, prefer = np.log([0.5, 0.5]), [1.0, 0.0]
arms = {  # label, algorithm, temperature of the labels, step size
    "DPO, labels right 73 %": (sims.DPO(beta=0.5), 1.0, 4.0),
    "DPO, noiseless, β = 0.5": (sims.DPO(beta=0.5), 0.0, 4.0),
    "DPO, noiseless, β = 2": (sims.DPO(beta=2.0), 0.0, 1.0),
    "IPO, noiseless, β = 0.5": (sims.IPO(beta=0.5), 0.0, 0.1),
}
margin = {}
for name, (algorithm, temperature, rate) in arms.items():
    logp = exact.follow_gradient(
        algorithm, two, prefer, learning_rate=rate, updates=updates, label_temperature=temperature,
        sampler=np.eye(2),
    )  # fmt: skip
    change = logp - two
    margin[name] = change[:, 0] - change[:, 1]

with picture(width=7.5, height=4.0) as (_, (panel,)):
    for name, h in margin.items():
        panel.plot(np.arange(1, updates + 1), h[1:], label=name)
    panel.set(xscale="log", xlabel="updates", ylabel="margin h, nats", title="One pair: how far is far enough?")
    panel.legend()

# %%
finite = np.log(1 / (1 + np.exp(-1))) - np.log(1 / (1 + np.exp(1)))  # logit of P(first ≻ second) = r1 − r2 = 1
stopped = margin["DPO, labels right 73 %"][-1]
ipo = margin["IPO, noiseless, β = 0.5"][-1]
growing = margin["DPO, noiseless, β = 0.5"]
keep(noisy_margin=stopped, ipo_margin=ipo)
say(
    f"**Exact answer.** With labels that are right with probability P, DPO stops at h = logit(P)/β = {finite / 0.5:.2f} "
    f"(here {stopped:.2f}); at P = 1 that is infinite, whatever β is. **Verdict.** After {updates} updates the noiseless "
    f"margin is {growing[-1]:.1f} nats, {growing[-1] - growing[updates // 10]:.1f} of them in the last 90 % of the updates: "
    "it grows like the logarithm of time, and the KL to the reference with it. β does not hold it back: βh "
    f"climbs the same curve at every β, only at a speed of β². (In the picture β = 2 has the smaller margin, and no end either.) IPO stops at 1/(2β) = {1 / (2 * 0.5):.0f} (here {ipo:.2f})."
)

# %% [markdown]
# ## What was taught
#
# - Preferences know rewards up to a constant for each prompt, and noise is what tells you their *scale*.
# - DPO's minimum is the RL optimum if labels are Bradley–Terry and the pairs show everything. It needs no reward model.
# - A loss on a difference says nothing about levels: shared features can take both responses down; and what goes down
#   pays whoever is already likely.
# - Without label noise, stopping early is the only regularisation that DPO has.
#
# Next, notebook 4 puts DPO beside its relatives.

# %%
assert moved < 1e-12, "a constant in the reward moves no preference"
assert gap < 1e-8, "with Bradley–Terry labels DPO's average update ends at π*"
assert not falls["a table"] and falls["shared features"], "the chosen response falls only with shared features"
assert direction_shared < 0 < direction_table, "and the first-order direction says so beforehand"
assert table.max() > table[0] + 0.05 and table[-1] < table.max(), "unseen mass rises first where losers are likely"
assert unseen["none", "table"][-1] < unseen["none", "table"][0], "in a table it falls from a near-uniform reference"
assert network[-1] > network[0] + 0.1, "in a network it rises and stays"
assert chosen["network (MLP)"][-1] < chosen["network (MLP)"][1] < 0, "and the chosen response itself loses"
assert (np.sign(pushed[1] - pushed[0]) == np.sign(p * (move - threshold))).all(), "who pays when one is pushed down"
assert abs(stopped - 2.0) < 1e-3, "noisy labels: h = logit(P)/β"
assert growing[-1] > growing[updates // 10] + 1, "noiseless labels: no end"
assert abs(ipo - 1.0) < 1e-3, "IPO: 1/(2β)"
