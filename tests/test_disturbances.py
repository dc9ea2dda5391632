"""A worker that a command starts afresh is disturbed as the command is (`tests.disturbances`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMAND = """
import subprocess, sys
from pathlib import Path
from tests.disturbances import FullFrom, InWorkers, Watch, disturb

disturb(Watch(str(Path.cwd()), Path("../count"), InWorkers(FullFrom(2))), Path("../given").absolute())
touch = "import sys; from pathlib import Path; Path(sys.argv[1]).touch()"
Path("a").touch()
for name in ("b", "c"):
    print(subprocess.run([sys.executable, "-c", touch, name], capture_output=True, text=True).stderr)
Path("d").touch()
"""


def test_the_disk_of_a_worker_is_full_and_its_changes_count_with_those_of_its_command(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "count").write_text("0")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", COMMAND]
    said = subprocess.check_output(command, cwd=work, env=environment, text=True, process_group=0)
    assert sorted(path.name for path in work.iterdir()) == ["a", "b", "d"]  # the third change is a worker's
    assert said.rstrip().endswith("No space left on device: 'c'")
    assert (tmp_path / "count").read_text() == "4"
