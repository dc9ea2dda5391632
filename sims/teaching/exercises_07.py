"""Exercises of notebook 7: the log-prob of a sequence, the overlap of a length, and agreement of two rankings."""

from __future__ import annotations

import numpy as np
from scipy import stats

from sims import exact

from .checking import Exercise, Problem


def _padded_tokens(random: np.random.Generator) -> Problem:
    """Log-probs of a response's tokens; behind its EOS there is padding, and log-probs there too."""
    tokens = int(random.integers(8, 12))
    return {"token_logp": np.log(random.uniform(0.05, 0.9, size=tokens)), "length": int(random.integers(3, tokens - 2))}


sequence_logp = Exercise(
    problem=_padded_tokens,
    exact=lambda logp, length: logp[: length + 1].sum(),
    faults={
        "EOS is left out: to stop there is part of the response, and has a probability of its own.": lambda logp, n: (
            logp[:n].sum()
        ),
        "Padding is counted: nothing behind EOS was drawn.": lambda logp, n: logp.sum(),
        "One token behind EOS is counted: a slice `[:k]` has k numbers.": lambda logp, n: logp[: n + 2].sum(),
        "This is the mean over tokens: probabilities multiply, so that log-probs add up.": lambda logp, n: logp[
            : n + 1
        ].mean(),
        "This is the sum divided by the length without EOS: probabilities multiply, so that log-probs add up.": (
            lambda logp, n: logp[: n + 1].sum() / n
        ),
        "This is the log-prob of EOS alone.": lambda logp, n: logp[n],
        "These are the probabilities' sum: the log of their product is asked for.": lambda logp, n: np.exp(
            logp[: n + 1]
        ).sum(),
        "This is the probability: its log is asked for.": lambda logp, n: np.exp(logp[: n + 1].sum()),
    },
    done="Σ log π(token | prompt, tokens before), EOS included: one number for a response, as the table has.",
)


def _lengths(random: np.random.Generator) -> Problem:
    """A distribution over lengths of 0 and more. The best one is nearer to 0 than the radius on every other problem."""
    lengths = int(random.integers(14, 18))
    radius = int(random.integers(3, 5))
    best = int(random.integers(1, radius)) if random.integers(2) else int(random.integers(radius, lengths - radius - 1))
    return {"probabilities": np.exp(exact.log_softmax(random.normal(size=lengths))), "best": best, "radius": radius}


def _near(probabilities: np.ndarray, best: int, radius: int) -> float:
    return float(probabilities[np.abs(np.arange(len(probabilities)) - best) <= radius].sum())


overlap = Exercise(
    problem=_lengths,
    exact=_near,
    faults={
        "A slice that begins below 0 counts from the end: the shortest length is 0.": lambda p, best, radius: p[
            best - radius : best + radius + 1
        ].sum(),
        "The upper end is left out: `radius` tokens more than the best are near it too.": lambda p, best, radius: p[
            max(0, best - radius) : best + radius
        ].sum(),
        "Lengths exactly `radius` away are near too.": lambda p, best, radius: _near(p, best, radius - 1),
        "This is the probability of the best length alone.": lambda p, best, radius: p[best],
        "Only longer ones are counted: shorter ones are near too.": lambda p, best, radius: p[
            best : best + radius + 1
        ].sum(),
        "Only shorter ones are counted: longer ones are near too.": lambda p, best, radius: p[
            max(0, best - radius) : best + 1
        ].sum(),
        "This is the share of the lengths that are near: weigh each by its probability.": lambda p, best, radius: (
            np.mean(np.abs(np.arange(len(p)) - best) <= radius)
        ),
        "This is the probability of being *far*.": lambda p, best, radius: 1 - _near(p, best, radius),
    },
    done="P(|length − best| ≤ radius) under the reference: how often its samples show what is wanted.",
    problems=6,
)


def _two_rankings(random: np.random.Generator) -> Problem:
    """Scores of the same methods twice, without ties."""
    methods = int(random.integers(6, 10))
    toy = random.normal(size=methods)
    return {"toy": toy, "model": toy + random.normal(size=methods)}


def _pairs(toy: np.ndarray, model: np.ndarray) -> np.ndarray:
    """+1 where two methods stand in the same order on both sides, −1 where they do not, 0 for one with itself."""
    return np.asarray(np.sign(toy[:, None] - toy) * np.sign(model[:, None] - model))


kendall = Exercise(
    problem=_two_rankings,
    exact=lambda toy, model: stats.kendalltau(toy, model).statistic,
    faults={
        "Methods are compared with themselves too: only pairs of two count.": lambda x, y: _pairs(x, y).mean(),
        "This is the share of pairs in the same order: τ is that minus the share in the other order.": lambda x, y: (
            (_pairs(x, y) > 0).sum() / (len(x) * (len(x) - 1))
        ),
        "This is the share of pairs in the other order: τ is what agrees minus what does not.": lambda x, y: (
            (_pairs(x, y) < 0).sum() / (len(x) * (len(x) - 1))
        ),
        "This is half of τ: each pair of methods is counted once above, so that there are n(n − 1)/2 of them.": (
            lambda x, y: np.triu(_pairs(x, y), 1).sum() / (len(x) * (len(x) - 1))
        ),
        "This is twice τ: each pair is counted in both orders, so that there are n(n − 1).": lambda x, y: (
            2 * _pairs(x, y).sum() / (len(x) * (len(x) - 1))
        ),
        "This is a count: divide by the number of pairs.": lambda x, y: np.triu(_pairs(x, y), 1).sum(),
        "This is a count, and of each pair twice: divide by the number of pairs.": lambda x, y: _pairs(x, y).sum(),
        "This is Pearson's correlation, of the scores and not of their order.": lambda x, y: np.corrcoef(x, y)[0, 1],
        "This is Spearman's ρ, the correlation of the ranks: count pairs instead.": lambda x, y: (
            stats.spearmanr(x, y).statistic
        ),
        "This is Pearson's correlation of `argsort`, which lists methods by rank: ranks are its argsort.": (
            lambda x, y: np.corrcoef(np.argsort(x), np.argsort(y))[0, 1]
        ),
    },
    done="(pairs in the same order − pairs in the other) / all pairs: 1 for one ranking, 0 for what chance gives.",
)
