"""The mirror of the registry in MLflow's: nothing doubled or lost, and nothing stopped by a server that fails."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from llm.__main__ import main
from llm.alignment import registry
from llm.alignment.mirror import ALIAS, PATIENCE, Mirror, bring, mlflow_mirror, source_of
from llm.alignment.store import Store, opened
from llm.alignment.upload import ARTIFACTS, LONG, QUICK, TIMEOUT, Uploads, location_of
from llm.commands.align import main as align
from sims.core.spec import SpecError
from sims.experiments.whole import write_checksums

NAME, SPEC = "support", {"a": 1}
REPORT = '[{"name": "win rate", "passed": true, "said": "0.6", "value": 0.6}]'
MISSING = r"mlflow_uri = 'http://x': needs the library: pip install mlflow-skinny sqlalchemy alembic"


class Page(list):
    token: str | None = None


class FakeClient:
    """What the mirror uses of `mlflow.MlflowClient`, in memory. stop_at: the number of the call that is broken off,
    before or after what it does. Version numbers begin at 5, pages have one version."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, Any] = {}
        self.runs: list[Any] = []
        self.stop_at, self.after, self.calls = 0, False, 0

    def __getattr__(self, called: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls == self.stop_at and not self.after:
                raise KeyboardInterrupt
            found = getattr(type(self), f"_{called}")(self, *arguments, **named)
            if self.calls == self.stop_at:
                raise KeyboardInterrupt
            return found

        if called.startswith("_"):
            raise AttributeError(called)
        return call

    def _search_registered_models(self, where: str) -> list[str]:
        return [name for name in self.models if where == f"name = '{name}'"]

    def _create_registered_model(self, name: str) -> None:
        assert name not in self.models
        self.models[name] = {"versions": [], "aliases": {}}

    def _get_registered_model(self, name: str) -> Any:
        return SimpleNamespace(aliases=self.models[name]["aliases"])

    def _search_model_versions(self, where: str, page_token: str | None = None) -> Page:
        held = [x for name, model in self.models.items() if where == f"name = '{name}'" for x in model["versions"]]
        at = int(page_token or 0)
        page = Page(held[at : at + 1])
        page.token = str(at + 1) if at + 1 < len(held) else None
        return page

    def _create_model_version(
        self, name: str, source: str, run_id: str | None, tags: dict[str, str], await_creation_for: int
    ) -> Any:
        held = self.models[name]["versions"]
        held.append(SimpleNamespace(version=str(5 + len(held)), source=source, tags=dict(tags)))
        return held[-1]

    def _set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        next(x for x in self.models[name]["versions"] if x.version == version).tags[key] = value

    def _get_experiment_by_name(self, name: str) -> Any:
        return self.experiments.get(name)

    def _create_experiment(self, name: str, artifact_location: str | None) -> str:
        assert name not in self.experiments
        self.experiments[name] = SimpleNamespace(experiment_id="1")
        return "1"

    def _search_runs(self, experiments: list[str], where: str, max_results: int) -> list[Any]:
        wanted = [" and ".join(f"tags.`{k}` = '{v}'" for k, v in list(x.data.tags.items())[:2]) for x in self.runs]
        return [run for run, said in zip(self.runs, wanted, strict=True) if said == where]

    def _create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> Any:
        number = f"r{len(self.runs)}"
        info = SimpleNamespace(run_id=number, artifact_uri=f"somewhere/{number}")
        self.runs.append(SimpleNamespace(info=info, data=SimpleNamespace(tags=dict(tags)), files={}))
        return self.runs[-1]

    def _log_artifacts(self, run_id: str, folder: str, path: str) -> None:
        run = next(x for x in self.runs if x.info.run_id == run_id)
        run.files |= {f"{path}/{file.name}": file.read_bytes() for file in Path(folder).iterdir()}

    def _set_tag(self, run_id: str, key: str, value: str) -> None:
        next(x for x in self.runs if x.info.run_id == run_id).data.tags[key] = value

    def _set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.models[name]["aliases"][alias] = version


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the mirror sets for MLflow's client is forgotten after a test."""
    for variable, value in PATIENCE.items():
        monkeypatch.setenv(variable, value)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Version 1, of which 2 was made and is live; 3 is refused."""
    with opened(tmp_path / "loop") as store:
        with store.transaction():
            registry.register(store, 1, None, 0, "someone/base", "", None, {"model": "someone/base"})
            registry.promote(store, 1, 0, "first")
            for number, passed in ((2, 1), (3, 0)):
                registry.register(store, number, number - 1, number - 1, f"models/v{number}", f"w{number}", "d", SPEC)
                store.insert("verdicts", version=number, cycle=number, passed=passed, report=REPORT)
            registry.promote(store, 2, 1, "passed")
        (store.folder / "models/v2").mkdir(parents=True)
        yield store


@pytest.fixture(params=["fake", "mlflow"])
def client(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "fake":
        return FakeClient()
    for library in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(library, reason="MLflow is an extra: pip install 'onoff-sims[mlflow]'")
    monkeypatch.chdir(tmp_path)  # where MLflow might leave files
    return mlflow_mirror(f"sqlite:///{tmp_path / 'mlflow.db'}", NAME)._make()


def versions_of(client: Any) -> dict[str, Any]:
    """The versions that MLflow holds, by the store's number."""
    found, token = [], None
    while True:
        page = client.search_model_versions(f"name = '{NAME}'", page_token=token)
        found += page
        if not (token := page.token):
            break
    versions = {x.tags["align.version"]: x for x in found}
    assert len(versions) == len(found)
    return versions


def seen(client: Any) -> tuple[dict[str, dict[str, str]], str]:
    """The tags of these versions, and what is live, by its number in the store."""
    found = versions_of(client)
    live = str(client.get_registered_model(NAME).aliases[ALIAS])
    tags = {number: dict(x.tags) for number, x in found.items()}
    return tags, next(number for number, x in found.items() if str(x.version) == live)


def test_versions_come_once_and_the_alias_moves_with_promotion_and_rollback(store: Store, client: Any) -> None:
    assert bring(store, client, NAME, remote=False) == 4  # three versions and the alias
    assert bring(store, client, NAME, remote=False) == 0
    tags, live = seen(client)
    assert live == "2"
    assert tags["1"] == {"align.version": "1", "align.cycle": "0", "align.spec": '{"model": "someone/base"}'}
    assert tags["2"] == {
        "align.version": "2",
        "align.parent": "1",
        "align.cycle": "1",
        "align.weights": "w2",
        "align.data": "d",
        "align.spec": '{"a": 1}',
        "align.gate": "passed",
        "align.checks": "win rate: 0.6 (passed)",
    }
    assert tags["3"]["align.gate"] == "refused"
    with store.transaction():
        registry.roll_back(store, 2, "complaints")
    assert bring(store, client, NAME, remote=False) == 2
    back, live = seen(client)
    assert live == "1" and back == {**tags, "2": {**tags["2"], "align.rolled_back": "complaints"}}


@pytest.mark.parametrize("after", [False, True])
def test_a_mirror_that_is_killed_at_any_request_is_made_up_for(store: Store, after: bool) -> None:
    whole = FakeClient()
    bring(store, whole, NAME, remote=False)
    for call in range(1, whole.calls + 1):
        client = FakeClient()
        client.stop_at, client.after = call, after
        with pytest.raises(KeyboardInterrupt):
            bring(store, client, NAME, remote=False)
        bring(store, client, NAME, remote=False)
        assert client.models == whole.models


def test_a_model_of_another_store_is_left_as_it_is(store: Store, tmp_path: Path) -> None:
    client = FakeClient()
    bring(store, client, NAME, remote=False)
    before = client._search_model_versions(f"name = '{NAME}'", "1")[0].tags.copy()
    with opened(tmp_path / "other") as other:
        with other.transaction():
            registry.register(other, 1, None, 0, "someone/base", "", None, {})
            registry.promote(other, 1, 0, "first")
        said = Mirror(lambda: client, NAME, False)(other)
    assert said is not None and "holds a version 2 that is not this store's" in said and "\n" not in said
    assert client._search_model_versions(f"name = '{NAME}'", "1")[0].tags == before
    assert seen(client)[1] == "2"


def test_the_commands_mirror_and_a_server_that_fails_is_a_line(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client, working = FakeClient(), False

    def connect(*uris: str) -> FakeClient:
        if not working:
            raise ConnectionError("refused\nat length")
        return client

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=connect))
    folder = tmp_path / "copy"
    with opened(folder) as copy, copy.transaction():
        for number, parent in ((1, None), (2, 1)):
            registry.register(copy, number, parent, 0, "pythia", "w", None, {})
        copy.insert("verdicts", version=2, cycle=1, passed=1, report="[]")
        registry.promote(copy, 1, 0, "first")
        registry.promote(copy, 2, 1, "passed")
    line = ["align", "rollback", "--version", "2", "--store", str(folder), "--mlflow-uri", "http://x", "--mlflow-model"]
    assert main([*line, NAME]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "v2 is taken back; v1 is live",
        "MLflow is behind: refused; the next call with --mlflow-uri catches up",
    ]
    working = True
    assert main([*line, NAME]) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"MLflow, {NAME}: v1 of 2 is live"
    assert seen(client)[1] == "1"


def test_sources_are_where_the_weights_lie(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    first, second = (registry.find(store, number) for number in (1, 2))
    assert source_of(store, first, True) == "hf://someone/base"
    path = (store.folder / "models/v2").resolve()
    assert source_of(store, second, True) == f"align://here{path}"
    assert source_of(store, second, False) == Path(path).as_uri()


def test_what_cannot_be_mirrored_is_told_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(SpecError, match=MISSING):
        mlflow_mirror("http://x", NAME)
    with pytest.raises(SpecError, match="mlflow_model = 'a/b': must be a name without"):
        mlflow_mirror("http://x", "a/b")
    with pytest.raises(SpecError, match="mlflow_artifacts = True: only means something with mlflow_uri"):
        align(["run", "--mlflow-artifacts"])


@pytest.fixture
def weighty(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store, whose version 2 has weights that are what was registered; those of version 3 are gone."""
    (store.folder / "models/v2/model.safetensors").write_bytes(b"weights")
    write_checksums(store.folder / "models/v2")
    monkeypatch.setattr("llm.alignment.registry.weights_digest", lambda folder: f"w{folder.name[1:]}")
    return store


def uploads(client: Any, store: Store, said: list[str]) -> Uploads:
    return Uploads(client, NAME, location_of(f"sqlite:///{store.folder.parent / 'mlflow.db'}"), said.append)


UPLOAD_SAID = ["MLflow, support: uploading v2, 2 files, 0.0 MB", "MLflow, support: v3 is not uploaded: "]


def test_weights_are_uploaded_once_and_are_the_versions_source(weighty: Store, client: Any, tmp_path: Path) -> None:
    said: list[str] = []
    bring(weighty, client, NAME, False, uploads(client, weighty, said))
    assert [line[: len(wanted)] for line, wanted in zip(said, UPLOAD_SAID, strict=True)] == UPLOAD_SAID
    found = versions_of(client)
    assert found["2"].source == found["2"].tags["align.artifacts"] and "align.artifacts" not in found["1"].tags
    if not isinstance(client, FakeClient):
        downloaded = Path(client.download_artifacts(found["2"].run_id, ARTIFACTS, str(tmp_path)))
        assert (downloaded / "model.safetensors").read_bytes() == b"weights"
        assert Path(urlsplit(found["2"].source).path).parent.is_relative_to(tmp_path / "mlflow-artifacts")
    assert bring(weighty, client, NAME, False, uploads(client, weighty, said)) == 0 and len(said) == 3


def test_weights_of_versions_that_were_mirrored_without_them_are_caught_up(weighty: Store, client: Any) -> None:
    bring(weighty, client, NAME, False)
    before = versions_of(client)["2"].source
    assert bring(weighty, client, NAME, False, uploads(client, weighty, [])) == 1
    found = versions_of(client)["2"]
    assert found.source == before != found.tags["align.artifacts"]
    assert bring(weighty, client, NAME, False, uploads(client, weighty, [])) == 0


@pytest.mark.parametrize("after", [False, True])
def test_an_upload_that_is_killed_at_any_request_is_made_up_for(weighty: Store, after: bool) -> None:
    whole = FakeClient()
    bring(weighty, whole, NAME, False, uploads(whole, weighty, []))
    for call in range(1, whole.calls + 1):
        client = FakeClient()
        client.stop_at, client.after = call, after
        with pytest.raises(KeyboardInterrupt):
            bring(weighty, client, NAME, False, uploads(client, weighty, []))
        bring(weighty, client, NAME, False, uploads(client, weighty, []))
        assert (client.models, client.runs) == (whole.models, whole.runs)
    assert whole.runs[0].files["model/model.safetensors"] == b"weights"


def test_an_upload_has_time_unless_the_user_says_how_much(weighty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    client, seen_limits = FakeClient(), []
    monkeypatch.setattr(client, "log_artifacts", lambda *_: seen_limits.append(os.environ[TIMEOUT]), raising=False)
    for given in (QUICK, "77"):
        monkeypatch.setenv(TIMEOUT, given)
        uploads(client, weighty, [])(weighty, registry.find(weighty, 2))
        client.runs.clear()
        assert os.environ[TIMEOUT] == given
    assert seen_limits == [LONG, "77"]
