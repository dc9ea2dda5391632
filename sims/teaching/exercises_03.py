"""Exercises of notebook 3: from rewards to preferences, and DPO."""

from __future__ import annotations

import numpy as np
import torch

from sims import exact
from sims.core.losses.contrastive import dpo_loss as package_dpo_loss

from .checking import Exercise, Problem


def _rewards(random: np.random.Generator) -> Problem:
    return {"rewards": random.uniform(0.2, 3.0, size=int(random.integers(3, 6)))}


def _log_probs_of_pairs(random: np.random.Generator) -> Problem:
    pairs = int(random.integers(3, 6))
    names = ("logp_chosen", "logp_rejected", "ref_chosen", "ref_rejected")
    return {name: -random.uniform(0.5, 6.0, size=pairs) for name in names} | {"beta": float(random.uniform(0.2, 0.7))}


def _policy_and_rejected(random: np.random.Generator) -> Problem:
    """A distribution with a rare response to reject and, in between, one that only the exact rule gets right."""
    p = np.exp(exact.log_softmax(random.normal(scale=1.2, size=int(random.integers(5, 9)))))
    return {"p": p, "rejected": int(random.integers(len(p)))}


def _of_gap(gap: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-gap))


preference_probability = Exercise(
    problem=_rewards,
    exact=lambda rewards: exact.preference_matrix(rewards, temperature=1.0),
    faults={
        "The two are the wrong way round: row i, column j is the probability that i is preferred to j.": lambda r: (
            _of_gap(r - r[:, None])
        ),
        "This is r_i/(r_i + r_j): Bradley–Terry compares exp(r), so that only differences count.": lambda r: (
            r[:, None] / (r[:, None] + r)
        ),
        "This is the difference of the rewards: its sigmoid is the probability.": lambda r: r[:, None] - r,
        "This is a labeller without noise: the better one always wins.": lambda r: exact.preference_matrix(r, 0.0),
        "This is whether i is the better one, who always wins here: with noise the worse one is sometimes preferred.": (
            lambda r: r[:, None] > r
        ),
        "This is the log of the probability.": lambda r: np.log(_of_gap(r[:, None] - r)),
    },
    done="P(i ≻ j) = σ(r_i − r_j): add a constant to all rewards, and nothing changes.",
)


def _exact_dpo(w: np.ndarray, x: np.ndarray, rw: np.ndarray, rx: np.ndarray, beta: float) -> np.ndarray:
    return package_dpo_loss(torch.from_numpy((w - rw) - (x - rx)), beta).numpy()


def _logistic(margin: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, -margin)


dpo_loss = Exercise(
    problem=_log_probs_of_pairs,
    exact=_exact_dpo,
    faults={
        "The reference is missing: this compares log π itself, as CPO does.": lambda w, x, rw, rx, b: _logistic(
            b * (w - x)
        ),
        "β is missing: it multiplies the margin, inside the sigmoid.": lambda w, x, rw, rx, b: _logistic(
            (w - rw) - (x - rx)
        ),
        "β is outside the sigmoid: it multiplies the margin, not the loss.": lambda w, x, rw, rx, b: (
            b * _logistic((w - rw) - (x - rx))
        ),
        "Chosen and rejected are exchanged: your loss falls as the rejected response gains.": lambda w, x, rw, rx, b: (
            _logistic(b * ((x - rx) - (w - rw)))
        ),
        "The reference counts with the wrong sign: log π − log π_ref, for both responses.": lambda w, x, rw, rx, b: (
            _logistic(b * ((w + rw) - (x + rx)))
        ),
        "The two log-ratios are added: the margin is their difference.": lambda w, x, rw, rx, b: _logistic(
            b * ((w - rw) + (x - rx))
        ),
        "The log is missing: this is −σ(βh), which hardly pulls at a pair that is far on the wrong side.": (
            lambda w, x, rw, rx, b: -_of_gap(b * ((w - rw) - (x - rx)))
        ),
    },
    done="−log σ(β·((log π − log π_ref) of the chosen − of the rejected)): the Bradley–Terry loss of implicit rewards.",
)


def _move(p: np.ndarray, rejected: int) -> np.ndarray:
    """What a small step that makes `rejected` rarer adds to the logits: −∂(log p_rejected)/∂z."""
    return p - np.eye(len(p))[rejected]


def _falls(p: np.ndarray, rejected: int) -> np.ndarray:
    """Whether d(log p_j) = dz_j − Σ p·dz is negative."""
    move = _move(p, rejected)
    return move < (p * move).sum()


falls_when_pushed = Exercise(
    problem=_policy_and_rejected,
    exact=_falls,
    faults={
        "You let only the rejected response fall. Every other logit rises, but a probability falls where its logit "
        "rises less than the average logit Σ p·Δz does.": lambda p, rejected: np.arange(len(p)) == rejected,
        "The rejected response's own term is left out of the average Σ p·Δz.": lambda p, rejected: (
            _move(p, rejected) < (p * p).sum()
        ),
        "You let every response fall that is rarer than 1/N, the mean: the average Σ p·Δz is taken under p.": (
            lambda p, rejected: p < p.mean()
        ),
        "You compare p with Σ p²: for the rejected response Δz is p − 1, and it is in the average too.": (
            lambda p, rejected: p < (p * p).sum()
        ),
        "You answer for a step that makes the response likelier: the sign of the gradient is wrong.": (
            lambda p, rejected: -_move(p, rejected) < -(p * _move(p, rejected)).sum()
        ),
    },
    done="d(log p_j) = Δz_j − Σ p·Δz with Δz = p − e_rejected: what is rarer than Σ p·Δz falls with the rejected one.",
)
