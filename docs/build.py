"""python -m docs.build: the documentation site, docs/out/html, from the repository as it is. Nothing is run but Sphinx.

`docs/site` holds what is written for the site alone; the README, the bug table, the executed notebooks, the docstrings,
the claims and the explorer are taken from where they are kept. The report is put in if `make reproduce` has made one.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

from notebooks.build import repository

from . import pages
from .repository import AS_THEY_ARE, PAGES, PLACEHOLDER, ROOT, markdown, pictures

SITE = ROOT / "docs" / "site"
OUT = ROOT / "docs" / "out"
REPORT = ROOT / "figures" / "out" / "report.html"
HOMES = {  # of links in pages that are copied, and what they become on the site
    "../../docs/explorer.html": "explorer.html",
    "../../docs/out/html/index.html": "index.html",
    "../../notebooks/README.md": "tutorials/index.html",
    "../figures/out/report.html": "report.html" if REPORT.exists() else "claims.html",
    "../notebooks/README.md": "tutorials/index.html",
    "../notebooks/NAME.ipynb": "tutorials/NAME.html",
    "out/html/index.html": "index.html",
}
ONLY_HERE = re.compile(r'<span class="only-here[^"]*">.*?</span>', re.DOTALL)  # on pages that the site has


def assemble(source: Path, address: str) -> None:
    """All that Sphinx reads, in a new folder. address: of the repository."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(SITE, source)
    for file in ("README.md", "notebooks/README.md", "CONTRIBUTING.md", "CHANGELOG.md", "tests/BUGS.md"):
        page = source / f"{PAGES[file]}.md"
        page.parent.mkdir(exist_ok=True, parents=True)
        extra = TUTORIALS if file.startswith("notebooks/") else ""
        page.write_text(markdown(file, address) + extra, encoding="utf-8")
        for picture in pictures(file):
            shutil.copy(picture, source / "_static" / picture.name)
    for notebook in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        text = described(tutorial(notebook.read_text(encoding="utf-8"), address))
        (source / "tutorials" / notebook.name).write_text(text, encoding="utf-8")
    for path, text in pages.made(REPORT.exists()).items():
        (source / path).parent.mkdir(exist_ok=True, parents=True)
        (source / path).write_text(text, encoding="utf-8")


def tutorial(notebook: str, address: str) -> str:
    """An executed notebook's text for the site: no badge, whose picture comes from a network, but a link like it."""

    def plain(badge: re.Match[str]) -> str:
        if PLACEHOLDER in address:
            return ""
        return f"[Open in Colab]({badge[2].replace(_slug(repository()), _slug(address))})"

    return BADGE.sub(plain, notebook).replace(repository(), address)


def described(notebook: str) -> str:
    """The notebook with a text in the place of each picture, for who cannot see it: the titles that its cell draws, or
    else the labels of its axes. What the picture shows is said in the text below."""
    cells = json.loads(notebook)
    for cell in cells["cells"]:
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            source = "".join(cell["source"])
            titles = TITLE.findall(source) or LABEL.findall(source)
            drawn = "; ".join(re.sub(r"\{[^}]*\}", "…", title) for title in titles)
            alt = f"Plot: {drawn}." if drawn else "Plot."
            cell["metadata"]["mystnb"] = {"image": {"alt": alt}}
    return json.dumps(cells, ensure_ascii=False)


TITLE = re.compile(r'title(?:=|\()\s*f?"([^"]+)"')  # of title="…" and set_title("…")
LABEL = re.compile(r'[xy]label=\s*f?"([^"]+)"')


def _slug(address: str) -> str:
    """owner/name"""
    return address.partition("github.com/")[2]


BADGE = re.compile(r"\[!\[[^\]]*\]\(([^)]+)\)\]\(([^)]+)\)")
TUTORIALS = """
```{toctree}
:hidden:
:glob:

[0-9]*
```
"""


def build(source: Path, html: Path) -> int:
    """Sphinx's exit status: not 0 if anything in the sources could not be understood."""
    from sphinx.cmd.build import main as sphinx

    shutil.rmtree(html, ignore_errors=True)
    options = ["-b", "html", "-q", "-W", "--keep-going", "-d", str(source.parent / "doctrees")]
    return int(sphinx([*options, str(source), str(html)]))


def add_pages(html: Path) -> None:
    """The explorer, and the report if there is one, with links among them and to the site."""
    for place, name in AS_THEY_ARE.items():
        _copy(ROOT / place, html / name)
    shutil.copytree(ROOT / "docs" / "explorer", html / "explorer", dirs_exist_ok=True)
    if REPORT.exists():
        _copy(REPORT, html / "report.html")


def _copy(page: Path, to: Path) -> None:
    text = ONLY_HERE.sub("", page.read_text(encoding="utf-8"))
    for here, there in HOMES.items():
        text = text.replace(f'="{here}', f'="{there}')
    to.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.build", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="where to write; default: docs/out")
    parser.add_argument("--repository", default=repository(), help="its address; default: that of pyproject.toml")
    options = parser.parse_args()
    source, html = options.out / "source", options.out / "html"
    assemble(source, options.repository)
    status = build(source, html)
    if status == 0:
        add_pages(html)
        print(f"{html / 'index.html'}")
        if PLACEHOLDER in options.repository:
            print("The repository has no address yet: set it in pyproject.toml, or with --repository.", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
