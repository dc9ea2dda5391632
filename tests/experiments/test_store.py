"""Records: identity, round trip, and what is left of them when processes are killed, race, or bits flip."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from sims.experiments import code_digest as sources
from sims.experiments import store as module
from sims.experiments.code_digest import git_state, sources_digest
from sims.experiments.store import DamagedRecord, Store, load_committed, save_committed, spec_hash
from tests.processes import end_of

SPEC = {"algorithm": {"kind": "dpo", "beta": 0.1}, "runs": 4, "tags": ["a", None, True]}
FILES = ["spec.json", "record.npz", "provenance.json"]


@pytest.fixture(autouse=True)
def no_flush(monkeypatch: pytest.MonkeyPatch):
    """Nothing here outlives a power cut, and flushing to the disk is most of the time; child processes do flush."""
    monkeypatch.setattr(module.os, "fsync", lambda handle: None)


def arrays(value: float = 1.0) -> dict[str, np.ndarray]:
    return {
        "reward": np.full((2, 3), value),
        "tokens": np.arange(5, dtype=np.int32),
        "diverged": np.array([True, False]),
        "names": np.array(["π", "longer"]),
        "scalar": np.array(2.5, dtype=np.float32),
    }


def forbidden() -> dict[str, np.ndarray]:
    raise AssertionError("the record was computed again")


def visible(root: Path) -> list[str]:
    """What is in a store but lock files."""
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock")


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another Python process that runs `code` with `arguments` as sys.argv[1:]."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_hash_is_of_the_canonical_json():
    canonical = b'{"a":[0.1,null,true],"b":{"c":1e-07,"d":"x"}}'
    expected = hashlib.sha256(canonical).hexdigest()[:12]
    assert spec_hash({"b": {"d": "x", "c": 1e-7}, "a": [0.1, None, True]}) == expected


def test_hash_ignores_key_order_and_is_the_same_in_another_process():
    backwards = {key: SPEC[key] for key in reversed(SPEC)}
    code = "import json, sys; from sims.experiments.store import spec_hash; print(spec_hash(json.loads(sys.argv[1])))"
    output, errors = start(code, json.dumps(backwards)).communicate()
    assert spec_hash(backwards) == spec_hash(SPEC) == output.strip(), errors
    assert spec_hash(SPEC) != spec_hash({**SPEC, "runs": 5})


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"arm": {"beta": float("nan")}}, r"spec\.arm\.beta = nan"),
        ({"arm": [0.1, float("inf")]}, r"spec\.arm\[1\] = inf"),
        ({"arm": {"beta": np.float64(0.1)}}, r"spec\.arm\.beta"),
        ({"arm": (1, 2)}, r"spec\.arm = \(1, 2\)"),
        ({"arm": {1: "x"}}, r"spec\.arm has the key 1"),
    ],
)
def test_what_is_not_json_is_refused_by_its_path(value: dict, path: str):
    with pytest.raises(ValueError, match=path):
        spec_hash(value)


def forget():
    """What a process that starts afresh does not know."""
    sources._read_source.cache_clear()
    sources._digest.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes files of a package `toy` and gives the digest of starting at toy.runs.start."""
    forget()
    files = {
        "toy/__init__.py": "",
        "toy/runs/__init__.py": "",
        "toy/runs/start.py": '"""Start."""\nfrom . import near\nfrom ..far import number\nimport json, toy.deep.leaf\n',
        "toy/runs/near.py": 'def f(x):\n    """Doc."""\n    from toy import lazy\n    return x + 1\n',
        "toy/far.py": "number = 1\n",
        "toy/lazy.py": "late = 1\n",
        "toy/deep/__init__.py": "side = 1\n",
        "toy/deep/leaf.py": "leaf = 1\n",
        "toy/stranger.py": "unused = 1\n",
    }

    def digest(changes: dict[str, str] | None = None) -> str:
        for name, text in (files | (changes or {})).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        forget()
        return sources_digest(["toy.runs.start"], packages=("toy",))

    monkeypatch.syspath_prepend(tmp_path)
    yield digest
    forget()


def test_sources_digest_changes_with_code_wherever_an_import_leads(package):
    changes = {
        "toy/runs/start.py": "from . import near\nfrom ..far import number\nimport json, toy.deep.leaf\nnew = 1\n",
        "toy/runs/near.py": "def f(x):\n    from toy import lazy\n    return x + 2\n",
        "toy/far.py": "number = 2\n",
        "toy/lazy.py": "late = 2\n",
        "toy/deep/__init__.py": "side = 2\n",  # nobody names it, but importing toy.deep.leaf runs it
        "toy/deep/leaf.py": "leaf = 2\n",
    }
    digests = {package(), *(package({name: text}) for name, text in changes.items())}
    assert len(digests) == 1 + len(changes)


def test_sources_digest_is_blind_to_comments_docstrings_formatting_and_strangers(package):
    near = '# why\ndef f( x ):\n    """Another doc."""\n\n    from toy import lazy\n    return (x + 1)\n'
    start = "from . import near\nfrom ..far import number\nimport json, toy.deep.leaf\n"
    changes = {"toy/runs/near.py": near, "toy/runs/start.py": start, "toy/stranger.py": "unused = 2\n"}
    assert package() == package(changes)


def test_sources_digest_reads_each_file_once_per_process(package, tmp_path: Path):
    before = package()
    (tmp_path / "toy/far.py").write_text("number = 3\n")
    assert sources_digest(["toy.runs.start"], packages=("toy",)) == before


def test_sources_digest_refuses_a_module_that_is_not_there():
    with pytest.raises(ValueError, match=r"'sims\.core\.stor'"):
        sources_digest(["sims.core.stor"])
    with pytest.raises(ValueError, match="'json'"):
        sources_digest(["json"])


def test_round_trip(tmp_path: Path):
    store = Store(tmp_path / "results")
    assert store.load("bandit", SPEC) is None
    saved = store.save("bandit", SPEC, arrays(), seconds=1.5, sources="abc")
    loaded = store.load("bandit", SPEC, sources="abc")
    assert loaded is not None and loaded.spec == SPEC and loaded.hash == spec_hash(SPEC)
    assert loaded.provenance == saved.provenance
    assert loaded.arrays.keys() == arrays().keys()
    for name, array in arrays().items():
        np.testing.assert_array_equal(loaded.arrays[name], array, strict=True)
    assert visible(store.root) == [f"bandit-{spec_hash(SPEC)}"]
    assert sorted(path.name for path in store.path("bandit", SPEC).iterdir()) == sorted(FILES)


def test_provenance_and_bytes(tmp_path: Path):
    provenance, again = (
        Store(tmp_path / n).save("x", SPEC, arrays(), seconds=1.5, sources="abc").provenance for n in ("a", "b")
    )
    keys = "checksum commit created dirty machine numpy python seconds sha256 sources torch"
    assert sorted(provenance) == keys.split() and provenance["sha256"] == again["sha256"]
    assert provenance["seconds"] == 1.5 and provenance["created"].endswith("+00:00")
    for name in ("spec.json", "record.npz"):
        content = (Store(tmp_path / "a").path("x", SPEC) / name).read_bytes()
        assert provenance["sha256"][name] == hashlib.sha256(content).hexdigest()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_state(tmp_path: Path):
    def git(*arguments: str) -> str:
        command = [
            "git",
            "-C",
            str(tmp_path),
            "-c",
            "user.name=n",
            "-c",
            "user.email=n@x.org",
            "-c",
            "commit.gpgsign=false",
        ]
        return subprocess.run([*command, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    state = git_state.__wrapped__  # without the memory of this process
    assert state(tmp_path) == (None, None)
    (tmp_path / "inside").mkdir()
    (tmp_path / "code.py").write_text("x = 1\n")
    git("init", "-q")
    assert state(tmp_path) == (None, None)  # no commit yet
    git("add", ".")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "figure.png").write_text("drawn")
    assert state(tmp_path) == (commit, False)
    (tmp_path / "code.py").write_text("x = 2\n")
    assert state(tmp_path) == (commit, True)
    assert state(tmp_path / "inside") == (None, None)  # a copy inside another project's checkout


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("objects", np.array([{}, None], dtype=object)),
        ("hidden", np.zeros(2, dtype=[("x", object)])),
        ("masked", np.ma.masked_array([1.0, 2.0], [True, False])),
        ("listed", [1.0, 2.0]),
        ("file", np.zeros(2)),
        ("a/b", np.zeros(2)),
    ],
)
def test_arrays_that_would_not_come_back_are_refused_by_name(tmp_path: Path, name: str, value: np.ndarray):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match=f"'{name}'"):
        store.save("bandit", SPEC, {"fine": np.zeros(2), name: value}, seconds=1)
    assert visible(tmp_path) == []


def test_bad_names_and_specs_are_refused_before_anything_runs(tmp_path: Path):
    store = Store(tmp_path / "results")
    with pytest.raises(ValueError, match=r"name = '\.\./x'"):
        store.get_or_run("../x", SPEC, forbidden, "abc")
    with pytest.raises(ValueError, match=r"spec\.beta = nan"):
        store.get_or_run("x", {"beta": float("nan")}, forbidden, "abc")
    assert not store.root.exists()


def test_a_finished_record_is_reused_until_forced_or_its_sources_change(tmp_path: Path):
    store = Store(tmp_path)
    assert store.get_or_run("x", SPEC, lambda: arrays(1), "abc").arrays["reward"][0, 0] == 1
    assert store.get_or_run("x", SPEC, forbidden, "abc").arrays["reward"][0, 0] == 1
    assert store.get_or_run("x", SPEC, forbidden, None).arrays["reward"][0, 0] == 1
    assert store.get_or_run("x", SPEC, lambda: arrays(2), "abc", force=True).arrays["reward"][0, 0] == 2
    assert store.load("x", SPEC, sources="new") is None
    assert store.get_or_run("x", SPEC, lambda: arrays(3), "new").arrays["reward"][0, 0] == 3
    assert store.get_or_run("x", SPEC, forbidden, "new").arrays["reward"][0, 0] == 3


def test_a_compute_that_fails_leaves_the_old_record(tmp_path: Path):
    store = Store(tmp_path)
    store.get_or_run("x", SPEC, lambda: arrays(1), "abc")
    with pytest.raises(AssertionError):
        store.get_or_run("x", SPEC, forbidden, "abc", force=True)
    with pytest.raises(ValueError):
        store.get_or_run("x", SPEC, lambda: {"bad": np.array([None])}, "abc", force=True)
    assert store.get_or_run("x", SPEC, forbidden, "abc").arrays["reward"][0, 0] == 1
    assert len(visible(tmp_path)) == 1


RACER = """
import pathlib, sys, time
import numpy as np
from sims.experiments.store import Store
root, me, other = map(pathlib.Path, sys.argv[1:])
def compute():
    with open(root / "computed", "a") as file:
        file.write("x")
    while not other.exists():  # hold the lock until the other is asking too
        time.sleep(0.01)
    time.sleep(0.3)
    return {"reward": np.ones(3)}
me.touch()
print(Store(root / "results").get_or_run("x", {"a": 1}, compute, "abc").arrays["reward"].sum())
"""


def test_of_two_processes_that_race_one_computes(tmp_path: Path):
    racers = [start(RACER, tmp_path, tmp_path / a, tmp_path / b) for a, b in ("pq", "qp")]
    assert end_of(racers) == [0, 0], [racer.stderr.read() for racer in racers if racer.stderr]
    assert [racer.communicate()[0].strip() for racer in racers] == ["3.0", "3.0"]
    assert (tmp_path / "computed").read_text() == "x"


def test_the_holder_of_a_lock_may_save_and_another_thread_must_wait(tmp_path: Path):
    store = Store(tmp_path)
    other = threading.Thread(target=store.save, args=("x", SPEC, arrays(2)), kwargs={"seconds": 1}, daemon=True)
    with store.lock("x", SPEC):
        other.start()
        assert store.save("x", SPEC, arrays(1), seconds=1).arrays["reward"][0, 0] == 1
        other.join(0.2)
        assert other.is_alive() and store.load("x", SPEC).arrays["reward"][0, 0] == 1
    other.join(3600)
    assert store.load("x", SPEC).arrays["reward"][0, 0] == 2


def test_a_reader_never_sees_halves_of_two_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store(tmp_path)
    store.save("x", SPEC, arrays(1), seconds=1)
    read, replaced = module._read_bytes, []

    def replace_in_between(path: Path) -> bytes:
        if path.name == "record.npz" and not replaced:  # spec.json and provenance.json have been read
            replaced.append(path)
            store.save("x", SPEC, arrays(2), seconds=1)
        return read(path)

    monkeypatch.setattr(module, "_read_bytes", replace_in_between)
    record = store.load("x", SPEC)
    assert replaced and record is not None and record.arrays["reward"][0, 0] == 2


# Kills itself with -9 just before its n-th step: computing, flushing the three files and their folder, the old record
# (if any) stepping aside, the new one stepping in, and the flush of both names.
KILLED = """
import os, signal, sys
import numpy as np
from sims.experiments.store import Store
left = int(sys.argv[2])
def deadly(call):
    def wrapped(*arguments):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)
    return wrapped
os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
Store(sys.argv[1]).get_or_run("x", {"a": 1}, deadly(lambda: {"reward": np.full(3, 2.0)}), "abc", force=True)
"""


@pytest.mark.parametrize(
    ("step", "old", "found"),  # the value before, and the one found afterwards; None: no record
    [(1, None, None), (3, None, None), (6, None, None), (1, 1, 1), (2, 1, 1), (6, 1, 1), (7, 1, 1), (8, 1, 2)],
)
def test_killed_anywhere_the_next_call_goes_on(tmp_path: Path, step: int, old: int | None, found: int | None):
    store, folder = Store(tmp_path), f"x-{spec_hash({'a': 1})}"
    if old:
        store.save("x", {"a": 1}, {"reward": np.full(3, float(old))}, seconds=1, sources="abc")
    child = start(KILLED, tmp_path, step)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert step == 1 or visible(tmp_path) != [folder]  # the child did leave something behind
    seen = store.load("x", {"a": 1})  # without the lock: whole or, between the two renames, absent
    assert (seen and seen.arrays["reward"].tolist()) == (None if step == 7 or not found else [found] * 3)
    compute = forbidden if found else lambda: {"reward": np.full(3, 5.0)}
    assert store.get_or_run("x", {"a": 1}, compute, "abc").arrays["reward"].tolist() == [found or 5] * 3
    assert visible(tmp_path) == [folder]


def flip(path: Path, at: float) -> None:
    """Flip the lowest bit of the byte at the fraction `at` of a file."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "middle byte": lambda path: flip(path, 0.5),
    "last byte": lambda path: flip(path, 1.0),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "emptied": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_recognised_named_and_repaired(tmp_path: Path, name: str, damage: str):
    store = Store(tmp_path)
    store.save("x", SPEC, arrays(1), seconds=1, sources="abc")
    file = store.path("x", SPEC) / name
    DAMAGES[damage](file)
    with pytest.raises(DamagedRecord) as caught:
        store.load("x", SPEC)
    assert caught.value.path == file
    with pytest.warns(UserWarning) as warned:
        record = store.get_or_run("x", SPEC, lambda: arrays(2), "abc")
    assert len(warned) == 1 and str(file) in str(warned[0].message) and warned[0].filename == __file__
    assert record.arrays["reward"][0, 0] == 2
    assert store.get_or_run("x", SPEC, forbidden, "abc").arrays["reward"][0, 0] == 2


def test_wherever_a_bit_flips_it_is_seen(tmp_path: Path):
    store = Store(tmp_path)
    store.save("x", {"a": 1}, {"r": np.ones(2)}, seconds=1)
    whole = store.load("x", {"a": 1})
    assert whole is not None
    for name in FILES:
        file = store.path("x", {"a": 1}) / name
        content = file.read_bytes()
        for at in range(0, len(content), 3):
            file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            with pytest.raises(DamagedRecord):
                store.load("x", {"a": 1})
        file.write_bytes(content)


def test_a_whole_record_under_another_specs_name_is_damage(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    store, other, told = Store(tmp_path), {**SPEC, "runs": 5}, []
    store.save("x", SPEC, arrays(), seconds=1)
    shutil.copytree(store.path("x", SPEC), store.path("x", other))
    assert store.get_or_run("x", other, arrays, None, on_damage=told.append).spec == other
    assert [damage.what for damage in told] == ["the spec's hash is not the folder's"] and len(recwarn) == 0


def test_a_file_in_the_place_of_a_record_is_damage(tmp_path: Path):
    store = Store(tmp_path)
    store.path("x", SPEC).write_text("not a folder")
    with pytest.warns(UserWarning, match="the file is missing"):
        assert store.get_or_run("x", SPEC, arrays, "abc").spec == SPEC


def test_a_pickle_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_check_arrays", dict)  # a forger's record: all checksums hold
        patch.setattr(module, "_read_once", lambda folder: None)
        store.save("x", SPEC, {"pickled": np.array([None], dtype=object)}, seconds=1)
    with pytest.raises(DamagedRecord, match="allow_pickle=False"):
        store.load("x", SPEC)


def test_committed_records_carry_their_twin(tmp_path: Path):
    store, small = Store(tmp_path / "results"), {**SPEC, "runs": 2}
    record = store.save("lm", SPEC, arrays(1), seconds=3600, sources="abc")
    twin = store.save("lm", small, arrays(2), seconds=2, sources="abc")
    assert load_committed(tmp_path / "records", "lm", SPEC) is None
    for _ in range(2):  # the second replaces the first
        save_committed(tmp_path / "records", "lm", record, twin)
    assert visible(tmp_path / "records") == [f"lm-{record.hash}"]
    found = load_committed(tmp_path / "records", "lm", SPEC)
    assert found is not None
    assert (found.record.spec, found.twin.spec) == (SPEC, small)
    assert (found.record.arrays["reward"][0, 0], found.twin.arrays["reward"][0, 0]) == (1, 2)
    assert found.record.provenance["seconds"] == 3600  # of the run, not of the copying
    for kept, run in ((found.record, record), (found.twin, twin)):
        assert all(kept.provenance[key] == run.provenance[key] for key in ("created", "commit", "machine", "sources"))


@pytest.mark.parametrize("where", ["", "twin"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_committed_record_or_twin_is_named(tmp_path: Path, where: str, name: str):
    store, small = Store(tmp_path / "results"), {**SPEC, "runs": 2}
    record, twin = (store.save("lm", spec, arrays(), seconds=1) for spec in (SPEC, small))
    save_committed(tmp_path, "lm", record, twin)
    file = tmp_path / f"lm-{record.hash}" / (f"twin-{twin.hash}" if where else "") / name
    flip(file, 0.5)
    with pytest.raises(DamagedRecord) as caught:
        load_committed(tmp_path, "lm", SPEC)
    assert caught.value.path == file


def test_a_committed_record_needs_its_twin(tmp_path: Path):
    Store(tmp_path).save("lm", SPEC, arrays(), seconds=1)
    with pytest.raises(DamagedRecord, match="no twin"):
        load_committed(tmp_path, "lm", SPEC)
