"""How a command ends, as its program would: by what it returns, or by `sys.exit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def exit_status(main: Callable[[list[str]], int], arguments: Sequence[str]) -> int:
    """The exit status of a command; whatever else is raised is the caller's."""
    try:
        return main(list(arguments))
    except SystemExit as stop:  # argparse's own
        return int(stop.code or 0)
