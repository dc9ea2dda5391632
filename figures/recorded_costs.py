"""What a figure costs to compute, from the seconds that its committed records took. Without torch, for `--list`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sims.experiments.record_file import RecordFile

FOLDER = Path(__file__).parent / "records"


class Cost(NamedTuple):
    """Core-minutes. tested: of the records that rows are of, as recorded; tuning: about, from the number of its runs,
    each taken to last as long as one of a tested record does on average."""

    tested: float
    tuning: float


def cost(figure: str, folder: Path = FOLDER) -> Cost | None:
    """What a figure's records took, on the machines that made them; None where none are committed."""
    path = folder / f"{figure}.npz"
    if not path.exists():
        return None
    file = RecordFile(path, verify=False)
    keys = file.keys.keys() - file.notes.get("twins", {}).values()
    taken = [file.provenance(key) for key in sorted(keys)]
    seconds = sum(p.get("core_seconds", p["seconds"]) for p in taken)
    tested = sum(file.specs[key].get("runs", 0) for key in keys)
    tuning = sum(
        len(arm["points"]) * arm["runs"] + len(arm["finals"]) * arm["final_runs"]
        for tuned in file.notes.get("tunings", {}).values()
        for arm in tuned
    )
    return Cost(seconds / 60, seconds / 60 * tuning / tested if tested else 0.0)
