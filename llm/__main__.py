"""python -m llm: language models from the command line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from sims.core.spec import SpecError, nearest
from sims.experiments.command import REFUSED, run_command

USAGE = """usage: python -m llm COMMAND [options]; python -m llm COMMAND --help lists them

  pretrain    train an embedded model again from scratch, or check a saved one
  new         train a tokenizer on your own texts, and make an untrained model for it
  sft         supervised fine-tuning on recorded responses
  reward      fit a reward model to preferences
  train       tune a model with any of the algorithms
  export      write the model of a checkpoint, for transformers
  sample      print responses of a model
  evaluate    reward, length, KL and win rate of a model against its reference
  align       keep a model aligned with what its users ask: log, filter, label, update, gate, promote, in cycles

  --tasks     print the table of tasks: the reward of each, and the settings it needs
"""

# Each command's module, and further arguments of its `main`.
COMMANDS: dict[str, tuple[str, ...]] = {
    "pretrain": ("pretrain",),
    "new": ("new",),
    "sft": ("train", "sft"),
    "reward": ("reward",),
    "train": ("train",),
    "export": ("export",),
    "sample": ("sample",),
    "evaluate": ("evaluate",),
    "align": ("align",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: see `sims.experiments.command`."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    return run_command(lambda: _run(arguments), refused=(ValueError, FileNotFoundError))


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else REFUSED
    if arguments == ["--tasks"]:
        from llm.tasks import task_table

        print(task_table())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        rule = f"must be one of {', '.join(COMMANDS)}{nearest(name, [*COMMANDS, '--tasks', '--help'])}"
        raise SpecError("command", name, rule)
    if sys.flags.optimize > 1:
        raise SpecError("PYTHONOPTIMIZE", sys.flags.optimize, "must be 0 or 1: transformers reads docstrings")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenising a few texts is slower in several threads
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # they would be drawn into the training's own
    module, *more = COMMANDS[name]
    return int(importlib.import_module(f"llm.commands.{module}").main(rest, *more))


if __name__ == "__main__":
    sys.exit(main())
