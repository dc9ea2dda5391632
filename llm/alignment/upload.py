"""Weights as artifacts of MLflow: the folder of a version, in a run of an experiment that has the model's name.

A run is found by its tags, the version's number and the digest of its weights, and says by another that all files are
there: an upload that was broken off is begun again in the same run, and one that ended is not done twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from llm.embedded import find_folder
from llm.models.writing import weights_digest
from sims.core.spec import SpecError

from . import registry
from .registry import Version
from .store import Store

ARTIFACTS = "model"  # the folder within the run
# Seconds that a request may take. To an upload a server answers when it has written the whole file.
TIMEOUT, QUICK, LONG = "MLFLOW_HTTP_REQUEST_TIMEOUT", "10", "3600"
SQLITE = "sqlite:///"


class Uploaded(NamedTuple):
    """Where weights are. source: their URI; run: the id of the run that has them."""

    source: str
    run: str


class Uploads:
    """Uploads of versions to an experiment. location: where its artifacts are, if the client decides; tell: what is
    called with a line before each upload."""

    def __init__(self, client: Any, name: str, location: str | None, tell: Callable[[str], None]) -> None:
        self._client, self._name, self._location, self._tell = client, name, location, tell

    def __call__(self, store: Store, version: Version) -> Uploaded | None:
        """Upload a version's weights, unless they are there. None for a model that is not on this machine; and for
        weights that are damaged or gone, which is told: the version is mirrored without them."""
        try:
            folder = _folder(store, version)
        except SpecError as error:
            self._tell(f"MLflow, {self._name}: {version.name} is not uploaded: {error}")
            return None
        if folder is None:
            return None
        wanted = {"align.version": str(version.version), "align.weights": version.weights}
        run = self._run(wanted)
        if run.data.tags.get("align.uploaded") != version.weights:
            files = [file for file in folder.rglob("*") if file.is_file()]
            size = sum(file.stat().st_size for file in files)
            self._tell(f"MLflow, {self._name}: uploading {version.name}, {len(files)} files, {size / 1e6:,.1f} MB")
            with _patient():
                self._client.log_artifacts(run.info.run_id, str(folder), ARTIFACTS)
            self._client.set_tag(run.info.run_id, "align.uploaded", version.weights)
        return Uploaded(f"{run.info.artifact_uri}/{ARTIFACTS}", run.info.run_id)

    def _run(self, tags: dict[str, str]) -> Any:
        """The run with these tags, made if there is none."""
        found = self._client.get_experiment_by_name(self._name)
        if found is None:
            experiment = self._client.create_experiment(self._name, artifact_location=self._location)
        else:
            experiment = found.experiment_id
        where = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs = self._client.search_runs([experiment], where, max_results=1)
        return runs[0] if runs else self._client.create_run(experiment, tags=tags, run_name=f"v{tags['align.version']}")


def location_of(uri: str) -> str | None:
    """Where artifacts go: beside the file of an SQLite registry; a server has a place of its own."""
    if not uri.startswith(SQLITE):
        return None
    file = Path(uri.removeprefix(SQLITE)).absolute()
    return file.with_name(f"{file.stem}-artifacts").as_uri()


def _folder(store: Store, version: Version) -> Path | None:
    """The folder of a version; SpecError for weights that are not those that were registered."""
    if version.parent is not None:
        return Path(registry.model_of(store, version))
    folder = find_folder(version.folder)
    if not folder.is_dir():
        return None
    if weights_digest(folder) != version.weights:
        raise SpecError("model", version.folder, "has other weights than when the store began")
    return folder


@contextmanager
def _patient() -> Iterator[None]:
    """A longer limit for requests, unless the user has set one."""
    if os.environ.get(TIMEOUT) != QUICK:
        yield
        return
    os.environ[TIMEOUT] = LONG
    try:
        yield
    finally:
        os.environ[TIMEOUT] = QUICK
