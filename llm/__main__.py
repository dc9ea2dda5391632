"""python -m llm: language models from the command line."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence

USAGE = """usage: python -m llm COMMAND [options]; python -m llm COMMAND --help lists them

  pretrain    make an embedded model again, from scratch, and check it against the committed one
  new         a tokenizer trained on your own texts, and an untrained model behind it
  sft         imitate recorded responses
  reward      fit a reward model to preferences
  train       tune a model by any of the algorithms
  sample      responses of a model, to read
  evaluate    reward, length, KL and win rate of a model against its reference

  --tasks     print the table of tasks: what each rewards, and what it needs
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 for a run that could not go on, 2 for options that cannot be."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments == ["--tasks"]:
        from llm.tasks import task_table

        print(task_table())
        return 0
    name, rest = arguments[0], arguments[1:]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenising a few texts is slower in several threads
    from transformers.utils.logging import disable_progress_bar

    from sims.core.spec import SpecError

    from .commands import inspect as commands
    from .commands import new as new_model
    from .commands import train as train_command

    disable_progress_bar()  # one bar is ours, the training's

    known: dict[str, Callable[[Sequence[str]], int]] = {
        "pretrain": commands.pretrain,
        "new": new_model.main,
        "sft": lambda given: train_command.main(given, "sft"),
        "train": train_command.main,
        "sample": commands.sample,
        "evaluate": commands.evaluate,
    }
    if importlib.util.find_spec("llm.commands.reward"):
        known["reward"] = commands.reward
    if name not in known:
        print(f"error: command = {name!r}: must be one of {', '.join(known)}", file=sys.stderr)
        return 2
    try:
        return known[name](rest)
    except (SpecError, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
