"""Checks of a whole data set, made before the first update: a digest for resuming, lengths, rows that repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from llm.data.tokenise import Example
from sims.core.spec import SpecError

NAMED = 3  # rows named in a message


def digest(examples: Iterable[Example]) -> int:
    """A number below 2^60 that another data set, or the same rows in another order, does not have. Never 0."""
    found = hashlib.blake2b(digest_size=8)
    for example in examples:
        found.update(example.digest())
    return 1 + int.from_bytes(found.digest(), "little") % (2**60 - 1)


def check_lengths(
    source: str, examples: Iterable[Example], positions: int | None, remedy: str, drawn: int = 0, unread: int = 1
) -> None:
    """SpecError that names the first rows whose prompt with the longest response exceeds a model's positions.

    remedy: what to do. drawn: tokens of a response that is sampled; recorded ones count too. unread: tokens at the end
    that the model never reads: 1 of a language model's, 0 of a reward model's.
    """
    if positions is None:
        return
    rows, long = 0, []
    for example in examples:
        rows += 1
        response = max([drawn, *map(len, example.completion_ids)])
        if len(example.prompt_ids) + response - unread > positions:
            long.append((example.where, len(example.prompt_ids), response))
    if long:
        named = ", ".join(f"{where} ({prompt} + {response})" for where, prompt, response in long[:NAMED])
        more = ", …" if len(long) > NAMED else ""
        what = f"{len(long)} of {rows} rows have more tokens, prompt + response, than the model's {positions} positions"
        quarter = f"a prompt of {positions // 4} and a response of {positions - positions // 4} would fit"
        raise SpecError("data", source, f"{what}: {named}{more}: {remedy} ({quarter})")


def repeated(examples: Sequence[Example], others: Iterable[Example]) -> int:
    """How many of `examples` have a prompt that is one of the `others`' too."""
    known = {example.prompt_ids.tobytes() for example in others}
    return sum(example.prompt_ids.tobytes() in known for example in examples)
