"""Gradients are on their way while the backward pass still computes, in the same order on all processes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from llm.distributed import gradient_sum
from llm.distributed.gradient_sum import GradientSum
from llm.distributed.spread import DistributedLearner, Ranks
from tests.llm.distributed.test_distributed import two_updates


@pytest.fixture
def group() -> Iterator[dist.ProcessGroup]:
    """Of one process, whose sums are its own gradients."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield dist.group.WORLD  # type: ignore[misc]
    finally:
        dist.destroy_process_group()


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Filled with what is sent, by its number of entries."""
    seen: list[str] = []
    send = dist.all_reduce

    def recorded(x: Tensor, **settings):
        seen.append(f"sent {x.numel()}")
        return send(x, **settings)

    monkeypatch.setattr("torch.distributed.all_reduce", recorded)
    monkeypatch.setattr(gradient_sum, "LARGE", 6)
    return seen


def layers(events: list[str]) -> nn.Sequential:
    """Matrices of 6, 9 and 12 entries, and small biases; that the gradient of a layer's input is known is an event."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 4))
    for name, layer in made.named_children():
        layer.register_full_backward_hook(lambda *_, name=name: events.append(f"layer {name}"))
    return made


def test_large_gradients_are_sent_before_earlier_layers_are_computed(group: dist.ProcessGroup, events: list[str]):
    model = layers(events)
    parameters, x = list(model.parameters()), torch.randn(5, 2, requires_grad=True)
    expected = torch.autograd.grad(model(x).square().sum(), parameters)
    events.clear()
    summed = GradientSum(parameters, group)
    with summed.sending():
        torch.autograd.backward(model(x).square().sum(), inputs=parameters)
    found = summed.finish()
    assert events.index("sent 12") < events.index("layer 1")
    assert [e for e in events if e.startswith("sent")] == ["sent 12", "sent 9", "sent 6", "sent 10"]  # biases joined
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert all(p.grad is None for p in parameters)


def test_who_has_nothing_sends_zeros_in_the_same_order(group: dist.ProcessGroup, events: list[str]):
    model = layers(events)
    found = GradientSum(list(model.parameters()), group).finish()
    assert events == ["sent 12", "sent 9", "sent 6", "sent 10"]
    assert all(not x.any() for x in found) and [x.shape for x in found] == [p.shape for p in model.parameters()]


def test_a_pass_that_was_interrupted_leaves_nothing(group: dist.ProcessGroup, events: list[str]):
    model = layers(events)
    parameters, x = list(model.parameters()), torch.randn(5, 2, requires_grad=True)
    summed = GradientSum(parameters, group)
    with pytest.raises(KeyboardInterrupt), summed.sending():
        torch.autograd.backward(model[2](model[1](model[0](x))).sum(), inputs=parameters[4:])
        raise KeyboardInterrupt
    for parameter in parameters:
        parameter.grad = None  # as a learner does before it begins
    with summed.sending():
        torch.autograd.backward(model(x).sum(), inputs=parameters)
    expected = torch.autograd.grad(model(x).sum(), parameters)
    for ours, theirs in zip(summed.finish(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_small_gradients_are_joined_up_to_a_limit_and_by_dtype(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gradient_sum, "BUCKET", 32)
    sizes = [(4, torch.float32), (4, torch.float32), (4, torch.float32), (1, torch.bfloat16), (1, torch.float32)]
    parameters = [torch.zeros(n, dtype=dtype) for n, dtype in sizes]
    assert GradientSum(parameters, None).buckets == [[4], [3], [2, 1], [0]]


def test_a_learner_sends_during_its_last_pass(
    group: dist.ProcessGroup, events: list[str], monkeypatch: pytest.MonkeyPatch
):
    """Two updates of three passes each: nothing is sent before the last pass, and something before it is over."""
    add, finish = DistributedLearner.add_gradient, GradientSum.finish
    before = two_updates("reinforce", None)
    gradient = {name: x for name, x in before.items() if ".gradient." in name}
    events.clear()

    def passing(self: DistributedLearner, loss: Tensor, last: bool) -> None:
        events.append("pass")
        add(self, loss, last)

    def finishing(self: GradientSum) -> list[Tensor]:
        events.append("finish")
        return finish(self)

    monkeypatch.setattr(DistributedLearner, "add_gradient", passing)
    monkeypatch.setattr(GradientSum, "finish", finishing)
    after = two_updates("reinforce", Ranks(0, 1, group))
    for name, x in gradient.items():
        torch.testing.assert_close(after[name], x)
    kinds = " ".join(event.split()[0] for event in events)
    assert len(re.findall(r"pass pass pass (?:sent )+finish", kinds)) == 2
