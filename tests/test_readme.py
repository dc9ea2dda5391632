"""What the README points to is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_relative_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert links and not missing
