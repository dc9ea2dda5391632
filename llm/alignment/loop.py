"""The steps in their order, and the scenario that shows what a gate catches and what it misses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from . import label, registry
from .context import STEPS, Context, begin, settings_of
from .filter import choose
from .gate import gate
from .labellers import check_readable, labeller_of
from .log import log
from .promote import promote
from .settings import Settings
from .store import Store
from .update import update
from .watch import watch

# What differs from the settings in a cycle of the scenario `lessons`. In cycle 2 labels favour long responses, which
# the gate sees. In cycle 3 the answer key is wrong, by which responses are labelled, candidates compared and gold sets
# scored: all that is inside of the loop agrees, and nobody sees it but the users.
LESSONS: Mapping[int, dict[str, Any]] = MappingProxyType({2: {"length_bias": 0.3}, 3: {"wrong_key": True}})


def effective(settings: Settings, cycle: int) -> Settings:
    """The settings with what the scenario changes in a cycle."""
    return settings.changed(**LESSONS.get(cycle, {})) if settings.users.scenario == "lessons" else settings


def label_all(context: Context) -> str:
    """Step 4, by a labeller that answers at once; people are asked by `people`."""
    spec = context.settings.labelling
    if context.store.done(context.cycle, "pairs") is None:
        label.make_pairs(context)
    label.ask(context, labeller_of(context.settings, context.simulated), spec.labels, spec.tries)
    check_readable(spec, *label.unlabelled(context))
    return label.finish(context)


ACTIONS: dict[str, Callable[[Context], str]] = {
    "log": log,
    "watch": watch,
    "filter": choose,
    "label": label_all,
    "update": update,
    "gate": gate,
    "promote": promote,
}


def context_of(store: Store) -> Context:
    """What the steps of the cycle that is under way work with."""
    settings = settings_of(store, store.cycle) or Settings()
    begin(store, settings)
    return Context(store, effective(settings, store.cycle))


def perform(context: Context, step: str) -> str:
    """Do a step of the cycle, if it is not done yet: what to tell."""
    if context.store.done(context.cycle, step) is not None:
        return "done already"
    context.require(step)
    return ACTIONS[step](context)


def run(store: Store, cycles: int, tell: Callable[[str], None]) -> None:
    """All steps until `cycles` cycles are done since the store began; goes on in the middle of one."""
    while store.cycle <= cycles:
        context = context_of(store)
        for step in STEPS:
            if store.done(context.cycle, step) is None:
                tell(f"cycle {context.cycle}  {step:8}{perform(context, step)}")


def rollback(context: Context, why: str, version: int | None = None) -> str:
    """Return to the version that the live one replaced. version: the one to take back; where it is not live, as when a
    command that was killed had taken it back already, nothing is done."""
    with context.store.transaction():
        standing = registry.live(context.store)
        if version is not None and version != standing.version:
            registry.find(context.store, version)  # SpecError for one that there is not
            return f"v{version} is not live: nothing to take back; {standing.name} is live"
        taken, back = registry.roll_back(context.store, context.cycle, why)
    return f"{taken.name} is taken back; {back.name} is live"
