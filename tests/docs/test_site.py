"""The documentation site: how docstrings and links become its pages, and that its links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sims
from docs import pages
from docs.build import HOMES, ONLY_HERE, SITE, described, tutorial
from docs.docstrings import of_data, to_rst
from docs.equations import NotAnEquation, inside, latex, leading
from docs.links import Site
from docs.repository import AS_THEY_ARE, PAGES, ROOT, pictures, relinked
from figures.catalogue import catalogue
from figures.report import elsewhere
from notebooks.build import repository

ADDRESS = "https://example.org/someone/onoff"


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("−log σ(βh)", r"-\log\,\sigma (\beta h)"),
        ("(h − 1/(2β))²", r"(h-1/(2\beta ))^2"),
        ("log π*, π* = π_ref·e^{r/β}/Z", r"\log\,\pi ^*,\pi ^*=\pi _{\mathrm{ref}}\cdot e^{r/\beta }/Z"),
        ("½·max((V − V_old)², 0)", r"\tfrac{1}{2}\cdot \max ((V-V_{\mathrm{old}})^2,0)"),
        ("Σ_{s>=t} r_s", r"\sum _{s\ge t}r_{s}"),
        ("e^{−ρ} − 1 + ρ", r"e^{-\rho }-1+\rho "),
        ("clip(w, 1 − clip_low)", r"\operatorname{clip} (w,1-\mathrm{clip\_low})"),
        ("r̄ − ℓ̄", r"\bar{r}-\bar{\ell }"),
        ("max(0, mean ρ of pairs)", r"\max (0,\mathrm{mean}\ \rho \ \mathrm{of}\ \mathrm{pairs})"),
    ],
)
def test_an_equation_becomes_latex(equation: str, expected: str) -> None:
    assert latex(equation) == expected.strip()


@pytest.mark.parametrize("broken", ["σ(βh", "βh)", "e^", "e^{r/β"])
def test_what_is_no_equation_is_refused(broken: str) -> None:
    with pytest.raises(NotAnEquation):
        latex(broken)


@pytest.mark.parametrize(
    ("text", "equation", "rest"),
    [
        ("−log σ(βh). Rafailov et al. 2023.", "−log σ(βh)", ". Rafailov et al. 2023."),
        ("E_π[r]. logp: (..., N).", "E_π[r]", ". logp: (..., N)."),
        ("−A·log π: its gradient", "−A·log π", ": its gradient"),
        ("(1 − ε)·p + ε·(1 − p): label smoothing", "(1 − ε)·p + ε·(1 − p)", ": label smoothing"),
        ("log(1 − e^x) for x < 0", "log(1 − e^x)", " for x < 0"),
        ("P(first ≻ second) = σ(d): (N, N).", "P(first ≻ second) = σ(d)", ": (N, N)."),
    ],
)
def test_the_equation_that_a_docstring_begins_with_is_found(text: str, equation: str, rest: str) -> None:
    found = leading(text)
    assert found is not None and (found.latex, found.rest) == (latex(equation), rest)


@pytest.mark.parametrize("text", ["Train `runs` policies.", "One label from several aspects (a, b).", "A mean over B."])
def test_prose_is_no_equation(text: str) -> None:
    assert leading(text) is None


def test_equations_in_prose_are_set_and_the_rest_is_left() -> None:
    parts = inside("Its minimiser is π_ref·e^{r/β}/Z. See sync_every_updates, and (λ_D, λ_U).")
    assert [part if isinstance(part, str) else part.latex for part in parts] == [
        "Its minimiser is ",
        latex("π_ref·e^{r/β}/Z"),
        ". See sync_every_updates, and (",
        latex("λ_D"),
        ", ",
        latex("λ_U"),
        ").",
    ]


def test_a_docstring_becomes_restructured_text() -> None:
    docstring = """−log σ(βh). Of |y| tokens, `dpo_loss` of π*.

    one     the first
            of two
    two     the second

    >>> 1 + 1
    2

        x = 1

    L = −ℓ:

        L = w·A,    w = a/b

    - three;
    - four.

    worst   d = 1     log  f = ℓ
    mean    d = 1/n   rho  f = ρ

    1. `a.py`     does
       this;
    2. that.
    """
    assert to_rst(inspect.cleandoc(docstring)) == [
        ".. math::",
        "",
        rf"   {latex('−log σ(βh)')}",
        "",
        r"Of \|y\| tokens, :py:obj:`dpo_loss` of π\*.",
        "",
        "- ``one``: the first of two",
        "- ``two``: the second",
        "",
        ">>> 1 + 1",
        "2",
        "",
        ".. code-block:: python",
        "",
        "   x = 1",
        "",
        "L = −ℓ:",
        "",
        ".. math::",
        "",
        f"   {latex('L = w·A')}",
        "",
        ".. math::",
        "",
        f"   {latex('w = a/b')}",
        "",
        "",
        "- three;",
        "- four.",
        "",
        ".. code-block:: text",
        "",
        "   worst   d = 1     log  f = ℓ",
        "   mean    d = 1/n   rho  f = ρ",
        "",
        "1. ``a.py``: does this;",
        "2. that.",
        "",
    ]


def test_every_loss_that_states_an_equation_first_shows_it_on_its_page() -> None:
    without = set()
    for name in sims.losses.__all__:
        function = getattr(sims.losses, name)
        lines = to_rst(inspect.getdoc(function) or "", list(inspect.signature(function).parameters))
        if not lines[0].startswith((".. math::", ":math:")):
            without.add(name)
    assert without == {"aggregate_aspects"}  # a mean in words


def test_links_of_the_repository_lead_to_pages_of_the_site() -> None:
    def link(target: str, source: str = "README.md", page: str = "start", address: str = ADDRESS) -> str:
        return relinked(f"[here]({target})", source, page, address)

    assert link("CONTRIBUTING.md#rules") == "[here](contributing.md#rules)"
    assert link("../README.md", "notebooks/README.md", "tutorials/index") == "[here](../start.md)"
    assert link("01_one.ipynb", "notebooks/README.md", "tutorials/index") == "[here](../tutorials/01_one.ipynb)"
    assert link("docs/site/how-to/x-y.md#z") == "[here](how-to/x-y.md#z)"
    assert link("docs/explorer.html") == '<a href="explorer.html">here</a>'
    assert link("sims/core") == f"[here]({ADDRESS}/tree/main/sims/core)"
    assert link("sims/core", address="https://example.org/OWNER/onoff") == "here"
    assert link("https://example.org/x") == "[here](https://example.org/x)"


def test_every_page_of_the_repository_that_is_shown_is_there() -> None:
    made = {*PAGES, *AS_THEY_ARE} - {"figures/out/report.html"}
    assert [file for file in sorted(made) if not (ROOT / file).exists()] == []
    assert all(picture.exists() for picture in pictures("README.md"))


def test_every_page_is_in_the_contents() -> None:
    names = {path.relative_to(SITE).with_suffix("").as_posix() for path in SITE.rglob("*.md")}
    names |= {path.rpartition(".")[0] for path in pages.made(False)} | {page for page in PAGES.values()}
    listed = set()
    for index, text in [
        *((path.relative_to(SITE).as_posix(), path.read_text()) for path in SITE.rglob("*.md")),
        *pages.made(False).items(),
    ]:
        folder = index.rpartition("/")[0]
        for entry in re.findall(r"^ *(?:[\w ]+ <)?([a-z][\w/-]*)>?$", text, re.MULTILINE):
            listed.add(f"{folder}/{entry}" if folder else entry)
    assert names - listed == {"index"}


def test_the_reference_documents_every_public_name() -> None:
    text = "\n".join(pages.reference().values())
    documented = set(re.findall(r"^\.\. auto\w+:: ([\w.]+)$", text, re.MULTILINE))
    modules = {"sims.exact", "sims.losses", "sims.statistics"}
    for face in ("sims", "llm", *modules):
        module = importlib.import_module(face)
        public = {f"{face}.{name}" for name in module.__all__ if not inspect.ismodule(getattr(module, name))}
        assert public - documented == set(), face


def test_every_token_of_code_stands_out_from_its_paper() -> None:
    """WCAG's contrast of normal text, 4.5, in the styles that conf.py names, by day and by night."""
    styles = pytest.importorskip("pygments.styles", reason="needs pygments, which the extra `docs` brings")
    pytest.importorskip("a11y_pygments", reason="needs furo, which the extra `docs` brings")
    names = re.search(
        r'^pygments_style, pygments_dark_style = "([\w-]+)", "([\w-]+)"', (SITE / "conf.py").read_text(), re.M
    )
    assert names
    for name in names.groups():
        style = styles.get_style_by_name(name)
        drawn = {(look["color"], look["bgcolor"] or style.background_color) for _, look in style if look["color"]}
        assert drawn and {pair for pair in drawn if contrast(*pair) < 4.5} == set(), name


def test_white_letters_stand_out_in_every_cell_of_the_matrix() -> None:
    found = re.findall(r"\.matrix td\.\w+ \{ background: (#\w{6}); \}", (SITE / "_static/site.css").read_text())
    assert found and all(contrast("#ffffff", colour) >= 4.5 for colour in found)


def contrast(one: str, other: str) -> float:
    """WCAG's, of two colours, 'd55e00' or '#D55E00'."""

    def light(colour: str) -> float:
        parts = (int(colour.lstrip("#")[i : i + 2], 16) / 255 for i in (0, 2, 4))
        r, g, b = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_name_that_is_neither_class_nor_function_is_not_described_by_its_type() -> None:
    assert of_data({"a-preset": 1, "b": 2}) == ["A mapping with ``a-preset``, ``b``."] and of_data(3) == []


def test_rows_that_measure_the_same_say_it_once_on_the_page_of_claims() -> None:
    text = pages.claims()
    c32 = text[text.index("## C32\n") : text.index("## C33\n")]
    effects = [row.claim.effect.partition("; ")[0] for row in catalogue()["C32"].rows]
    assert len(effects) > len(set(effects)) and all(effect in c32 for effect in effects)
    assert all(f"**{row.claim.part.replace('_', chr(92) + '_')}**" in c32 for row in catalogue()["C32"].rows)
    assert c32.count("claimed") < len(effects)


def test_the_claims_page_has_every_claim_and_its_lessons() -> None:
    text = pages.claims()
    assert re.findall(r"^## (\S+)$", text, re.MULTILINE) == list(catalogue())
    lessons = elsewhere.lessons()
    for lesson in lessons:
        assert text.count(f"explorer.html#lesson={lesson.id}") == len(lesson.claims)


def test_the_figure_of_the_recipe_is_drawn_and_tests_the_claim_of_the_other(tmp_path: Path) -> None:
    """Both followed to the letter: the module is added to the gallery, the claim to the catalogue."""
    figure = _block("add-a-figure.md", "python")
    rows, verdicts = _block("add-a-claim.md", "toml"), _block("add-a-claim.md", "python")
    script = f"""
import sys, types
import numpy as np
from figures import catalogue, claims
catalogue.CATALOGUE.__class__  # read from a copy with one claim more
copy = {str(tmp_path / "claims.toml")!r}
catalogue.catalogue.__wrapped__.__defaults__ = catalogue.row.__defaults__ = (__import__("pathlib").Path(copy),)
module = types.ModuleType("two_betas")
exec({figure!r}, module.__dict__)
exec({verdicts!r}, module.__dict__)
class Lab:
    def records(self, arms):
        from sims.experiments.runner import compute
        from sims.experiments.store import Record
        arms = {{name: arm.replace(runs=12) for name, arm in arms.items()}}
        found = compute(list(arms.values()), lambda done: None)
        return {{n: Record(a.to_json(), x, provenance={{}}) for (n, a), x in zip(arms.items(), found)}}
records = module.collect(Lab())
module.draw(records).savefig({str(tmp_path / "figure.png")!r})
print(module.caption(records))
print(module.verdicts(records)[0].effect < -0.1, module.verdicts(records)[0].id)
"""
    (tmp_path / "claims.toml").write_text((ROOT / "figures/claims.toml").read_text() + "\n" + rows)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Online DPO on R1, 1-D bandit, table policy, 12 runs; mean over runs. The optimum of each β differs.",
        "True C91",
    ]
    assert (tmp_path / "figure.png").stat().st_size > 1000


def _block(page: str, language: str) -> str:
    found = re.search(rf"^ *```{language}\n(.*?)^ *```", (SITE / "how-to" / page).read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return inspect.cleandoc("\n" + found[1])


def test_the_code_on_written_pages_is_python() -> None:
    for path in SITE.rglob("*.md"):
        for code in re.findall(r"^( *)```python\n(.*?)^ *```", path.read_text(), re.MULTILINE | re.DOTALL):
            ast.parse(inspect.cleandoc("\n" + code[1]))


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_a_picture_of_a_tutorial_is_told_by_the_titles_of_its_panels(notebook: Path) -> None:
    cells = json.loads(described(notebook.read_text(encoding="utf-8")))["cells"]
    drawn = [cell for cell in cells if any("image/png" in each.get("data", {}) for each in cell.get("outputs", []))]
    told = [cell["metadata"]["mystnb"]["image"]["alt"] for cell in drawn]
    untitled = [alt for alt in told if not re.fullmatch(r"Plot: .{10,}\.", alt)]
    assert drawn and len(untitled) <= 1  # whose titles stand in a loop


def test_a_tutorial_on_the_site_loads_no_badge() -> None:
    old, slug = repository(), repository().partition("github.com/")[2]
    badge = f"[![Open in Colab](https://example.org/b.svg)](https://example.org/github/{slug}/blob/main/x.ipynb)"
    assert tutorial(f"# x\n{badge}\n{old}", "https://github.com/OWNER/onoff") == "# x\n\nhttps://github.com/OWNER/onoff"
    there = tutorial(badge, "https://github.com/someone/copy")
    assert there == "[Open in Colab](https://example.org/github/someone/copy/blob/main/x.ipynb)"


def test_what_is_wrong_with_links_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1>')
    (tmp_path / "a.html").write_text(
        '<link rel="stylesheet" href="https://example.org/x.css"><script src="//example.org/x.js"></script>'
        '<a href="b.html#there">1</a><a href="b.html#nowhere">2</a><a href="c.html">3</a><a href="https://x.org">4</a>'
        '<img src="c.png"><a href="b.html#lesson=semi">5</a>'
    )
    (tmp_path / "x.css").write_text("@font-face { src: url(https://example.org/f.woff2) }")
    assert Site(tmp_path).problems() == [
        "a.html: loads https://example.org/x.css",
        "a.html: loads //example.org/x.js",
        "a.html: b.html#nowhere leads nowhere",
        "a.html: c.html leads nowhere",
        "a.html: c.png is not there",
        "x.css: loads https://example.org/f.woff2",
    ]


def test_links_among_the_copied_pages_are_changed_for_the_site() -> None:
    """Each relative link of the explorer to a page outside its folder is one that the build changes."""
    text = (ROOT / "docs" / "explorer.html").read_text()
    outside = [link for link in re.findall(r'href="([^"#]+\.html)', text) if not link.startswith("explorer/")]
    assert outside and set(outside) <= set(HOMES)


@pytest.mark.parametrize("page", ["docs/explorer.html", "figures/report/page.html"])
def test_remarks_on_pages_that_the_site_has_are_left_out_of_it(page: str) -> None:
    text = (ROOT / page).read_text()
    assert "only-here" in text and "only-here" not in ONLY_HERE.sub("", text)


@pytest.mark.parametrize("module", ["sims", "sims.checks", "sims.losses"])
def test_an_example_that_a_module_opens_with_is_whole(module: str) -> None:
    opening = pages._opening(module)
    assert opening.count(">>>") == (importlib.import_module(module).__doc__ or "").count(">>>") > 0


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("sphinx", reason="needs Sphinx, which the extra `docs` brings")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "docs.build", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.mark.long
def test_every_link_of_the_built_site_leads_somewhere_and_nothing_comes_from_a_network(built: Path) -> None:
    site = Site(built)
    assert site.problems() == []
    assert len(site.pages) > 40 and sum(len(page.links) for page in site.pages.values()) > 2000


@pytest.mark.long
def test_equations_are_set_on_the_built_site(built: Path) -> None:
    assert (built / "reference" / "losses.html").read_text().count('<math xmlns="http') > 30
    assert (built / "tutorials" / "01_one_prompt.html").read_text().count("<math") > 5
