"""Records without runs: what a figure's verdicts read, with effects of a known size in them.

`skeleton(figure)` collects a figure from a lab that runs nothing: it gets the keys and the specs of its records as they
would be, tuning taken to choose the middle of each grid. `filled(record, levels)` then gives one its arrays, of the
right shapes. All that a verdict may look at is held by a few quantities of a record, one number per run each:
`QUANTITIES`. Their mean over the runs is exact, in the odd runs and in the even ones (`crossfit_best` looks at halves),
and their noise is small beside a margin; so that an effect which is a sum of means is known to rounding.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from figures.arms import entropies
from figures.arms.gating import is_right_or_wrong
from figures.figure import Figure
from figures.gallery import gradient_variance, reachable_policies, unseen_responses
from figures.lab import Lab, Measure, Point, apply
from figures.short_tuning import Short
from sims.experiments.experiment import Experiment
from sims.experiments.store import Arrays, Record, Store

QUANTITIES = {
    "score": 0.5,  # after the start, at every point
    "first": 0.5,  # score by the first part of gold, at the end
    "second": 0.5,
    "kl": 0.5,  # KL(π‖π_ref) after the start
    "entropy": 0.5,  # after the start
    "best": 0.5,  # final probability of the best response
    "unseen": 0.5,  # mass on responses that no data show; the reference's is ½
    "optimum": 0.5,  # the same of the exact optimum of the learned reward
    "fall": 0.0,  # added to the score where KL is 8 nats or more
    "chosen": 0.0,  # change of log π(chosen) since the reference
    "octaves": 0.0,  # log2 of RLOO's noise; a perfect critic's is "perfect"
    "perfect": 0.0,
    "excess": 0.0,  # DPO's loss of an RL optimum above its minimum
    "without": 0.0,  # distance from a DPO minimum to the nearest RL optimum: reference without the response
    "with": 0.0,  # and with full support
    "late": 0.0,  # by how much the score is higher at the last point
    "length": 2.0,  # after the start
    "policy": 0.6,  # accuracies of the policy's implicit reward and of the proxy
    "proxy": 0.6,
    "gold_set": 0.9,  # and before the start
    "exploit": 0.5,
    "growth": 0.0,  # of length
    "alarmed": 0.5,  # share of the runs that raise an alarm, the first ones
}
REFERENCE = np.log(np.array([0.4, 0.6]))  # two responses to one prompt, the second the better and the unseen one
TABLES = 50
ONE_DRAW = ("entropy-dpo", "entropy-grpo")  # records whose runs share a draw, over which intervals are

Levels = Mapping[str, float]  # quantity → its mean


class SyntheticLab(Lab):
    """Gives every arm a record of its spec and nothing else."""

    def __init__(self) -> None:
        super().__init__(Store("nothing is read or written here"))

    def records(
        self, arms: Mapping[str, Experiment], same_bits: Mapping[str, Record] | None = None
    ) -> dict[str, Record]:
        return {name: Record(arm.to_json(), {}, {}) for name, arm in arms.items()}

    def tuned_records(
        self,
        arms: Mapping[str, Experiment],
        grids: Mapping[str, Sequence[Point]],
        tuning_runs: int = 10,
        finalists: int = 0,
        runs: Mapping[str, int] | None = None,
        by: Measure = "end",
        short: Short | None = None,
        tuning_seed: int = 0,
        tolerance: float = 0.0,
    ) -> dict[str, Record]:
        more = {name: arm.replace(runs=(runs or {}).get(name, arm.runs)) for name, arm in arms.items()}
        return self.records({name: apply(arm, grids[name][len(grids[name]) // 2]) for name, arm in more.items()})

    def exact(
        self, name: str, spec: Mapping[str, Any], compute: Callable[[], Arrays], modules: Sequence[str]
    ) -> Record:
        return Record({**spec, "name": name}, {}, {})


class SyntheticRecord(Record):
    """A record whose hash is its key in the figure, under "key" in its spec: a row then says which records it names."""

    @property
    def hash(self) -> str:
        return str(self.spec["key"])


def skeleton(figure: Figure) -> dict[str, Record]:
    """Every record of a figure by its key, without arrays."""
    found = figure.collect(SyntheticLab())
    return {key: SyntheticRecord({**record.spec, "key": key}, {}, {}) for key, record in found.items()}


def filled(record: Record, levels: Levels, noise: float, moved: float = 0.0) -> Record:
    """The record with arrays. levels: means of quantities that differ from QUANTITIES. noise: standard deviation over
    runs of every quantity. moved: by how much every quantity is shifted, and with them what no quantity says: the
    loss at which a reward model stopped."""
    return SyntheticRecord(record.spec, _arrays(record.spec, levels, noise, moved), {})


def _arrays(spec: Mapping[str, Any], levels: Levels, noise: float, moved: float) -> Arrays:
    runs = spec["of"]["runs"] if "of" in spec else spec.get("runs", TABLES)
    wobble = noise * (of_a_draw(spec["key"], runs) if spec["name"] in ONE_DRAW else balanced(spec["key"], runs))
    level = {name: levels.get(name, base) + wobble + moved for name, base in QUANTITIES.items()}
    level["late"] -= 1.5 * moved  # the last point moves, but by less than the others
    level["proxy"] -= 0.5 * moved + 2.0 * wobble  # so that a difference of both moves, and has noise
    if spec["name"] == "reachable_policies":
        masses = len(reachable_policies.MASSES)
        distance = np.stack([level["without"], *[level["with"]] * (masses - 1)])
        free = np.zeros(runs)
        return {"excess": np.stack([level["excess"]] * masses), "distance": distance, "free": free}
    if spec["name"] == "prompt_mask-cancels":
        return {"excess": level["excess"]}
    if spec["name"].startswith("gradient_variance"):
        return {"within": _noise_of_gradients(level, level["perfect"].mean() - moved, len(spec["group_sizes"]))}
    if "updates" not in spec:
        return {}  # exact, and nothing is claimed of it
    longest = spec["policy"].get("decoding", {}).get("max_new_tokens")
    counted = None if is_right_or_wrong(spec["environment"]) else longest
    found = _of_a_run(level, spec["evaluations"] + 1, spec["updates"], moved != 0, counted)
    if (problems := spec["environment"].get("problems")) is not None:
        found |= _same_problems(found["gold"], level, problems)
    if spec["name"].startswith("gold_and_proxy"):  # each evaluation further away, the last on a level of its own
        kl = 0.05 * 100.0 ** np.linspace(0.0, 1.0, spec["evaluations"] + 1)
        kl[-1] *= 1.2
        found["kl_policy_ref"] = np.broadcast_to(kl, found["gold"].shape)
    if spec["name"].startswith(("gold_and_proxy", "lm_preferences")):  # a reward model's score, whatever gold does
        rising = found["gold"].copy()
        rising[:, 1:] = found["gold"][:, 1:2] + 0.1 * np.arange(1, rising.shape[1])
        found["reward"] = rising
    if spec["name"].startswith("alarms"):
        found |= _alarms(level, *found["gold"].shape)
    if spec["name"].startswith("exploit_steps"):
        found["length"] = _ramp(level["octaves"], len(found["updates"]), "unbiased" in spec["key"])
    if spec["name"].startswith(("lm_sync_period", "length_collapse")):  # at the first copy all arms are as they were
        found["length"][:, 1] = found["length"][:, 0]
    mass = spec["environment"].get("best_mass")
    if mass is not None:  # the geometry that the environment promises
        found["best_mass_ref"] = np.full(runs, mass)
    return found


def _of_a_run(level: Mapping[str, np.ndarray], points: int, updates: int, moved: bool, longest: float | None) -> Arrays:
    """What `sims.experiments.record_loop` makes, for one prompt with two responses."""
    runs = len(level["score"])

    def path(start: float, then: np.ndarray) -> np.ndarray:
        return np.concatenate([np.full((runs, 1), start), np.repeat(then[:, None], points - 1, axis=1)], axis=1)

    def distribution(second: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(np.stack([1.0 - second, second], axis=-1))[:, None]

    scale, reference = 1.0, 0.0
    if longest is not None:  # of a language model, whose reward is −length
        scale, reference = longest / 2, -longest / 2
    score = path(0.0, level["score"])
    early = (points + 1) // 2 - 1
    if early:  # an arm that is stopped early is behind, by as much over the run whatever the points
        score[:, 1 : 1 + early] -= 0.15 * (points - 1) / early
    score[:, -1] += level["late"]
    distance = np.linspace(0.0, 1.0, points)
    if longest is not None and points > 8:
        distance[-4:] = (2.0, 4.0, 8.0, 12.0)
        score[:, -2:] += level["fall"][:, None]
    gold = reference + scale * score
    loss = path(np.log(2), np.full(runs, 0.2))
    if points > 2:
        loss[:, 1] = 0.4  # so that 0.2 is reached at the second point, by when the mass has moved
    with np.errstate(invalid="ignore", divide="ignore"):
        odds = np.log(level["optimum"] / (1.0 - level["optimum"])) - (REFERENCE[1] - REFERENCE[0])
    learned = np.stack([np.zeros(runs), unseen_responses.BETA * odds], axis=-1)[:, None]
    start = REFERENCE.mean()
    counted = np.linspace(0, updates, points).astype(int)
    found = {
        "updates": counted,
        "samples": counted * 16,
        "gold": gold,
        "reward": gold,
        "kl_policy_ref": path(0.0, level["kl"]) if longest is None else np.tile(distance, (runs, 1)),
        "entropy": path(1.0, level["entropy"]),
        "token_entropy": path(1.0, level["entropy"]),
        "reference_reward": np.full(runs, reference),
        "best_reward": np.full(runs, reference + scale),
        "worst_reward": np.full(runs, reference - scale),  # a score of −1, below all that is planted
        "diverged_at": np.full(runs, -1),
        "rewards": np.array([[0.0, 1.0]]),
        "logp_ref": np.broadcast_to(REFERENCE, (runs, 1, 2)),
        "deployed_gold": gold,
        "deployed_gold_set": path(QUANTITIES["gold_set"], level["gold_set"]),
        "grad_norm": path(np.nan, 2.0 ** level["octaves"]),
        "logp_final": distribution(level["best"]),
        "best_mass_ref": np.full(runs, np.exp(REFERENCE[1])),
        "best_mass_final": level["best"],
        "covered": np.broadcast_to([[True, False]], (runs, 1, 2)),
        "unseen_mass": path(0.5, level["unseen"]),
        "length": path(1.0, level["length"]),
        "unpaired_mass_ref": np.full(runs, 0.5),
        "unpaired_mass_final": level["unseen"],
        "loss": loss,
        "learned_rewards": learned,
        "reward_model_loss": np.full(runs, 0.3 if moved else 0.2),
        "values_explained": path(0.0, np.full(runs, 0.4)),
    }
    for name in ("first", "second"):
        found |= {
            f"gold_{name}": path(0.0, level[name]),
            f"best_{name}": np.ones(runs),
            f"worst_{name}": -np.ones(runs),
        }
    for who in ("policy", "proxy"):
        found[f"{who}_accuracy"] = found[f"{who}_accuracy_on_policy"] = path(0.5, level[who])
    chosen = path(start, start + level["chosen"])
    found["logp_chosen"] = found["pool_logp_chosen"] = found["first_logp_winner"] = chosen
    rejected = path(start, start + level["chosen"] - 2.0)  # a margin of 2 nats
    found["logp_rejected"] = found["first_logp_loser"] = rejected
    found["pool_logp_rejected"] = path(start, start + level["chosen"] - 4.0)
    return found


def _same_problems(gold: np.ndarray, level: Mapping[str, np.ndarray], problems: int) -> Arrays:
    """Runs of a problem are on either side of its score by turns, as far as its octaves say."""
    which, turn = np.arange(len(gold)) % problems, np.arange(len(gold)) // problems % 2
    apart = 0.01 * 2.0 ** level["octaves"][which] * (1 - 2 * turn)
    return {"gold": gold[which] + np.where(np.arange(gold.shape[1]) > 0, apart[:, None], 0.0)}


def _alarms(level: Mapping[str, np.ndarray], runs: int, points: int) -> Arrays:
    """Runs that raise an alarm have grown by more than a third and lost entropy, the others have shrunk as much."""
    raised = np.arange(runs) < round(level["alarmed"].mean() * runs)

    def path(start: float, then: np.ndarray) -> np.ndarray:
        return np.concatenate([np.full((runs, 1), start), np.repeat(then[:, None], points - 1, axis=1)], axis=1)

    length = path(100.0, 100.0 * (1.0 + level["growth"] + np.where(raised, 0.35, -0.35)))
    entropy = path(2.0, np.where(raised, 0.5, 1.5))
    return {
        "length": length,
        "entropy": entropy,
        "kl_policy_ref": np.linspace(0.0, 1.0, points) * (1.5 + level["kl"])[:, None],  # two nats, step by step
        "exploit": path(0.0, level["exploit"]),
        "refused": path(0.0, np.ones(runs)),
    }


def _ramp(octaves: np.ndarray, points: int, unbiased: bool) -> np.ndarray:
    """(runs, points): lengths that are half a token longer after 2**octaves quarters of the run, in the mean over runs;
    of labels without a bias none, but where they are moved."""
    mean = octaves.mean()
    each = np.full(len(octaves), 0.1 * mean) if unbiased else 2.0 * 2.0**-mean * (1.0 - np.log(2) * (octaves - mean))
    return np.asarray(2.0 + each[:, None] * np.linspace(0.0, 1.0, points))


def _noise_of_gradients(level: Mapping[str, np.ndarray], perfect: float, sizes: int) -> np.ndarray:
    """(tables, policies, estimators, group sizes). perfect: log2 of the critic's noise, which stays where RLOO's is
    moved: a row is of their ratio."""
    order = gradient_variance.ORDER
    within = np.ones((len(level["octaves"]), len(gradient_variance.POLICIES), len(order), sizes))
    within[:, :, order.index("none")] = 2.0 ** (perfect + 2)  # the positive control
    within[:, :, order.index("rloo")] = 2.0 ** level["octaves"][:, None, None]
    # The noise of the runs is in the numerator: what is left in the critic's is the level.
    within[:, :, order.index("perfect")] = 2.0**perfect
    return within


def of_a_draw(key: str, runs: int) -> np.ndarray:
    """(runs,): one number, as a draw of the rewards moves all of its runs; `balanced` over draws. key: ends with it."""
    arm, draw = key.rsplit("/", 1)
    return np.full(runs, balanced(arm, len(entropies.DRAWS))[entropies.DRAWS.index(int(draw))])


def balanced(key: str, runs: int) -> np.ndarray:
    """(runs,): normal noise of this record; mean 0 in the even runs and in the odd ones, standard deviation 1.

    Of more than 50 runs every 50 are alike, so that the first 50, which a row may pair with shorter records, balance;
    and so do those that are left.
    """
    if runs > 50:
        return np.concatenate([balanced(key, 50), balanced(key, runs - 50)])
    noise = np.random.default_rng(zlib.crc32(key.encode())).normal(size=runs)
    for half in (0, 1):
        noise[half::2] -= noise[half::2].mean()
    return noise / noise.std()
