"""Per-run optimisers against torch.optim, one run at a time."""

import pytest
import torch
from torch import Tensor

from sims.core.loop.optimise import Optimiser, PerRunOptimiser

RATES = (0.3, 0.01, 0.1)
SETTINGS = {
    "sgd": ({"method": "sgd"}, torch.optim.SGD, {}),
    "adam": ({}, torch.optim.Adam, {}),
    "adam_settings": (
        {"adam_beta1": 0.5, "adam_beta2": 0.9, "adam_epsilon": 1e-3},
        torch.optim.Adam,
        {"betas": (0.5, 0.9), "eps": 1e-3},
    ),
    "adamw": ({"weight_decay": 0.1}, torch.optim.AdamW, {"weight_decay": 0.1}),
    "clipped": ({"max_grad_norm": 0.5}, torch.optim.Adam, {}),
}


def start() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((3, *shape), generator=generator, dtype=torch.float64) for shape in ((4, 2), (5,))]


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step + 1)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64) * (step + 1) for p in start()]


@pytest.mark.parametrize("name", SETTINGS)
def test_equals_torch_optim_run_by_run(name: str) -> None:
    ours, theirs, arguments = SETTINGS[name]
    stacked = start()
    optimiser = PerRunOptimiser(
        stacked, (3,), Optimiser(**ours).replace(learning_rate=torch.tensor(RATES, dtype=torch.float64))
    )
    for step in range(5):
        optimiser.step(gradients(step), optimiser.grad_norm(gradients(step)))
    for run, rate in enumerate(RATES):
        parameters = [p[run].clone().requires_grad_() for p in start()]
        reference = theirs(parameters, lr=rate, **arguments)
        for step in range(5):
            for parameter, gradient in zip(parameters, gradients(step), strict=True):
                parameter.grad = gradient[run].clone()
            if "max_grad_norm" in ours:
                torch.nn.utils.clip_grad_norm_(parameters, ours["max_grad_norm"])
            reference.step()
        for mine, parameter in zip(stacked, parameters, strict=True):
            torch.testing.assert_close(mine[run], parameter.detach(), rtol=1e-12, atol=1e-13)


def test_one_run_without_a_runs_axis() -> None:
    parameters = [p[0].clone() for p in start()]
    optimiser = PerRunOptimiser(parameters, (), Optimiser(learning_rate=0.1))
    stacked = PerRunOptimiser(start(), (3,), Optimiser(learning_rate=0.1))
    norm = optimiser.grad_norm([g[0] for g in gradients(0)])
    optimiser.step([g[0] for g in gradients(0)], norm)
    stacked.step(gradients(0), stacked.grad_norm(gradients(0)))
    for mine, theirs in zip(parameters, stacked.parameters, strict=True):
        assert torch.equal(mine, theirs[0])


@pytest.mark.parametrize("method", ["adam", "sgd"])
def test_a_dead_run_stays_and_the_others_do_not_notice(method: str) -> None:
    spec = Optimiser(method=method, learning_rate=0.1, weight_decay=0.1)
    optimiser, untouched = PerRunOptimiser(start(), (3,), spec), PerRunOptimiser(start(), (3,), spec)
    broken = gradients(0)
    broken[0][1] = torch.nan
    optimiser.step(broken, optimiser.grad_norm(broken), alive=torch.tensor([True, False, True]))
    untouched.step(gradients(0), untouched.grad_norm(gradients(0)))
    for mine, theirs, before in zip(optimiser.parameters, untouched.parameters, start(), strict=True):
        assert torch.equal(mine[1], before[1])
        assert torch.equal(mine[[0, 2]], theirs[[0, 2]])


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_piece_by_piece_has_the_bits_of_a_whole_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, rates = SETTINGS[name][0], torch.tensor((0.3, 0.01, 0.1, 0.02, 1.0))
    generator = torch.Generator().manual_seed(2)
    shapes, alive = ((5, 40, 30), (5, 7)), torch.tensor((True, True, False, True, True))
    begin = [torch.randn(shape, generator=generator) for shape in shapes]
    found = []
    for most in (1 << 30, 2500):  # everything at once; two runs at a time
        monkeypatch.setattr("sims.core.numerics.cache_blocks.IN_CACHE", most)
        parameters = [p.clone() for p in begin]
        optimiser = PerRunOptimiser(parameters, (5,), Optimiser(**settings).replace(learning_rate=rates))
        for dead in (None, alive):
            gradient = [p.sin() for p in begin]
            norm = optimiser.grad_norm(gradient)
            optimiser.step(gradient, norm, dead)
        found.append([norm, *parameters])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert not torch.equal(found[0][1], begin[0])


def test_the_fused_step_is_the_plain_one():
    """Also where two gradients are one tensor in memory, and where one lies in memory in another order."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(4, 3, generator=generator) for _ in range(3)]
    gradients = [torch.randn(4, 3, generator=generator), torch.randn(3, 4, generator=generator).T]
    found = []
    for fused in (False, True):
        parameters = [x.clone() for x in start]
        spec = Optimiser(learning_rate=1e-2, weight_decay=0.1, max_grad_norm=1.0)
        optimiser = PerRunOptimiser(parameters, (), spec)
        assert not optimiser.fused  # on the CPU bits stay
        optimiser.fused = fused
        for _ in range(3):
            own = [gradients[0].clone(), gradients[1].T.clone().T]
            own.append(own[0])
            optimiser.step(own, optimiser.grad_norm(own))
        found.append([*parameters, *optimiser.mean, *optimiser.square])
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(other, plain, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [1e-8, 1e-30], ids=["ε hides the least root", "ε is too small for that"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_of_0_and_next_to_it_give_the_bits_of_the_plain_formula(epsilon: float, dtype: torch.dtype) -> None:
    """MKL's root of 0 or of a denormal number is slow, and is not taken where that changes nothing."""
    tiny, rates = torch.finfo(dtype).tiny, torch.tensor([0.1, 0.3])[:, None].to(dtype)
    every = torch.tensor([0.0, tiny, tiny**0.5, tiny**0.5 * 40, -1e-3, 1.0], dtype=dtype).expand(2, -1)
    parameters = [torch.zeros_like(every)]  # beside 1 a small step would be lost
    optimiser = PerRunOptimiser(parameters, (2,), Optimiser(adam_epsilon=epsilon).replace(learning_rate=rates[:, 0]))
    expected, mean, square = (torch.zeros_like(every) for _ in range(3))
    for step in range(1, 6):
        gradient = every / step
        optimiser.step([gradient], optimiser.grad_norm([gradient]))
        mean.lerp_(gradient, 1.0 - 0.9)
        square.mul_(0.999).addcmul_(gradient, gradient, value=1.0 - 0.999)
        root = square.sqrt().div((1.0 - 0.999**step) ** 0.5)
        expected.sub_(mean.div(root.add(epsilon).mul(1.0 - 0.9**step)) * rates)
        assert torch.equal(parameters[0], expected)
    assert 0 < square[0, 2] < tiny  # it was denormal
