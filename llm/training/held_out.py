"""What is measured of a run on recorded responses that are held out from training."""

from __future__ import annotations

import torch
from torch import Tensor

from llm.reward_models.calibration import ordered_rightly
from sims.core.loop.train import Update
from sims.core.objectives.batch import Batch, pick, sequence_sum
from sims.experiments.evaluation import Evaluation, Row

from .evaluation import weights_of_pairs
from .run import Run


class RecordedEvaluation(Evaluation):
    """Held-out recorded responses, which is what likelihood and offline training generalise to; the same rows at every
    point. Nothing where nothing recorded is held out. last: the latest numbers.

    nll: −log π of the responses (of pairs, the winners; of a tie, half of each), nats per token, EOS included;
    perplexity: its exponential. Of pairs, by their weights in the loss, with rewards β·(log π − log π_ref) under TRL's
    names (β = 1 for algorithms without one): rewards/accuracies, the share whose winner has the larger reward, ties
    counting half, and rewards/margins.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.last: dict[str, float] = {}
        self.batch: Batch | None = None
        held_out = run.evaluation_environment
        if run.experiment.schedule.source == "dataset" and held_out is not run.environment:
            given = held_out.state_dict()
            held_out.load_state_dict(dict.fromkeys(given, 0))
            self.batch = held_out.recorded(held_out.recorded_count(run.noise), run.noise)
            held_out.load_state_dict(given)

    @torch.no_grad()
    def row(self, update: Update | None = None) -> Row:
        if self.batch is None:
            return {}
        batch, algorithm = self.batch, self.run.experiment.algorithm
        logp = self.run.training.policy.forward(batch).logp
        whole, tokens = sequence_sum(logp, batch.mask).double(), batch.mask.sum(-1).double()
        found: dict[str, Tensor] = {}
        if batch.pairs is not None and batch.pair_label is not None:
            label, weight = batch.pair_label.double(), weights_of_pairs(batch).double()
            share = weight / weight.sum()
            ref = sequence_sum(self.run.initial.forward(batch).logp, batch.mask).double()
            first, second = pick(getattr(algorithm, "beta", 1.0) * (whole - ref), batch.pairs)
            margins = (2 * label - 1) * (first - second)
            found |= {
                "rewards/accuracies": (share * ordered_rightly(first - second, label)).sum(),
                "rewards/margins": (share * margins).sum(),
            }
            chosen = share.unsqueeze(-1) * torch.stack([label, 1 - label], dim=-1)
            whole, tokens = (chosen * torch.stack(pick(x, batch.pairs), dim=-1) for x in (whole, tokens))
        nll = -whole.sum() / tokens.sum()
        found |= {"nll": nll, "perplexity": nll.exp()}
        self.last = {name: float(x) for name, x in found.items()}
        return {name: x.detach() for name, x in found.items()}
