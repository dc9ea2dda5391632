"""What the README points to is there."""

import re
import subprocess
import sys
from pathlib import Path

import llm
import sims

ROOT = Path(__file__).parents[1]


def python_blocks() -> list[str]:
    """The Python code that the README shows."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_every_relative_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert links and not missing


def test_the_example_runs_as_it_stands_as_a_script_without_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{python_blocks()[0]}")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "largest reward" in done.stdout
    assert (tmp_path / "online_offline.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["example.py", "online_offline.png"]


def test_the_language_model_example_describes_a_run(monkeypatch) -> None:
    """It takes a minute, so that here it is only built; the example of `llm.training.run` itself runs a short one."""
    asked = []
    monkeypatch.setattr("llm.api.run_experiment", lambda experiment, results, progress: asked.append(experiment))
    exec(python_blocks()[1], {"sims": sims})
    assert asked == [llm.PRESETS["tiny-min-length"].replace(name="tiny-min-length-dpo", algorithm=sims.DPO(beta=0.1))]
