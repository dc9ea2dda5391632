"""A short proof that a model is sampled and scored as it computes: made whenever weights are loaded.

Three made-up prompts of different lengths are padded on the left and continued token by token from a cache, a row
leaving midway, and are scored in one pass. Both must give the log-probs of the model's own forward pass of each row
alone, without padding, mask or cache. It sees a cache that is ignored or misread, positions that count padding, a state
that padding enters, and attention to later tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from sims.core.spec import SpecError

from .decoding import CacheKind
from .forward import hidden_states, log_distribution, padding_free_states
from .scoring import LanguageModel
from .steps import STEPS

_PROMPTS, _DRAWN, _LEAVES = (5, 2, 3), 4, (1, 2)  # lengths in tokens, tokens drawn, and (row, step) that leaves
TOLERANCE = 1e-5  # of log-probs, in units of the largest logit where that is above 1
_RULE = "must be sampled and scored as its own forward pass computes"


def tolerance(dtype: torch.dtype, largest: float) -> float:
    """The difference of log-probs that rounding may make: 1e-5 in float32, 8 roundings of a logit in half precision."""
    return max(TOLERANCE, 8 * torch.finfo(dtype).eps) * max(1.0, largest)


@torch.no_grad()
def prove(model: LanguageModel, field: str, name: str, cache: CacheKind = "dynamic") -> None:
    """SpecError naming `field` and the model's `name` where sampling, with a cache of this kind, or scoring differ from
    the plain forward pass."""
    parameter = next(model.model.parameters())
    if parameter.is_meta:
        return
    architecture = type(model.core).__name__
    most = model.positions
    if most is not None and most < max(_PROMPTS) + _DRAWN:
        raise SpecError(field, name, f"has {most} positions: must have at least {max(_PROMPTS) + _DRAWN}")
    model.eval()
    rows = _rows(model.head.weight.shape[0], parameter.device)  # type: ignore[union-attr, index, arg-type]
    free = model.scoring.padding_free
    dtype = torch.bfloat16 if model.scoring.precision == "bfloat16" else parameter.dtype
    try:
        with model.computing(parameter.device):
            plain = [_plain(model, row) for row in rows]
            if not all(bool(logits.isfinite().all()) for logits in plain):
                raise SpecError(field, name, f"its logits are not finite ({architecture}): must be numbers")
            expected = [log_distribution(logits, 1.0) for logits in plain]
            found = {
                **({"scores rows without padding between them": _apart(model, rows, expected)} if free else {}),
                "attends to tokens that come after": _causality(model, rows, expected),
                "scores a response to a padded prompt": _scoring(model, rows, expected),
                f"decodes from its {'static ' * (cache == 'static')}cache": _decoding(model, rows, expected, cache),
            }
    except (torch.OutOfMemoryError, MemoryError, SpecError):
        raise
    except Exception as error:  # whatever code of an architecture may raise
        first = (str(error).strip().splitlines() or [""])[0]
        raise SpecError(field, name, f"{_RULE}; {architecture}: {type(error).__name__}: {first}") from error
    allowed = tolerance(dtype, max(float(logits.abs().max()) for logits in plain))
    for what, difference in found.items():
        if not difference <= allowed:
            much = f"it {what} with log-probs that are {difference:.2g} off, above {allowed:.1g}"
            raise SpecError(field, name, f"{_RULE}; {architecture}: {much}")


def _rows(vocabulary: int, device: torch.device) -> list[Tensor]:
    """Tokens of each row, prompt and response: (P + L,), with no pattern that a model could take for another."""
    lengths = [length + _DRAWN for length in _PROMPTS]
    return [
        torch.tensor([(7 * i * i + 5 * i + 11 * row + 3) % vocabulary for i in range(length)], device=device)
        for row, length in enumerate(lengths)
    ]


def _plain(model: LanguageModel, row: Tensor) -> Tensor:
    """Logits of one row by the model's own forward: (P + L, V)."""
    tokens = row.unsqueeze(0)
    return model.model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0]  # type: ignore[no-any-return]


def _difference(found: Tensor, expected: Tensor) -> float:
    difference = float((found - expected).abs().max())
    return difference if difference == difference else float("inf")


def _causality(model: LanguageModel, rows: list[Tensor], expected: list[Tensor]) -> float:
    """The prompt alone against the prompt with what follows it."""
    prompt = rows[0][: _PROMPTS[0]]
    return _difference(log_distribution(_plain(model, prompt), 1.0), expected[0][: len(prompt)])


def _prompts(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    width = max(_PROMPTS)
    tokens = torch.stack([pad(row[:n], (width - n, 0)) for row, n in zip(rows, _PROMPTS, strict=True)])
    mask = torch.stack([pad(torch.ones_like(row[:n]), (width - n, 0)) for row, n in zip(rows, _PROMPTS, strict=True)])
    return tokens, mask.bool()


def _scoring(model: LanguageModel, rows: list[Tensor], expected: list[Tensor]) -> float:
    """Every log-prob before each response token, from one pass over the padded batch."""
    (prompts, mask), responses = _prompts(rows), torch.stack([row[-_DRAWN:] for row in rows])
    tokens = torch.cat([prompts, responses[:, :-1]], -1)
    states = hidden_states(model.backbone, tokens, pad(mask, (0, _DRAWN - 1), value=True))
    logp = log_distribution(model.logits(states[:, -_DRAWN:]), 1.0)
    wanted = torch.stack([x[-_DRAWN - 1 : -1] for x in expected])
    return _difference(logp, wanted)


def _apart(model: LanguageModel, rows: list[Tensor], expected: list[Tensor]) -> float:
    """Every log-prob of all rows, each of which is there twice, from one pass over one sequence."""
    width = max(map(len, rows))
    twice = [row for row in rows for _ in range(2)]
    tokens = torch.stack([pad(row, (width - len(row), 0)) for row in twice])
    there = torch.stack([pad(torch.ones_like(row), (width - len(row), 0)) for row in twice]).bool()
    states, place = padding_free_states(model.backbone, tokens, there, width - _DRAWN)
    logp = log_distribution(model.logits(states[place[there]]), 1.0)
    return _difference(logp, torch.cat([x for x in expected for _ in range(2)]))


def _decoding(model: LanguageModel, rows: list[Tensor], expected: list[Tensor], cache: CacheKind) -> float:
    """The distribution of each next token, a step at a time from the cache, a row leaving midway if it can."""
    steps, left, worst = STEPS[cache](model, *_prompts(rows), _DRAWN), list(range(len(rows))), 0.0
    tokens = None
    for t in range(_DRAWN):
        logp = log_distribution(steps.first() if tokens is None else steps.next(tokens), 1.0)
        wanted = torch.stack([expected[row][_PROMPTS[row] - 1 + t] for row in left])
        worst = max(worst, _difference(logp, wanted))
        if t == _LEAVES[1] and steps.shrinks:
            staying = [i for i, row in enumerate(left) if row != _LEAVES[0]]
            left = [left[i] for i in staying]
            steps.keep(torch.tensor(staying, device=logp.device))
        tokens = torch.stack([rows[row][_PROMPTS[row] + t] for row in left])
    return worst
