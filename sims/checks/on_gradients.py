"""Properties of signs, scales and identities of the gradient, most of them on fresh samples."""

from __future__ import annotations

import torch

from .families import Draw, draw_inputs
from .on_batches import same
from .on_tokens import at_the_reference, is_no_divergence, on_both_sides_of_0
from .property import EVERY, Property
from .trials import Relation, Sign, Subject, Trial


def direction(subject: Subject, draw: Draw) -> Trial:
    family = subject.family.name
    x = draw_inputs(subject.family, draw, rows=(1, 1), group=(2, 3), full=True, on_policy=True)
    if family == "pair":
        x["reference_rejected_logps"] = x["reference_chosen_logps"]
        x["policy_chosen_logps"] = x["policy_rejected_logps"] - draw(0, 400) / 4.0
        down, up = ("slope(x, 'policy_chosen_logps')", "slope(x, 'policy_rejected_logps')")
        why = "a chosen response that is no likelier than the rejected one must be raised, and that one not"
        return Trial({"x": x}, (Relation(down, "0", "<"), Relation(up, "0", ">=")), why)
    if family == "unpaired":
        gap = draw(0, 80) / 4.0
        likely, unlikely = x["reference_logps"], x["reference_logps"] - gap
        named = {
            "good": {**x, "policy_logps": unlikely, "reference_logps": likely, "desirable": torch.tensor([True])},
            "bad": {**x, "policy_logps": likely, "reference_logps": unlikely, "desirable": torch.tensor([False])},
        }
        relations = (
            Relation("slope(good, 'policy_logps')", "0", "<"),
            Relation("slope(bad, 'policy_logps')", "0", ">"),
        )
        return Trial(named, relations, "desirable responses are raised, undesirable ones lowered, at any log-ratio")
    if family == "actor_critic":
        x = {name: value[:, :1].repeat(2, 1) for name, value in x.items()}
        gain, value = draw(8, 32) / 8.0, draw(-32, 32) / 8.0
        gains = torch.tensor([[gain], [-gain]], dtype=torch.float64)
        x["values"] = x["old_values"] = torch.full_like(gains, value)
        x["rewards"] = value + gains
        x["old_logps"] = x["policy_logps"] + gains.sign() * draw(0, 12) / 16.0
        names = [f"slope(x, '{name}')[{row}]" for name in ("policy_logps", "values") for row in (0, 1)]
        signs: tuple[Sign, ...] = ("<", ">", "<", ">")
        pulls = tuple(Relation(n, "0", s) for n, s in zip(names, signs, strict=True))
        return Trial({"x": x}, pulls, "a reward above the value raises log-prob and value, one below lowers them")
    x = at_the_reference(x)
    if family == "group":
        x["rewards"] = on_both_sides_of_0(x["rewards"])
        best, worst = int(x["rewards"].argmax()), int(x["rewards"].argmin())
        x["old_logps"] = x["old_logps"].clone()
        x["old_logps"][0, best] += draw(0, 12) / 16.0
        x["old_logps"][0, worst] -= draw(0, 12) / 16.0
        relations = (
            Relation(f"slope(x, 'policy_logps')[0, {best}]", "0", "<"),
            Relation(f"slope(x, 'policy_logps')[0, {worst}]", "0", ">"),
        )
        return Trial({"x": x}, relations, "the best response of a group is raised, the worst lowered")
    if family == "token":
        sign = 1.0 if draw(0, 1) else -1.0  # one for all, so that a ratio of whole responses is on the same side
        x["advantages"] = sign * x["advantages"].abs()
        x["old_logps"] = x["policy_logps"] + sign * draw(0, 12) / 16.0
        relation = Relation("slope(x, 'policy_logps') * x['advantages'].sign()", "0", "<=")
        moved = Relation("slope(x, 'policy_logps').abs()[x['advantages'] != 0]", "0", ">")
        return Trial({"x": x}, (relation, moved), "−w·A: where the policy went the wrong way, nothing is clipped")
    return Trial({"x": x}, (Relation("slope(x, 'policy_logps')", "0", "<"),), "likelihood is raised")


def critic_apart(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw)
    moved = {**x, "policy_logps": x["policy_logps"] - draw(1, 16) / 16.0}
    relation = Relation("slope(moved, 'values')", "slope(x, 'values')")
    return Trial({"x": x, "moved": moved}, (relation,), "advantages are constants: values learn by their own loss")


def both_references(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw)
    got, expected = (f"(slope(x, 'reference_{side}_logps') != 0)" for side in ("rejected", "chosen"))
    return Trial({"x": x}, (Relation(got, expected),), "log-ratios, of both responses, or log-probs, of both")


def flipped_advantages(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw, on_policy=True)
    x["old_logps"] = x["policy_logps"] + draw(-1, 1) / 8192.0
    flipped, none = ({**x, "advantages": f * x["advantages"]} for f in (-1.0, 0.0))
    slopes = [f"(slope({name}, 'policy_logps') - slope(none, 'policy_logps'))" for name in ("flipped", "x")]
    relation = Relation(slopes[0], f"-{slopes[1]}")
    return Trial({"x": x, "flipped": flipped, "none": none}, (relation,), "−min(wA, clip(w)A) is linear in A at w ≈ 1")


def reward_shift(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw)
    shift = torch.tensor([[draw(-16, 16) / 4.0] for _ in x["rewards"]], dtype=torch.float64)
    shifted = {**x, "rewards": x["rewards"] + shift}
    return Trial({"x": x, "shifted": shifted}, same(subject, "shifted", "x"), "A = r − baseline(r): a constant cancels")


def equal_rewards(subject: Subject, draw: Draw) -> Trial:
    x = at_the_reference(draw_inputs(subject.family, draw, rows=(1, 1), group=(2, 8), on_policy=True))
    value = draw(1, 9) / 10.0  # 0.1 is not a float: sums of it leave a residue
    x = {**x, "rewards": torch.full_like(x["rewards"], value)}
    x = {name: v.float() if v.is_floating_point() else v for name, v in x.items()}
    relation = Relation("slope(x, 'policy_logps')", "0.0", tolerance=1e-3)
    return Trial({"x": x}, (relation,), "(r − mean)/deviation of equal rewards is 0, not the residue of rounding")


def one_response(subject: Subject, draw: Draw) -> Trial:
    x = at_the_reference(draw_inputs(subject.family, draw, rows=(1, 1), group=(1, 1), full=True, on_policy=True))
    x = {**x, "rewards": torch.ones_like(x["rewards"])}
    relation = Relation("slope(x, 'policy_logps')", sign="raises, or has some")
    return Trial({"x": x}, (relation,), "a group of one has no other response to be compared with")


def other_prompts(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw, rows=(2, 2))
    rewards = x["rewards"].clone()
    rewards[1] = 1.0 - 2.0 * rewards[1]
    relation = Relation("slope(other, 'policy_logps')[0]", "slope(x, 'policy_logps')[0]")
    return Trial(
        {"x": x, "other": {**x, "rewards": rewards}}, (relation,), "a prompt's baseline is that of its own group"
    )


def needs_a_baseline(subject: Subject) -> str:
    algorithm = subject.claim.algorithm if subject.claim is not None else None
    if algorithm is not None and algorithm.kind == "reinforce":
        return "REINFORCE has no baseline of the group"
    return ""


def scales_by_group(subject: Subject) -> str:
    algorithm = subject.claim.algorithm if subject.claim is not None else None
    if algorithm is not None and getattr(algorithm, "scale_rewards", "group") == "batch":
        return "the claim divides by the deviation of the whole batch"
    return ""


def drops_groups(subject: Subject) -> str:
    algorithm = subject.claim.algorithm if subject.claim is not None else None
    return "the claim drops groups of equal rewards" if getattr(algorithm, "drop_equal_groups", False) else ""


PROPERTIES = (
    Property(
        "direction",
        (6, 29),
        "The gradient raises what should be raised and lowers what should be lowered, however wrong the policy is.",
        EVERY,
        direction,
        "chosen and rejected swapped",
        needs=is_no_divergence,
    ),
    Property(
        "both_references",
        (50,),
        "A loss that depends on the reference of one response of a pair depends on that of the other.",
        ("pair",),
        both_references,
        "the rejected response's reference left out",
    ),
    Property(
        "critic_apart",
        (),
        "The gradient of the critic's values owes nothing to the policy's log-probs.",
        ("actor_critic",),
        critic_apart,
        "advantages that are no constants",
    ),
    Property(
        "flipped_advantages",
        (29,),
        "Inside the clip range, advantages of the other sign have the gradient of the other sign.",
        ("token",),
        flipped_advantages,
        "advantages taken for the mask",
        needs=is_no_divergence,
    ),
    Property(
        "reward_shift",
        (43, 46),
        "A constant added to the rewards of a prompt changes neither loss nor gradient.",
        ("group",),
        reward_shift,
        "a reward of 0.0 taken for a missing one",
        needs=needs_a_baseline,
    ),
    Property(
        "equal_rewards",
        (43,),
        "A group of equal rewards, in float32, has a gradient below a thousandth.",
        ("group",),
        equal_rewards,
        "(r − mean)/(deviation + 1e-8)",
        needs=needs_a_baseline,
    ),
    Property(
        "one_response",
        (42,),
        "One response per prompt raises an error, or has a gradient: it is not silently 0 or NaN.",
        ("group",),
        one_response,
        "r − mean of a group of one",
        needs=drops_groups,
        examples=3,
    ),
    Property(
        "other_prompts",
        (45,),
        "Another prompt's rewards do not change a prompt's gradient.",
        ("group",),
        other_prompts,
        "the mean of all rewards as the baseline",
        needs=scales_by_group,
    ),
)
