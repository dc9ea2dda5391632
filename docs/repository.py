"""The repository's own pages as pages of the site, and where a link from one of them leads there."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = "OWNER"  # in the address of a repository that has none yet

# A file of the repository: the page of the site that it becomes. Notebooks become tutorials/<name>.
PAGES = {
    "README.md": "start",
    "notebooks/README.md": "tutorials/index",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "tests/BUGS.md": "bugs",
    "figures/claims.toml": "claims",
    "figures/out/report.html": "the-report",
}
AS_THEY_ARE = {"docs/explorer.html": "explorer.html"}  # a page that Sphinx does not make

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def markdown(source: str, address: str, root: Path = ROOT) -> str:
    """A Markdown file of the repository as a page, its links changed to lead where they lead from there."""
    return relinked((root / source).read_text(encoding="utf-8"), source, PAGES[source], address)


def relinked(text: str, source: str, page: str, address: str) -> str:
    """A text whose links are relative to `source`, a file of the repository, as one of `page`, a page of the site.

    A link to a file that is not on the site leads to the repository, or nowhere while that has no address.
    """
    up = "../" * page.count("/")

    def link(match: re.Match[str]) -> str:
        picture, words, target = match.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return match[0]
        path, _, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if picture:
            return f"![{words}]({up}_static/{posixpath.basename(place)})"
        if place in AS_THEY_ARE:
            return f'<a href="{up}{AS_THEY_ARE[place]}">{_html(words)}</a>'
        known = PAGES.get(place) or _tutorial(place) or _written(place)
        if known is not None:
            return f"[{words}]({up}{known}.{'ipynb' if place.endswith('.ipynb') else 'md'}{'#' * bool(anchor)}{anchor})"
        return words if PLACEHOLDER in address else f"[{words}]({address}/tree/main/{place})"

    return _LINK.sub(link, text)


def pictures(source: str, root: Path = ROOT) -> list[Path]:
    """The pictures that a Markdown file of the repository shows."""
    found = [match[3] for match in _LINK.finditer((root / source).read_text(encoding="utf-8")) if match[1]]
    return [root / posixpath.normpath(posixpath.join(posixpath.dirname(source), path)) for path in found]


def _tutorial(place: str) -> str | None:
    match = re.fullmatch(r"notebooks/(\d\d_\w+)\.ipynb", place)
    return f"tutorials/{match[1]}" if match else None


def _written(place: str) -> str | None:
    match = re.fullmatch(r"docs/site/([\w/-]+)\.md", place)
    return match[1] if match else None


def _html(words: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", words)
