"""Small wrong changes to a source file, by the operators of mutmut, without mutmut's runner.

Its runner rewrites functions into trampolines, and so leaves out properties and the fields of classes: half of what
this package's algorithms are. Its operators are taken as they are, and put into the file one at a time.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import (
    mutation_operators,
    operator_arg_removal,
    operator_assignment,
    operator_if_exp,
    operator_string,
)

Operator = Callable[[cst.CSTNode], Iterable[cst.CSTNode]]


def operator_if(node: cst.If) -> Iterable[cst.If]:
    """mutmut's treatment of a ternary, which forces it down either branch, for the statement."""
    name = cst.Name("_")
    for forced in operator_if_exp(cst.IfExp(node.test, name, name)):  # type: ignore[arg-type]
        yield node.with_changes(test=forced.test)


# Left out is `x = None`: whatever uses x then raises, so that no test is needed to see it, and the score would be
# praise for nothing. For the same reason `_applied` takes only a part of what some operators offer.
OPERATORS: tuple[tuple[type, Operator], ...] = (
    *((kind, operator) for kind, operator in mutation_operators if operator is not operator_assignment),
    (cst.If, operator_if),
)


@dataclass(frozen=True)
class Mutant:
    """One change: `code()` is the whole file with it."""

    path: str
    line: int
    operator: str
    _module: cst.Module = field(repr=False, compare=False)
    _old: cst.CSTNode = field(repr=False, compare=False)
    _new: cst.CSTNode = field(repr=False, compare=False)

    @property
    def original(self) -> str:
        return self._module.code

    def code(self) -> str:
        return self._module.deep_replace(self._old, self._new).code  # type: ignore[union-attr]

    def diff(self) -> list[str]:
        """The lines taken away and put in, with − and + in front."""
        pair = (text.splitlines() for text in (self.original, self.code()))
        return [line for line in list(difflib.unified_diff(*pair, n=0, lineterm=""))[2:] if not line.startswith("@@")]


def mutants_of(path: str, source: str) -> list[Mutant]:
    """Every mutant of a file, from top to bottom. path: what the report calls the file."""
    wrapper = MetadataWrapper(cst.parse_module(source))
    finder = _Finder(path, wrapper)
    wrapper.visit(finder)
    return finder.found


class _Finder(cst.CSTVisitor):
    """Walks over what runs, and past what does not: documentation, annotations, help, messages, imports."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, path: str, wrapper: MetadataWrapper) -> None:
        super().__init__()
        self.path, self.module = path, wrapper.module
        self.found: list[Mutant] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _is_documentation(node):
            return False
        line = self.get_metadata(PositionProvider, node).start.line
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                for new in _applied(operator, node):
                    self.found.append(Mutant(self.path, line, operator.__name__, self.module, node, new))
        return True


def _applied(operator: Operator, node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    if operator is operator_string:
        return islice(operator(node), 1)  # the others change the case: as wrong a name, three times in the sample
    if operator is operator_arg_removal:
        return filter(partial(_may_be_left_out, node), operator(node))
    return operator(node)


def _may_be_left_out(call: cst.Call, new: cst.Call) -> bool:
    """Whether the call still can work: an argument with a name is gone, or the last one without. Not a setting's help,
    and nothing is replaced by None."""
    if len(new.args) == len(call.args):
        return False
    (at,) = (i for i, arg in enumerate(call.args) if arg not in new.args)
    named = [arg.keyword is not None for arg in call.args]
    if m.matches(call.func, m.Name("setting")) and at == 1:
        return False
    return named[at] or at + 1 == named.count(False)


def _is_documentation(node: cst.CSTNode) -> bool:
    """Whether neither the node nor what is in it can change what the package computes."""
    if isinstance(node, cst.SimpleString | cst.ConcatenatedString):
        return any(" " in part for part in _texts(node))  # prose: help and messages; names have no spaces
    if isinstance(node, cst.Call):
        return m.matches(node.func, m.Name("len") | m.Name("isinstance"))  # mutmut's own rule
    if isinstance(node, cst.Assign):  # __all__, and aliases of types
        alias = isinstance(node.value, cst.Subscript) and m.matches(
            node.value.value, m.Name("Literal") | m.Name("dict")
        )
        return alias or m.matches(node.targets[0].target, m.Name("__all__"))
    if isinstance(node, cst.AnnAssign):
        return m.matches(node.annotation, m.Annotation(m.Subscript(m.Name("ClassVar")))) and isinstance(
            node.value, cst.SimpleString | cst.ConcatenatedString
        )
    return isinstance(node, cst.Annotation | cst.Import | cst.ImportFrom | cst.Decorator | cst.FormattedString)


def _texts(node: cst.SimpleString | cst.ConcatenatedString) -> Iterator[str]:
    if isinstance(node, cst.ConcatenatedString):
        yield from (text for part in (node.left, node.right) if not isinstance(part, cst.FormattedString)
                    for text in _texts(part))  # fmt: skip
    else:
        yield str(node.evaluated_value)
