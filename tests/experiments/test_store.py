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
from sims.experiments import whole
from sims.experiments.code_digest import git_state, sources_digest
from sims.experiments.record_file import RecordFile, encode
from sims.experiments.store import DamagedRecord, Finished, Record, Store, record_key, spec_hash
from sims.experiments.whole import write_file
from tests.processes import end_of

SPEC = {"algorithm": {"kind": "dpo", "beta": 0.1}, "runs": 4, "tags": ["a", None, True]}


@pytest.fixture(autouse=True)
def no_flush(monkeypatch: pytest.MonkeyPatch):
    """Nothing here outlives a power cut, and flushing to the disk is most of the time; child processes do flush."""
    monkeypatch.setattr(whole.os, "fsync", lambda handle: None)


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


def visible(root: Path) -> list[Path]:
    """The files of a store, oldest first."""
    return sorted(path for path in root.iterdir() if path.name != ".claims")


def claims(root: Path) -> list[str]:
    """What is left of claims, but the lock that all share."""
    return [path.name for path in (root / ".claims").iterdir() if path.name != "all"]


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


def test_sources_digest_parses_in_one_thread_at_a_time(package, monkeypatch: pytest.MonkeyPatch):
    expected = package()
    sources._digest.cache_clear()
    sources._read_source.cache_clear()
    one_at_a_time, parse, overlapped, found = threading.Lock(), sources.ast.parse, [], []

    def slow_parse(*args, **settings):
        alone = one_at_a_time.acquire(blocking=False)
        overlapped.append(not alone)
        threading.Event().wait(0.01)
        tree = parse(*args, **settings)
        if alone:
            one_at_a_time.release()
        return tree

    monkeypatch.setattr(sources.ast, "parse", slow_parse)

    def digest():
        found.append(sources_digest(["toy.runs.start"], packages=("toy",)))

    threads = [threading.Thread(target=digest) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4 and overlapped and not any(overlapped)


FIGURE = """
from __future__ import annotations
from toy.far import number
from toy.lazy import late, later
from toy.deep import leaf
from toy.stranger import Lab
import json

WIDTH, HEIGHT = number, 3
SEED: int = 1
COUNTS = {}
COUNTS["a"] = 1

def measure(x):
    def inner():
        return WIDTH * x
    return inner()

def collect(lab: Lab):
    return measure(SEED)

def draw(records):
    return late, HEIGHT, collect
"""


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("return late, HEIGHT", "return later, HEIGHT", True),  # a drawing
        ("def draw(", "def draft(", True),
        ("import json", "import csv", True),
        ("return measure(SEED)", "return measure(SEED + 1)", False),
        ("WIDTH * x", "WIDTH + x", False),
        ("SEED: int = 1", "SEED: int = 2", False),
        ("number, 3", "number, 4", False),  # one statement
        ('["a"] = 1', '["a"] = 2', False),  # may change what is used
        ("def draw(", "@register\ndef draw(", False),  # so may this
        ("def draw(", "class Loss(Spec, kind='new'): pass\n\ndef draw(", False),
        ("def draw(", "class Loss(Spec): pass\n\ndef draw(", True),
        ("def draw(", "reset()\n\ndef draw(", False),
        ("toy.far import number", "toy.deep.leaf import leaf as number", False),
    ],
)
def test_the_digest_of_a_definition_is_of_what_it_rests_on(package, old, new, same):
    def digest(figure, **files):
        package({"toy/figure.py": figure, **files})
        return sources_digest(["toy.figure:collect"], packages=("toy",))

    assert old in FIGURE
    before = digest(FIGURE)
    assert (digest(FIGURE.replace(old, new)) == before) is same
    assert digest(FIGURE, **{"toy/lazy.py": "late = later = 3\n"}) == before, "a module that only a drawing uses"
    assert digest(FIGURE, **{"toy/stranger.py": "unused = 3\n"}) == before, "one that only an annotation names"
    assert digest(FIGURE, **{"toy/far.py": "number = 7\n"}) != before, "one that numbers come from"


def test_the_digest_of_a_definition_that_is_not_there_is_refused(package):
    package({"toy/figure.py": FIGURE})
    with pytest.raises(ValueError, match="'gather': must be defined"):
        sources_digest(["toy.figure:gather"], packages=("toy",))


def test_sources_digest_refuses_a_module_that_is_not_there():
    with pytest.raises(ValueError, match=r"'sims\.core\.stor'"):
        sources_digest(["sims.core.stor"])
    with pytest.raises(ValueError, match="'json'"):
        sources_digest(["json"])


def test_round_trip(tmp_path: Path):
    store = Store(tmp_path / "results")
    assert store.load("bandit", SPEC) is None
    saved = store.save("bandit", SPEC, arrays(), seconds=1.5, sources="abc")
    loaded = Store(store.root).load("bandit", SPEC, sources="abc")
    assert loaded is not None and loaded.spec == SPEC and loaded.hash == spec_hash(SPEC)
    assert loaded.provenance == saved.provenance
    assert loaded.arrays.keys() == arrays().keys()
    for name, array in arrays().items():
        np.testing.assert_array_equal(loaded.arrays[name], array, strict=True)
    assert len(visible(store.root)) == 1 and claims(store.root) == []


SQUARE = np.arange(9.0).reshape(3, 3)
STACK = {
    "a": {"reward": SQUARE[:2] + 2, "updates": np.arange(3), "best": np.float32(1), "none": np.zeros((0, 2))},
    "b": {"reward": SQUARE, "updates": np.arange(3), "best": np.float32(2)},
    "c": {"reward": SQUARE + 1, "updates": np.arange(5), "odd": np.array(["π"]), "file": np.ones(1)},
    "d": {"reward": np.ones((1, 4), dtype=np.float32), "updates": np.arange(3.0), "best": np.array([True])},
}


def finished(name: str) -> Finished:
    return Finished("x", {"of": name}, STACK[name], 1.0, "abc")


def test_a_stack_is_one_file_that_numpy_reads_and_every_array_comes_back(tmp_path: Path):
    """Arrays of several shapes and types under one name, equal ones that are kept once, empty ones and scalars."""
    store = Store(tmp_path)
    file = tmp_path / store.save_stack([finished(name) for name in STACK])
    assert visible(tmp_path) == [file]
    for reader in (store, Store(tmp_path)):
        for name, arrays in STACK.items():
            found = reader.load("x", {"of": name}, "abc").arrays
            assert list(found) == list(arrays) and "nothing" not in found
            for key, array in arrays.items():
                np.testing.assert_array_equal(found[key], np.asarray(array), strict=True)
    with np.load(file) as plain:  # "a" and "b" count updates alike
        assert plain["updates"].tolist() == [0, 1, 2, 0, 1, 2, 3, 4] and plain["reward"].shape == (8, 3)


def test_only_what_is_asked_for_is_loaded_and_nobody_else_sees_a_change(tmp_path: Path, monkeypatch):
    Store(tmp_path).save_stack([finished(name) for name in STACK])
    read, members = RecordFile.slice, []
    monkeypatch.setattr(RecordFile, "slice", lambda self, *where: members.append(where[0]) or read(self, *where))
    store = Store(tmp_path)
    first, second = (store.load("x", {"of": "b"}) for _ in range(2))
    first.arrays["reward"][:] = -1
    assert members == ["reward"] and second.arrays["reward"][0, 1] == 1


def test_a_newer_record_counts_and_a_file_goes_when_all_of_it_is_older(tmp_path: Path):
    store = Store(tmp_path)
    old = tmp_path / store.save_stack([finished("a"), finished("b")])
    before = store.load("x", {"of": "a"})
    newer = Finished("x", {"of": "a"}, STACK["c"], 1.0, "new")
    store.save_stack([newer])
    assert len(visible(tmp_path)) == 2
    for reader in (store, Store(tmp_path)):
        assert reader.load("x", {"of": "a"}, "abc") is None
        assert (
            len(reader.load("x", {"of": "a"}).arrays["reward"])
            == len(reader.load("x", {"of": "b"}).arrays["reward"])
            == 3
        )
    store.save_stack([Finished("x", {"of": "b"}, STACK["c"], 1.0, "new")])
    assert len(visible(tmp_path)) == 2 and not old.exists()
    assert before.arrays["reward"].shape == (2, 3)  # whoever had it open can still read it
    assert len(Store(tmp_path).load("x", {"of": "b"}, "new").arrays["reward"]) == 3


def test_a_store_sees_what_another_writes(tmp_path: Path):
    reader, writer = Store(tmp_path), Store(tmp_path)
    assert reader.load("x", SPEC) is None
    for value in (1, 2):
        writer.save("x", SPEC, arrays(value), seconds=1)
        assert reader.load("x", SPEC).arrays["reward"][0, 0] == value


def test_provenance_and_bytes(tmp_path: Path):
    provenance = Store(tmp_path / "a").save("x", SPEC, arrays(), seconds=1.5, sources="abc").provenance
    keys = "commit core_seconds created dirty machine numpy python seconds sources torch"
    assert sorted(provenance) == keys.split()
    assert provenance["seconds"] == 1.5 and provenance["created"].endswith("+00:00")
    record = Record(SPEC, arrays(), provenance)
    for compress in (False, True):
        once, again = (encode({"k": record}, {"n": 1}, compress=compress) for _ in range(2))
        assert once == again  # the clock is in the provenance alone
        assert hashlib.sha256(once[:-64]).hexdigest().encode() == once[-64:]


def test_a_committed_file_holds_notes_and_is_named_by_its_records(tmp_path: Path):
    path = tmp_path / "figure.npz"
    write_file(path, encode({"k": Record(SPEC, arrays(3), {"sources": "abc"})}, {"twins": {"k": "q"}}, compress=True))
    file = RecordFile(path)
    assert file.keys == {"k": "abc"} and file.specs == {"k": SPEC} and file.notes == {"twins": {"k": "q"}}
    found = file.record("k", source="committed")
    assert (found.spec, found.source, found.arrays["reward"][0, 0]) == (SPEC, "committed", 3)
    flip(path, 0.5)
    with pytest.raises(DamagedRecord, match=r"figure\.npz: its checksum differs"):
        RecordFile(path)


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


def test_a_claim_or_a_file_may_be_finished_while_another_process_looks_at_it(tmp_path: Path, monkeypatch):
    store, key = Store(tmp_path), record_key("x", SPEC)
    found = Path.glob

    def gone_once_found(folder: Path, pattern: str):
        for path in list(found(folder, pattern)):
            path.unlink()
            yield path

    with store.claim([key]):
        (tmp_path / ".claims/1.npz.new").touch()
        monkeypatch.setattr(Path, "glob", gone_once_found)
        with Store(tmp_path).claim([key]):
            pass
        with Store(tmp_path).claim(["another"]):
            assert not (tmp_path / ".claims/1.npz.new").exists()


def test_who_claims_a_record_lets_others_wait_and_others_for_other_records_go_on(tmp_path: Path):
    store = Store(tmp_path)
    asked = threading.Event()

    def ask() -> None:
        asked.set()
        Store(tmp_path).get_or_run("x", SPEC, forbidden, None)

    other = threading.Thread(target=ask, daemon=True)
    with store.claim([record_key("x", SPEC), "more"]):
        other.start()
        assert asked.wait(3600)
        other.join(0.3)
        assert other.is_alive()
        assert Store(tmp_path).get_or_run("y", SPEC, arrays, None).spec == SPEC  # nobody has claimed it
        store.save("x", SPEC, arrays(1), seconds=1)
    other.join(3600)
    assert not other.is_alive() and store.load("x", SPEC).arrays["reward"][0, 0] == 1
    assert claims(tmp_path) == []


# Kills itself with -9 just before its n-th step: computing, flushing the file, renaming it, flushing the folder.
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
    [(1, None, None), (2, None, None), (3, None, None), (4, None, 2), (1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 1, 2)],
)
def test_killed_anywhere_the_next_call_goes_on(tmp_path: Path, step: int, old: int | None, found: int | None):
    store = Store(tmp_path)
    if old:
        store.save("x", {"a": 1}, {"reward": np.full(3, float(old))}, seconds=1, sources="abc")
    child = start(KILLED, tmp_path, step)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    left = claims(tmp_path)
    assert any(name.endswith(".keys") for name in left)  # the child did leave its claim behind
    seen = Store(tmp_path).load("x", {"a": 1})
    assert (seen and seen.arrays["reward"].tolist()) == (found and [found] * 3)
    compute = forbidden if found else lambda: {"reward": np.full(3, 5.0)}
    assert store.get_or_run("x", {"a": 1}, compute, "abc").arrays["reward"].tolist() == [found or 5] * 3
    store.get_or_run("y", {"a": 1}, lambda: {"reward": np.ones(1)}, "abc")  # claims, and so clears up
    assert not [name for name in claims(tmp_path) if not name.endswith(".new")]


def flip(path: Path, at: float) -> None:
    """Flip the lowest bit of the byte at the fraction `at` of a file."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "first byte": lambda path: flip(path, 0.0),
    "middle byte": lambda path: flip(path, 0.5),
    "last byte": lambda path: flip(path, 1.0),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "emptied": lambda path: path.write_bytes(b""),
    "lengthened": lambda path: path.write_bytes(path.read_bytes() + b"0"),
}


def test_a_listing_sets_aside_what_is_damaged(tmp_path: Path):
    for name in ("x", "y"):
        Store(tmp_path).save(name, {"a": 1}, {"n": np.arange(3)}, seconds=0.0)
    file = max(tmp_path.glob("*.npz"))
    flip(file, 0.5)
    with pytest.warns(UserWarning, match="damaged record"):
        assert [key[0] for key in Store(tmp_path).specs()] == ["x"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_recognised_named_set_aside_and_repaired(tmp_path: Path, damage: str):
    Store(tmp_path).save("x", SPEC, arrays(1), seconds=1, sources="abc")
    (file,) = visible(tmp_path)
    DAMAGES[damage](file)
    store = Store(tmp_path)
    with pytest.warns(UserWarning) as warned:
        record = store.get_or_run("x", SPEC, lambda: arrays(2), "abc")
    assert len(warned) == 1 and f"damaged record {file}:" in str(warned[0].message)
    assert record.arrays["reward"][0, 0] == 2
    assert store.get_or_run("x", SPEC, forbidden, "abc").arrays["reward"][0, 0] == 2
    assert file.with_suffix(".damaged").exists() and not file.exists()


def test_a_file_that_is_gone_is_a_record_that_is_missing(tmp_path: Path):
    store = Store(tmp_path)
    store.save("x", SPEC, arrays(1), seconds=1, sources="abc")
    visible(tmp_path)[0].unlink()
    assert store.get_or_run("x", SPEC, lambda: arrays(2), "abc").arrays["reward"][0, 0] == 2


def test_wherever_a_bit_flips_it_is_seen(tmp_path: Path):
    Store(tmp_path).save("x", {"a": 1}, {"r": np.ones(2)}, seconds=1)
    (file,) = visible(tmp_path)
    content = file.read_bytes()
    for at in range(0, len(content), 3):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        told: list[DamagedRecord] = []
        assert Store(tmp_path).load("x", {"a": 1}, on_damage=told.append) is None
        assert [damage.path for damage in told] == [file], at
        file.with_suffix(".damaged").unlink()
    file.write_bytes(content)
    assert Store(tmp_path).load("x", {"a": 1}).arrays["r"].tolist() == [1, 1]


def test_foreign_files_are_left_alone(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    store = Store(tmp_path)
    store.save("x", SPEC, arrays(1), seconds=1, sources="abc")
    np.savez(tmp_path / "mine.npz", a=np.ones(1))
    (tmp_path / f"x-{spec_hash(SPEC)}").mkdir()  # as an older version kept its records
    (tmp_path / "notes.txt").write_text("mine")
    assert Store(tmp_path).load("x", SPEC, "abc").arrays["reward"][0, 0] == 1
    assert len(visible(tmp_path)) == 4 and len(recwarn) == 0


def test_a_pickle_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A forger's record, whose checksum holds."""
    with monkeypatch.context() as patch:
        write = np.lib.format.write_array
        patch.setattr(np.lib.format, "write_array", lambda file, array, allow_pickle: write(file, array))
        content = encode({record_key("x", SPEC): Record(SPEC, {"r": np.array([None])}, {"sources": None})})
    write_file(tmp_path / f"{1:020d}-00000000.npz", content)
    with pytest.raises(DamagedRecord, match="allow_pickle=False"):
        Store(tmp_path).load("x", SPEC).arrays["r"]


def test_records_that_are_removed_while_they_are_written_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, complete = Store(tmp_path / "results"), Store.complete

    def removed(self: Store, *given: object, **named: object) -> None:
        complete(self, *given, **named)  # type: ignore[arg-type]
        shutil.rmtree(self.root)

    monkeypatch.setattr(Store, "complete", removed)
    with pytest.raises(FileNotFoundError, match=r"removed while they were written.*results"):
        store.get_or_run("mine", SPEC, lambda: arrays(3), None)
