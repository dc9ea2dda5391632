"""A mirror of the version registry in MLflow's, for a team that has one: versions with tags, and an alias `live`.

The store stays the truth: nothing is read from MLflow but what it holds already. A version is found there by the tag
`align.version`, which is written in the same request as the version itself, so that a mirror that was killed, or is
called twice, neither doubles nor loses one. Each call brings all versions, so that it makes up for calls that failed.
Weights stay where they are, unless `upload` is asked to bring them too.
MLflow numbers its versions itself: `align.version` and `align.parent` are the store's numbers.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

from llm.embedded import find_folder
from sims.core.spec import SpecError

from . import registry
from .gate import report_of
from .registry import Version
from .store import Store
from .upload import QUICK, SQLITE, TIMEOUT, Uploads, location_of

ALIAS, PREFIX = "live", "align."
UPLOADED = f"{PREFIX}artifacts"  # the tag that says where uploaded weights are
# An alignment loop does not wait for minutes, as MLflow's client would, for a server that is away. It also reports its
# use to its makers unless told not to. Whoever sets these variables is heard.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    TIMEOUT: QUICK,
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class Mirror:
    """Brings the registry to MLflow when it has changed since the last try.

    client: makes an MLflow client. remote: whether others read the registry, from other machines. uploads: makes what
    uploads weights by a client; None: they stay where they are.
    """

    def __init__(
        self, client: Callable[[], Any], name: str, remote: bool, uploads: Callable[[Any], Uploads] | None = None
    ) -> None:
        self.name, self._make, self._remote, self._uploads = name, client, remote, uploads
        self._tried: Any = None

    def __call__(self, store: Store) -> str | None:
        """What was brought, in a line, or why nothing was; None where nothing was to do. Never raises for MLflow."""
        wanted = tags_of(store), registry.live(store).version
        if wanted == self._tried:
            return None
        self._tried = wanted
        try:
            client = self._make()
            uploads = None if self._uploads is None else self._uploads(client)
            written = bring(store, client, self.name, self._remote, uploads)
        except SpecError as error:
            return f"MLflow is left as it is: {error}"
        except Exception as error:  # of a server, a driver or a network: the loop goes on whatever it is
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"MLflow is behind: {said}; the next call with --mlflow-uri catches up"
        return f"MLflow, {self.name}: v{wanted[1]} of {len(wanted[0])} is {ALIAS}" if written else None


def mlflow_mirror(uri: str, name: str, artifacts: bool = False) -> Mirror:
    """The mirror at an MLflow server, or in a database of its. artifacts: whether weights are uploaded too. SpecError
    without the library, or for a name that MLflow does not take."""
    if not name.strip() or set(name) & set("/:'\"`"):
        raise SpecError("mlflow_model", name, "must be a name without / : and quotes")
    for variable, value in PATIENCE.items():
        os.environ.setdefault(variable, value)
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise SpecError("mlflow_uri", uri, "needs the library: pip install mlflow-skinny sqlalchemy alembic") from error

    def uploads(client: Any) -> Uploads:
        return Uploads(client, name, location_of(uri), partial(print, flush=True))

    return Mirror(lambda: MlflowClient(uri, uri), name, not uri.startswith(SQLITE), uploads if artifacts else None)


def tags_of(store: Store) -> dict[int, dict[str, str]]:
    """What MLflow is told of each version: where it came from, what the gate found, and why it was rolled back."""
    passed = {row["version"]: row["passed"] for row in store.all("SELECT version, passed FROM verdicts")}
    back = store.all("SELECT old.version, new.why FROM live new JOIN live old ON new.undone = old.number")
    reasons = {row["version"]: row["why"] for row in back}
    found = {}
    for version in registry.versions(store):
        number = version.version
        tags = {
            "version": number,
            "parent": version.parent,
            "cycle": version.cycle,
            "weights": version.weights,
            "data": version.data,
            "spec": json.dumps(version.spec, sort_keys=True),
            "rolled_back": reasons.get(number),
        }
        if number in passed:
            tags["gate"] = "passed" if passed[number] else "refused"
            tags["checks"] = "\n".join(
                f"{check.name}: {check.said} ({'passed' if check.passed else 'failed'})"
                for check in report_of(store, number)
            )
        found[number] = {PREFIX + key: str(value) for key, value in tags.items() if value not in (None, "")}
    return found


def bring(store: Store, client: Any, name: str, remote: bool, uploads: Uploads | None = None) -> int:
    """Add to a registered model what it lacks of the store's versions and their tags, and move the alias. Returns how
    much was written. SpecError, before anything is, for a model that holds versions which are not this store's.

    uploads: weights are uploaded first, and are the version's source. Of a version that MLflow held before, whose
    source it does not change, a tag says where they are."""
    wanted, live = tags_of(store), registry.live(store).version
    held = _held(client, name)
    for number, version in held.items():
        mine, theirs = (tags.get(PREFIX + "weights") for tags in (wanted.get(number, {}), version.tags))
        if number not in wanted or mine != theirs:
            rule = f"holds a version {number} that is not this store's: name another model"
            raise SpecError("mlflow_model", name, rule)
    written = 0
    if not held and not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    for version in registry.versions(store):
        tags, there = wanted[version.version], held.get(version.version)
        weights = None
        if uploads is not None and (there is None or UPLOADED not in there.tags):
            weights = uploads(store, version)
        if weights is not None:
            tags = {**tags, UPLOADED: weights.source}
        if there is None:
            source, run = weights or (source_of(store, version, remote), None)
            held[version.version] = client.create_model_version(
                name, source, run_id=run, tags=tags, await_creation_for=0
            )
            written += 1
            continue
        for key, value in tags.items():
            if there.tags.get(key) != value:
                client.set_model_version_tag(name, there.version, key, value)
                written += 1
    aliases = client.get_registered_model(name).aliases
    if str(aliases.get(ALIAS)) != str(held[live].version):
        client.set_registered_model_alias(name, ALIAS, held[live].version)
        written += 1
    return written


def source_of(store: Store, version: Version, remote: bool) -> str:
    """Where the weights lie, as a URI. A server refuses paths outside its artifact store, and schemes by which it would
    connect to another host: what it is given is a name, align://MACHINE/FOLDER, which MLflow does not download."""
    folder = find_folder(version.folder) if version.parent is None else store.folder / version.folder
    if not folder.is_dir():
        return f"hf://{version.folder}"
    path = folder.resolve()
    return f"align://{socket.gethostname()}{quote(path.as_posix())}" if remote else path.as_uri()


def _held(client: Any, name: str) -> dict[int, Any]:
    """MLflow's versions of a model that are a mirror's, by the store's numbers."""
    found, token = {}, None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        for version in page:
            if (number := version.tags.get(PREFIX + "version")) is not None:
                found[int(number)] = version
        if not (token := page.token):
            return found
