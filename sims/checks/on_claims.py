"""Properties of a loss that is claimed to be a certain one."""

from __future__ import annotations

import math

import torch

from .claims import REFERENCE_ONLY, population_gradient
from .families import Draw, draw_inputs
from .on_batches import same
from .on_tokens import shares
from .plain import narrow
from .property import EVERY, Property
from .trials import Relation, Subject, Trial

AT_STEP_0 = {  # the loss at margin 0
    "dpo": lambda a: math.log(2.0),
    "cdpo": lambda a: math.log(2.0),
    "robust_dpo": lambda a: math.log(2.0),
    "slic": lambda a: 1.0,
    "ipo": lambda a: 0.25 / a.beta**2,
}


def step_0(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw)
    for side in ("chosen", "rejected"):
        x[f"reference_{side}_logps"] = x[f"policy_{side}_logps"]
    value = AT_STEP_0[subject.claim.name](subject.claim.algorithm)
    return Trial({"x": x}, (Relation("loss(x)", repr(value)),), "while the policy is the reference, every margin is 0")


def prompt_cancels(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw)
    shift = -draw(1, 32) / 4.0  # down: a log-prob stays one
    moved = {name: value + shift if name.startswith("policy") else value for name, value in x.items()}
    return Trial({"x": x, "moved": moved}, same(subject, "moved", "x"), "h = (ℓ_w − ℓ_l) − (ℓ_ref,w − ℓ_ref,l)")


def kl_pull(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw, rows=(1, 1), length=(1, 1), on_policy=True)
    distance = draw(1, 80) / 4.0 * (1 if draw(0, 1) else -1)
    x["policy_logps"] = x["old_logps"] = torch.full_like(x["policy_logps"], -21.0)
    x["reference_logps"] = x["policy_logps"] - distance
    x["advantages"] = torch.zeros_like(x["advantages"])
    relation = Relation(f"slope(x, 'policy_logps') * {distance}", "0", ">")
    return Trial({"x": x}, (relation,), "the gradient points back to the reference at any log-ratio")


def small_log_ratios(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw, rows=(1, 1), length=(1, 1), on_policy=True)
    x["policy_logps"] = x["old_logps"] = torch.full_like(x["policy_logps"], -1.0)
    x["reference_logps"] = x["policy_logps"] + (1 if draw(0, 1) else -1) * 2.0 ** -draw(7, 20)
    x["advantages"] = torch.zeros_like(x["advantages"])
    relation = Relation("loss(narrow(x))", "loss(x)", tolerance=1e-2, relative=True)
    return Trial(
        {"x": x}, (relation,), "½x² for small x: e^−x − 1 + x loses its digits, expm1(−x) + x does not", (narrow,)
    )


def value_gradient(subject: Subject, draw: Draw) -> Trial:
    """Of responses without padding, whose rewards are all at the last token."""
    algorithm = subject.claim.algorithm
    x = draw_inputs(subject.family, draw, rows=(1, 3), full=True, on_policy=True)
    x["rewards"] = torch.cat([torch.zeros_like(x["rewards"][:, :-1]), x["rewards"][:, -1:]], dim=1)
    away = draw(-16, 16) / 16.0 * min(0.5 * (algorithm.cliprange_value or 1.0), 1.0)  # inside the clip range
    x["values"] = x["old_values"] + away
    rows, length = x["mask"].shape
    ahead = torch.arange(length).unsqueeze(0) - torch.arange(length).unsqueeze(1)  # [t, s] = s − t
    decay = torch.where(ahead >= 0, (algorithm.gamma * algorithm.lam) ** ahead.clamp(min=0).double(), 0.0)
    following = torch.cat([x["old_values"][:, 1:], torch.zeros(rows, 1, dtype=torch.float64)], dim=1)
    delta = x["rewards"] + algorithm.gamma * following - x["old_values"]
    advantages = (delta.unsqueeze(1) * decay).sum(-1)
    share = shares(x["mask"], algorithm.reduction)
    expected = algorithm.vf_coef * share * (away - advantages)
    equation = (
        f"vf_coef·share·(V − G), G = V + A by GAE: the gradient of vf_coef·½(V − G)², vf_coef = {algorithm.vf_coef}"
    )
    return Trial({"x": x, "expected": expected}, (Relation("slope(x, 'values')", "expected"),), equation)


def is_claimed(subject: Subject) -> str:
    return "" if subject.claim is not None else "nothing was claimed"


def is_a_margin(subject: Subject) -> str:
    if subject.claim is None:
        return "nothing was claimed"
    return "" if subject.claim.name in REFERENCE_ONLY else f"{subject.claim.name} is no function of the margin alone"


def is_a_divergence(subject: Subject) -> str:
    return "" if subject.claim is not None and subject.claim.divergence else "no divergence was claimed"


PROPERTIES = (
    Property(
        "population_gradient",
        (1, 2, 3, 4, 5, 21, 23, 24, 27, 44),
        "The expected gradient, summed over all that can be sampled, is the exact one of the claim.",
        EVERY,
        population_gradient,
        "the target 1/β for 1/(2β) in IPO",
        needs=is_claimed,
        examples=8,
        rows_by_claim={
            "ipo": (21,),
            "cispo": (23,),
            "gspo": (5, 24),
            "grpo": (5, 27, 44),
            "dr_grpo": (27,),
            "kl_policy_ref": (1, 2, 3, 4),
            "kl_ref_policy": (1, 2, 3),
        },
    ),
    Property(
        "value_gradient",
        (18,),
        "The critic's gradient is that of half the squared error to the returns, times its coefficient.",
        ("actor_critic",),
        value_gradient,
        "the square without the half",
        needs=is_claimed,
        examples=10,
    ),
    Property(
        "step_0",
        (49, 50),
        "While the policy is the reference the loss is that of margin 0: log 2 for DPO.",
        ("pair",),
        step_0,
        "the reference's log-probs left out",
        needs=is_a_margin,
        examples=10,
    ),
    Property(
        "prompt_cancels",
        (31,),
        "The same added to both log-probs of a pair changes nothing: what they share cancels.",
        ("pair",),
        prompt_cancels,
        "the rejected reference left out",
        needs=is_a_margin,
    ),
    Property(
        "kl_pull",
        (1, 3, 6, 7),
        "A divergence pulls a token's log-prob to the reference at any log-ratio up to 20.",
        ("token",),
        kl_pull,
        "k3 clamped at 10",
        needs=is_a_divergence,
    ),
    Property(
        "small_log_ratios",
        (8,),
        "A divergence of a small log-ratio is the same in float32, to a hundredth.",
        ("token",),
        small_log_ratios,
        "exp(−x) − 1 + x",
        needs=is_a_divergence,
    ),
)
