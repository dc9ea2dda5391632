"""Where the report leads outside of itself."""

from __future__ import annotations

from pathlib import Path

from figures.catalogue import catalogue
from figures.report import elsewhere

LESSONS = """
    {
      id: "one", group: "1 · A group",
      title: "Of a claim (C01)",
    },
    {
      id: "two-three", group: "1 · A group", title: "Of two (C03, C01)",
"""


def repository(root: Path) -> Path:
    (root / "docs" / "explorer").mkdir(parents=True)
    (root / "docs" / "explorer.html").touch()
    (root / "docs" / "explorer" / "lessons.js").write_text(LESSONS)
    return root


def test_links_lead_from_the_report_to_the_repository(tmp_path: Path) -> None:
    root = repository(tmp_path)
    out = root / "figures" / "out"
    assert elsewhere.links(out, root) == {
        "Explorer": "../../docs/explorer.html",
        "Notebooks": "../../notebooks/README.md",
        "Documentation": "../../docs/out/html/index.html",
    }
    address = "../../docs/explorer.html#lesson="
    assert elsewhere.in_the_explorer(out, root) == {
        "C01": [("Of a claim (C01)", address + "one"), ("Of two (C03, C01)", address + "two-three")],
        "C03": [("Of two (C03, C01)", address + "two-three")],
    }


def test_there_are_none_outside_of_the_repository_or_without_one(tmp_path: Path) -> None:
    root = repository(tmp_path / "repository")
    assert elsewhere.links(tmp_path, root) == {}
    assert elsewhere.in_the_explorer(tmp_path, root) == {}
    assert elsewhere.links(root / "figures" / "out", tmp_path) == {}


def test_the_lessons_of_the_explorer_name_claims_of_the_catalogue() -> None:
    found = elsewhere.lessons()
    assert len(found) == (elsewhere.ROOT / "docs/explorer/lessons.js").read_text().count("id: ") > 10
    assert {claim for lesson in found for claim in lesson.claims} <= set(catalogue())


def test_a_claim_has_a_lesson_or_a_reason_and_not_both() -> None:
    reasons, shown = elsewhere.not_in_the_explorer(), {claim for each in elsewhere.lessons() for claim in each.claims}
    assert reasons.keys() <= catalogue().keys()
    assert not reasons.keys() & shown
    assert {id for id, entry in catalogue().items() if entry.rows} <= reasons.keys() | shown, "each tested claim"
    assert len(reasons) == sum(map(len, elsewhere.MISSING.values()))  # each claim once
