"""Which policies can DPO end at, and which can a reward model followed by RL? (C01, C02)

Three responses, one recorded comparison of the first two, labelled with probability p: exact, by the theorem of Xu et
al. 2024 (4.1) and its counter-example. DPO's loss has its minimum where β·h = logit p for the log-ratio margin h of the
two; the mass m of the third response is free. A reward model with r_1 − r_2 = logit p, whatever r_3, followed by exact
RL ends at π_ref·e^{r/β}/Z.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from scipy.special import log_expit, logit

from figures.catalogue import claim
from figures.claims import Verdict, theorem_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import BLACK, RC, bound, colour
from sims import exact
from sims.experiments.store import Arrays

MASSES = (0.0, 1e-9, 1e-6, 1e-3, 1e-2, 0.1, 0.3)  # of the third response under the reference
PROBLEMS, SEED = 200, 0
GRID = 401  # values of r_3 over which the nearest RL optimum is sought


def draw_problems(problems: int, seed: int) -> dict[str, np.ndarray]:
    """Label probabilities p, strengths β, shares of the reference between the first two, and free rewards r_3."""
    rng = np.random.default_rng(seed)
    return {
        "p": rng.uniform(0.55, 0.95, problems),
        "beta": np.exp(rng.uniform(np.log(0.05), np.log(2.0), problems)),
        "split": rng.uniform(0.2, 0.8, problems),
        "third_reward": rng.normal(0.0, 2.0, problems),
        "third_mass": rng.uniform(0.05, 0.9, problems),
    }


def reference(split: np.ndarray, mass: float) -> np.ndarray:
    """(problems, 3) log-probs: the third response has `mass`, the first two share the rest."""
    rest = 1.0 - mass
    with np.errstate(divide="ignore"):
        return np.log(np.stack([rest * split, rest * (1.0 - split), np.full_like(split, mass)], axis=-1))


def dpo_loss(logp: np.ndarray, logp_ref: np.ndarray, beta: np.ndarray, p: np.ndarray) -> np.ndarray:
    """−p·log σ(βh) − (1 − p)·log σ(−βh), h the log-ratio margin of the first two. logp: (problems, 3)."""
    ratio = logp[:, :2] - logp_ref[:, :2]
    margin = beta * (ratio[:, 0] - ratio[:, 1])
    return -p * log_expit(margin) - (1.0 - p) * log_expit(-margin)


def rl_optimum(logp_ref: np.ndarray, beta: np.ndarray, p: np.ndarray, third: np.ndarray) -> np.ndarray:
    """(problems, 3) log-probs: the exact optimum for r = (logit p, 0, r_3), which fits the labels perfectly."""
    rewards = np.stack([logit(p), np.zeros_like(p), third], axis=-1)
    return exact.optimum(logp_ref, rewards / beta[:, None], 1.0)


def dpo_minimum(logp_ref: np.ndarray, beta: np.ndarray, p: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """(problems, 3) log-probs of a minimum of DPO's loss that gives the third response `mass`."""
    odds = logp_ref[:, 0] - logp_ref[:, 1] + logit(p) / beta
    first, second = log_expit(odds), log_expit(-odds)
    return np.stack([np.log1p(-mass) + first, np.log1p(-mass) + second, np.log(mass)], axis=-1)


def nearest_rl_optimum(minimum: np.ndarray, logp_ref: np.ndarray, beta: np.ndarray, p: np.ndarray) -> np.ndarray:
    """(problems,) total variation from a DPO minimum to the nearest RL optimum, sought over r_3.

    The grid is centred on the implicit reward β·log(π/π_ref) of the third response where that is finite.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        implicit = beta[:, None] * (minimum - logp_ref)
    centre = np.where(np.isfinite(implicit[:, 2]), implicit[:, 2] - implicit[:, 1], 0.0)
    found = np.full(len(p), np.inf)
    for offset in np.linspace(-5.0, 5.0, GRID):
        reached = np.exp(rl_optimum(logp_ref, beta, p, centre + offset))
        found = np.minimum(found, 0.5 * np.abs(reached - np.exp(minimum)).sum(-1))
    return found


def compute(problems: int) -> Arrays:
    """excess: (masses, problems), DPO loss of an RL optimum above its minimum; distance: the same shape, total
    variation from a DPO minimum to the nearest RL optimum; free: the third response's mass in that minimum."""
    drawn = draw_problems(problems, SEED)
    p, beta = drawn["p"], drawn["beta"]
    least = -p * np.log(p) - (1.0 - p) * np.log1p(-p)
    excess, distance = [], []
    for mass in MASSES:
        logp_ref = reference(drawn["split"], mass)
        excess.append(dpo_loss(rl_optimum(logp_ref, beta, p, drawn["third_reward"]), logp_ref, beta, p) - least)
        minimum = dpo_minimum(logp_ref, beta, p, drawn["third_mass"])
        distance.append(nearest_rl_optimum(minimum, logp_ref, beta, p))
    return {"excess": np.array(excess), "distance": np.array(distance), "free": drawn["third_mass"]}


def collect(lab: Lab) -> Records:
    """One exact computation."""
    problems = 20 if lab.quick else PROBLEMS
    spec = {"masses": list(MASSES), "problems": problems, "seed": SEED, "grid": GRID}
    modules = (f"{__name__}:compute",)
    return {"exact": lab.exact("reachable_policies", spec, lambda: compute(problems), modules)}


def draw(records: Records) -> MatplotlibFigure:
    """Excess loss of RL optima; distance of DPO minima from them; the counter-example on the simplex."""
    arrays = records["exact"].arrays
    with plt.rc_context(RC):
        fig, axes = plt.subplots(1, 2, figsize=(10.5, 4.4), layout="constrained")
        _against_mass(axes[0], np.abs(arrays["excess"]), "ppo")
        axes[0].set(
            title="RL optima minimise DPO's loss", ylabel="DPO loss above its minimum, nats", yscale="symlog",
            ylim=(-1e-16, 1.0),
        )  # fmt: skip
        axes[0].set_yscale("symlog", linthresh=1e-15)
        axes[0].set_yticks([0.0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-3, 1.0])
        axes[0].minorticks_off()
        bound(axes[0], claim("C01", "three responses").margin, "the largest error allowed", x=0.98)
        largest = f"largest: {np.abs(arrays['excess']).max():.0e}, which is rounding"
        axes[0].text(0.03, 0.9, largest, transform=axes[0].transAxes, fontsize=9)
        _against_mass(axes[1], arrays["distance"], "dpo")
        axes[1].set(
            title="DPO minima that RL cannot reach", ylabel="total variation to the nearest RL optimum", ylim=(-0.03, 1)
        )
        axes[1].annotate(
            "reference without the response:\nits mass in the DPO minimum is free",
            (0, 0.5), (1.0, 0.62), fontsize=9, arrowprops={"arrowstyle": "-", "color": "0.5"},
        )  # fmt: skip
    return fig


def _against_mass(axis: Axes, values: np.ndarray, algorithm: str) -> None:
    """Every problem as a dot, jittered, at each reference mass of the third response."""
    spread = np.linspace(-0.22, 0.22, values.shape[1])
    for i, row in enumerate(values):
        axis.plot(i + spread, row, ".", color=colour(algorithm), alpha=0.35, ms=4)
        axis.plot([i - 0.3, i + 0.3], [row.mean()] * 2, color=BLACK, linewidth=1.5)
    axis.set_xticks(range(len(MASSES)), [f"{mass:g}" for mass in MASSES])
    axis.set_xlabel("reference's probability of the third response")


def verdicts(records: Records) -> list[Verdict]:
    """Inclusion; strictness without and with full support. Each a theorem, checked on every problem."""
    record = records["exact"]
    arrays, used = record.arrays, [record.hash]
    distance = arrays["distance"]
    checked = (
        ("C01", "three responses", np.abs(arrays["excess"]).max(0), "One comparison of three responses and perfect "
         "optimisers on both sides: what each reaches by training is another question."),
        ("C02", "reference without the response", np.abs(distance[0] - arrays["free"]), "DPO's minimum is free where "
         "the reference has no support; which one training ends at depends on the parametrisation, and a softmax "
         "cannot have such a reference."),
        ("C02", "reference with full support", distance[1:].max(0), "With any positive reference mass, down to 1e-9, "
         "the implicit reward of a DPO minimum is a reward whose RL optimum it is; the reward may be very large."),
    )  # fmt: skip
    return [
        theorem_of(claim(id, part), "bandit", errors.tolist(), FIGURE.name, used, note)
        for id, part, errors, note in checked
    ]


def caption(records: Records) -> str:
    """What is drawn, as it was computed."""
    problems = records["exact"].arrays["distance"].shape[1]
    return (
        f"Exact, float64: {problems} drawn problems (label probability .55–.95, β .05–2, reference, free reward and "
        "free mass of the third response), each at every reference mass. Dots are problems, bars their mean; intervals "
        "are over problems. The nearest RL optimum is sought over the reward of the third response, which the data "
        "leave free."
    )


FIGURE = Figure(
    name="reachable_policies",
    title="Can DPO end where RL on a learned reward cannot?",
    tags=("exact", "offline"),
    claims=("C01", "C02"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
