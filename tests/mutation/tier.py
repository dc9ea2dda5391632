"""The fast tests that a mutant has to pass, in the order in which they tend to fail, and how one process runs them."""

from __future__ import annotations

import gc
import importlib.util
import os
import resource
import signal
import sys
from pathlib import Path

# What every test needs and no mutant touches. It is imported once, before the processes fork.
import hypothesis
import numpy as np  # noqa: F401
import pytest
import scipy.optimize  # noqa: F401
import torch

COPIED = (
    "sims",
    "tests/conftest.py",
    "tests/core",
    "tests/environments",
    "tests/exact",
    "tests/experiments",
    "tests/policies",
    "tests/statistics",
    "pyproject.toml",
    "README.md",
)

FILES = (
    "tests/core/test_survivors.py",
    "tests/core/objectives/test_advantages.py",
    "tests/core/algorithms/test_reward_model.py",
    "tests/core/algorithms/test_contrastive_variants.py",
    "tests/core/algorithms/test_policy_gradient_variants.py",
    "tests/core/algorithms/test_likelihood_variants.py",
    "tests/core/algorithms/test_best_of_n_negative.py",
    "tests/experiments/test_command_line.py",
    "tests/core/loop/test_schedule_and_train.py",
    "tests/exact/test_identities.py",
    "tests/core/algorithms/test_every_algorithm.py",
)

MEMORY = 8 << 30  # bytes; a mutant that lists too many batches shall fail, not swap
SLOW = (
    "test_probed_algorithms_on_the_tree_of_15",
    "test_drawn_labels_average_to_their_probability",
    "test_a_run_prints_the_optimum_beside_it",
    "test_the_optimum_is_exact",
    "test_a_restored_run_goes_on_bit_for_bit",
    "test_a_run_is_not_saved_in_the_middle_of_a_batch",
    "test_training_goes_on_where_it_stopped",
    "test_micro_batches_change_nothing[None",
    "test_dpo_descends_to_the_kl_optimum",
)
ENUMERATED = ("tree of 4, 2 prompts", "table of 4, 4 responses")  # test_every_algorithm has larger problems too


class _Trim:
    """Takes out what is slow: whole training runs, plots, the larger problems of the exactness tests, and the pairings
    of all pair algorithms but one, which share that code."""

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        slow = [i for i in items if i.name.startswith(SLOW) or (": pairing=" in i.name and "[dpo:" not in i.name)]
        items[:] = [item for item in items if item not in slow]
        config.hook.pytest_deselected(items=slow)
        for module in {getattr(item, "module", None) for item in items}:
            if module is not None and module.__name__ == "test_every_algorithm":
                module.PROBLEMS = {name: module.PROBLEMS[name] for name in ENUMERATED}


def warm_up() -> None:
    """Pay once for what torch and hypothesis load when they are first used."""
    torch.set_num_threads(1)
    torch.testing.assert_close(torch.zeros(2), torch.zeros(2))
    torch.zeros(2, device="meta").add(0.5)
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # a failure is not made small
    hypothesis.settings.register_profile(
        "mutants", max_examples=10, derandomize=True, database=None, deadline=None, phases=phases
    )
    hypothesis.settings.load_profile("mutants")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    gc.collect()
    gc.freeze()  # else each process walks, and thereby copies, all that is loaded here


def run(tree: Path, log: Path, cpu_seconds: int | None) -> None:
    """Run the tests on the copy of the package in `tree`, and end the process with pytest's status.

    cpu_seconds: of processor time, after which the system ends it (ten times that by the clock, should it only sleep);
    None: no limit, and what is compiled is kept for the next process.
    """
    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    if cpu_seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        signal.alarm(10 * cpu_seconds)
        sys.dont_write_bytecode = True
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    sims = importlib.util.find_spec("sims")
    assert sims is not None and str(tree) in str(sims.submodule_search_locations), "not the copy would be tested"
    files = [name for name in FILES if Path(name).exists()]
    options = ["-x", "--no-header", "--tb=short", "-p", "no:cacheprovider", "--durations=20"]
    status = pytest.main([*options, *files], plugins=[_Trim()])
    sys.stdout.flush()
    os._exit(int(status))
