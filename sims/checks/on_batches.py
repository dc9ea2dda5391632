"""Properties of how a batch is written down, cut and joined: none of it may matter."""

from __future__ import annotations

from collections.abc import Sequence

from .families import Draw, Inputs, draw_inputs, draw_order, take
from .plain import changes_its_inputs, moves_the_generator
from .property import EVERY, Property
from .trials import Relation, Subject, Trial


def same(subject: Subject, got: str, expected: str, rows: str = "", factor: str = "") -> tuple[Relation, ...]:
    """Equal losses, and equal gradients: those of `got`, times factor, are the rows of those of `expected`."""
    slopes = [
        Relation(f"{factor}slope({got}, '{name}')", f"slope({expected}, '{name}'){rows}")
        for name in subject.family.trained
    ]
    return (Relation(f"loss({got})", f"loss({expected})"), *slopes)


def shape(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw)
    rows = len(x[subject.family.rows[0]])
    sizes = {"B": rows, "N": rows, "K": x["rewards"].shape[-1] if "rewards" in x else 0}
    allowed = [tuple(sizes[axis] for axis in axes) for axes in subject.family.results]
    finite = tuple(Relation(f"slope(x, '{name}')", sign="is finite") for name in subject.family.trained)
    return Trial({"x": x}, (Relation("shape(x)", repr(allowed), "in"), Relation("loss(x)", sign="is finite"), *finite))


def repeatable(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw)
    again = tuple(Relation(r.got, r.expected, tolerance=0.0) for r in same(subject, "x", "x"))
    random = Relation("moves_the_generator(loss, x)", "False")
    written = Relation("changes_its_inputs(loss, x)", "False")
    return Trial({"x": x}, (written, random, *again), uses=(changes_its_inputs, moves_the_generator))


def permutation(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw, rows=(2, 4))
    order = draw_order(draw, len(x[subject.family.rows[0]]))
    return Trial(
        {"x": x, "reordered": take(subject.family, x, order)}, same(subject, "reordered", "x", rows=f"[{order}]")
    )


def response_order(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw)
    order = draw_order(draw, x["rewards"].shape[1])
    reordered = {name: value[:, order] for name, value in x.items()}
    return Trial({"x": x, "reordered": reordered}, same(subject, "reordered", "x", rows=f"[:, {order}]"))


def parts_and_whole(subject: Subject, x: Inputs, parts: Sequence[Sequence[int]]) -> Trial:
    """The rows of each part, computed alone and weighed, against the batch."""
    named = {f"part_{i + 1}": take(subject.family, x, part) for i, part in enumerate(parts)}
    weights = [subject.weight(part) for part in named.values()]
    total = sum(weights)
    mean = " + ".join(f"{w} * loss({name})" for w, name in zip(weights, named, strict=True))
    slopes = [
        Relation(f"{w} / {total} * slope({part}, '{name}')", f"slope(whole, '{name}')[{list(rows)}]")
        for name in subject.family.trained
        for part, w, rows in zip(named, weights, parts, strict=True)
    ]
    equation = f"a mean over {subject.weighs} is the mean of its parts, each weighed by its {subject.weighs}"
    return Trial({"whole": x, **named}, (Relation(f"({mean}) / {total}", "loss(whole)"), *slopes), equation)


def micro_batches(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw, rows=(2, 4))
    rows = len(x[subject.family.rows[0]])
    cut = draw(1, rows - 1)
    return parts_and_whole(subject, x, [range(cut), range(cut, rows)])


def ranks(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw, rows=(3, 4))
    rows = len(x[subject.family.rows[0]])
    of_rank = [draw(0, 1) for _ in range(rows)]
    of_rank[0], of_rank[-1] = 0, 1
    return parts_and_whole(subject, x, [[i for i in range(rows) if of_rank[i] == rank] for rank in (0, 1)])


def duplicated(subject: Subject, draw: Draw) -> Trial:
    x = draw_inputs(subject.family, draw)
    rows = len(x[subject.family.rows[0]])
    twice = take(subject.family, x, [*range(rows), *range(rows)])
    slopes = [
        Relation(f"2 * slope(twice, '{name}')[:{rows}]", f"slope(x, '{name}')") for name in subject.family.trained
    ]
    return Trial({"x": x, "twice": twice}, (Relation("loss(twice)", "loss(x)"), *slopes), "a mean of equal halves")


PROPERTIES = (
    Property(
        "shape",
        (28,),
        "The loss is one finite number, or one per row, whatever the sizes; its gradient is finite.",
        EVERY,
        shape,
        "(B, 1) − (B,), which broadcasts to (B, B)",
    ),
    Property(
        "repeatable",
        (49, 52),
        "The same batch, which is not written into, gives the same loss, bit for bit, without global random numbers.",
        EVERY,
        repeatable,
        "dropout in the loss",
        examples=5,
    ),
    Property(
        "permutation",
        (45,),
        "Reordering the rows changes no loss and reorders the gradient.",
        EVERY,
        permutation,
        "only the first row counts",
    ),
    Property(
        "response_order",
        (45,),
        "Reordering the responses of each prompt changes no loss and reorders the gradient.",
        ("group",),
        response_order,
        "the first response's reward as the baseline",
    ),
    Property(
        "micro_batches",
        (10, 13, 14),
        "A batch that is cut in two adds up to the whole, each part weighed by its size.",
        EVERY,
        micro_batches,
        "a sum over the batch",
    ),
    Property(
        "ranks",
        (17,),
        "Rows that are spread over two ranks in any way add up to the whole, each rank weighed by its size.",
        EVERY,
        ranks,
        "the mean of the means of two halves",
    ),
    Property(
        "duplicated",
        (11, 18),
        "The batch twice over has the same loss.",
        EVERY,
        duplicated,
        "a sum over the batch",
    ),
)
