"""The same numbers on the device as on the CPU: log-probs, gradients, samples, and updates of every algorithm and every
source of batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llm.commands.options import find_preset
from llm.models.policy import CausalLMPolicy
from llm.training.run import Run
from sims.core.algorithms import all_algorithms
from sims.core.loop.labelling import Labelling
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import Prompts, SampleRequest
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, OutputRequest
from sims.core.schedule import Schedule
from sims.experiments.experiment import Experiment
from tests.llm.tiny_models import SHAPES, pad_left, pad_right, tiny_model, tiny_policy

from .section import Report

PROMPTS = pad_left([[3, 4, 5, 6], [7], [8, 9], [4, 4, 10]])
UPDATES = 3
_SCHEDULE = Schedule(batch_size=4, num_generations=4)
SCHEDULES: dict[str, dict[str, Any]] = {
    "dataset": {"source": "dataset", "num_generations": 2},
    "pool": {"source": "pool", "pool_size": 8},
    "stale": {"sync_every_updates": 2},
    "minibatches": {"minibatch_size": 2, "epochs": 3},
    "moving reference": {"reference": "ema", "reference_rate": 0.5},
    "copied reference": {"reference": "copy", "reference_every_updates": 2},
}


def main(report: Report) -> None:
    """Tiny models in float32."""
    for shape in SHAPES:
        with report.part(shape):
            one_model(report, shape)
    whole = find_preset("tiny-min-length")
    base = whole.replace(
        environment=whole.environment.replace(evaluation_prompts=4),  # type: ignore[attr-defined]
        schedule=_SCHEDULE,
        policy=whole.policy.replace(decoding=whole.policy.decoding.replace(max_new_tokens=12)),  # type: ignore[attr-defined]
        optimiser=Optimiser(method="sgd", learning_rate=1e-2, max_grad_norm=1.0),
        updates=UPDATES,
        evaluations=1,
    )
    algorithms = all_algorithms()
    cases = {f"update of {name}": base.replace(algorithm=cls()) for name, cls in algorithms.items()}
    dpo = base.replace(algorithm=algorithms["dpo"]())
    cases |= {
        f"DPO, {name}": dpo.replace(schedule=_SCHEDULE.replace(**changes), updates=6 if "epochs" in changes else 3)
        for name, changes in SCHEDULES.items()
    }
    cases["DPO, implicit labels"] = dpo.replace(labelling=Labelling(labels="implicit"))
    cases["DPO, Adam"] = dpo.replace(optimiser=Optimiser(learning_rate=1e-3, weight_decay=0.1))
    cases["DPO, LoRA"] = dpo.replace(policy=dpo.policy.replace(lora_rank=4))  # type: ignore[attr-defined]
    cases["PPO, own critic"] = cases["update of ppo"].replace(policy=base.policy.replace(critic="own"))  # type: ignore[attr-defined]
    differences = {}
    for name, experiment in cases.items():
        with report.part(name):
            differences[name] = worst = updates_differ(experiment, report.device)
            if worst > 1e-4:
                report(f"{name}: differs", worst)
    report("runs compared", len(differences))
    report("largest difference of a loss, norm or weight", max(differences.values()))


def one_model(report: Report, shape: str) -> None:
    """Log-probs, entropies and gradients; samples, and greedy ones."""
    request = OutputRequest(entropy=True, prompt_logp=True)
    responses, mask = pad_right([[5, 7, 2], [4, 2], [6], [3, 9, 11, 2]])
    found: list[list[Tensor]] = []
    for device in ("cpu", report.device):
        policy = tiny_policy(tiny_model(shape, dtype=torch.float32).to(device))
        batch = Batch(PROMPTS[0], responses.unsqueeze(1), mask.unsqueeze(1), PROMPTS[1])
        batch = batch.over_prompts(lambda x, _, device=device: x.to(device))
        outputs = policy.forward(batch, request)
        assert outputs.entropy is not None and outputs.prompt_logp is not None
        gradients = torch.autograd.grad(outputs.logp.sum(), list(policy.parameters()), materialize_grads=True)
        found.append([outputs.logp, outputs.entropy, outputs.prompt_logp, *gradients])
    report(f"{shape}: log-probs and gradients", largest_difference(*found))
    report(f"{shape}: tokens that differ", tokens_differ(shape, report.device, 1.0))
    report(f"{shape}: greedy tokens that differ", tokens_differ(shape, report.device, 1e-3))


def tokens_differ(shape: str, device: str, temperature: float) -> int:
    """How many tokens of 64 responses of 8 differ, drawn from the same uniforms."""
    drawn = []
    for where in ("cpu", device):
        policy = tiny_policy(tiny_model(shape, dtype=torch.float32).to(where), temperature=temperature)
        drawn.append(policy.sample(SampleRequest(Prompts(*PROMPTS), 16, Noise.single(0))).responses.cpu())
    return int((drawn[0] != drawn[1]).sum())


def updates_differ(experiment: Experiment, device: str) -> float:
    """The largest difference of a loss, gradient norm or trained weight over the updates of a run."""
    found = []
    for where in ("cpu", device):
        run = Run(experiment, device=where)
        numbers = [x for update in run.train() for x in (update.stats.loss, update.stats.grad_norm)]
        run.evaluate()
        tensors, counts = run.state_dict()
        run.load_state_dict({name: x.cpu().clone() for name, x in tensors.items()}, counts)
        found.append([*numbers, *weights_of(run.policy)])
    return largest_difference(*found)


def weights_of(policy: CausalLMPolicy) -> list[Tensor]:
    """Trained weights."""
    return [x.detach() for x in policy.parameters()]


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest absolute difference, relative where numbers exceed 1."""
    worst = 0.0
    for x, y in zip(ours, theirs, strict=True):
        x, y = x.detach().cpu().double(), y.detach().cpu().double()
        worst = max(worst, float(((x - y).abs() / x.abs().clamp(min=1.0)).max()))
    return worst
