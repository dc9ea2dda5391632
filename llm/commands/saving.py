"""Options of `reward` and `pretrain`: checkpoints, going on from them, and held-out evaluations."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from llm.training.unfinished import Saving
from sims.core.spec import Spec, to_json
from sims.experiments.config_file import config_text
from sims.experiments.experiment import check_range
from sims.experiments.options import from_options, given, whole

S = TypeVar("S", bound=Spec)


def add_saving(parser: argparse.ArgumentParser, load_best: bool) -> None:
    """load_best: the default of --load-best-model-at-end."""
    group = parser.add_argument_group("checkpoints and held-out numbers")
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with a fit that was stopped, from its last checkpoint, by its settings: --output alone suffices",
    )
    group.add_argument("--overwrite", action="store_true", help="delete what a fit that was stopped has left")
    group.add_argument(
        "--save-every", type=whole, metavar="INT", help="updates between checkpoints (default: a tenth of all)"
    )
    group.add_argument(
        "--save-total-limit",
        type=whole,
        default=2,
        metavar="INT",
        help="checkpoints that are kept beside the best one (default 2)",
    )
    group.add_argument(
        "--evaluations", type=whole, default=4, metavar="INT", help="measurements on held-out data (default 4)"
    )
    group.add_argument(
        "--load-best-model-at-end",
        action=argparse.BooleanOptionalAction,
        default=load_best,
        help="finish with the weights whose held-out loss was lowest instead of the last; what is then reported of the "
        f"same held-out data is a little too good, being a minimum (default {'yes' if load_best else 'no'})",
    )


def saving_of(options: argparse.Namespace) -> Saving:
    return Saving(options.evaluations, options.save_every, options.save_total_limit, options.load_best_model_at_end)


def config_of(command: str, options: argparse.Namespace, specs: Sequence[Spec]) -> str:
    """The file beside a model that makes it again."""
    values = {name: value for spec in specs for name, value in to_json(spec).items() if hasattr(options, name)}
    header = f"python -m llm {command} --config run.yaml --output FOLDER makes this model again"
    return config_text(values | dataclasses.asdict(saving_of(options)), header)


def settings_of(options: argparse.Namespace, cls: type[S], stored: dict[str, Spec]) -> S:
    """The options that were given, on top of the stored settings of this kind, if there are any."""
    held = stored.get(cls.kind)
    found = held.replace(**given(options, cls)) if isinstance(held, cls) else from_options(options, cls)
    check_range(found)
    return found
