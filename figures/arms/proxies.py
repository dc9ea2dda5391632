"""Drawn problems whose gold reward is known and whose reward models were fitted to a few noisy pairs; a sweep of online
and offline IPO and DPO on them, and the arms that are tuned."""

from __future__ import annotations

from figures.figure import Records
from sims.core.algorithms import find_algorithm
from sims.core.loop.optimise import Optimiser
from sims.core.schedule import Schedule
from sims.environments import ProxyFeatures
from sims.experiments.experiment import Experiment
from sims.experiments.store import Record
from sims.policies import ResponseMLP

PAIRS, BATCH, UPDATES, EVALUATIONS = 128, 32, 160, 16
BETAS, RATES = (0.01, 0.03, 0.1, 0.3, 1.0), (0.01, 0.03)
TUNED_RATES, TUNED_BETAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3), (0.003, *BETAS, 3.0)
SWEEP_RUNS, RUNS = 50, 200
CONVERGED, REGULARISED = 0.03, 10.0  # L2 penalty: next to none, and what held-out accuracy was largest with
ALGORITHMS = ("ipo", "dpo")

ENVIRONMENT = ProxyFeatures(
    label_temperature=1.0,
    num_pairs=PAIRS,
    reference_spread=3.0,
    proxy_l2=REGULARISED,
    fresh_labels="noiseless",
)
ENVIRONMENTS = {
    "offline": ENVIRONMENT,
    "pointwise": ENVIRONMENT,
    "pairwise": ENVIRONMENT.replace(proxy_form="pairwise"),
    "converged": ENVIRONMENT.replace(proxy_l2=CONVERGED),
    "gold": ENVIRONMENT.replace(proxy="gold"),
}
POLICY = ResponseMLP(hidden=(32,), fit_steps=150)


def arm(name: str, source: str, beta: float, runs: int) -> Experiment:
    """An algorithm on the drawn problems: fresh pairs that a source labels, or the recorded ones."""
    return Experiment(
        name=f"gold_and_proxy-{name}",
        environment=ENVIRONMENTS[source],
        policy=POLICY,
        algorithm=find_algorithm(name)(beta=beta),  # type: ignore[call-arg]
        schedule=Schedule(batch_size=BATCH, source="dataset" if source == "offline" else "policy"),
        updates=UPDATES,
        evaluations=EVALUATIONS,
        runs=runs,
        seed=21,
    )


def sweep() -> dict[str, Experiment]:
    """sweep/algorithm/source/β/learning rate."""
    return {
        f"sweep/{name}/{source}/{beta:g}/{rate:g}": arm(name, source, beta, SWEEP_RUNS).replace(
            optimiser=Optimiser(learning_rate=rate)
        )
        for name in ALGORITHMS
        for source in ENVIRONMENTS
        for beta in BETAS
        for rate in RATES
    }


def to_tune() -> dict[str, Experiment]:
    """tuned/algorithm/source."""
    return {
        f"tuned/{name}/{source}": arm(name, source, BETAS[2], RUNS).replace(seed=26)
        for name in ALGORITHMS
        for source in ("offline", "pointwise", "pairwise")
    }


def of_sweep(records: Records, name: str, source: str) -> list[Record]:
    return [record for key, record in records.items() if key.startswith(f"sweep/{name}/{source}/")]


def lowest(record: Record) -> float:
    """The score of always giving the worst response, where it is lowest of all problems: no run is below it."""
    rewards, reference, best = (record.arrays[x] for x in ("rewards", "reference_reward", "best_reward"))
    worst = rewards.min(-1).mean(-1)
    return float(((worst - reference) / (best - reference)).min())
