"""One thread per process: idle threads spin, and results keep their bits only so. No limits by the clock."""

import os
import random

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may download anything

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
# How fast examples are made and tried says how busy the machine is.
ANY_MACHINE = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
for profile in ("any machine", "every example"):
    hypothesis.settings.register_profile(profile, **ANY_MACHINE)
hypothesis.settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("gpu"):  # what is said of bits, memory and forked processes is of the CPU
        os.environ.update(CUDA_VISIBLE_DEVICES="", JAX_PLATFORMS="cpu")
    if not config.option.markexpr:  # the long tests too: see `tests.core.drawn_batches.examples`
        hypothesis.settings.load_profile("every example")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--last-first", action="store_true", help="run the tests in reverse order")
    parser.addoption("--gpu", action="store_true", help="let tests see a GPU: make test-gpu")
    parser.addoption("--shuffled", type=int, metavar="SEED", help="run the tests in a random order")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("last_first"):
        items.reverse()
    if (seed := config.getoption("shuffled")) is not None:
        random.Random(seed).shuffle(items)  # alike in every worker process
