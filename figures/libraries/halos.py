"""HALOs: the loss methods of its trainers, which take log-probs per token. It is on no package index: a checkout."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .paths import Library, LossPath
from .stand_ins import stand_in


def library() -> Library:
    """train.trainers, whose trainers are made without their constructors, which want models and files of data."""
    stand_in("wandb", "train.dataloader", "train.models", "train.utils")
    from train import trainers

    def trainer(name: str, dtype: torch.dtype, **loss: float) -> Any:
        made = object.__new__(getattr(trainers, name))
        accelerator = SimpleNamespace(device=torch.device("cpu"), reduce=lambda x, reduction: x)
        config = SimpleNamespace(humanline=False, loss=SimpleNamespace(**loss))
        made.__dict__.update(config=config, accelerator=accelerator, policy_dtype=dtype)
        return made

    def tokens(logps: Tensor) -> Tensor:
        """A response is two tokens of half its log-prob each."""
        return torch.stack([logps / 2, logps / 2], dim=-1)

    def pairs(name: str, *logps: Tensor, **loss: float) -> Tensor:
        return trainer(name, logps[0].dtype, **loss).loss({}, *map(tokens, logps))[0]  # type: ignore[no-any-return]

    def dpo(a: Tensor, b: Tensor, c: Tensor, d: Tensor, beta: float = 0.1) -> Tensor:
        return pairs("DPOTrainer", a, b, c, d, beta=beta)

    def cdpo(a: Tensor, b: Tensor, c: Tensor, d: Tensor, beta: float = 0.1, label_smoothing: float = 0.1) -> Tensor:
        return pairs("CDPOTrainer", a, b, c, d, beta=beta, epsilon=label_smoothing)

    def ipo(a: Tensor, b: Tensor, c: Tensor, d: Tensor, tau: float = 0.1) -> Tensor:
        return pairs("IPOTrainer", a, b, c, d, tau=tau)

    def simpo(a: Tensor, b: Tensor, c: Tensor, d: Tensor, beta: float = 2.0, gamma_beta_ratio: float = 0.5) -> Tensor:
        """It averages over tokens: each of the two has the response's average."""
        loss = trainer("SimPOTrainer", a.dtype, beta=beta, gamma_beta_ratio=gamma_beta_ratio)
        return loss.loss({}, tokens(2 * a), tokens(2 * b))[0]  # type: ignore[no-any-return]

    def kto(
        logps: Tensor, reference: Tensor, desirable: Tensor, kl: Tensor,
        beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0,
    ) -> Tensor:  # fmt: skip
        """Mismatched responses have a log-ratio of kl each."""
        weights = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
        loss = trainer("KTOTrainer", logps.dtype, beta=beta, **weights)
        sides = [tokens(x[side]) for x in (logps, reference) for side in (desirable, ~desirable)]
        mismatched = tokens(kl.expand(len(logps)))
        policy, fixed = sides[:2], sides[2:]
        return loss.loss(  # type: ignore[no-any-return]
            {}, *policy, mismatched, *fixed, torch.zeros_like(mismatched)
        )[0].mean()

    of = "train.trainers"
    paths = (
        LossPath("DPO", f"{of}.DPOTrainer.loss", "pair", dpo, "dpo"),
        LossPath("cDPO", f"{of}.CDPOTrainer.loss", "pair", cdpo, "cdpo"),
        LossPath("IPO", f"{of}.IPOTrainer.loss", "pair", ipo, "ipo(beta=0.1)"),
        LossPath("SimPO", f"{of}.SimPOTrainer.loss", "pair", simpo, "simpo(beta=2.0, gamma=1.0)"),
        LossPath("KTO", f"{of}.KTOTrainer.loss", "unpaired", kto, "kto"),
    )
    unable = {
        "GRPO": "its ratio is to its reference, and it takes one advantage per response from outside",
        "PPO": "its losses are spread over a loop with generation and a reward model",
    }
    return Library("HALOs", "2025-09-30", paths, "https://github.com/ContextualAI/HALOs", unable=unable)
