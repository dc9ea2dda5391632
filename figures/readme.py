"""python -m figures.readme: the pictures that the README shows, drawn again from committed records.

Each lies in figures/pictures and carries the hashes of the specs that it was drawn from; `stale` compares them with the
records that are committed now. Pictures are of few colours, as in the report, to keep a clone small.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .committed import Committed
from .report.picture import few_colours

ROOT = Path(__file__).resolve().parents[1]
PICTURES = Path("figures") / "pictures"


def shown(root: Path = ROOT) -> list[str]:
    """The figures whose pictures the README shows."""
    text = (root / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"\({PICTURES.as_posix()}/(\w+)\.png\)", text)


def drawn_from(picture: Path) -> set[str]:
    """Hashes of the specs whose records a picture shows."""
    with Image.open(picture) as image:
        _, _, hashes = str(image.info.get("Description", "")).partition("; specs ")
    return set(hashes.split())


def committed_hashes(name: str) -> set[str]:
    """Hashes of the specs of a figure's committed records, without those of twins."""
    found = Committed(name)
    tested = found.file.keys.keys() - found.twins.values() if found.file is not None else set()
    return {key.rpartition("-")[2] for key in tested}


def stale(root: Path = ROOT) -> list[str]:
    """A line for each picture of the README that is not drawn from the records that are committed."""
    lines = []
    for name in shown(root):
        before, now = drawn_from(root / PICTURES / f"{name}.png"), committed_hashes(name)
        if before != now:
            lines.append(f"{name}: {len(now - before)} of {len(now)} records are others: run python -m figures.readme")
    return lines


def compressed(png: bytes) -> bytes:
    """A picture of few colours with the texts of the original's metadata."""
    buffer, texts = io.BytesIO(), PngInfo()
    with Image.open(io.BytesIO(png)) as image:
        for key in ("Title", "Description"):
            texts.add_itxt(key, str(image.info[key]))
        few_colours(image).save(buffer, "PNG", optimize=True, pnginfo=texts)
    return buffer.getvalue()


def main(names: Sequence[str] = ()) -> None:
    """Draw the README's pictures, or those named."""
    from .__main__ import main as figures

    for name in names or shown():
        with tempfile.TemporaryDirectory() as folder:
            figures([name, "--budget", "0", "--out", folder])
            picture = compressed((Path(folder) / f"{name}.png").read_bytes())
        (ROOT / PICTURES / f"{name}.png").write_bytes(picture)
        print(f"{PICTURES / name}.png: {len(picture) / 1024:.0f} KB")


if __name__ == "__main__":
    main(sys.argv[1:])
