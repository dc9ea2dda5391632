"""What the repository holds: only what belongs, nothing of one machine, and a package that is complete without it."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDERS = {"sims", "llm", "figures", "tests", "notebooks", "docs"}
FILES = {"pyproject.toml", "README.md", "Makefile", "LICENSE", "CITATION.cff", "CONTRIBUTING.md", "CHANGELOG.md"}
PACKAGES = ("sims", "llm", "figures")
NOT_PACKAGED = {"figures/pictures/phase_map.png"}  # for the README alone

PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "tests/BUGS.md", ".github/SECURITY.md", ".github/CODE_OF_CONDUCT.md")

# Each is written so that it does not match its own line.
FOREIGN = {
    "a folder of one machine": re.compile(r"(?<![\w.*~}-])/(?:work|tmp|root|home|opt|Users|mnt|workspace)/[\w.-]"),
    "a file by its URL": re.compile(r"file:/{2}"),
    "the host of a package index": re.compile(
        r"(?:pypi|pythonhosted|npmjs)[.]|download[.]pytorch[.]|//[^\s/]+/simple\b"
    ),
    "an installation by the name of another project": re.compile(r"pip install (?:-\w+ )*['\"]?onoff\b(?!-)"),
}


def tracked() -> list[Path]:
    """The files that git holds."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout, which tell files of the repository from others")
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [path for name in found.split("\0") if name and (path := ROOT / name).is_file()]


def foreign(text: str) -> list[str]:
    """What a text says that holds for one machine alone, or should not be said."""
    return [f"{what}: {match[0]}" for what, pattern in FOREIGN.items() for match in pattern.finditer(text)]


def test_top_level_entries_are_the_fixed_ones() -> None:
    entries = {path.relative_to(ROOT).parts for path in tracked()}
    folders = {parts[0] for parts in entries if len(parts) > 1 and not parts[0].startswith(".")}
    files = {parts[0] for parts in entries if len(parts) == 1 and not parts[0].startswith(".")}
    assert folders - FOLDERS == set()
    assert files - FILES == set()


def test_nothing_is_of_one_machine() -> None:
    wrong = []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content and path != Path(__file__):
            wrong += [f"{path.relative_to(ROOT)}: {found}" for found in foreign(content.decode())]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("read /work/shared/notes.md", "a folder of one machine"),
        ('open("/tmp/x.json")', "a folder of one machine"),
        ("--find-links file:///srv/wheels", "a file by its URL"),
        ("see https://pypi.org/project/x", "the host of a package index"),
        ("index-url = http://mirror.example/simple", "the host of a package index"),
        ("needs pyarrow: pip install 'onoff[data]'", "an installation by the name of another project"),
    ],
)
def test_what_is_foreign_is_seen(text: str, what: str) -> None:
    assert [found.split(":")[0] for found in foreign(text)] == [what]


def test_what_is_at_home_is_not_taken_for_foreign() -> None:
    for text in (
        "figures/out/report.html",
        "tmp_path / 'x'",
        "pip install 'onoff-sims[data] @ git+<URL>'",
        "TRL #2277",
    ):
        assert foreign(text) == []


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_there_and_their_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text())
    assert [x for x in links if "://" not in x and not (ROOT / page).parent.joinpath(x).exists()] == []


def test_package_data_names_every_file_that_is_not_python() -> None:
    """A wheel holds modules and what `package-data` names: a new kind of file would be missing from it, unseen here."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packaged = {
        path
        for package, patterns in settings.items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    files = [p for p in tracked() if p.relative_to(ROOT).parts[0] in PACKAGES and p.suffix != ".py"]
    missing = {str(p.relative_to(ROOT)) for p in files if p not in packaged} - NOT_PACKAGED
    assert files and missing == set()


def test_the_distribution_cannot_be_uploaded_nor_taken_for_another() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] != "onoff"
    assert "Private :: Do Not Upload" in project["classifiers"]


def test_forms_workflows_and_citation_parse() -> None:
    files = [*(ROOT / ".github").rglob("*.yml"), ROOT / "CITATION.cff"]
    parsed = {path.name: yaml.safe_load(path.read_text()) for path in files}
    steps = [step.get("run") for job in parsed["ci.yml"]["jobs"].values() for step in job["steps"]]
    assert {"make lint", "make test", "make ${{ matrix.target }}"} <= set(steps)
    targets = parsed["ci.yml"]["jobs"]["elsewhere"]["strategy"]["matrix"]["target"]
    assert {"test-oldest", "test-portable"} <= set(targets)
    assert all(re.search(rf"(?m)^{target}:", (ROOT / "Makefile").read_text()) for target in targets)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert parsed["CITATION.cff"]["version"] == project["version"]
    for name in ("bug.yml", "loss.yml", "claim.yml"):
        assert {"name", "description", "body"} <= set(parsed[name])
