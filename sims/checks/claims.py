"""Claims: "this is DPO with this β". Each has an exact population gradient, which a loss is held against.

The expectation of the loss's gradient is computed by summing over everything that could be sampled, in float64, on a
space of three responses: a bandit for the families without tokens, else responses of one and two tokens. The other side
is the closed form of `sims.exact`, which never sees the loss.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sims.core.algorithms import Algorithm, all_algorithms
from sims.core.spec import SpecError
from sims.exact import Population, kl_policy_ref, kl_ref_policy, log_softmax, population_weights
from sims.exact.population import sigmoid
from sims.exact.population_policy_gradient import clipped_slope

from . import plain
from .families import FAMILIES, Draw, Family, Inputs
from .on_tokens import shares
from .trials import Relation, Subject, Trial

# By family, the algorithms whose loss can be written with its arguments alone.
ALGORITHMS = {
    "pair": ("dpo", "cdpo", "robust_dpo", "slic", "ipo", "dpo_nll", "pref_ft", "cpo", "simpo", "orpo"),
    "unpaired": ("kto",),
    "group": ("reinforce", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "cispo"),
    "token": (),
    "actor_critic": ("ppo",),
    "likelihood": ("sft",),
}
SURROGATES = ("reinforce", "clipped", "cispo")  # of given advantages, in the token family
DIVERGENCES = ("kl_policy_ref", "kl_ref_policy")  # of whole responses, in the token family, whose advantages are unused
REFERENCE_ONLY = ("dpo", "cdpo", "robust_dpo", "slic", "ipo")  # functions of the margin of log-ratios alone


@dataclass(frozen=True)
class Claim:
    """name: an algorithm, a surrogate or a divergence. numbers: what a surrogate's closed form needs."""

    name: str
    algorithm: Algorithm | None = None
    numbers: Mapping[str, float | None] | None = None

    @property
    def divergence(self) -> bool:
        return self.name in DIVERGENCES

    def __str__(self) -> str:
        if self.algorithm is not None:
            fields = ", ".join(f"{name}={getattr(self.algorithm, name)!r}" for name in self.algorithm.names())
            return f"{self.name}({fields})"
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in (self.numbers or {}).items())})"


def claims_of(family: Family) -> tuple[str, ...]:
    """The names of the claims that a family knows."""
    return ALGORITHMS[family.name] + (SURROGATES + DIVERGENCES if family.name == "token" else ())


def make_claim(claim: str | Algorithm, family: Family, options: Mapping[str, Any]) -> Claim:
    """`dpo`, `dpo(beta=0.1)` or an algorithm. A name takes its numbers from the options of the loss that are
    called as the algorithm's settings; texts and switches, which make another algorithm of it, are its defaults unless
    they are given in parentheses. SpecError for what is unknown."""
    if isinstance(claim, Algorithm):
        if claim.kind not in ALGORITHMS[family.name]:
            raise SpecError("claim", claim.kind, _known(family, claim.kind))
        return Claim(claim.kind, claim)
    if not isinstance(claim, str):
        raise SpecError("claim", claim, _known(family))
    name, given = _parsed(claim)
    name = name.replace("-", "_")
    if name not in claims_of(family):
        raise SpecError("claim", claim, _known(family, name))
    if name not in ALGORITHMS[family.name]:
        numbers: dict[str, float | None] = {}
        if name in ("clipped", "cispo"):
            numbers = {"epsilon": 0.2, "epsilon_high": None}
        known = {k: v for k, v in {**options, **given}.items() if k in numbers}
        return Claim(name, None, {**numbers, **known})
    cls = all_algorithms()[name]
    own = {k: v for k, v in options.items() if k in cls.names() and _is_number(v)}
    if name == "reinforce":
        own.setdefault("baseline", "none")
    return Claim(name, cls().replace(**{**own, **given}))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _known(family: Family, name: str = "") -> str:
    """What a family knows, and which other one knows this name."""
    others = [other.name for other in FAMILIES.values() if name in claims_of(other)]
    there = f"; {name} is of the family {', '.join(others)}" if others else ""
    return f"the {family.name} family knows {', '.join(claims_of(family))}{there}"


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    """`name` or `name(key=literal, …)`."""
    try:
        node = ast.parse(text.replace("-", "_") if "(" not in text else text, mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            return node.func.id, {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    except (SyntaxError, ValueError):
        pass
    raise SpecError("claim", text, "must be a name, or name(setting=value): dpo(beta=0.1)")


def population_gradient(subject: Subject, draw: Draw) -> Trial:
    """E[∇ loss] by a table's logits against the closed form."""
    maker: Callable[[Claim, Subject, Draw], Trial] = {
        "pair": _of_pairs,
        "unpaired": _of_labels,
    }.get(subject.family.name, _of_responses)
    return maker(subject.claim, subject, draw)


def _numbers(draw: Draw, *shape: int, width: float = 1.0) -> Tensor:
    count = torch.Size(shape).numel()
    return width * torch.tensor([draw(-8, 8) / 8.0 for _ in range(count)], dtype=torch.float64).reshape(shape)


def _width(claim: Claim, draw: Draw) -> float:
    """How far the logits are from 0, at most: near the reference, or as far as float64 has digits of 1 − p for."""
    return (1.0, 24.0 if claim.name in (*REFERENCE_ONLY, "kto") else 4.0)[draw(0, 1)]


def _chances(draw: Draw, *shape: int) -> Tensor:
    return 0.5 + _numbers(draw, *shape) / 2.25


def _by_logits(weights: np.ndarray, logits: Tensor, tokens: np.ndarray, mask: np.ndarray) -> Tensor:
    """The chain rule: weights (N, L) or (N,) on responses' log-probs as a gradient by logits (L, V)."""
    table = np.exp(log_softmax(logits.numpy()))
    weights = weights if weights.ndim == 2 else weights[:, None]
    own = np.eye(table.shape[-1])[tokens] - table
    return torch.from_numpy((np.broadcast_to(weights, mask.shape)[..., None] * mask[..., None] * own).sum(0))


def _population(
    logits: Tensor, reference: Tensor, sampler: np.ndarray, tokens: np.ndarray, mask: np.ndarray, **more: Any
) -> Population:
    """One prompt's. logits, reference: (L, V); sampler: log-probs (K, N, L)."""

    def logp(table: Tensor) -> np.ndarray:
        found = log_softmax(table.numpy())[np.arange(mask.shape[1]), tokens]
        return np.where(mask, found, 0.0)[None]

    count = len(tokens)
    filled = {
        "rewards": np.zeros((1, count)),
        "label": np.full((1, count, count), 0.5),
        "values": np.zeros((1, *mask.shape)),
    }
    return Population(
        mask=mask, logp=logp(logits), logp_ref=logp(reference), logp_sampler=sampler[:, None], **{**filled, **more}
    )


def _equation(kind: str) -> str:
    """What `sims.exact` says of its own closed form."""
    from sims.exact.population import _WEIGHTS

    return (inspect.getdoc(_WEIGHTS[kind]) or "").split("\n\n")[0].replace("\n", " ")


def _of_pairs(claim: Claim, subject: Subject, draw: Draw) -> Trial:
    width = _width(claim, draw)
    logits, reference = _numbers(draw, 3, width=width), _numbers(draw, 3, width=width)
    mu = _numbers(draw, 3).softmax(-1)
    label = _chances(draw, 3, 3)
    label = 0.5 * (label + 1.0 - label.T)
    tokens, mask = np.arange(3)[:, None], np.ones((3, 1), bool)
    sampler = np.log(mu.numpy())[None, :, None].repeat(2, 0)
    problem = _population(logits[None], reference[None], sampler, tokens, mask, label=label.numpy()[None])
    weights = population_weights(claim.algorithm, problem)[0]
    expected = _by_logits(weights, logits[None], tokens, mask)[0]
    named = {"logits": logits, "reference": reference, "mu": mu, "label": label, "expected": expected}
    return _trial(claim, plain.over_pairs, "loss, logits, reference, mu, label", named)


def _of_labels(claim: Claim, subject: Subject, draw: Draw) -> Trial:
    width = _width(claim, draw)
    logits, reference = _numbers(draw, 3, width=width), _numbers(draw, 3, width=width)
    mu, label = _numbers(draw, 3).softmax(-1), _chances(draw, 3)
    kl = torch.tensor(draw(0, 8) / 8.0, dtype=torch.float64)
    ratio = (logits.log_softmax(-1) - reference.log_softmax(-1)).numpy()
    algorithm: Any = claim.algorithm
    distance = algorithm.beta * (ratio - kl.numpy())
    bell = algorithm.beta * sigmoid(distance) * sigmoid(-distance)
    good = label.numpy()
    weights = mu.numpy() * bell * (algorithm.undesirable_weight * (1 - good) - algorithm.desirable_weight * good)
    expected = _by_logits(weights, logits[None], np.arange(3)[:, None], np.ones((3, 1), bool))[0]
    named = {"logits": logits, "reference": reference, "mu": mu, "label": label, "kl": kl, "expected": expected}
    equation = "λ_D(1 − σ(d)) of desirable, λ_U(1 − σ(−d)) of undesirable ones, d = β(log π/π_ref − kl): ∓λβσ(d)σ(−d)"
    return _trial(claim, plain.over_labels, "loss, logits, reference, mu, label, kl", named, equation)


def _of_responses(claim: Claim, subject: Subject, draw: Draw) -> Trial:
    """All batches of two or three responses that the old policy draws."""
    family = subject.family.name
    tokens, mask = np.array(plain.TOKENS), np.array(plain.MASK)
    width = _width(claim, draw)
    logits, old, reference = (_numbers(draw, 2, 2, width=width) for _ in range(3))
    if claim.divergence or (claim.algorithm is not None and claim.algorithm.kind in ("reinforce", "rloo")):
        old = logits.clone()  # they hold on the policy's own samples
    draws = 3 if family == "group" else 2
    position = np.arange(2)

    def logp(table: Tensor) -> np.ndarray:
        return np.where(mask, log_softmax(table.numpy())[position, tokens], 0.0)

    logp_old = logp(old)
    rewards = torch.tensor([draw(-8, 8) / 4.0 for _ in range(3)], dtype=torch.float64)
    values, old_values = _numbers(draw, 3, 2), _numbers(draw, 3, 2)
    advantages = _numbers(draw, 3, 2)
    others = {
        "reference_logps": torch.from_numpy(logp(reference)),
        "rewards": rewards,
        "values": values,
        "old_values": old_values,
        "advantages": advantages,
    }
    if family == "actor_critic":
        last = mask & ~np.concatenate([mask[:, 1:], np.zeros((3, 1), bool)], axis=1)
        others["rewards"] = torch.from_numpy(last * rewards.numpy()[:, None])
    if claim.algorithm is not None:
        problem = _population(
            logits, reference, np.stack([logp_old] * draws), tokens, mask,
            rewards=rewards.numpy()[None], values=np.where(mask, old_values.numpy(), 0.0)[None],
        )  # fmt: skip
        weights = population_weights(claim.algorithm, problem)[0]
        expected, equation = _by_logits(weights, logits, tokens, mask), _equation(claim.name)
    else:
        expected, equation = _closed_form(claim, subject, logits, old, reference, advantages)
    chosen = {name: others[name] for name in subject.family.arguments if name in others}
    named: dict[str, Inputs | Tensor] = {"logits": logits, "old": old, "others": chosen, "expected": expected}
    call = f"loss, logits, old, {list(subject.family.arguments)}, others, {draws}, {family == 'group'}"
    return _trial(claim, plain.over_responses, call, named, equation)


def _closed_form(
    claim: Claim, subject: Subject, logits: Tensor, old: Tensor, reference: Tensor, advantages: Tensor
) -> tuple[Tensor, str]:
    """Of surrogates with given advantages, in batches of two; and of the divergences."""
    tokens, mask = np.array(plain.TOKENS), np.array(plain.MASK)

    def logp(table: Tensor) -> Tensor:
        found = table.log_softmax(-1)[torch.arange(2), torch.tensor(plain.TOKENS)]
        return found.masked_fill(~torch.from_numpy(mask), 0.0)

    if claim.divergence:
        x = logits.clone().requires_grad_()
        p, q = logp(x).sum(-1), logp(reference).sum(-1)
        value = (p.exp() * (p - q)).sum() if claim.name == "kl_policy_ref" else (q.exp() * (q - p)).sum()
        check = kl_policy_ref if claim.name == "kl_policy_ref" else kl_ref_policy
        assert np.isclose(float(value.detach()), float(check(p.detach().numpy(), q.numpy())))
        side = "KL(π‖π_ref)" if claim.name == "kl_policy_ref" else "KL(π_ref‖π)"
        return torch.autograd.grad(value, x)[0], f"∇{side} over whole responses, by summing over all of them"
    reduction, numbers = subject.reduction or "sequence_mean", claim.numbers or {}
    ratio = (logp(logits) - logp(old)).numpy()
    low = numbers.get("epsilon") or 0.0
    high = numbers.get("epsilon_high") or low
    slope = {
        "reinforce": lambda: -advantages.numpy(),
        "clipped": lambda: clipped_slope(ratio, advantages.numpy(), low, high),
        "cispo": lambda: -np.clip(np.exp(ratio), 1.0 - low, 1.0 + high) * advantages.numpy(),
    }[claim.name]()
    chance = logp(old).sum(-1).exp().numpy()
    weights = np.zeros(mask.shape)
    for i in range(3):
        for j in range(3):
            share = shares(torch.from_numpy(mask[[i, j]]), reduction).numpy()
            np.add.at(weights, [i, j], chance[i] * chance[j] * share * slope[[i, j]])
    equations = {
        "reinforce": "−share·A",
        "clipped": "−share·w·A, 0 where clip(w)·A is the smaller one",
        "cispo": "−share·clip(w)·A, w without gradient",
    }
    return _by_logits(weights, logits, tokens, mask), f"{equations[claim.name]}; share by {reduction}"


def _trial(
    claim: Claim, use: Callable[..., Tensor], call: str, named: dict[str, Any], equation: str | None = None
) -> Trial:
    relation = Relation(f"{use.__name__}({call})", "expected")
    text = _equation(claim.name) if equation is None else equation
    return Trial(named, (relation,), f"the population gradient of {claim}: {text}", uses=(use,))
