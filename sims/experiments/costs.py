"""What experiments will cost, from what others did: core-seconds per run and update, by kind and size.

A prediction orders work and says how much of it is done; it never changes a result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .whole import written_whole

UNKNOWN = 2e-5  # core-seconds per run and update, before anything was measured
_WEIGHT = 0.3  # of the newest measurement


class Costs:
    """Seconds per run and update by "policy/algorithm/environment/samples per update", remembered in a file."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.rates: dict[str, float] = {}
        try:
            found = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
            self.rates = {str(kind): float(rate) for kind, rate in found.items() if 0 < float(rate) < 1e6}
        except (OSError, ValueError, TypeError, AttributeError):
            pass  # a lost memory costs a bad guess

    def predict(self, spec: Mapping[str, Any]) -> float:
        """Core-seconds of an experiment, from its spec as JSON; from its nearest relatives where it is new."""
        kind = _kind(spec)
        rate = self.rates.get(kind)
        parts = kind.split("/")
        for known in (3, 1):
            if rate is None:
                near = [r for other, r in self.rates.items() if other.split("/")[:known] == parts[:known]]
                rate = sum(near) / len(near) if near else None
        return (UNKNOWN if rate is None else rate) * _work(spec)

    def learn(self, spec: Mapping[str, Any], seconds: float) -> None:
        """An experiment took so many core-seconds."""
        kind, rate = _kind(spec), max(seconds, 1e-9) / _work(spec)
        before = self.rates.get(kind, rate)
        self.rates[kind] = (1 - _WEIGHT) * before + _WEIGHT * rate

    def learn_all(self, known: Iterable[tuple[Mapping[str, Any], float]]) -> None:
        """Take over what is not known yet from finished experiments: (spec, core-seconds) each."""
        news = Costs()
        for spec, seconds in known:
            news.learn(spec, seconds)
        self.rates = news.rates | self.rates

    def save(self) -> None:
        """Remember for the next call, if the disk lets us."""
        if self.file is not None:
            with suppress(OSError), written_whole(self.file) as new:
                new.write_text(json.dumps(self.rates, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _work(spec: Mapping[str, Any]) -> int:
    return int(spec["runs"]) * int(spec["updates"])


def _kind(spec: Mapping[str, Any]) -> str:
    schedule = spec["schedule"]
    prompts = schedule.get("minibatch_size") or schedule["batch_size"]
    kinds = [str(spec[part].get("kind", part)) for part in ("policy", "algorithm", "environment")]
    return "/".join([*kinds, str(prompts * schedule["num_generations"])])
