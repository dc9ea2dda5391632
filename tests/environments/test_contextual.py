"""Contextual problems: what is covered, where the reference stands, what is recorded, and rewards learned from it."""

import math

import numpy as np
import pytest
import torch

from sims.core.algorithms import find_algorithm
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import Prompts
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from sims.environments import Contextual, RecordedEnvironment
from sims.experiments.executor import execute
from sims.experiments.experiment import Experiment
from sims.policies import MLP, FineTuned, Table

RUNS = Noise.of(seed=3, runs=4)


def built(**settings: object) -> tuple[Contextual, RecordedEnvironment]:
    spec = Contextual(**settings)
    return spec, spec.build(torch.float64, RUNS)


def reference(spec: Contextual) -> np.ndarray:
    """(R, X, N) probabilities."""
    return np.exp(spec.reference_logp(RUNS)[..., 0, :])


@pytest.mark.parametrize(("coverage", "best_in_data"), [(0.25, True), (0.5, True), (0.5, False), (1.0, True)])
def test_coverage_is_what_was_asked_for(coverage: float, best_in_data: bool) -> None:
    spec, environment = built(coverage=coverage, best_in_data=best_in_data)
    covered = environment.covered.numpy()
    assert (covered.sum(-1) == coverage * 8).all()
    assert (covered[:, np.arange(8), spec.best()] == best_in_data).all()
    assert coverage == 1.0 or len({covered[r].tobytes() for r in range(4)}) == 4  # every run has its own


def test_the_diagonal_is_best_and_alone() -> None:
    rewards = Contextual(num_prompts=10, off_diagonal=0.4).rewards()
    assert (rewards.argmax(-1) == np.arange(10) % 8).all()
    assert (rewards == 1.0).sum() == 10 and np.sort(rewards, axis=-1)[:, -2].max() < 0.4


def test_every_pair_of_covered_responses_is_recorded_once_and_labelled_by_gold() -> None:
    spec, environment = built(coverage=0.5, num_prompts=3)
    data, rewards = environment.data, spec.rewards()
    assert data.responses.shape == (4, spec.recorded_pairs, 2, 1) == (4, 3 * 6, 2, 1)
    for r in range(4):
        rows = zip(data.prompts[r].tolist(), data.responses[r, :, :, 0].tolist(), strict=True)
        shown = {(x, *pair) for x, pair in rows}
        wanted = {
            (x, a, b)
            for x in range(3)
            for a in range(8)
            for b in range(a + 1, 8)
            if environment.covered[r, x, a] and environment.covered[r, x, b]
        }
        assert shown == wanted
        for (x, a, b), label in zip(sorted(shown), data.pair_label[r, :, 0].tolist(), strict=True):
            assert label == float(rewards[x, a] > rewards[x, b])


def test_a_full_batch_is_the_data_and_a_smaller_one_is_drawn_from_it() -> None:
    spec, environment = built()
    whole = environment.recorded(spec.recorded_pairs, RUNS)
    assert whole is environment.data
    drawn = environment.recorded(500, Noise.of(0, 4))
    for r in range(4):

        def rows(batch: Batch, r: int = r) -> list[tuple[int, ...]]:
            return [(int(x), *y.flatten().tolist()) for x, y in zip(batch.prompts[r], batch.responses[r], strict=True)]

        counts = [rows(drawn).count(row) for row in rows(whole)]
        assert sum(counts) == 500
        assert max(counts) < 35  # 500 draws over 48 rows: 10.4 expected; P(any of 192 rows beyond 34) < 1e-6


def test_the_reference_is_tilted_toward_winners_or_losers_by_what_was_asked() -> None:
    plain = reference(Contextual())
    spec, environment = built()
    covered, rewards = environment.covered.numpy(), spec.rewards()
    winner = np.where(covered, rewards, -1).argmax(-1)[..., None] == np.arange(8)
    for tilt, favoured in (("winners", winner), ("losers", covered & ~winner)):
        ratio = np.log(reference(Contextual(tilt=tilt, tilt_by=1.5)) / plain)
        raised = np.where(favoured, ratio, np.nan)
        others = np.where(favoured, np.nan, ratio)
        np.testing.assert_allclose(
            np.nanmean(raised, -1) - np.nanmean(others, -1), 1.5, atol=1e-12
        )  # the normaliser cancels
        assert np.nanstd(raised - np.nanmean(raised, -1, keepdims=True)) < 1e-12


def test_the_reference_has_the_mass_asked_for_off_the_data_and_on_the_best() -> None:
    spec, environment = built(uncovered_mass=0.7)
    off = (reference(spec) * ~environment.covered.numpy()).sum(-1)
    np.testing.assert_allclose(off, 0.7, atol=1e-12)
    for mass in (1e-6, 0.1, 0.0):
        found = reference(Contextual(best_mass=mass, best_in_data=False))
        np.testing.assert_allclose(found[:, np.arange(8), np.arange(8)], mass, atol=1e-14)
        np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-12)


@pytest.mark.parametrize("form", ["table", "mlp"])
def test_a_reward_model_is_trained_to_the_stated_loss(form: str) -> None:
    _, environment = built(reward_model=form, reward_model_loss=0.05)
    learned, data = environment.learned, environment.data
    assert learned is not None
    assert ((learned.loss <= 0.05) & (learned.loss > 0.04)).all()
    assert (learned.accuracy == 1).all()
    np.testing.assert_allclose(learned.scores.mean(-1), 0.0, atol=1e-12)
    first, second = (
        learned.scores.flatten(1).gather(1, data.prompts * 8 + data.responses[..., side, 0]) for side in (0, 1)
    )
    sign = 2 * data.pair_label[..., 0] - 1
    expected = np.log1p(np.exp(-(sign * (first - second)).numpy())).mean(-1)  # −log σ(margin), by hand
    np.testing.assert_allclose(learned.loss.numpy(), expected, atol=1e-12)


def test_a_tabular_reward_model_knows_nothing_of_what_it_never_saw() -> None:
    """Uncovered scores all stay where they started, so that they are equal; a network's are not."""
    spread = {}
    for form in ("table", "mlp"):
        _, environment = built(reward_model=form)
        scores = environment.learned.scores[~environment.covered].view(4, 8, 4)
        spread[form] = (scores.amax(-1) - scores.amin(-1)).min().item()
    assert spread["table"] < 1e-12 < spread["mlp"]


def test_the_learner_sees_the_learned_reward_and_gold_is_kept() -> None:
    spec, environment = built(reward_model="table")
    prompts = torch.arange(8).expand(4, 8)
    responses = torch.arange(8).expand(4, 8, 8).unsqueeze(-1)
    labels = environment.label(Prompts(prompts), responses, torch.ones_like(responses, dtype=torch.bool), "all", RUNS)
    np.testing.assert_allclose(labels.rewards, environment.learned.scores)
    np.testing.assert_allclose(labels.gold, np.broadcast_to(spec.rewards(), (4, 8, 8)))
    first, second = (labels.rewards.gather(-1, labels.pairs[..., side]) for side in (0, 1))
    assert (labels.pair_label == (torch.sign(first - second) + 1) / 2).all()


def arm(algorithm: str, environment: Contextual, source: str = "dataset", **changes: object) -> Experiment:
    size = environment.recorded_pairs if source == "dataset" else 16
    schedule = Schedule(batch_size=size, source=source)
    chosen = find_algorithm(algorithm)()
    made = Experiment("arm", environment, Table(), chosen, schedule, Optimiser(learning_rate=0.1))
    return made.replace(updates=20, evaluations=2, runs=3, **changes)


def test_what_the_reference_lacks_is_never_learned() -> None:
    """Probability 0 stays exactly 0, whoever draws; nothing becomes NaN (C64)."""
    lacking = Contextual(best_mass=0.0, best_in_data=False)
    arms = [arm("dpo", lacking)] + [arm(name, lacking, "policy") for name in ("rloo", "ppo", "dpo", "best_of_n")]
    arms += [arms[2].replace(schedule=Schedule(sync_every_updates=period)) for period in (2.0, math.inf)]
    for experiment in arms:
        found = execute([experiment])[0]
        assert (found["logp_final"][:, np.arange(8), np.arange(8)] == -np.inf).all()
        assert all(np.isfinite(found[name]).all() for name in ("gold", "kl_policy_ref", "entropy"))
        assert (found["diverged_at"] == -1).all()


def test_fine_tuning_raises_the_chosen_and_becomes_the_reference() -> None:
    shifted = Contextual(uncovered_mass=0.9)
    plain = execute([arm("dpo", shifted)])[0]
    tuned = execute([arm("dpo", shifted, policy=FineTuned(sft_updates=50, sft_learning_rate=0.05))])[0]
    np.testing.assert_allclose(plain["unseen_mass"][:, 0], 0.9, atol=1e-5)
    assert (tuned["unseen_mass"][:, 0] < 0.6).all()
    assert (tuned["kl_policy_ref"][:, 0] == 0).all()
    assert (tuned["reference_reward"] > plain["reference_reward"]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coverage": 0.1}, "coverage = 0.1: must cover from 2 to 8 of 8 responses, not 1"),
        ({"coverage": 1.0, "best_in_data": False}, "must cover from 2 to 7 of 8"),
        ({"coverage": 1.0, "uncovered_mass": 0.5}, "uncovered_mass = 0.5: must be none where coverage = 1"),
        ({"uncovered_mass": 1.0}, "uncovered_mass = 1.0: must be"),
        ({"reward_model": "forest"}, "reward_model = 'forest': must be"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        Contextual(**settings)


def test_experiments_that_cannot_be() -> None:
    with pytest.raises(SpecError, match="rloo takes no pairs"):
        arm("rloo", Contextual())
    with pytest.raises(SpecError, match="use table where one has none"):
        arm("dpo", Contextual(best_mass=0.0, best_in_data=False), policy=MLP())
