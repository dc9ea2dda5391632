"""Logits to log-probs, in NumPy."""

from __future__ import annotations

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log of the softmax over the last axis. Any shape, returns the same.

    >>> np.exp(sims.exact.log_softmax(np.array([0.0, np.log(3)]))).round(12)
    array([0.25, 0.75])
    """
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
