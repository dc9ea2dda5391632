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
# # 8. Five bugs that shipped: why did the training curve not show them?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/onoff/blob/main/notebooks/08_five_bugs.ipynb)
#
# After this you can
#
# - recognise five bugs that were in public libraries, each of which leaves a plausible training curve;
# - find each of them with a test that sums over all responses instead of looking at a curve;
# - write such a test for a loss of your own.
#
# You need notebooks 1 and 2. Time: 40 minutes, of which the computer takes less than a minute.

# %%
import importlib.util

from IPython import get_ipython

REPOSITORY = "https://github.com/OWNER/onoff"  # where the package is installed from if it is missing, as in Colab

if importlib.util.find_spec("sims") is None:
    get_ipython().run_line_magic("pip", f"install -q 'onoff-sims @ git+{REPOSITORY}'")

from dataclasses import dataclass

import numpy as np
import torch

import sims
from sims.core.objectives.batch import Batch
from sims.core.objectives.reductions import token_shares
from sims.core.spec import setting
from sims.exact import token_logp
from sims.policies import TablePolicy
from sims.teaching import QUICK, curve, exercises_08, keep, picture, say, style
from sims.teaching.enumeration import every_group, gradients

style()
RUNS, UPDATES = (3, 60) if QUICK else (10, 300)

# %% [markdown]
# Each of these bugs was in a public library for preference tuning, some for months (`tests/BUGS.md` says where). None of
# them crashes. None of them makes a training curve that looks broken: rewards rise, losses fall. So each is shown twice:
# first by its curve, then by a test on a problem so small that everything can be summed, where right is right to ten
# digits.
#
# We write each bug ourselves, as one setting or a small subclass of the right algorithm, so that you see how little it takes.
#
# ## Bug 1. A KL penalty that does nothing
#
# To keep a policy near its reference, add β times an estimate of KL(π‖π_ref) to the loss. The simplest estimate is
# $k_1 = \log\pi(y) - \log\pi_\mathrm{ref}(y)$ on samples of π. Its mean is exactly the KL. What could be wrong with it?
#
# **Predict.** With $k_1$ in the *loss* instead of in the *reward*, will the policy stay closer to the reference, further
# away, or the same?

# %%
BETA = 0.1
environment = sims.BanditR1()
common = dict(runs=RUNS, updates=UPDATES, learning_rate=0.1)
charged = sims.run(sims.PPO(beta=BETA), environment, **common)  # k1 in the reward
in_the_loss = sims.run(sims.PPO(beta=BETA, kl_in="loss", kl_estimator="k1"), environment, **common)

with picture(columns=2) as (_, (left, right)):
    for result, label in ((charged, "k1 in the reward"), (in_the_loss, "k1 in the loss")):
        curve(left, result.samples, result.reward, label)
        curve(right, result.samples, result.kl_policy_ref, label)
    right.axhline(charged.optimum.kl_policy_ref, color="black", linestyle=":", label=f"exact optimum at β = {BETA}")
    left.set(xlabel="samples drawn per run", ylabel="expected reward", title=f"Mean of {RUNS} runs, 95 % band")
    right.set(xlabel="samples drawn per run", ylabel="KL(π‖π_ref), nats", title="The KL that β should hold down")
    right.legend()

say(
    f"The reward even looks better with the bug: {in_the_loss.reward[:, -1].mean():.2f} against "
    f"{charged.reward[:, -1].mean():.2f}. It is at {in_the_loss.kl_policy_ref[:, -1].mean():.1f} nats, where "
    f"{charged.optimum.kl_policy_ref:.1f} are right."
)

# %% [markdown]
# **The exact answer.** $\mathbb{E}_\pi[\nabla k_1] = \mathbb{E}_\pi[\nabla\log\pi] = 0$, whatever π and π_ref are. The value
# is right, and the gradient is that of nothing. The test: sum the gradient of the estimate over all responses, and compare
# it with the gradient of the exact KL.

# %%
random = np.random.default_rng(2)
logits, logits_ref = random.normal(size=(1, 6)), random.normal(size=(1, 6))


def kl_gradients(estimate):
    """E_π[∇ estimate] by the logits, and ∇KL(π‖π_ref), by automatic differentiation."""
    z = torch.tensor(logits[0], requires_grad=True)
    logp, logp_ref = z.log_softmax(-1), torch.tensor(logits_ref[0]).log_softmax(-1)
    weight = logp.detach().exp()  # how often each response is drawn: data, without gradient
    (found,) = torch.autograd.grad((weight * estimate(logp - logp_ref)).sum(), z, retain_graph=True)
    (true,) = torch.autograd.grad((logp.exp() * (logp - logp_ref)).sum(), z)
    return found.numpy(), true.numpy()


estimates = {
    "k1 = ρ": lambda rho: rho,
    "k2 = ½ρ²": lambda rho: 0.5 * rho**2,
    "k3 = e^−ρ − 1 + ρ": lambda rho: torch.expm1(-rho) + rho,
}
places = np.arange(6)
with picture(width=8, height=3.6) as (_, (axes,)):
    axes.bar(places - 0.3, kl_gradients(estimates["k1 = ρ"])[1], width=0.2, color="black", label="exact ∇KL(π‖π_ref)")
    for number, (name, estimate) in enumerate(estimates.items()):
        hatch = ("", "//", "..")[number]
        axes.bar(places - 0.1 + 0.2 * number, kl_gradients(estimate)[0], width=0.2, hatch=hatch, label=f"E[∇ {name}]")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="logit of response", ylabel="gradient, nats per unit", title="What each estimate descends")
    axes.legend(ncol=2)

k1_gradient = kl_gradients(estimates["k1 = ρ"])[0]
k2_gradient, kl_gradient = kl_gradients(estimates["k2 = ½ρ²"])
k3_gradient = kl_gradients(estimates["k3 = e^−ρ − 1 + ρ"])[0]
say(
    f"**Caught.** The expected gradient of k1 is {np.abs(k1_gradient).max():.0e}: there is no penalty. That of k2 is the KL's "
    f"own, within {np.abs(k2_gradient - kl_gradient).max():.0e}. That of k3 differs from it by up to "
    f"{np.abs(k3_gradient - kl_gradient).max():.2f}: it descends the other direction, KL(π_ref‖π). The same test finds a "
    f"penalty of the wrong sign, which pays for drifting."
)
keep(
    k1=np.abs(k1_gradient).max(), k2=np.abs(k2_gradient - kl_gradient).max(), k3=np.abs(k3_gradient - kl_gradient).max()
)

# %% [markdown]
# ## Bug 2. Nobody learns to stop
#
# Batches are padded to equal length, and padding must not be trained on. Many tokenizers have no padding token, so the
# end-of-sequence token (EOS) is used for it. Then somebody writes the mask as "all tokens that are not padding" …
#
# **Predict.** A policy imitates responses that its own reference has written, so that it is perfect from the start. With that
# mask, what happens to the loss? To the length of its responses?

# %%
EOS = 0


@dataclass(frozen=True)
class MaskedEOS(sims.SFT, kind="masked_eos"):
    """Supervised fine-tuning, with a mask that takes EOS for padding."""

    def tokens(self, batch):
        return batch.mask & (batch.responses != EOS)

    def loss(self, outputs, batch, targets):
        return super().loss(outputs, batch.replace(mask=self.tokens(batch)), targets)


@dataclass(frozen=True)
class Lengths(sims.TokenTree, kind="lengths"):
    """A tree of 3 tokens, of which token 0 is EOS; its "reward" is the length, which nobody looks at in training."""

    def rewards(self):
        return np.tile(self.space.all_responses[1].sum(-1).double().numpy(), (self.num_prompts, 1))


tree = Lengths(max_length=4)
tree_common = dict(runs=RUNS, updates=UPDATES, learning_rate=0.02, num_generations=4)
imitation = dict(batch_size=64, sync_every_updates=np.inf)
right_mask = sims.run(sims.SFT(), tree, **tree_common, **imitation)
wrong_mask = sims.run(MaskedEOS(), tree, **tree_common, **imitation)

with picture(columns=2) as (_, (left, right)):
    for result, label in ((right_mask, "EOS is trained on"), (wrong_mask, "EOS is masked")):
        curve(left, result.updates[1:], result.loss[:, 1:], label)
        curve(right, result.updates, result.reward, label)
    left.set(xlabel="updates", ylabel="loss, nats per response", title=f"Mean of {RUNS} runs, 95 % band")
    right.set(xlabel="updates", ylabel="mean length, tokens, exact", title="Who looks at the lengths?", ylim=(0.9, 4.1))
    right.legend()

say(
    f"With the bug the loss falls from {wrong_mask.loss[:, 1].mean():.2f} to {wrong_mask.loss[:, -1].mean():.2f} nats, far below "
    f"the {right_mask.loss[:, -1].mean():.2f} of the right mask, which stays where it was: the buggy run looks better. Its "
    f"responses grow from {wrong_mask.reward[:, 0].mean():.2f} tokens to {wrong_mask.reward[:, -1].mean():.2f}, of 4 at most."
)
keep(tolerance=0.1, sized=True, masked_length=wrong_mask.reward[:, -1].mean())

# %% [markdown]
# **The exact answer.** The test needs no training. Who imitates itself has nothing to learn: the expected gradient must be 0,
# for *every* logit. Sum it over all responses.

# %%
tree_logits = tree.reference_logp()[0]
tests = {
    name: -every_group(algorithm, tree.space, tree_logits, tree.rewards()[0], 1).expected_gradient[0]
    for name, algorithm in (("EOS is trained on", sims.SFT()), ("EOS is masked", MaskedEOS()))
}

with picture(width=7, height=3.4) as (_, (axes,)):
    for number, (name, found) in enumerate(tests.items()):
        axes.bar(np.arange(3) + 0.3 * (number - 0.5), found, width=0.3, hatch=("", "//")[number], label=name)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(3), ["EOS", "token 1", "token 2"])
    axes.set(ylabel="uphill gradient by the logit", title="Expected gradient at the first token: must be 0")
    axes.legend()

eos_right, eos_wrong = tests["EOS is trained on"][EOS], tests["EOS is masked"][EOS]
say(
    f"**Caught.** The gradient of EOS should be 0; the right mask gives {eos_right:.0e}, the wrong one {eos_wrong:+.3f}: every "
    f"other token that is raised lowers EOS, and nothing raises it. The right mask is made while sampling: it is true for "
    f"each token that the policy chose, and the policy chose to stop."
)
keep(eos_right=eos_right, eos_wrong=eos_wrong)

# %% [markdown]
# ## Bug 3. A setting that reaches nothing
#
# Conservative DPO believes each label with probability 1 − ε only: $-(1-\varepsilon)\log\sigma(\beta h) -
# \varepsilon\log\sigma(-\beta h)$, h being the margin of the log-ratios. When a library tidied its losses, `label_smoothing`
# stayed in the settings and left the loss. Whoever set it was running DPO.
#
# **Predict.** With a fifth of all labels wrong, will the curves of the two differ by much?


# %%
@dataclass(frozen=True)
class DroppedSmoothing(sims.ConservativeDPO, kind="dropped_smoothing"):
    """Conservative DPO that does not look at its label_smoothing."""

    def pair_loss(self, margin):
        return sims.DPO.pair_loss(self, margin)


SMOOTHING = 0.2
noisy = sims.BanditR1(flip_rate=SMOOTHING)
smoothed = sims.run(sims.ConservativeDPO(beta=0.1, label_smoothing=SMOOTHING), noisy, **common)
dropped = sims.run(DroppedSmoothing(beta=0.1, label_smoothing=SMOOTHING), noisy, **common)

with picture(width=6.5) as (_, (axes,)):
    curve(axes, smoothed.samples, smoothed.reward, f"ε = {SMOOTHING}")
    curve(axes, dropped.samples, dropped.reward, f"ε = {SMOOTHING}, dropped")
    axes.set(xlabel="samples drawn per run", ylabel="expected reward", title=f"Mean of {RUNS} runs, 95 % band")
    axes.legend()

say(
    f"The two end at rewards of {smoothed.reward[:, -1].mean():.3f} and {dropped.reward[:, -1].mean():.3f}. Who has not run "
    f"both has nothing to compare with."
)

# %% [markdown]
# **The exact answer.** Two tests, of which neither needs data. *Every setting changes the loss*: its derivative by ε is not 0.
# *The minimiser sits where the equation says*: of a pair that was labelled once, at $\beta h = \log\frac{1-\varepsilon}{\varepsilon}$.

# %%
margins = torch.linspace(-20, 60, 1601, dtype=torch.float64)
losses = {
    "right": sims.ConservativeDPO(beta=0.1, label_smoothing=SMOOTHING).pair_loss(margins),
    "dropped": DroppedSmoothing(beta=0.1, label_smoothing=SMOOTHING).pair_loss(margins),
}
lowest = float(margins[losses["right"].argmin()]) * 0.1
predicted = np.log((1 - SMOOTHING) / SMOOTHING)
change = {
    cls.__name__: float(
        (cls(beta=0.1, label_smoothing=0.3).pair_loss(margins) - cls(beta=0.1, label_smoothing=0.1).pair_loss(margins))
        .abs()
        .max()
    )
    for cls in (sims.ConservativeDPO, DroppedSmoothing)
}

with picture(width=7, height=3.6) as (_, (axes,)):
    axes.plot(0.1 * margins, losses["right"], label=f"right, ε = {SMOOTHING}")
    axes.plot(0.1 * margins, losses["dropped"], label="dropped: no minimum")
    axes.axvline(predicted, color="black", linestyle=":", label="log((1 − ε)/ε)")
    axes.set(xlabel="βh", ylabel="loss of one pair", title="Where the minimum must be")
    axes.legend()

say(
    f"**Caught.** From ε = 0.1 to 0.3 the right loss changes by up to {change['ConservativeDPO']:.2f}, the other by "
    f"{change['DroppedSmoothing']:.0f}. The right one is lowest at βh = {lowest:.2f}, where {predicted:.2f} is predicted; the "
    f"other falls for ever: it believes each label without reserve."
)
keep(lowest=lowest, change_right=change["ConservativeDPO"], change_dropped=change["DroppedSmoothing"])

# %% [markdown]
# ## Bug 4. A stale denominator
#
# A loss "per token" divides a sum by the number of tokens in the batch. A large batch does not fit into memory, so it is cut
# into micro-batches whose gradients are added up. Where each micro-batch divides by *its own* number of tokens, the result
# is a mean of means, in which the tokens of short responses weigh more.
#
# DAPO (Yu et al. 2025) is GRPO with a single denominator for all tokens of a batch, so it is the one to break.
#
# **Predict.** The same model, data and settings, on 1 GPU and on 8: will the bug show in a curve?


# %%
@dataclass(frozen=True)
class MeanOfMeans(sims.DAPO, kind="mean_of_means"):
    """DAPO, in micro-batches of `micro` prompts that each divide by their own number of tokens."""

    micro: int = setting(1, "prompts in a micro-batch", at_least=1)

    def at_update(self, batch, targets, probe_logp):
        weight = targets.get("weight", batch.weight)
        parts = [batch.narrow(start, self.micro) for start in range(0, batch.size, self.micro)]
        weights = [None if weight is None else weight.narrow(-2, i * self.micro, self.micro) for i in range(len(parts))]
        shares = [
            token_shares(w, part.mask, part.need("logp_sampler"), "token_mean") / len(parts)
            for w, part in zip(weights, parts, strict=True)
        ]
        return {**targets, "share": torch.cat(shares, dim=-3)}


ragged = sims.TokenTree(max_length=4, table_seed=2)
whole = sims.run(sims.DAPO(), ragged, batch_size=16, **tree_common)
in_parts = sims.run(MeanOfMeans(), ragged, batch_size=16, **tree_common)

with picture(width=6.5) as (_, (axes,)):
    curve(axes, whole.samples, whole.reward, "one denominator for the batch")
    curve(axes, in_parts.samples, in_parts.reward, "each micro-batch its own")
    axes.set(xlabel="samples drawn per run", ylabel="expected reward", title=f"Mean of {RUNS} runs, 95 % band")
    axes.legend()

# %% [markdown]
# **The exact answer.** How a batch is cut is nobody's business: the gradient must be the same for every size of the
# micro-batch, to the last digits. One batch with responses of 1 to 4 tokens will do.

# %%
tokens, masks = ragged.space.all_responses
ragged_logits = ragged.reference_logp()[0]
ragged_logp = torch.from_numpy(token_logp(ragged_logits[None], tokens.numpy(), masks.numpy())[0])
ragged_rewards = torch.from_numpy(ragged.rewards()[0])
by_length = np.argsort(masks.sum(-1).numpy(), kind="stable")
picked = torch.from_numpy(by_length[[0, 1, 2, 3, 4, 5, -4, -3, -2, -1, 6, -5, 0, -6, 7, -1]].reshape(1, 8, 2))
batch = Batch(
    prompts=torch.zeros(1, 8, dtype=torch.int64),
    responses=tokens[picked],
    mask=masks[picked],
    rewards=ragged_rewards[picked],
    logp_sampler=ragged_logp[picked],
)
sizes = (1, 2, 4, 8)
by_size = {
    "one denominator for the batch": [
        gradients(sims.DAPO(), ragged.space, ragged_logits, batch, size)[1] for size in sizes
    ],
    "each micro-batch its own": [
        gradients(MeanOfMeans(micro=size), ragged.space, ragged_logits, batch)[1] for size in sizes
    ],
}
off = {
    name: [np.linalg.norm(g - found[-1]) / np.linalg.norm(found[-1]) for g in found] for name, found in by_size.items()
}

with picture(width=6.5) as (_, (axes,)):
    for (name, distances), marker in zip(off.items(), "os", strict=True):
        axes.plot(sizes, np.maximum(distances, 1e-17), marker=marker, label=name)
    axes.set(
        xscale="log", yscale="log", xlabel="prompts in a micro-batch, of 8", ylabel="relative change of the gradient"
    )
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_title("How a batch is cut must not matter")
    axes.legend(loc="center left")

largest = {name: max(distances) for name, distances in off.items()}
say(
    f"**Caught.** Cut into ones, the gradient changes by {largest['each micro-batch its own']:.0%} of its length with the bug, "
    f"by {largest['one denominator for the batch']:.0e} without. In training the two ended at "
    f"{in_parts.reward[:, -1].mean():.3f} and {whole.reward[:, -1].mean():.3f}: who has run only "
    f"one of them sees nothing wrong."
)
keep(moved=largest["each micro-batch its own"])

# %% [markdown]
# ## Bug 5. A sampler that is not the policy
#
# A fast engine draws the responses, the trainer computes log-probs. The engine was left at temperature 0.5: it
# draws from softmax(logits/0.5), which is sharper than the policy. Nothing else is wrong.
#
# **Predict.** What does the curve look like?


# %%
TEMPERATURE = 0.5


class ColdSampler(TablePolicy):
    """A table that samples from softmax(logits/T) and reports the log-probs of softmax(logits), as such engines do."""

    @torch.no_grad()
    def sample(self, request):
        warm = self.logits().clone()
        cold = TablePolicy(self.space, warm / TEMPERATURE)
        drawn = cold.sample(request)
        logp = self.forward(Batch(request.prompts.tokens, drawn.responses, drawn.mask)).logp
        return type(drawn)(drawn.responses, drawn.mask, logp)


@dataclass(frozen=True)
class ColdTable(sims.Table, kind="cold_table"):
    """A table policy with that engine."""

    def build(self, environment, noise, critic, dtype):
        return ColdSampler(environment.space, super().build(environment, noise, critic, dtype).logits())


PRICE = 0.1
far = dict(runs=RUNS, updates=UPDATES, learning_rate=0.1, num_generations=4)
warm = sims.run(sims.RLOO(beta=PRICE), sims.BanditR2(), **far)
cold = sims.run(sims.RLOO(beta=PRICE), sims.BanditR2(), ColdTable(), **far)
best = warm.optimum


def objective(result):
    return result.reward - PRICE * result.kl_policy_ref


with picture(columns=2) as (_, (left, right)):
    for result, label in ((warm, "temperature 1"), (cold, f"temperature {TEMPERATURE}")):
        curve(left, result.samples, result.reward, label)
        curve(right, result.samples, objective(result), label)
    left.axhline(best.reward, color="black", linestyle=":", label="exact optimum")
    right.axhline(best.reward - PRICE * best.kl_policy_ref, color="black", linestyle=":", label="exact optimum")
    left.set(xlabel="samples drawn per run", ylabel="expected reward", title=f"Mean of {RUNS} runs, 95 % band")
    right.set(xlabel="samples drawn per run", ylabel="reward − β·KL", title="What was to be maximised")
    right.legend()

# %% [markdown]
# **The exact answer.** Comparing log-probs would not find it: the engine reports those of the policy. But a score has mean 0
# under the distribution that it is the score of, $\mathbb{E}_\pi[\nabla\log\pi] = 0$, and under no other. So give every
# response the reward 1: the expected gradient must be 0. (A model too large to sum over can do the same with samples: the
# mean of the scores must be 0 within its standard error.)

# %%
temperatures = np.linspace(0.4, 1.6, 25)
small = random.normal(size=(1, 6))
drift = []
for temperature in temperatures:
    found = every_group(
        sims.Reinforce(baseline="none"), sims.TokenSpace(6), small, np.ones(6), 1, logits_sampler=small / temperature
    )
    drift.append(np.abs(found.expected_gradient).max())
drift = np.array(drift)
at_one, at_half = float(drift[np.abs(temperatures - 1).argmin()]), float(drift[np.abs(temperatures - 0.5).argmin()])

with picture(width=6.5) as (_, (axes,)):
    axes.plot(temperatures, drift, marker="o", markersize=4)
    axes.axvline(1.0, color="black", linestyle=":", label="the policy itself")
    axes.set(
        xlabel="temperature of the sampler", ylabel="largest |expected gradient|", title="All rewards are 1: must be 0"
    )
    axes.legend()

say(
    f"**Caught.** At temperature 1 the expected gradient is {at_one:.0e}; at {TEMPERATURE} it is {at_half:.2f}, with nothing to "
    f"learn. In training the cold sampler's reward is {cold.reward[:, -1].mean():.3f} where the optimum's is {best.reward:.3f}, "
    f"and reward − β·KL {objective(cold)[:, -1].mean():.3f} where {best.reward - PRICE * best.kl_policy_ref:.3f} was to be had."
)
keep(at_one=at_one, at_half=at_half)
keep(tolerance=0.03, sized=True, cold=objective(cold)[:, -1].mean(), warm=objective(warm)[:, -1].mean())

# %% [markdown]
# ## What the five tests have in common
#
# | bug | what had to hold |
# |---|---|
# | a penalty that does nothing | the mean gradient of an estimate is the gradient of what it estimates |
# | a masked EOS | who imitates itself learns nothing, for *every* logit |
# | a dropped setting | every setting changes the loss; a minimiser sits where the equation says |
# | a stale denominator | how a batch is cut changes nothing |
# | a sampler that is not the policy | equal rewards teach nothing |
#
# None of them looks at a curve.
#
# ## Exercises
#
# **Exercise 1.** Write a KL penalty that works as a loss: a function of `(logp, logp_ref)`, PyTorch tensors of the log-probs
# of *sampled* responses under π and π_ref, that returns one number for each. Its gradient, averaged over samples of π, must
# be the gradient of KL(π‖π_ref). The checker differentiates it, and sums over all responses.

# %%
answer = ...

exercises_08.kl_penalty(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(logp, logp_ref):
#     return 0.5 * (logp - logp_ref) ** 2
# ```
#
# </details>
#
# **Exercise 2.** Write the mask: a function of `responses`, an array (N, L) of tokens in which 0 is EOS and everything behind
# the first EOS is padding, also 0. It is true where a token was chosen by the policy.

# %%
answer = ...

exercises_08.mask(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(responses):
#     ended_before = np.cumsum(responses == 0, axis=1) - (responses == 0)
#     return ended_before == 0
# ```
#
# </details>
#
# **Exercise 3.** Accumulate: a function of `(losses, masks)`, lists of arrays, one (N, L) array of token losses and one of
# masks for each micro-batch, that returns the mean loss over all tokens of the whole batch.

# %%
answer = ...

exercises_08.accumulated(answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(losses, masks):
#     tokens = sum(mask.sum() for mask in masks)
#     return sum((loss * mask).sum() / tokens for loss, mask in zip(losses, masks))
# ```
#
# </details>
#
# ## What was taught

# %%
assert np.abs(k1_gradient).max() < 1e-10 < np.abs(kl_gradient).max(), "k1 in the loss has no expected gradient"
assert np.abs(k2_gradient - kl_gradient).max() < 1e-10, "k2 in the loss has that of the KL"
assert abs(eos_right) < 1e-10 < -eos_wrong, "the mask holds EOS"
assert abs(lowest - predicted) < 0.01 and change["DroppedSmoothing"] == 0, "a setting that reaches nothing is found"
assert largest["one denominator for the batch"] < 1e-10 < largest["each micro-batch its own"], "cutting changes nothing"
assert at_one < 1e-10 < at_half, "equal rewards teach nothing, if the sampler is the policy"
