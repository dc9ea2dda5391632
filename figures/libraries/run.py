"""python -m figures.libraries.run NAME: check a library's losses, and leave the record that the matrix is drawn from.

It is executed by the interpreter in which the library is installed, from the root of the repository.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sims.checks import PROPERTIES
from sims.checks.running import check_loss
from sims.core.spec import SpecError
from sims.experiments.whole import written_whole

from .paths import Library, LossPath

LIBRARIES = ("onoff", "trl", "liger", "torchtune", "openrlhf", "verl", "halos", "rlhf_book")
RECORDS = Path(__file__).parents[1] / "records" / "checks"
SCHEMA = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 whatever the checks find: this records, and gives no verdict."""
    parser = argparse.ArgumentParser(prog="python -m figures.libraries.run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument(
        "--checkout", type=Path, help="where the code is that is on no package index (halos, rlhf_book)"
    )
    parser.add_argument("--revision", default="", help="the commit of the checkout")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="LOSS", help="these losses alone; print, record nothing"
    )
    parser.add_argument(
        "--properties", nargs="+", choices=PROPERTIES, metavar="PROPERTY",
        help="try these alone, and keep the rest of the record, which must be of the same versions and day",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.checkout is not None:
        sys.path.insert(0, str(options.checkout))
    warnings.simplefilter("ignore")
    found: Library = importlib.import_module(f"{__package__}.{options.library}").library()
    if options.only:
        for path in found.paths:
            if path.name in options.only:
                print(checked(path))
        return 0
    made = record(found, options.revision, options.properties)
    target = RECORDS / f"{options.library}-{found.version}.json"
    if options.properties:
        made = together(json.loads(target.read_text(encoding="utf-8")), made)
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as new:
        new.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(target)
    return 0


def checked(path: LossPath, properties: Sequence[str] | None = None) -> Any:
    """The report of one loss, of the properties that are asked of it, or of these of them."""
    only = [name for name in properties or PROPERTIES if name not in path.left_out]
    return check_loss(
        path.function,
        path.family,
        path.claim,
        reduction=path.reduction,
        only=only,
        tolerance=path.tolerance,
        **path.options,
    )


def record(library: Library, revision: str = "", properties: Sequence[str] | None = None) -> dict[str, Any]:
    """What came of every loss of a library, and with which versions. properties: of these alone."""
    losses = []
    for path in library.paths:
        start = time.perf_counter()
        report = checked(path, properties)
        seconds = time.perf_counter() - start
        print(f"{report.headline()}, {seconds:.1f} s", flush=True)
        losses.append(loss_record(path, report.to_json(), seconds))
    return {
        "schema": SCHEMA,
        "library": library.name,
        "version": library.version,
        "url": library.url,
        "revision": revision or library.revision,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "losses": losses,
        "unable": dict(library.unable),
    }


def together(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A record in which some properties are tried again. SpecError if anything else is not as it was."""
    for name in ("schema", "version", "revision", "python", "torch", "date"):
        if old[name] != new[name]:
            raise SpecError(name, new[name], f"must be {old[name]!r}, as in the record: record all of it again")
    before = {loss["name"]: loss for loss in old["losses"]}
    for loss in new["losses"]:
        kept = before[loss["name"]]
        found = {**kept["properties"], **loss["properties"]}
        loss["properties"] = {name: found[name] for name in PROPERTIES if name in found}
        loss["seconds"] = kept["seconds"]
    return new


def loss_record(path: LossPath, report: dict[str, Any], seconds: float) -> dict[str, Any]:
    """One loss: what was asked of it, and what came of each property but for those of other families."""
    outcomes = {}
    for outcome in report["properties"]:
        name = outcome["name"]
        if path.family not in PROPERTIES[name].families:
            continue
        if outcome["status"] == "failed":
            keys = ("status", "relation", "got", "expected", "equation", "batch")
            outcomes[name] = {key: outcome[key] for key in keys} | {"rows": [bug["row"] for bug in outcome["rows"]]}
        else:
            outcomes[name] = {key: outcome[key] for key in ("status", "reason") if outcome[key]}
    outcomes |= {name: {"status": "not applicable", "reason": reason} for name, reason in path.left_out.items()}
    return {
        "name": path.name,
        "source": path.source,
        "family": path.family,
        "claim": report["claim"],
        "reduction": path.reduction,
        "options": report["options"],
        "tolerance": path.tolerance,
        "seconds": round(seconds, 1),
        "properties": outcomes,
    }


if __name__ == "__main__":
    sys.exit(main())
