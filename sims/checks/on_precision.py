"""Properties of floating-point numbers: precision, cancellation, overflow."""

from __future__ import annotations

import torch

from .families import Draw, Inputs, draw_inputs
from .plain import narrow
from .property import EVERY, Property
from .trials import Relation, Subject, Trial


def in_both_widths(subject: Subject, x: Inputs, equation: str) -> Trial:
    slopes = [
        Relation(f"slope(narrow(x), '{name}')", f"slope(x, '{name}')", tolerance=1e-4)
        for name in subject.family.trained
    ]
    relations = (Relation("loss(narrow(x))", "loss(x)", tolerance=1e-4), *slopes)
    return Trial({"x": x}, relations, equation, uses=(narrow,))


def float32(subject: Subject, draw: Draw) -> Trial:
    return in_both_widths(subject, draw_inputs(subject.family, draw), "the inputs are exact in either width")


def probability_near_1(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw, on_policy=True)
    tiny = -(2.0 ** -draw(1, 28))
    certain = ("policy_logps", "old_logps", ("policy_chosen_logps", "policy_rejected_logps")[draw(0, 1)])
    for name in certain:
        if name in x:
            x[name] = torch.full_like(x[name], tiny)
    return in_both_widths(subject, x, "log(1 − e^x) loses its digits as x → 0: use log(−expm1(x))")


def extreme(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw)
    for name, value in x.items():
        if name.endswith("logps"):
            step = 125.0 if subject.family.name in ("pair", "unpaired") else 10.0
            far = torch.tensor([draw(0, 8 if step > 10 else 2) for _ in range(value.numel())])
            x[name] = -1.0 - step * far.reshape(value.shape).double()
    slopes = [Relation(f"slope(narrow(x), '{name}')", sign="is finite") for name in subject.family.trained]
    relations = (Relation("loss(narrow(x))", sign="is finite"), *slopes)
    return Trial({"x": x}, relations, "in float32 σ(−104) is 0, whose log is −∞: use logsigmoid", uses=(narrow,))


PROPERTIES = (
    Property(
        "float32",
        (51,),
        "Loss and gradient in float32 are those in float64, to 1e-4.",
        EVERY,
        float32,
        "log-probs rounded to bfloat16",
    ),
    Property(
        "probability_near_1",
        (22,),
        "So they are where the policy is all but certain of its response.",
        EVERY,
        probability_near_1,
        "log1p(−exp x)",
    ),
    Property(
        "extreme_log_probs",
        (7, 35),
        "In float32, log-ratios of up to 20 per token, or 1000 per response, leave loss and gradient finite.",
        EVERY,
        extreme,
        "log(sigmoid(x))",
    ),
)
