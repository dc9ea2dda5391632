"""How Sphinx makes the site: `make docs`. Pages load nothing from a network; equations are MathML, which browsers set
themselves."""

from __future__ import annotations

import dataclasses
import html
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[3]  # from docs/out/source, where `docs.build` copies this file
sys.path.insert(0, str(ROOT))

import llm  # noqa: E402
import sims  # noqa: E402
from docs.docstrings import of_data, to_rst  # noqa: E402
from sims.core.spec import Spec  # noqa: E402

project = "onoff"
author = copyright = "The onoff contributors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_math_renderer = "mathml"
html_theme = "furo"
html_title = "onoff"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sphinx = False
html_domain_indices = False
templates_path = ["_templates"]
pygments_style, pygments_dark_style = "a11y-light", "monokai"  # each token stands out from its paper: a test
nitpicky = False  # a `name` in a docstring is a link where it leads somewhere, else code
suppress_warnings = ["config.cache", "mystnb.unknown_mime_type"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tutorials are shown as they were executed and committed
nb_ipywidgets_js: dict[str, Any] = {}  # no state of widgets is committed, and their scripts would come from a network
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "application/vnd.onoff.numbers+json", None)]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
python_maximum_signature_line_length = 88


def document(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Read a docstring by this project's conventions, and add a table of settings to a class that has them."""
    if what == "data":
        lines[:] = of_data(thing)
        return
    lines[:] = to_rst("\n".join(lines), _arguments(thing))
    if what == "class" and isinstance(thing, type) and issubclass(thing, Spec):
        lines += _settings(thing)


def _arguments(thing: Any) -> list[str]:
    try:
        return list(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        return []


def _settings(spec: type[Spec]) -> list[str]:
    shown = [field for field in dataclasses.fields(spec) if field.metadata.get("help")]
    if not shown:
        return []
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 30 15 55", ""]
    rows = [("setting", "default", "what it is")]
    rows += [(f"``{f.name}``", f"``{_default(f)}``", _plain(f.metadata["help"])) for f in shown]
    for row in rows:
        lines += [f"   * - {row[0]}", *(f"     - {cell}" for cell in row[1:])]
    return [*lines, ""]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "none: must be given" if field.default_factory is dataclasses.MISSING else repr(field.default_factory())
    return repr(field.default)


def _plain(text: str) -> str:
    return " ".join(line for line in to_rst(text) if line)


def without_fields(app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str, returns: str) -> Any:
    """The signature of a class of settings, whose fields stand with their defaults in its table."""
    if what == "class" and isinstance(thing, type) and issubclass(thing, Spec):
        return "(…)", None
    return None


def math(self: Any, node: nodes.math) -> None:
    self.body.append(_mathml(node, as_block=False))
    raise nodes.SkipNode


def math_block(self: Any, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{_mathml(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def _mathml(node: nodes.Element, as_block: bool) -> str:
    latex = node.astext().replace(r"\big[", r"\left[").replace(r"\big]", r"\right]")
    try:
        return str(tex2mathml(latex, as_block=as_block))
    except MathError as error:
        logging.getLogger(__name__).warning("%s: %s", latex, error, location=node)
        return f"<code>{html.escape(latex)}</code>"


def breakable(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Long names may break after an underscore, a slash or a dot, as those of tests must in the cell of a table."""
    if "body" in context:
        context["body"] = LONG.sub(lambda name: JOINT.sub("<wbr>", name[0]), context["body"])


LONG = re.compile(r'(?<=<span class="pre">)[^<]{16,}')
JOINT = re.compile(r"(?<=/)(?=\w)|(?<=[a-zA-Z0-9]_)(?=[a-zA-Z0-9])|(?<=[a-z]\.)(?=[a-z]{3})")


def setup(app: Sphinx) -> None:
    app.connect("html-page-context", breakable)
    app.add_html_math_renderer("mathml", (math, None), (math_block, None))
    app.connect("autodoc-process-docstring", document)
    app.connect("autodoc-process-signature", without_fields)


assert sims and llm  # their faces are lazy: what autodoc looks up is loaded from here
