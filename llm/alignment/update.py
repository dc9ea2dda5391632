"""Step 5: a candidate, trained from the live version on the new pairs and on a share of old ones.

New pairs are labelled ones that no version was trained on; there must be `trigger` of them. Old ones are those that
were new in the live version and its ancestors: what was new in a version that the gate refused, or that was rolled
back, is never used again. The reference is version 1 (fixed), the live version (previous), or the mean of the weights
of the live version and its ancestors (average).

Training goes on from its last checkpoint after a kill, and gives the same weights, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm.models.aside import Aside
from llm.models.writing import weights_digest, write_model
from llm.tasks import MinLength
from llm.training import checkpoint
from llm.training.run import Run
from sims.core.loop.optimise import Optimiser
from sims.core.schedule import Schedule
from sims.core.spec import to_json
from sims.experiments.command import tell
from sims.experiments.experiment import Experiment

from . import registry
from .context import Context
from .registry import Version

WORK = "work"  # the candidate's pairs and checkpoints, until its cycle ends


def update(context: Context) -> str:
    """Train a candidate, if there are enough new pairs."""
    store, cycle, settings = context.store, context.cycle, context.settings.updating
    parent = registry.live(store)
    new, old = training_pairs(context, parent)
    work = store.folder / WORK
    if len(new) < settings.trigger:
        with store.transaction():
            store.finish(cycle, "update", {"new": len(new), "version": None})
        return f"no update: {len(new)} new pairs, fewer than trigger = {settings.trigger}"
    number = 1 + int(store.one("SELECT max(version) FROM versions"))
    data = "".join(json.dumps(row, sort_keys=True) + "\n" for row in (*new, *old))
    digest = hashlib.sha256(data.encode()).hexdigest()
    work.mkdir(exist_ok=True)
    pairs = work / f"v{number:04d}.jsonl"
    checkpoint.write_text(pairs, data)
    experiment = experiment_of(context, parent, pairs, len(new) + len(old))
    folder = store.folder / registry.folder_of(number)
    spec = to_json(experiment) | {"reference_rule": settings.reference_rule, "replayed": len(old), "new": len(new)}
    key = hashlib.sha256(json.dumps([spec, digest], sort_keys=True).encode()).hexdigest()
    train(context, experiment, parent, work / key[:16], folder)  # no checkpoint of other data or settings is found
    spec["environment"]["data"] = pairs.name
    spec["policy"]["model"] = parent.name
    with store.transaction():
        weights = weights_digest(folder)
        registry.register(store, number, parent.version, cycle, registry.folder_of(number), weights, digest, spec)
        for rows, is_new in ((new, 1), (old, 0)):
            for row in rows:
                store.insert("trained", version=number, row=row["row"], new=is_new)
        store.finish(cycle, "update", {"new": len(new), "old": len(old), "version": number})
    return f"v{number} trained from {parent.name} on {len(new)} new pairs and {len(old)} old ones"


def training_pairs(context: Context, parent: Version) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """New pairs and old ones, as rows of a preference file."""
    store, share = context.store, context.settings.updating.replay
    labelled = {
        row["row"]: preference_row(row)
        for row in store.all(
            "SELECT p.row, p.prompt, p.first, p.second, a.label FROM pairs p JOIN answers a ON a.row = p.row "
            "WHERE a.label NOT NULL AND a.label != 0.5 ORDER BY p.row"
        )
    }
    used = {row["row"]: row["version"] for row in store.all("SELECT row, version FROM trained WHERE new")}
    ancestors = {version.version for version in registry.lineage(store, parent.version)}
    new = [pair for row, pair in labelled.items() if row not in used]
    old = [pair for row, pair in labelled.items() if used.get(row) in ancestors]
    count = min(len(old), round(len(new) * share / (1 - share)))
    drawn = sorted(context.rng("replay").permutation(len(old))[:count].tolist())
    return new, [old[i] for i in drawn]


def preference_row(row: Mapping[str, Any] | sqlite3.Row) -> dict[str, Any]:
    """A labelled pair as a row of a preference file, where the answers to a conversation are messages too."""
    prompt = json.loads(row["prompt"])
    texts = (row["first"], row["second"]) if row["label"] > 0.5 else (row["second"], row["first"])
    chosen, rejected = (text if isinstance(prompt, str) else [{"role": "assistant", "content": text}] for text in texts)
    return {"row": row["row"], "prompt": prompt, "chosen": chosen, "rejected": rejected}


def experiment_of(context: Context, parent: Version, pairs: Path, count: int) -> Experiment:
    """The training as an experiment of the core: so many recorded pairs, no fresh samples."""
    settings, serving = context.settings.updating, context.settings.serving
    return Experiment(
        name="align",
        environment=MinLength(data=str(pairs), data_kind="preference", evaluation_prompts=1),
        policy=serving.spec(registry.model_of(context.store, parent)),
        algorithm=settings.made(),
        schedule=Schedule(batch_size=settings.batch_size, num_generations=2, source="dataset"),
        optimiser=Optimiser(learning_rate=settings.learning_rate, max_grad_norm=10.0),
        updates=math.ceil(settings.epochs * count / settings.batch_size),
        evaluations=1,
        runs=1,
        seed=serving.seed,
    )


def train(context: Context, experiment: Experiment, parent: Version, checkpoints: Path, folder: Path) -> None:
    """Train to the end, from the last checkpoint if there is one, and save the model."""
    run = Run(experiment)
    set_reference(context, run, parent)
    held = None
    with suppress(checkpoint.CheckpointError):  # all are damaged, which was told: training begins again
        held = checkpoint.load(checkpoints, tell)
    if held is not None:
        run.load_state_dict(held.tensors, held.numbers)
    checkpoints.mkdir(exist_ok=True)
    for update in run.train():
        if update.number % context.settings.updating.save_every == 0 and update.number < experiment.updates:
            checkpoint.save(checkpoints, update.number, *run.state_dict(), experiment.to_json())
    folder.parent.mkdir(exist_ok=True)
    write_model(folder, run.policy.model, run.tokenizer, parents=False)


def set_reference(context: Context, run: Run, parent: Version) -> None:
    """Let the reference be what the rule says, instead of the policy that training starts from."""
    reference, rule = run.training.reference.policy, context.settings.updating.reference_rule
    if isinstance(reference, Aside):  # the algorithm asks for none
        return
    ancestors = registry.lineage(context.store, parent.version)
    if rule == "fixed":
        reference.copy_from(context.model(ancestors[0]).policy)
    elif rule == "average":
        for index, version in enumerate(ancestors):
            other = context.model(version).policy
            if index == 0:
                reference.copy_from(other)
            else:
                reference.blend_from(other, 1 / (index + 1))
