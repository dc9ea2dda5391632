"""From Python in one call: a preset, some of its settings changed, and the `Result` of its runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging

from sims.api import run_experiment
from sims.core.algorithms import Algorithm
from sims.core.loop.optimise import Optimiser
from sims.core.spec import SpecError
from sims.experiments.experiment import PARTS, Experiment
from sims.experiments.results import Result
from sims.settings import changed

from .commands.options import find_preset
from .models.spec import LanguageModelSpec
from .training.learning_rate import ScheduledOptimiser

_WHOLE = tuple(name for name in PARTS if name != "algorithm")


def run(
    experiment: str | Experiment = "tiny-min-length",
    algorithm: Algorithm | None = None,
    *,
    results: str | Path | None = None,
    progress: bool = False,
    **changes: Any,
) -> Result:
    """Tune a language model, and evaluate it along the way on fresh samples.

    experiment: a preset's name (`llm.PRESETS`), or an experiment with a `LanguageModelSpec`. algorithm: replaces the
    experiment's. changes: any field of the experiment, of its schedule, optimiser (`ScheduledOptimiser`'s too), task,
    model, decoding or scoring by its name: updates, runs, learning_rate, max_new_tokens; or a whole part: environment=
    llm.ModeLength(mode=12). results: a folder of records; one that is there already is read instead of run again. None:
    nothing is written. progress: show a bar, which moves at each evaluation. Raises SpecError for invalid settings.

    A tiny preset takes a minute on one core. Beside the arrays of every result there are length (tokens before the end
    of a response) and finished (the share that ended); rewards, KL and entropy are means over samples, and the only
    optimum that may be known is the largest reward. `python -m llm train` keeps checkpoints and the trained model.

    >>> quick = {"updates": 1, "batch_size": 2, "evaluation_prompts": 2, "max_new_tokens": 4, "logits_at_a_time": 64}
    >>> result = llm.run("tiny-min-length", algorithm=sims.DPO(beta=0.1), num_generations=2, **quick)
    >>> result.reward.shape, result.axes["length"]
    ((1, 2), ('run', 'evaluation'))
    >>> llm.run("tiny-min-lenght")
    Traceback (most recent call last):
    sims.core.spec.SpecError: preset = 'tiny-min-lenght': must be one of ...; did you mean tiny-min-length?
    """
    whole = _changed(experiment, algorithm, changes)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenising a few texts is slower in several threads
    with _no_loading_bars():
        return run_experiment(whole, results, progress=progress)


@contextmanager
def _no_loading_bars() -> Iterator[None]:
    """No progress bars of transformers while weights load: they would be drawn into the training's own."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _changed(experiment: str | Experiment, algorithm: Algorithm | None, changes: dict[str, Any]) -> Experiment:
    """The experiment with another algorithm and changed settings, each in the part that has a field of its name."""
    base = find_preset(experiment) if isinstance(experiment, str) else experiment
    if not isinstance(base, Experiment) or not isinstance(base.policy, LanguageModelSpec):
        raise SpecError("experiment", experiment, "must be a preset's name, or an experiment of a language model")
    if algorithm is None:
        algorithm = base.algorithm
    elif not isinstance(algorithm, Algorithm):
        raise SpecError("algorithm", algorithm, "must be an instance of an algorithm, such as sims.DPO()")
    own_name = base.name if type(algorithm) is type(base.algorithm) else f"{base.name}-{algorithm.kind}"
    whole = {part: changes.get(part, getattr(base, part)) for part in _WHOLE}
    rest = {name: value for name, value in changes.items() if name not in _WHOLE}
    model = whole["policy"]
    old = whole["optimiser"]
    if any(name in rest for name in set(ScheduledOptimiser.names()) - set(Optimiser.names())):
        whole["optimiser"] = ScheduledOptimiser(**{name: getattr(old, name) for name in old.names()})
    parts = {**whole, "decoding": model.decoding, "scoring": model.scoring}
    own = set(Experiment.names()) - {*_WHOLE, "algorithm"}
    found = changed(parts, rest, own, (algorithm,))
    found["policy"] = found["policy"].replace(decoding=found.pop("decoding"), scoring=found.pop("scoring"))
    updates = found.get("updates", base.updates)
    if "evaluations" not in found and isinstance(updates, int) and 0 < updates < base.evaluations:
        found["evaluations"] = updates
    return base.replace(**{"name": own_name, "algorithm": algorithm} | found)
