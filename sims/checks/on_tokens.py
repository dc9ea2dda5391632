"""Properties of masks and reductions over tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from .families import Draw, Inputs, draw_inputs, in_masked_slots, over_tokens
from .on_batches import same
from .property import MASKED, Property
from .trials import Relation, Subject, Trial

REDUCTIONS = ("sequence_mean", "token_mean", "sequence_sum")


def inserted(subject: Subject, draw: Draw, x: Inputs, place: int, width: int) -> Inputs:
    """The batch with masked tokens before token `place`, which hold numbers of their own."""
    number = -draw(1, 32) / 4.0

    def wider(name: str, value: Tensor) -> Tensor:
        more = torch.full((*value.shape[:-1], width), 0.0 if name == "mask" else number, dtype=torch.float64)
        return torch.cat([value[..., :place], more.to(value.dtype), value[..., place:]], dim=-1)

    return over_tokens(subject.family, x, wider)


def padding(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw)
    length = x["mask"].shape[-1]
    padded = inserted(subject, draw, x, length, draw(1, 3))
    slopes = [Relation(f"slope(padded, '{n}')[..., :{length}]", f"slope(x, '{n}')") for n in subject.family.trained]
    return Trial({"x": x, "padded": padded}, (Relation("loss(padded)", "loss(x)"), *slopes))


def gaps(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw)
    length = x["mask"].shape[-1]
    place = draw(0, length - 1)
    kept = [i for i in range(length + 1) if i != place]
    slopes = [Relation(f"slope(gap, '{n}')[..., {kept}]", f"slope(x, '{n}')") for n in subject.family.trained]
    return Trial({"x": x, "gap": inserted(subject, draw, x, place, 1)}, (Relation("loss(gap)", "loss(x)"), *slopes))


def masked_slots(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw, ragged=True)
    other = in_masked_slots(subject.family, x, -draw(1, 32) / 4.0)
    unread = [Relation(f"slope(x, '{name}')[~x['mask']]", "0.0", tolerance=0.0) for name in subject.family.trained]
    return Trial({"x": x, "other": other}, (*same(subject, "other", "x"), *unread))


def nan_in_masked_slots(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw, ragged=True)
    spoilt = in_masked_slots(subject.family, x, torch.nan)
    return Trial({"x": x, "spoilt": spoilt}, same(subject, "spoilt", "x"), "0 × NaN is NaN: use torch.where")


def empty_response(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw, rows=(2, 4))
    mask = x["mask"].clone()
    mask[(0,) * (mask.dim() - 1)] = False
    slopes = [Relation(f"slope(x, '{name}')", sign="is finite") for name in subject.family.trained]
    return Trial({"x": {**x, "mask": mask}}, (Relation("loss(x)", sign="is finite"), *slopes), "0 / 0 is NaN")


def every_token_counts(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw, group=(2, 2), on_policy=True)
    x = at_the_reference(x)
    if "advantages" in x:
        x["advantages"] = torch.where(x["advantages"] == 0, 1.0, x["advantages"])
    if "rewards" in x:
        x["rewards"] = on_both_sides_of_0(x["rewards"])
    relation = Relation("(slope(x, 'policy_logps') != 0)", "x['mask']")
    return Trial({"x": x}, (relation,), "each token of a response, EOS included, has a log-prob of its own in the loss")


def at_the_reference(x: Inputs) -> Inputs:
    """The batch with a reference, if it has one, that is the policy."""
    return {**x, "reference_logps": x["policy_logps"]} if "reference_logps" in x else x


def on_both_sides_of_0(rewards: Tensor) -> Tensor:
    """Rewards less the middle of each group's largest and smallest, so that no loss needs a baseline."""
    return rewards - 0.5 * (rewards.amax(-1, keepdim=True) + rewards.amin(-1, keepdim=True))


def shares(mask: Tensor, reduction: str) -> Tensor:
    """Each token's weight in a mean over responses of sums or means over tokens, or in a mean over all tokens."""
    tokens = mask.double()
    if reduction == "token_mean":
        return tokens / tokens.sum()
    responses = mask[..., 0].numel()
    return tokens / responses / (tokens.sum(-1, keepdim=True) if reduction == "sequence_mean" else 1.0)


def reduction(subject: Subject, draw: Draw) -> Trial:
    """By the gradient at ratio 1, −share·A; a group's advantages are read off the same batch with one token each."""
    assert subject.reduction is not None
    x = at_the_reference(draw_inputs(subject.family, draw, on_policy=True))
    named: dict[str, Inputs | Tensor] = {"x": x, "share": shares(x["mask"], subject.reduction)}
    advantages = {"likelihood": "1.0", "token": "x['advantages']"}.get(subject.family.name, "")
    if subject.family.name == "group":
        short = {name: value[..., :1] if value.dim() == 3 else value for name, value in x.items()}
        named["short"] = {**short, "mask": torch.ones_like(short["mask"])}
        advantages = f"({-x['rewards'].numel()}.0 * slope(short, 'policy_logps'))"
    relation = Relation("slope(x, 'policy_logps')", f"-share * {advantages}")
    return Trial(named, (relation,), f"{subject.reduction}: the gradient at π = π_old is −share·A")


def has_a_reduction(subject: Subject) -> str:
    if subject.reduction is None:
        return "no reduction was named: reduction='token_mean', 'sequence_mean' or 'sequence_sum'"
    return is_no_divergence(subject)


def is_no_divergence(subject: Subject) -> str:
    return "a divergence has no advantages" if subject.claim is not None and subject.claim.divergence else ""


PROPERTIES = (
    Property(
        "padding",
        (12, 16, 47),
        "More padding on the right changes neither loss nor gradient.",
        MASKED,
        padding,
        "divides by mask.numel()",
    ),
    Property(
        "gaps",
        (47,),
        "Masked tokens in front of or between a response's own, as a tool's answer, change neither loss nor gradient.",
        MASKED,
        gaps,
        "advantages that end at a gap",
    ),
    Property(
        "masked_slots",
        (31, 32, 36),
        "What stands in masked slots changes neither loss nor gradient, and has no gradient.",
        MASKED,
        masked_slots,
        "a mask that is shifted by one",
    ),
    Property(
        "nan_in_masked_slots",
        (35,),
        "NaN in masked slots changes neither loss nor gradient.",
        MASKED,
        nan_in_masked_slots,
        "(loss * mask).sum()",
    ),
    Property(
        "empty_response",
        (35,),
        "A response without a token leaves loss and gradient finite.",
        MASKED,
        empty_response,
        "divides by mask.sum(-1)",
    ),
    Property(
        "every_token_counts",
        (30, 32),
        "On fresh samples every token of the mask has a gradient, EOS included, and no other has.",
        ("group", "token", "likelihood"),
        every_token_counts,
        "the last token of each response left out",
        needs=is_no_divergence,
    ),
    Property(
        "reduction",
        (15, 14),
        "The reduction over tokens is the one that is named.",
        ("group", "token", "likelihood"),
        reduction,
        "sequence_mean that is called token_mean",
        needs=has_a_reduction,
    ),
)
