"""One process of `processes`: three updates of DPO, and their weights as a file.

python -m tests.benchmarks.on_gpu.worker FORM BACKEND SHARDING DEVICE FILE, with torchrun's environment variables."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist

import llm.training.run as run_module
from llm.commands.options import find_preset
from llm.distributed.spread import Ranks
from llm.training.run import Run
from sims.core.algorithms.contrastive import DPO
from sims.core.loop.optimise import Optimiser
from sims.core.schedule import Schedule

from .processes import save


def main(form: str, backend: str, sharding: str, device: str, file: str) -> None:
    """Train and save."""
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(0)
    preset = find_preset("tiny-min-length")
    experiment = preset.replace(
        algorithm=DPO(beta=0.1),
        schedule=Schedule(batch_size=6, num_generations=2),
        policy=preset.policy.replace(decoding=preset.policy.decoding.replace(max_new_tokens=12)),  # type: ignore[attr-defined]
        optimiser=Optimiser(method="sgd", learning_rate=1e-2, max_grad_norm=1.0),
        updates=3,
        evaluations=1,
    )
    ranks = Ranks()
    if form != "alone":
        dist.init_process_group(backend)
        # With a group of its own even one process communicates.
        ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), dist.group.WORLD)
    run_module.check_sharding = lambda *_: None  # type: ignore[attr-defined]  # it refuses one process
    run = Run(experiment, device=device, ranks=ranks, sharding=sharding)  # type: ignore[arg-type]
    losses = [update.stats.loss for update in run.train()]
    run.evaluate()
    tensors, _ = run.state_dict()
    kept = {name: x for name, x in tensors.items() if name.startswith("policy.")}
    save(file, kept | {"losses": torch.stack([loss.double() for loss in losses])})
    if form != "alone":
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
