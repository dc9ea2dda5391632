"""python -m notebooks.build [NAME ...]: execute the sources, NN_slug.py, into the notebooks beside them, NN_slug.ipynb.

--repository URL: where the repository is hosted. A notebook opened in Colab installs the package from there, and its
badge leads there; both are changed in every source and notebook, and in pyproject.toml, where the address is kept.

NAME: the beginning of a source's name, such as 01; all without one. Outputs are kept, the state of widgets is not, and
nothing is written that changes from one run to the next: no times, no random ids.
"""

from __future__ import annotations

import argparse
import os
import re
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_client import KernelManager
    from nbformat import NotebookNode

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
NUMBERS = "application/vnd.onoff.numbers+json"  # as `sims.teaching` has it; not imported, it would bring torch
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def sources() -> list[Path]:
    """The notebooks' sources, in their order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def read(source: Path) -> NotebookNode:
    """A source as a notebook without outputs, whose cells are numbered."""
    import jupytext  # here and below, not at the top: who asks for the address of the repository need not wait

    notebook = jupytext.read(source, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {}
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def execute(source: Path, quick: bool = False, kernel: KernelManager | None = None) -> NotebookNode:
    """Run a source from top to bottom in a fresh kernel. RuntimeError for a warning or whatever else is on stderr.

    kernel: one that `started` gave, in which others ran before, whose names are forgotten first.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = read(source)
    if kernel is not None:
        notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=None,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute(env=_environment(quick))
    if kernel is not None:
        notebook.cells.pop(0)
    for output in outputs(notebook):
        if output.output_type == "stream" and output.name == "stderr":
            raise RuntimeError(f"{source.name}: wrote to stderr: {output.text}")
    return clean(notebook)


@contextmanager
def started(quick: bool = False) -> Iterator[KernelManager]:
    """A kernel for several sources: what they import takes half of a quick mode's time."""
    from jupyter_client import KernelManager

    kernel = KernelManager(kernel_name="python3")
    kernel.start_kernel(cwd=str(FOLDER), env=_environment(quick))
    try:
        yield kernel
    finally:
        kernel.shutdown_kernel(now=True)


def _environment(quick: bool) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "ONOFF_QUICK": "1" if quick else "0"}
    environment.pop("MPLBACKEND", None)
    return environment


def clean(notebook: NotebookNode) -> NotebookNode:
    """Without what widgets leave behind: their state, and views of it that nothing could show again."""
    import nbformat

    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    # The kernel adds the version of its Python.
    notebook.metadata.language_info = {"name": "python"}
    nbformat.validate(notebook)
    return notebook


def outputs(notebook: NotebookNode) -> Iterator[NotebookNode]:
    """All outputs of all cells."""
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def kept_numbers(notebook: NotebookNode) -> list[dict]:
    """What `sims.teaching.keep` kept, in order: tolerance, sized, numbers."""
    return [output.data[NUMBERS] for output in outputs(notebook) if NUMBERS in output.get("data", {})]


def repository(root: Path = ROOT) -> str:
    """The address of the repository, as pyproject.toml has it."""
    return str(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"])


def set_repository(address: str, root: Path = ROOT) -> list[Path]:
    """Write another address of the repository, https://github.com/owner/name, wherever it stands; which files changed.

    ValueError for an address of another form: Colab opens notebooks of GitHub alone.
    """
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise ValueError(f"repository = {address!r}: must be https://github.com/owner/name")
    old, new = (each.removeprefix("https://github.com/") for each in (repository(root), address))
    notebooks = sorted((root / "notebooks").glob("[0-9][0-9]_*"))
    changed = []
    for path in (root / "pyproject.toml", *notebooks):
        before = path.read_text(encoding="utf-8")
        # In the badge, Colab's own address stands before it.
        after = re.sub(rf"(github(?:\.com)?/){re.escape(old)}(?![\w.-])", rf"\g<1>{new}", before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path)
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m notebooks.build", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="beginnings of names, such as 01; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes, and nothing is written")
    parser.add_argument("--repository", metavar="URL", help="write another address of the repository; run nothing")
    options = parser.parse_args()
    if options.repository:
        try:
            print(*(path.relative_to(ROOT) for path in set_repository(options.repository)), sep="\n")
        except ValueError as error:
            parser.error(str(error))
        return
    for source in sources():
        if options.names and not source.name.startswith(tuple(options.names)):
            continue
        start = time.perf_counter()
        notebook = execute(source, options.quick)
        if not options.quick:
            import nbformat

            nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(f"{source.stem}: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
