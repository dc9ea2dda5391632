"""From the equations of docstrings, which are plain Unicode (−log σ(βh), e^{r/β}, ½ρ²), to LaTeX.

A docstring is read in a terminal first, where LaTeX is noise. Its notation is regular enough to be set as mathematics
on a page: `a_b` and `a^{b}` are sub- and superscripts, a word of several letters is a name, the rest are symbols.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

NAMED = ("sqrt", "expm1", "log1p", "clip", "sg", "softmax", "logit", "tr", "Cov", "KL")
FUNCTIONS = {"log": r"\log", "exp": r"\exp", "min": r"\min", "max": r"\max"}
FUNCTIONS |= {name: rf"\operatorname{{{name}}}" for name in NAMED}
SYMBOLS = {
    "−": "-", "·": r"\cdot ", "×": r"\times ", "±": r"\pm ", "∓": r"\mp ", "<=": r"\le ", ">=": r"\ge ",
    "≤": r"\le ", "≥": r"\ge ", "≻": r"\succ ", "‖": r"\|", "∞": r"\infty ", "∇": r"\nabla ", "∂": r"\partial ",
    "Σ": r"\sum ", "√": r"\surd ", "→": r"\to ", "∝": r"\propto ", "∈": r"\in ", "⌈": r"\lceil ", "⌉": r"\rceil ",
    "½": r"\tfrac{1}{2}", "²": "^2", "³": "^3", "′": "'", "ℓ": r"\ell ", "{": r"\{", "}": r"\}", "≈": r"\approx ",
    "←": r"\leftarrow ", "∘": r"\circ ", "…": r"\ldots ", "...": r"\ldots ", "%": r"\%",
}  # fmt: skip
GREEK = {chr(code): unicodedata.name(chr(code)).split()[-1].lower() for code in range(0x3B1, 0x3CA)}
GREEK = {letter: f"\\{ {'lamda': 'lambda', 'final': 'varsigma'}.get(name, name) } " for letter, name in GREEK.items()}
GREEK |= {"Δ": r"\Delta ", "Φ": r"\Phi ", "Π": r"\Pi ", "Θ": r"\Theta ", "Ω": r"\Omega "}

_WORD = r"[A-Za-z][A-Za-z0-9]*(?:_[a-z][a-z0-9]+)*"
_TOKEN = re.compile(rf"\s+|.\u0304|<=|>=|\.\.\.|\d+(?:\.\d+)?(?:e[-−]?\d+)?|{_WORD}|.", re.DOTALL)
_BASE = re.compile(r"[A-Za-zΑ-ωℓ∂]\u0304?$")
OPENING, CLOSING = "([{⌈", ")]}⌉"


class NotAnEquation(ValueError):
    """A text that is not in the notation of this module, and why."""


@dataclass(frozen=True)
class Leading:
    """A text that begins with an equation: that, as LaTeX, and what follows it."""

    latex: str
    rest: str


def latex(equation: str) -> str:
    """The LaTeX of an equation. NotAnEquation if its brackets do not match.

    >>> latex("−log σ(βh)")
    '-\\\\log\\\\,\\\\sigma (\\\\beta h)'
    """
    return "".join(_Reader(equation).all()).strip()


def leading(text: str, names: Collection[str] = ()) -> Leading | None:
    """The equation that a text begins with, up to the first word of prose outside brackets; None if there is none.

    names: words that are no prose, such as the arguments of the function that the text describes.
    """
    end = depth = 0
    glued = False  # whether an outermost bracket followed its function without a space: words in it are arguments
    for match in _TOKEN.finditer(text):
        token = match[0]
        prose = len(token) > 1 and re.fullmatch(_WORD, token) and not _is_name(token, names)
        if prose and not (depth and glued) and text[match.start() - 1 : match.start()] not in ("_", "^"):
            break
        if depth == 0 and token in ".:;" and not text[match.end() : match.end() + 1].isalnum():
            break
        if token in OPENING:
            glued, depth = (glued if depth else not text[: match.start()].endswith(" ")), depth + 1
        elif token in CLOSING:
            depth -= 1
        if depth == 0:
            end = match.end()
    found = re.sub(r", \w$", "", text[:end].rstrip(" ,\n("))  # "…, b the mean of …": b begins what follows
    if len(found) < 2 or not re.search(r"[=·/^_²σΣ∂∇−‖]", found) or not re.search(r"[A-Za-zα-ωℓ]", found):
        return None
    if re.match(r"[A-Za-z] [a-z]", found):  # "A mean …"
        return None
    return Leading(latex(found), text[len(found) :])


def inside(text: str) -> list[str | Leading]:
    """A text in parts: prose, and what in it is hard to read without sub- and superscripts, as LaTeX."""
    parts: list[str | Leading] = []
    at = 0
    for match in re.finditer(r"[^\s(]*(?:\^|[A-Za-zα-ωℓ∂Σ]_(?=[{A-Za-zα-ωℓ*])|½[ρ(])[^\s]*", text):
        start, end = match.span()
        if start < at or re.search(r"[a-z]{2,}_", match[0]):
            continue
        while text[start:end].count("(") > text[start:end].count(")") and (more := text.find(")", end)) >= 0:
            end = more + 1
        found = text[start:end].rstrip(".,:;")
        while found.count(")") > found.count("("):
            found = found[: found.rindex(")")]
        try:
            converted = latex(found)
        except NotAnEquation:
            continue
        parts += [text[at:start], Leading(converted, "")]
        at = start + len(found)
    return [*parts, text[at:]]


def _is_name(word: str, names: Collection[str]) -> bool:
    base, _, index = word.partition("_")
    return word in FUNCTIONS or word in names or base in FUNCTIONS or (len(base) == 1 and bool(index))


class _Reader:
    """Tokens of an equation, left to right."""

    def __init__(self, equation: str) -> None:
        self.equation = unicodedata.normalize("NFD", equation)
        self.tokens = [match[0] for match in _TOKEN.finditer(self.equation)]
        self.at = 0

    def all(self) -> list[str]:
        found = []
        while self.at < len(self.tokens):
            found.append(self.one())
        return found

    def one(self) -> str:
        token = self.tokens[self.at]
        self.at += 1
        if token in "_^":
            return token + "{" + self.script() + "}"
        if token in OPENING:
            return self.bracket(token)
        if token in CLOSING:
            raise NotAnEquation(f"{self.equation!r}: {token} closes nothing")
        if token == "*" and self.at > 1 and _BASE.match(self.tokens[self.at - 2]):
            return "^*"
        if token.endswith("\u0304"):
            return rf"\bar{{{self.symbol(token[0])}}}"
        return self.word(token) if re.fullmatch(_WORD, token) and len(token) > 1 else self.symbol(token)

    def bracket(self, opening: str) -> str:
        found = [self.symbol(opening)]
        closing = CLOSING[OPENING.index(opening)]
        while self.at < len(self.tokens):
            if self.tokens[self.at] == closing:
                self.at += 1
                return "".join(found) + self.symbol(closing)
            found.append(self.one())
        raise NotAnEquation(f"{self.equation!r}: {opening} is not closed")

    def script(self) -> str:
        """What stands below or above: one token with its sign, or all of a pair of braces."""
        if self.at >= len(self.tokens):
            raise NotAnEquation(f"{self.equation!r}: nothing follows _ or ^")
        if self.tokens[self.at] == "{":
            self.at += 1
            return self.bracket("{")[2:-2]
        sign = self.one() if self.tokens[self.at] == "−" else ""
        return sign + self.one()

    def word(self, token: str) -> str:
        base, _, index = token.partition("_")
        if token in FUNCTIONS:
            following = "".join(self.tokens[self.at : self.at + 2]).strip()
            return FUNCTIONS[token] + (" " if following[:1] in tuple("([,)]_^") or not following else r"\,")
        if index and len(base) == 1:
            return f"{base}_{{{self.name(index)}}}"
        return self.name(token)

    def name(self, word: str) -> str:
        product = len(word) == 1 or (len(word) == 2 and not word.islower())
        return word if product else r"\mathrm{" + word.replace("_", r"\_") + "}"

    def symbol(self, token: str) -> str:
        if token.isspace():
            # Between words a space is one; elsewhere LaTeX sets its own.
            sides = self.tokens[self.at - 2 : self.at - 1], self.tokens[self.at : self.at + 1]
            beside = [side[0] for side in sides if side and re.match(r"[\w)\]]|[(\[]$", side[0])]
            is_word = [len(side) > 1 and re.fullmatch(_WORD, side) and side not in FUNCTIONS for side in beside]
            return r"\ " if len(beside) == 2 and any(is_word) else ""
        return GREEK.get(token) or SYMBOLS.get(token, token)
