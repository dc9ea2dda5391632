"""What is measured of a language model: fresh samples of the policy, and log-probs of the first batch's pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm.tasks import Completions
from llm.tasks.environment import TextEnvironment, response_lengths
from sims.core.loop.protocols import Policy, SampleRequest
from sims.core.loop.train import Training, Update
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, OutputRequest, pick, sequence_sum
from sims.core.objectives.reductions import shares
from sims.experiments.evaluation import (
    Evaluation,
    Row,
    entropy_after_prefixes,
    kl_of_responses,
    unknown_number,
)


@dataclass(frozen=True, eq=False)
class EvaluatedSamples:
    """Fresh samples of a policy, one response per prompt, and their metrics.

    numbers: means over responses of reward, gold, length (tokens before EOS), finished (ended by EOS or a stop
    string), kl_policy_ref (log π − log π_ref of whole responses, nats; it can be negative, and is unbiased while
    top_p = 1), entropy (summed over a response's tokens, nats), token_entropy (nats per token, over all tokens), and
    what the task measures (`Task.measure`). drawn: the responses, as rewards receive them. rewards, golds, lengths: one
    entry per response. has_gold: whether gold is another reward than the one that is trained by.
    """

    numbers: dict[str, float]
    drawn: Completions
    rewards: list[float]
    golds: list[float]
    lengths: list[int]
    has_gold: bool

    @property
    def prompts(self) -> list[str]:
        """As text; of a conversation, its last message."""
        return [prompt if isinstance(prompt, str) else str(prompt[-1]["content"]) for prompt in self.drawn.prompts]

    @property
    def completions(self) -> list[str]:
        """As text, without special tokens."""
        return list(self.drawn.texts)

    @property
    def shown(self) -> dict[str, float]:
        """The numbers, without a gold that would only repeat the reward."""
        return {name: x for name, x in self.numbers.items() if name != "gold" or self.has_gold}


@torch.no_grad()
def evaluate(
    policy: Policy,
    reference: Policy,
    environment: TextEnvironment,
    prompts: int,
    run: tuple[int, int] = (0, 0),
) -> EvaluatedSamples:
    """Draw one response to each of the next prompts and reward it. run: (seed, index), whose noise is used."""
    noise = single_noise(*run)
    drawn = environment.prompts(prompts, noise)
    samples = policy.sample(SampleRequest(drawn, 1, noise, "evaluation responses"))
    rewards, gold = environment.score(drawn.examples, samples.responses, samples.mask)
    batch = Batch(drawn.tokens, samples.responses, samples.mask, drawn.mask)
    scored, logp_ref = policy.forward(batch, OutputRequest(entropy=True)), reference.forward(batch).logp
    assert scored.entropy is not None
    lengths = response_lengths(samples.responses, samples.mask, environment.eos_token_ids)
    numbers = {
        "reward": rewards,
        "gold": gold,
        "length": lengths.double(),
        "finished": environment.ended(samples.responses, samples.mask).double(),
        "kl_policy_ref": kl_of_responses(scored.logp, logp_ref, samples.mask),
        "entropy": entropy_after_prefixes(scored.entropy, samples.mask),
        "token_entropy": scored.entropy[samples.mask],
    }
    completions = environment.completions(drawn.examples, samples.responses, samples.mask)
    for name, values in environment.task.measure(completions).items():
        numbers[name] = torch.tensor(values, dtype=torch.float64)
    return EvaluatedSamples(
        numbers={name: float(x.double().mean()) for name, x in numbers.items()},
        drawn=completions,
        rewards=rewards.flatten().tolist(),
        golds=gold.flatten().tolist(),
        lengths=lengths.flatten().tolist(),
        has_gold=environment.has_gold,
    )


@contextmanager
def as_evaluated(*policies: Any) -> Iterator[None]:
    """Within it, the policies sample and score by the decoding of evaluations."""
    own = {id(found): found for found in map(_innermost, policies)}
    before = {key: policy.decoding for key, policy in own.items()}
    try:
        for policy in own.values():
            policy.decoding = policy.decoding.for_evaluation()
        yield
    finally:
        for key, policy in own.items():
            policy.decoding = before[key]


def _innermost(policy: Any) -> Any:
    """The language model's policy under what spreads it over processes, or keeps a copy of it aside."""
    while (inner := getattr(policy, "policy", None)) is not None:
        policy = inner
    return policy


def single_noise(seed: int, run: int) -> Noise:
    """The noise of run `run` of a seed, without an axis of runs."""
    noise = Noise([(seed, run)])
    noise.lead = ()
    return noise


class SampleEvaluation(Evaluation):
    """The numbers of `evaluate()`, on the same prompts and uniforms at every point. bounds: best_reward, the largest
    that the task has, NaN where it is not known; and those of the parts of gold. last: the latest samples."""

    def __init__(self, evaluate: Callable[[], EvaluatedSamples], bounds: Mapping[str, float]) -> None:
        self.evaluate, self.bounds = evaluate, bounds
        self.last: EvaluatedSamples | None = None
        self.reference_reward: Tensor | None = None

    def row(self, update: Update | None = None) -> Row:
        self.last = self.evaluate()
        row = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.last.numbers.items()}
        if update is None:
            self.reference_reward = row["gold"]
        return row

    def closing(self) -> Row:
        """reference_reward, the gold reward at the start; and `bounds`."""
        assert self.reference_reward is not None, "closing needs the row of update 0"
        bounds = {name: torch.tensor(reward, dtype=torch.float64) for name, reward in self.bounds.items()}
        return {"reference_reward": self.reference_reward, **bounds}


class FirstPairEvaluation(Evaluation):
    """Log-probs of the winners and losers of the first batch's pairs, the same pairs at every point; nothing for
    algorithms without pairs. At the start, the reference's."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.batch: Batch | None = None

    def row(self, update: Update | None = None) -> Row:
        """first_logp_winner, first_logp_loser; NaN until the first batch is there."""
        if self.training.algorithm.label_pairing is None:
            return {}
        if self.batch is None:
            return dict.fromkeys(("first_logp_winner", "first_logp_loser"), unknown_number(self.training))
        with torch.no_grad():
            return _winners_and_losers(self.training.policy.forward(self.batch).logp, self.batch)

    def start(self, update: Update) -> Row:
        if self.training.algorithm.label_pairing is None:
            return {}
        self.batch = batch = update.batch
        if batch.logp_ref is not None:
            return _winners_and_losers(batch.logp_ref, batch)
        with torch.no_grad():  # an algorithm without a reference never renews it
            return _winners_and_losers(self.training.reference.policy.forward(batch).logp, batch)


def _winners_and_losers(logp: Tensor, batch: Batch) -> Row:
    if batch.pairs is None:  # responses that are labelled one by one
        return dict.fromkeys(("first_logp_winner", "first_logp_loser"), logp.new_tensor(torch.nan))
    winner, loser = by_label(*pick(sequence_sum(logp, batch.mask), batch.need("pairs")), batch.need("pair_label"))
    if batch.pair_weight is None:
        return {"first_logp_winner": winner.mean(), "first_logp_loser": loser.mean()}
    share = shares(batch.pair_weight, winner)  # pairs of weight 0 are none
    share = share / share.sum()
    return {"first_logp_winner": (share * winner).sum(), "first_logp_loser": (share * loser).sum()}


def weights_of_pairs(batch: Batch) -> Tensor:
    """(B, Q): what each pair weighs in a mean over any prompts that is taken as the loss takes it, over prompts with
    pairs of means over a prompt's pairs: w_bq / Σ_q w_bq, 0 where a prompt has none."""
    label = batch.need("pair_label").unsqueeze(-2)
    weight = None if batch.pair_weight is None else batch.pair_weight.unsqueeze(-2)
    return shares(weight, label).squeeze(-2)  # each prompt as a batch of its own


def by_label(first: Tensor, second: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """The values of the winner and of the loser of each pair; the first wins where label ≥ ½, hence all ties."""
    won = label >= 0.5
    return torch.where(won, first, second), torch.where(won, second, first)
