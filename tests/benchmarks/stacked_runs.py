"""Complete runs of 1,000 updates a core-second, stacked, beside a plain Python loop over single runs.

100 actions, 100 samples per update (REINFORCE: 100 prompts; DPO: 50 pairs), sampling and reference included, float32,
one thread, processor time of the whole process. The network is 1 prompt → 64 → 64 → 100.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sims.core.algorithms import find_algorithm
from sims.core.loop.protocols import PolicySpec
from sims.core.schedule import Schedule
from sims.environments import BanditR1
from sims.experiments.executor import execute
from sims.experiments.experiment import Experiment
from sims.policies import MLP, Table

UPDATES = 1000
CASES: dict[str, tuple[str, PolicySpec]] = {
    "table, policy gradient": ("reinforce", Table()),
    "table, dpo": ("dpo", Table()),
    "mlp, policy gradient": ("reinforce", MLP(hidden=(64, 64))),
}


def experiment(algorithm: str, policy: PolicySpec, runs: int) -> Experiment:
    """One benchmark run, evaluated at its end only."""
    schedule = {"reinforce": Schedule(batch_size=100, num_generations=1), "dpo": Schedule(batch_size=50)}[algorithm]
    chosen = find_algorithm(algorithm)()
    return Experiment("benchmark", BanditR1(), policy, chosen, schedule, updates=UPDATES, evaluations=1, runs=runs)


def core_seconds(work: Callable[[], object]) -> float:
    """Processor time of the fastest of three goes."""
    found = []
    for _ in range(3):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    """Print runs a core-second, and the ratio to the loop."""
    print(f"{'':26}{'loop':>10}{'R = 1':>10}{'R = 32':>10}{'R = 256':>10}{'R = 256 / loop':>16}")
    for name, (algorithm, policy) in CASES.items():
        singles = [experiment(algorithm, policy, 1).replace(seed=seed) for seed in range(4)]
        loop = len(singles) / core_seconds(lambda singles=singles: [execute([single]) for single in singles])
        rates = []
        for runs in (1, 32, 256):
            stacked = experiment(algorithm, policy, runs)
            rates.append(runs / core_seconds(lambda stacked=stacked: execute([stacked])))
        print(f"{name:26}{loop:10.1f}" + "".join(f"{rate:10.1f}" for rate in rates) + f"{rates[-1] / loop:16.1f}")
