"""Scores that make labelled pairs likeliest: Bradley & Terry's model, linear in given features, fitted exactly."""

from __future__ import annotations

import numpy as np

MOST_STEPS, MOST_HALVINGS = 200, 60


def pair_losses(margins: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """−p·log σ(m) − (1 − p)·log σ(−m) of each pair. margins: m, scores of the first minus the second; labels: p."""
    return labels * np.logaddexp(0.0, -margins) + (1.0 - labels) * np.logaddexp(0.0, margins)


def fit_bradley_terry(differences: np.ndarray, labels: np.ndarray, l2: float) -> np.ndarray:
    """θ, the minimum of Σ_i [−p_i·log σ(d_i·θ) − (1 − p_i)·log σ(−d_i·θ)] + ½·l2·‖θ‖². Returns (F,), float64.

    differences: (D, F), features of the first response of each pair minus those of the second; labels: (D,), the
    probability p that the first is preferred; l2: above 0, so that there is one minimum, and a finite one even where
    the labels can be separated. The loss is strictly convex: Newton's steps, halved until they lead down, find it to
    rounding. A score is known up to a constant per prompt, as only differences count.

    >>> from sims.environments.bradley_terry import fit_bradley_terry
    >>> float(fit_bradley_terry(np.ones((4, 1)), np.array([1, 1, 1, 0]), l2=1e-9)[0].round(6))  # log 3: odds of 3 to 1
    1.098612
    """
    d = np.asarray(differences, dtype=np.float64)
    p = np.asarray(labels, dtype=np.float64)

    def loss(theta: np.ndarray) -> float:
        return float(pair_losses(d @ theta, p).sum() + 0.5 * l2 * theta @ theta)

    theta, close = np.zeros(d.shape[1]), 0
    for _ in range(MOST_STEPS):
        preferred = 0.5 * (1.0 + np.tanh(0.5 * (d @ theta)))  # σ(margin), without overflow
        slope = d.T @ (preferred - p) + l2 * theta
        curvature = (d * (preferred * (1.0 - preferred))[:, None]).T @ d + l2 * np.eye(d.shape[1])
        step = np.linalg.solve(curvature, slope)
        here = loss(theta)
        # Twice the loss that a step can still gain; so close, each step squares the error, and losses only differ by
        # rounding.
        if slope @ step <= 1e-9 * max(1.0, here):
            theta, close = theta - step, close + 1
            if close == 3:
                return theta
            continue
        shares = (0.5**k for k in range(MOST_HALVINGS))
        share = next((share for share in shares if loss(theta - share * step) < here), None)
        if share is None:
            break
        theta = theta - share * step
    raise RuntimeError(f"Bradley-Terry fit: no minimum found at l2 = {l2:g}: are all features and labels finite?")
