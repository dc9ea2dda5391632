"""A weighted sum of losses: the gradient of each, what it needs, and which losses have no batch in common."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sims.core.algorithms import Algorithm
from sims.core.algorithms.clipped import GRPO, PPO
from sims.core.algorithms.contrastive import DPO, KTO, GroupDPO
from sims.core.algorithms.likelihood import SFT
from sims.core.algorithms.mixture import Mixture
from sims.core.algorithms.online_contrastive import XPO, NashMD
from sims.core.algorithms.policy_gradient import Reinforce
from sims.core.spec import SpecError
from tests.core.drawn_batches import Shape, Style, found, later_state, make_case

CASE = make_case(Shape((2,), 3, 4, 3), Style(0, "ragged", "real", 1.0, False, "none", "none", False, torch.float64))
OF_ALL_SORTS: dict[Algorithm, float] = {
    DPO(): 0.5,
    GRPO(beta=0.1): 2.0,
    KTO(): 1.3,
    PPO(beta=0.2, target_kl=0.4): 0.7,
    Reinforce(): 0.0,
}


def test_its_gradient_is_the_weighted_sum_of_theirs() -> None:
    """Responses of several lengths, a critic, probes, a KL and a state from an earlier batch: to 1e-10."""
    mixture = Mixture(tuple(OF_ALL_SORTS), tuple(OF_ALL_SORTS.values()))
    state = later_state(mixture, CASE)
    assert {"3.beta", "4.reward_mean"} <= state.keys()
    parts = [(w, found(loss, CASE, later_state(loss, CASE))) for loss, w in OF_ALL_SORTS.items()]
    whole = found(mixture, CASE, state)
    torch.testing.assert_close(whole.loss, sum(w * part.loss for w, part in parts), rtol=0.0, atol=1e-10)  # type: ignore[misc]
    for i, gradient in enumerate(whole.gradients):
        expected = sum(w * part.gradients[i] for w, part in parts)
        torch.testing.assert_close(gradient, expected, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize(
    ("losses", "needs"),
    [
        ((DPO(), PPO()), (2, True, False, True, "drawn", False, True)),
        ((SFT(), KTO()), (2, False, True, True, "drawn", False, False)),
        ((SFT(), SFT()), (1, False, False, False, None, False, False)),
        ((KTO(), KTO()), (2, False, True, True, "drawn", True, False)),
        ((GroupDPO(), GRPO(beta=0.0)), (2, False, False, True, "correct_incorrect", False, False)),
    ],
)
def test_it_needs_what_any_of_them_needs(losses: tuple[Algorithm, ...], needs: tuple[Any, ...]) -> None:
    """Responses per prompt, critic, probes, reference and pairs; labels one by one only where all of them take them."""
    all_of_it = Mixture(losses)
    found = (all_of_it.min_generations, all_of_it.needs_critic, all_of_it.needs_probes, all_of_it.needs_reference)
    assert (*found, all_of_it.label_pairing, all_of_it.single_labels, all_of_it.penalises_reward) == needs
    assert all_of_it.output_request.values == all_of_it.needs_critic
    assert Mixture().needs_critic is False


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"losses": (DPO(), GroupDPO())},
            "losses = 'dpo, group_dpo': must agree on the pairing of responses: dpo has drawn, group_dpo has "
            "correct_incorrect",
        ),
        (
            {"losses": (NashMD(mixture_coef=0.3), XPO())},
            "losses = 'nash_md, xpo': must agree on who draws the responses of a pair: nash_md policy and mixture 0.3, "
            "xpo policy and reference",
        ),
        (
            {"losses": (DPO(pairing="drawn"), DPO(pairing="all"))},  # of one kind
            "losses = 'dpo, dpo': must agree on the pairing of responses: dpo has drawn, dpo has all",
        ),
        (
            {"losses": (NashMD(mixture_coef=0.1), NashMD(mixture_coef=0.5))},
            "losses = 'nash_md, nash_md': must agree on who draws the responses of a pair: nash_md policy and mixture "
            "0.1, nash_md policy and mixture 0.5",
        ),
        ({"loss_weights": (1.0,)}, "loss_weights = (1.0,): must have 2 numbers, one for each of dpo, pref_ft"),
        ({"loss_weights": (1.0, -1.0)}, "loss_weights = (1.0, -1.0): must be numbers >= 0, and one above 0"),
        ({"losses": (), "loss_weights": ()}, "losses = (): must have at least one algorithm"),
    ],
)
def test_losses_without_a_batch_in_common_are_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(SpecError) as refused:
        Mixture(**settings)
    assert str(refused.value) == line
