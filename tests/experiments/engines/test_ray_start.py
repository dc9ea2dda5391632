"""A Ray that a busy machine did not start within Ray's own 30 s is started again; any other error is told at once."""

from types import SimpleNamespace

import pytest

from sims.experiments.engines.ray_actors import STARTS, _start

LATE = "The current node timed out during startup. This could happen because the GCS has become overloaded."


@pytest.mark.parametrize(
    ("message", "late", "starts"),
    [(LATE, 2, 3), (LATE, STARTS, STARTS), ("no such option", 1, 1)],
    ids=["late", "always late", "another error"],
)
def test_ray_is_started_again(message: str, late: int, starts: int) -> None:
    asked: list[str] = []

    def init(**options: int) -> None:
        asked.append(f"init {options}")
        if asked.count(asked[0]) <= late:
            raise Exception(message)

    ray = SimpleNamespace(init=init, shutdown=lambda: asked.append("shutdown"))
    if late < starts:
        _start(ray, {"num_cpus": 2})
    else:
        with pytest.raises(Exception, match=message[:20]):
            _start(ray, {"num_cpus": 2})
    assert asked == ["init {'num_cpus': 2}", *["shutdown", "init {'num_cpus': 2}"] * (starts - 1)]
