"""The tables of environments and policies that the command line prints and the README shows."""

from __future__ import annotations

import dataclasses
import inspect
import re

from .core.algorithms.table import markdown
from .core.loop.protocols import EnvironmentSpec, PolicySpec
from .core.spec import Spec, SpecError, kinds_of
from .environments import ToyEnvironment
from .experiments.options import show

SETTINGS_SHOWN = 5


def summary(spec: type[Spec]) -> str:
    """The first sentence of a class's docstring, up to a colon unless only a name stands before it."""
    paragraph = (inspect.getdoc(spec) or "").split("\n\n")[0].replace("\n", " ")
    sentence = re.split(r"(?<! al)\. ", paragraph)[0].rstrip(".:")
    head = sentence.split(": ")[0]
    return head if " " in head else sentence


def settings(spec: type[Spec], base: type[Spec]) -> str:
    """The options that a class adds to or changes of its base's, with their defaults; at most SETTINGS_SHOWN."""
    own = [f for f in dataclasses.fields(spec) if f.name not in base.names() and f.metadata.get("help") is not None]
    changed = [f for f in dataclasses.fields(spec) if f.name in base.names() and f.default != _default(base, f.name)]
    shown = [f"{f.name} = {show(f.default)}" for f in (*changed, *own)]
    more = [f"{len(shown) - SETTINGS_SHOWN} more"] if len(shown) > SETTINGS_SHOWN else []
    return ", ".join(shown[:SETTINGS_SHOWN] + more) or "–"


def _default(spec: type[Spec], name: str) -> object:
    return next(f.default for f in dataclasses.fields(spec) if f.name == name)


def policies_of(environment: EnvironmentSpec) -> list[str]:
    """The kinds of the policies that support an environment, at their default settings."""
    return [kind for kind, policy in toy_policies().items() if _answers(policy(), environment)]


def toy_policies() -> dict[str, type[PolicySpec]]:
    """Policies by kind, without those that another package of this project registers when it is imported: a language
    model supports no toy environment, and a figure's variants are its own."""
    return {k: c for k, c in kinds_of(PolicySpec).items() if not c.__module__.startswith(("llm.", "figures."))}


def environments_of(policy: PolicySpec) -> list[str]:
    """The kinds of the environments, at their default settings, that a policy supports."""
    return [kind for kind, environment in kinds_of(ToyEnvironment).items() if _answers(policy, environment())]


def _answers(policy: PolicySpec, environment: EnvironmentSpec) -> bool:
    try:
        policy.check_environment(environment)
    except SpecError:
        return False
    return True


def environment_table() -> str:
    """All environments as a Markdown table."""
    header = ("environment", "in one line", "settings", "what is exact", "recorded pairs", "policies")
    return markdown(header, [_environment(kind, cls) for kind, cls in kinds_of(ToyEnvironment).items()])


def _environment(kind: str, cls: type[ToyEnvironment]) -> tuple[str, ...]:
    data = "✓" if cls.has_data else "–"
    return kind, summary(cls), settings(cls, ToyEnvironment), cls.exact, data, ", ".join(policies_of(cls()))


def policy_table() -> str:
    """All policies as a Markdown table."""
    header = ("policy", "in one line", "settings", "environments")
    return markdown(header, [_policy(kind, cls) for kind, cls in toy_policies().items()])


def _policy(kind: str, cls: type[PolicySpec]) -> tuple[str, ...]:
    found = environments_of(cls())
    everywhere = len(found) == len(kinds_of(ToyEnvironment))
    return kind, summary(cls), settings(cls, PolicySpec), "all" if everywhere else ", ".join(found)
