"""Options of `sft`, `train`, `reward` and `pretrain`: checkpoints, going on from them, and held-out evaluations."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from llm.training.loop import Saving
from llm.training.unfinished import options_of
from sims.core.spec import Spec, to_json
from sims.experiments.config_file import config_text
from sims.experiments.experiment import check_range
from sims.experiments.options import OptionParser, from_options, given, whole

S = TypeVar("S", bound=Spec)
SAVING = ("save_every", "save_total_limit", "load_best_model_at_end")


def add_saving(parser: argparse.ArgumentParser, load_best: bool) -> None:
    """Options of `reward` and `pretrain`. load_best: the default of --load-best-model-at-end."""
    group = parser.add_argument_group("checkpoints and held-out numbers")
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with a fit that was stopped, from its last checkpoint, by its settings: --output alone suffices",
    )
    group.add_argument("--overwrite", action="store_true", help="delete what a fit that was stopped has left")
    group.add_argument(
        "--evaluations", type=whole, default=4, metavar="INT", help="measurements on held-out data (default 4)"
    )
    add_checkpoints(group, "a tenth of all", "whose held-out loss was lowest", load_best)


def add_checkpoints(group: Any, every: str, best: str, load_best: bool = False) -> None:
    """Options of every training. every: the default of --save-every; best: which weights are the best."""
    group.add_argument(
        "--save-every", type=whole, metavar="INT", help=f"updates between checkpoints (default: {every})"
    )
    group.add_argument(
        "--save-total-limit",
        type=whole,
        default=2,
        metavar="INT",
        help="checkpoints that are kept beside the best one (default 2)",
    )
    group.add_argument(
        "--load-best-model-at-end",
        action=argparse.BooleanOptionalAction,
        default=load_best,
        help=f"finish with the weights {best} instead of the last; what is then reported of the same evaluation is a "
        f"little too good, being the best of several (default {'yes' if load_best else 'no'})",
    )


def saving_of(options: argparse.Namespace, metric: str | None, greater: bool | None = None) -> Saving:
    """What is kept of a fit. metric, greater: the best is by this metric of evaluations, and whether it is the
    greatest."""
    every, limit, load_best = (getattr(options, name) for name in SAVING)
    return Saving(every, limit, metric, greater, load_best)


def kept_of(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_saving` that a fit which is resumed goes on with."""
    return {name: getattr(options, name) for name in ("evaluations", *SAVING)}


def parsed(
    parser: OptionParser,
    arguments: Sequence[str],
    folder_of: Callable[[argparse.Namespace], Path | None] = lambda options: options.output,
) -> argparse.Namespace:
    """The options of `reward` or `pretrain`; of a fit that is resumed what it evaluates and keeps is as before, unless
    it is given. folder_of: where the fit that the options describe is kept."""
    asked = parser.parse_strictly(arguments)
    if asked.resume and (folder := folder_of(asked)) is not None:
        before = options_of(folder)
        parser.set_defaults(**{name: before[name] for name in ("evaluations", *SAVING) if name in before})
    return parser.parse_strictly(arguments)


def config_of(command: str, options: argparse.Namespace, specs: Sequence[Spec]) -> str:
    """The file beside a model that makes it again."""
    values = {name: value for spec in specs for name, value in to_json(spec).items() if hasattr(options, name)}
    header = f"python -m llm {command} --config run.yaml --output FOLDER makes this model again"
    return config_text(values | kept_of(options), header)


def settings_of(options: argparse.Namespace, cls: type[S], stored: dict[str, Spec]) -> S:
    """The options that were given, on top of the stored settings of this kind, if there are any."""
    held = stored.get(cls.kind)
    found = held.replace(**given(options, cls)) if isinstance(held, cls) else from_options(options, cls)
    check_range(found)
    return found
