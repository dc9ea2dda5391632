"""python -m sims: one experiment from the command line; python -m sims check: a loss against what must hold of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .experiments.command import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: see `sims.experiments.command`."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def command() -> int:
        if arguments[:1] == ["check"]:
            from .checks.command import run as check

            return check(arguments[1:])
        from .command_line import run  # torch takes seconds to load

        return run(arguments)

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
