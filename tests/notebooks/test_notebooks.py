"""The notebooks run from top to bottom, say what they said when they were committed, and are what their sources are.

Each source ends with assertions on what it taught, so that to run is to hold. The quick mode takes fewer runs and
updates; numbers that depend on these are compared in the full one, among the long tests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from notebooks.build import (
    KERNEL,
    NUMBERS,
    ROOT,
    clean,
    execute,
    kept_numbers,
    outputs,
    read,
    repository,
    set_repository,
    sources,
    started,
)

if TYPE_CHECKING:  # nbformat takes seconds to import, of every process that collects tests
    from jupyter_client import KernelManager
    from nbformat import NotebookNode

SOURCES = pytest.mark.parametrize("source", sources(), ids=lambda source: source.stem)


CLOCK = re.compile(r"perf_counter|process_time|monotonic|time\.time|datetime\.now")
NUMBER = re.compile(r"[-+−]?\b\d[\d,]*(?:\.\d+)?(?:e[-+−]?\d+)?")


def committed(source: Path) -> NotebookNode:
    import nbformat

    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def disagreements(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], sized: bool) -> list[str]:
    """Numbers that differ by more than their tolerance. sized: whether those that depend on the sizes count too."""
    wrong = []
    assert [sorted(kept["numbers"]) for kept in ours] == [sorted(kept["numbers"]) for kept in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for name, x in mine["numbers"].items():
            y = other["numbers"][name]
            if (sized or not mine["sized"]) and not abs(x - y) <= mine["tolerance"]:
                wrong.append(f"{name}: {x!r}, committed {y!r}, tolerance {mine['tolerance']}")
    return wrong


def words(notebook: NotebookNode) -> list[str]:
    """What each cell says whose numbers do not depend on the sizes, without the numbers: the states of rows, say."""
    found = []
    for cell in notebook.cells:
        data = [output.data for output in cell.get("outputs", []) if "data" in output]
        kept = [each[NUMBERS] for each in data if NUMBERS in each]
        if kept and not any(each["sized"] for each in kept):
            found += [NUMBER.sub("…", each["text/markdown"]) for each in data if "text/markdown" in each]
    return found


@SOURCES
def test_a_notebook_is_in_step_with_its_source(source: Path) -> None:
    cells = [(cell.cell_type, cell.id, cell.source) for cell in read(source).cells]
    assert [(cell.cell_type, cell.id, cell.source) for cell in committed(source).cells] == cells


@SOURCES
def test_a_committed_notebook_was_run_and_holds_nothing_that_changes(source: Path) -> None:
    notebook = committed(source)
    assert notebook.metadata == {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert kept_numbers(notebook), "no number is kept with sims.teaching.keep"
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
    assert not any(CLOCK.search(cell.source) for cell in code), "it tells a time, which the next run will not"


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One for all quick runs; the long ones, and the build, have a fresh one each."""
    with started(quick=True) as kernel:
        yield kernel


@SOURCES
def test_a_notebook_runs_quickly_and_says_what_it_said(source: Path, kernel: KernelManager) -> None:
    now, before = execute(source, True, kernel), committed(source)
    assert disagreements(kept_numbers(now), kept_numbers(before), sized=False) == []
    assert words(now) == words(before)


@pytest.mark.long
@SOURCES
def test_a_notebook_runs_and_says_what_it_said(source: Path) -> None:
    found = kept_numbers(execute(source))
    assert disagreements(found, kept_numbers(committed(source)), sized=True) == []


@SOURCES
def test_a_notebook_begins_and_ends_as_all_do(source: Path) -> None:
    first, setup, *_, last = read(source).cells
    assert first.cell_type == "markdown" and first.source.startswith(f"# {int(source.stem[:2])}. ")
    title = first.source.splitlines()[0]
    assert "?" in title, f"{title}: the title is a question"
    for part in ("colab.research.google.com", f"notebooks/{source.stem}.ipynb", "After this you can", "Time:"):
        assert part in first.source, part
    for part in ("REPOSITORY = ", 'find_spec("sims")', "QUICK"):
        assert part in setup.source, part
    assert last.cell_type == "code" and "assert " in last.source


@SOURCES
def test_a_notebook_is_opened_and_installed_from_the_address_in_pyproject(source: Path) -> None:
    address = repository()
    first, setup, *_ = read(source).cells
    slug = address.removeprefix("https://github.com/")
    assert f"(https://colab.research.google.com/github/{slug}/blob/main/notebooks/{source.stem}.ipynb)" in first.source
    assert f'REPOSITORY = "{address}"  # ' in setup.source


def test_the_address_is_changed_wherever_it_stands_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    files = [
        "pyproject.toml",
        *(f"notebooks/{source.stem}{suffix}" for source in sources() for suffix in (".py", ".ipynb")),
    ]
    for file in files:
        (tmp_path / file).write_text((ROOT / file).read_text())
    old, new = repository(), "https://github.com/some-one/a.copy"
    changed = set_repository(new, tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in changed] == [files[0], *sorted(files[1:])]
    assert repository(tmp_path) == new
    for path in changed:
        assert old.removeprefix("https://github.com/") not in path.read_text()
    assert set_repository(old, tmp_path) == changed
    assert [(tmp_path / file).read_text() for file in files] == [(ROOT / file).read_text() for file in files]
    with pytest.raises(ValueError, match="must be https://github"):
        set_repository("https://example.org/x", tmp_path)


def test_a_number_that_moved_is_seen() -> None:
    old = [{"tolerance": 0.1, "sized": True, "numbers": {"x": 1.0}}]
    new = [{"tolerance": 0.1, "sized": True, "numbers": {"x": 1.2}}]
    assert disagreements(new, old, sized=True) == ["x: 1.2, committed 1.0, tolerance 0.1"]
    assert disagreements(new, old, sized=False) == []
    assert disagreements([{**new[0], "numbers": {"x": float("nan")}}], old, sized=True)


def test_a_state_that_moved_is_seen() -> None:
    import nbformat

    def notebook(state: str, sized: bool) -> NotebookNode:
        shown = [{"text/markdown": f"C14: {state}, +0.1"}, {NUMBERS: {"sized": sized, "numbers": {}}}]
        outs = [nbformat.v4.new_output("display_data", data=data) for data in shown]
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("say()", outputs=outs)])

    assert words(notebook("too small", False)) == ["C14: too small, …"] != words(notebook("opposite", False))
    assert words(notebook("too small", True)) == []


def test_what_widgets_leave_is_not_kept() -> None:
    import nbformat

    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "slider"}
    shown = nbformat.v4.new_output("display_data", data=view)
    notebook = nbformat.v4.new_notebook(
        metadata={"widgets": {"state": {}}, "language_info": {"name": "python", "version": "3"}}
    )
    notebook.cells = [nbformat.v4.new_code_cell("slider", outputs=[shown], metadata={"execution": {"iopub": "now"}})]
    text = json.dumps(clean(notebook))
    assert "widget" not in text and "iopub" not in text and "version" not in text


def test_a_source_that_warns_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "01_warns.py"
    source.write_text("# %%\nimport warnings\nwarnings.warn('here')\n")
    with pytest.raises(RuntimeError, match="wrote to stderr"):
        execute(source)
