"""What every step works with: the store, the settings of the cycle, and the models, each loaded once."""

from __future__ import annotations

import json
import zlib
from functools import cached_property

import numpy as np

from llm.models.writing import weights_digest
from sims.core.spec import SpecError, from_json, to_json

from . import registry
from .embedding import Embedder, Encoder
from .generation import Model
from .registry import Version
from .settings import Settings
from .store import Store

ENCODER = "embedder weights"  # a digest, in what version 1 is described by
STEPS = ("log", "watch", "filter", "label", "update", "gate", "promote")


class Context:
    """A step's surroundings in the cycle that is under way."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.settings, self.cycle = store, settings, store.cycle
        self._models: dict[int, Model] = {}

    def rng(self, use: str) -> np.random.Generator:
        """Random numbers of a use in this cycle: the same however often a step begins."""
        return np.random.default_rng([self.settings.serving.seed, self.cycle, zlib.crc32(use.encode())])

    def model(self, version: Version) -> Model:
        """A version, loaded."""
        if version.version not in self._models:
            self._models[version.version] = Model(
                self.settings.serving, registry.model_of(self.store, version), "version"
            )
        return self._models[version.version]

    @property
    def first(self) -> Model:
        """Version 1, loaded."""
        return self.model(registry.find(self.store, 1))

    @cached_property
    def embedder(self) -> Embedder:
        """One model in all cycles, so that their vectors can be compared: version 1, or the encoder that is named."""
        name = self.settings.serving.embedder
        if name is None:
            return self.first
        if registry.find(self.store, 1).spec[ENCODER] != weights_digest(name):
            raise SpecError("embedder", name, "has other weights than when the store began: its vectors are not those")
        return Encoder(name)

    @property
    def simulated(self) -> bool:
        """Whether the users are: nothing was imported."""
        return not self.store.one("SELECT count(*) FROM steps WHERE step = 'log' AND note LIKE '%imported%'")

    def require(self, step: str) -> None:
        """SpecError unless the steps before this one are done in this cycle."""
        for earlier in STEPS[: STEPS.index(step)]:
            if self.store.done(self.cycle, earlier) is None:
                raise SpecError("step", step, f"must come after {earlier}, which is not done in cycle {self.cycle}")


def settings_of(store: Store, cycle: int) -> Settings | None:
    """The settings that hold in a cycle; None before there are any."""
    held = store.one("SELECT spec FROM settings WHERE cycle <= ? ORDER BY cycle DESC LIMIT 1", cycle)
    return None if held is None else from_json(json.loads(held))


def keep_settings(store: Store, settings: Settings) -> None:
    """Let settings hold from the cycle that is under way, if others do; SpecError for another first version, or another
    encoder: their vectors cannot be compared."""
    held = settings_of(store, store.cycle)
    if held == settings:
        return
    if held is not None and store.one("SELECT count(*) FROM versions"):
        for name in ("model", "embedder"):
            new, old = getattr(settings.serving, name), getattr(held.serving, name)
            if new != old:
                raise SpecError(name, new, f"must be {old or 'none'}, with which the store began")
    with store.transaction():
        store.delete("settings", cycle=store.cycle)
        store.insert("settings", cycle=store.cycle, spec=json.dumps(to_json(settings), sort_keys=True))


def begin(store: Store, settings: Settings) -> None:
    """Register the first version, which is live from the start; nothing where there is one. SpecError for a model or an
    encoder that cannot be read: the store can then begin with another."""
    if store.one("SELECT count(*) FROM versions"):
        return
    model, encoder = settings.serving.model, settings.serving.embedder
    spec = {"model": model}
    Model(settings.serving, model)
    if encoder is not None:
        Encoder(encoder)
        spec[ENCODER] = weights_digest(encoder)
    with store.transaction():
        registry.register(store, 1, None, 0, model, weights_digest(model), None, spec)
        registry.promote(store, 1, 0, "the model that the loop began with")
