"""python -m tests.benchmarks: all benchmarks, or those named."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import tests.benchmarks as here


def main(wanted: list[str]) -> int:
    """Run each module's `main`; the module's docstring says what it measures."""
    modules = pkgutil.iter_modules(here.__path__)
    known = [module.name for module in modules if module.name != "__main__" and not module.ispkg]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(f"error: benchmark = {unknown[0]!r}: must be one of {', '.join(known)}", file=sys.stderr)
        return 2
    for name in wanted or known:
        module = importlib.import_module(f"tests.benchmarks.{name}")
        print(f"\n{module.__doc__}\n")
        module.main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
