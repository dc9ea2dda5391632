"""logp_chosen and logp_rejected of a record, by hand."""

import torch

from sims.core.objectives.batch import Batch, sequence_sum
from sims.experiments.evaluation import mean_pair_log_probs

F = torch.float64


def batch(label: list[float], weight: list[float] | None = None) -> Batch:
    """One run; one prompt a pair, two responses of two tokens each, of which the second response has one."""
    pairs = len(label)
    return Batch(
        prompts=torch.zeros(1, pairs, dtype=torch.int64),
        responses=torch.zeros(1, pairs, 2, 2, dtype=torch.int64),
        mask=torch.tensor([[True, True], [True, False]]).expand(1, pairs, 2, 2),
        pairs=torch.tensor([0, 1]).expand(1, pairs, 1, 2),
        pair_label=torch.tensor(label, dtype=F).reshape(1, pairs, 1),
        pair_weight=None if weight is None else torch.tensor(weight, dtype=F).reshape(1, pairs, 1),
    )


# Of each pair log π is −1 − 2 = −3 of the first response; of the second −4, its padding does not count.
LOGP = torch.tensor([[-1.0, -2.0], [-4.0, -99.0]], dtype=F)


def mean(label: list[float], weight: list[float] | None = None) -> tuple[float, float]:
    given = batch(label, weight)
    logp = sequence_sum(LOGP.expand(1, len(label), 2, 2), given.mask)
    chosen, rejected = mean_pair_log_probs(logp, given)
    return float(chosen), float(rejected)


def test_tokens_are_summed_and_the_label_says_which_is_chosen() -> None:
    assert mean([1.0]) == (-3.0, -4.0)
    assert mean([0.0]) == (-4.0, -3.0)


def test_both_responses_of_a_tie_count_half() -> None:
    assert mean([0.5]) == (-3.5, -3.5)
    assert mean([1.0, 0.5]) == (-3.25, -3.75)  # (−3 − 3.5)/2 and (−4 − 3.5)/2


def test_pairs_of_no_weight_are_ignored() -> None:
    assert mean([1.0, 0.0], [1.0, 0.0]) == (-3.0, -4.0)
    assert all(torch.isnan(torch.tensor(mean([1.0], [0.0]))))
