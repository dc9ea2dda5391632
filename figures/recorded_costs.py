"""What a figure costs to compute, from the seconds that its committed records took. Without torch, for `--list`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sims.experiments.record_file import RecordFile

FOLDER = Path(__file__).parent / "records"


class Cost(NamedTuple):
    """Core-minutes. tested: of the records that rows are of, as recorded; tuning: about, from the number of its runs,
    each taken to last as long as one of a tested record does on average; models: of both, what language models take."""

    tested: float
    tuning: float
    models: float


def cost(figure: str, folder: Path = FOLDER, others: set[str] | None = None) -> Cost | None:
    """What a figure's records took, on the machines that made them; None where none are committed. others: keys of
    records and of tunings that figures before it have, which cost nothing more; its own are added."""
    path = folder / f"{figure}.npz"
    if not path.exists():
        return None
    file, others = RecordFile(path, verify=False), set() if others is None else others
    keys = file.keys.keys() - file.notes.get("twins", {}).values()
    seconds = {key: _seconds(file.provenance(key)) for key in sorted(keys)}
    tested = sum(file.specs[key].get("runs", 0) for key in keys)
    tunings = file.notes.get("tunings", {})
    tuning = sum(
        len(arm["points"]) * arm["runs"] + len(arm["finals"]) * arm["final_runs"]
        for key, tuned in tunings.items()
        for arm in tuned
        if key not in others
    )
    a_run = sum(seconds.values()) / tested if tested else 0.0
    counted = {key: taken for key, taken in seconds.items() if key not in others}
    language = sum(taken for key, taken in seconds.items() if _is_language_model(file.specs[key]))
    share = language / sum(seconds.values()) if language else 0.0
    others |= keys | tunings.keys()
    found = sum(counted.values()) / 60, a_run * tuning / 60
    return Cost(*found, share * sum(found))


def _seconds(provenance: Mapping[str, Any]) -> float:
    return float(provenance.get("core_seconds", provenance["seconds"]))


def _is_language_model(spec: Mapping[str, Any]) -> bool:
    return bool(spec.get("policy", {}).get("kind") == "language_model")
