"""What is wrong with the links of a built site: python -m docs.links docs/out/html.

Every link to a page of the site must lead to a file, and to a place in it if it names one; and nothing that a page is
made of (scripts, styles, pictures, fonts) may come from a network.
"""

from __future__ import annotations

import posixpath
import re
import sys
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "link": "href", "object": "data"}
LOADED |= dict.fromkeys(("img", "iframe", "source", "video"), "src")
NOT_LOADED = {"canonical", "next", "prev", "search", "index", "help", "license"}  # kinds of <link> that load nothing
ELSEWHERE = ("mailto:", "data:", "javascript:")


class Page(HTMLParser):
    """The links of a page, what it loads, and the places in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in LOADED and LOADED[tag] in given and given.get("rel", "") not in NOT_LOADED:
            self.loaded.append(given[LOADED[tag]])


class Site:
    """A folder of pages."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def pages(self) -> dict[str, Page]:
        """Every page by its path from the root."""
        return {path.relative_to(self.root).as_posix(): Page(path) for path in sorted(self.root.rglob("*.html"))}

    def problems(self) -> list[str]:
        """A line for each link that leads nowhere, and for each thing that is loaded from a network."""
        found = []
        for name, page in self.pages.items():
            found += [f"{name}: loads {url}" for url in page.loaded if self._is_remote(url)]
            found += [f"{name}: {url} leads nowhere" for url in dict.fromkeys(page.links) if not self._leads(name, url)]
            missing = (url for url in page.loaded if not self._is_remote(url) and not self._leads(name, url))
            found += [f"{name}: {url} is not there" for url in missing]
        for style in sorted(self.root.rglob("*.css")):
            for url in re.findall(r"url\(\s*[\"']?([^\"')]+)", style.read_text(encoding="utf-8")):
                if self._is_remote(url):
                    found.append(f"{style.relative_to(self.root).as_posix()}: loads {url}")
        return found

    def _is_remote(self, url: str) -> bool:
        return urlsplit(url).scheme in ("http", "https") or url.startswith("//")

    def _leads(self, name: str, url: str) -> bool:
        if self._is_remote(url) or url.startswith(ELSEWHERE):
            return True
        parts = urlsplit(url)
        beside = posixpath.join(posixpath.dirname(name), unquote(parts.path))
        target = posixpath.normpath(beside) if parts.path else name
        if not (self.root / target).is_file():
            return False
        is_state = "=" in parts.fragment  # of the explorer, which keeps its settings there
        if not parts.fragment or target not in self.pages or is_state:
            return True
        return unquote(parts.fragment) in self.pages[target].places


def main() -> int:
    problems = Site(Path(sys.argv[1])).problems()
    print("\n".join(problems) or "Every link leads somewhere, and nothing is loaded from a network.")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
