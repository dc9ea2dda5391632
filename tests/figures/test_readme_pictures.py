"""The pictures that the README shows are of the records that are committed, and small."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from figures import readme
from figures.entries import entries
from figures.readme import PICTURES, ROOT, committed_hashes, compressed, drawn_from, shown, stale


def png(description: str, seed: int = 0, size: int = 40) -> bytes:
    """A picture of noise, with more colours than are kept."""
    texts, buffer = PngInfo(), io.BytesIO()
    texts.add_itxt("Title", "Noise")
    texts.add_itxt("Description", description)
    noise = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


def test_every_picture_of_the_readme_is_of_a_figure_and_up_to_date() -> None:
    """Red after records were committed anew: `python -m figures.readme` draws the pictures again."""
    names = shown()
    assert names and set(names) <= set(entries())
    assert {path.stem for path in (ROOT / PICTURES).iterdir()} == set(names)
    assert stale() == []
    assert sum(path.stat().st_size for path in (ROOT / PICTURES).iterdir()) < 300_000


def test_a_picture_of_other_records_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / PICTURES
    folder.mkdir(parents=True)
    (tmp_path / "README.md").write_text("![x](figures/pictures/one.png) ![y](figures/pictures/two.png)")
    (folder / "one.png").write_bytes(compressed(png("onoff figure one; specs aaa bbb")))
    (folder / "two.png").write_bytes(compressed(png("onoff figure two; specs ccc")))
    monkeypatch.setattr(readme, "committed_hashes", lambda name: {"aaa", "ddd"} if name == "one" else {"ccc"})
    assert stale(tmp_path) == ["one: 1 of 2 records are others: run python -m figures.readme"]


def test_a_compressed_picture_keeps_its_texts_and_its_size(tmp_path: Path) -> None:
    original = png("onoff figure one; specs aaa bbb")
    (tmp_path / "one.png").write_bytes(compressed(original))
    assert drawn_from(tmp_path / "one.png") == {"aaa", "bbb"}
    with Image.open(tmp_path / "one.png") as image:
        assert image.mode == "P" and image.size == (40, 40) and image.info["Title"] == "Noise"
    assert len(compressed(original)) < len(original)


def test_the_records_of_a_figure_are_told_from_their_twins() -> None:
    assert committed_hashes("no_such_figure") == set()
    assert all(len(found) == 12 for found in committed_hashes("phase_map"))
