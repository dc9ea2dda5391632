"""Prompts from the embedded language or a data set, rewarded by a task: the core's Environment over text."""

from __future__ import annotations

import functools
import inspect
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llm.data import Example, TextEncoder, collate
from llm.data.formats import Conversation
from llm.data.recorded import relabel
from llm.data.rows import to_stderr
from llm.data.whole import check_lengths, digest
from llm.tasks import LANGUAGE, Completions, Reward, Task
from llm.tasks.learned import reward_models_on
from sims.core.loop.protocols import Labels, Prompts
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, pick
from sims.core.objectives.preferences import Pairing, choose_pairs, count_pairs
from sims.core.spec import SpecError

_RECORDED_SEED = 0x5EED  # recorded responses are the data of a task, the same for every run


@dataclass(frozen=True, eq=False, kw_only=True)
class TextPrompts(Prompts):
    """Prompts with their rows, which rewards may need."""

    examples: tuple[Example, ...]


@dataclass(frozen=True, eq=False)
class TextBatch(Batch):
    """Recorded responses with their rows, which rewards may need; a part of it keeps the rows of the whole."""

    examples: tuple[Example, ...] = ()


class TextEnvironment:
    """Draws prompts, in a new order each epoch or in that of the rows (`Task.in_order`), and rewards responses by a
    task.

    Epoch e's order is a function of the runs' seed and e alone, so that `state_dict` is a few numbers. generations: K
    of recorded responses that the embedded language draws; pairing: which of them are labelled. split: instead of the
    task's. eos_token_ids: the tokens at which the policy stops, which do not count as length; recorded responses are
    cut there too. (): the tokenizer's. stop_strings: the policy's, which end a response too. max_new_tokens: its
    longest response. rewarded: whether recorded responses are rewarded when they are given out; else
    `score` does it where somebody asks. log: is told what became of the rows that are read.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        generations: int = 2,
        pairing: Pairing | None = None,
        split: str | None = None,
        eos_token_ids: Sequence[int] = (),
        stop_strings: Sequence[str] = (),
        max_new_tokens: int = 0,
        rewarded: bool = True,
        log: Callable[[str], None] = to_stderr,
    ) -> None:
        self.rewarded = rewarded
        self.task, self.tokenizer, self.device, self.dtype = task, tokenizer, device, dtype
        self.generations, self.pairing = generations, pairing
        self.encoder = TextEncoder(tokenizer, eos_token_ids, stop_strings)
        self.eos_token_ids = tuple(eos_token_ids) or (self.encoder.eos,)
        self.labeller, self.max_new_tokens = task.labeller, max_new_tokens
        self._is_shaped = task.is_shaped
        self.split = split or task.data_split
        with reward_models_on(str(device) if device.type != "meta" else "cpu"):
            self._reward: Reward = _reward_of(task)
            self._gold: Reward | None = task.gold()
            self.examples = task.load(self.encoder, self.split, log)
            task.check_data(self.examples)
        self._recorded: Sequence[Example] | None = None
        self._drawn = False  # recorded responses come without labels
        self._labels: Tensor | None = None  # of the recorded pairs, where they are not the rows' own
        self.given = {"prompts": 0, "recorded": 0}  # items drawn so far: epoch and position in one number
        self.digest = digest(self.examples)

    @property
    def has_gold(self) -> bool:
        """Whether policies are evaluated by another reward than the one that they are trained by."""
        return self._gold is not None or self._is_shaped

    def check_lengths(self, positions: int | None, max_new_tokens: int) -> None:
        """SpecError that names the rows that do not fit a model of so many positions, before a run meets them."""
        recorded = self.task.data != LANGUAGE and self.task.data_kind != "prompt_only"
        limits = "max_prompt_length and max_completion_length" if recorded else "max_prompt_length"
        remedy = f"lower max_new_tokens, or set {limits}, and on_too_long to drop or truncate"
        check_lengths(self.task.data, self.examples, positions, remedy, max_new_tokens)

    def prompts(self, batch_size: int, noise: Noise) -> TextPrompts:
        """The next prompts, each once per epoch: (B, P) both, padded on the left."""
        chosen = [self.examples[i] for i in self._next_prompts(batch_size, noise)]
        found = collate([Example(e.where, e.prompt, e.prompt_ids, (), extra=e.extra) for e in chosen], self.encoder.pad)
        return TextPrompts(found.prompts.to(self.device), found.prompt_mask.to(self.device), examples=found.examples)

    def label(
        self,
        prompts: TextPrompts,
        responses: Tensor,
        mask: Tensor,
        pairing: Pairing | None,
        noise: Noise,
        rewards: Tensor | None = None,
    ) -> Labels:
        """Rewards, gold rewards, and labels of the pairs of `pairing`. responses, mask: (B, K, L).

        rewards: (B, K), instead of the task's own.
        """
        own, gold = self.score(prompts.examples, responses, mask)
        rewards = own if rewards is None else rewards.to(own)
        if pairing is None:
            return Labels(rewards, gold)
        pairs, weight = choose_pairs(rewards, pairing, self.labeller.correct_above)
        label = self._label(rewards, pairs, noise.uniforms("labels", *pairs.shape))
        return Labels(rewards, gold, pairs, label, weight)

    def _label(self, rewards: Tensor, pairs: Tensor, uniforms: Tensor) -> Tensor:
        first, second = pick(rewards, pairs)
        return self.labeller.label(first, second, uniforms.to(rewards.device))

    def score(self, examples: Sequence[Example], responses: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards and gold rewards of responses (B, K, L): (B, K) each. Raises FloatingPointError for a reward that is
        not finite."""
        completions = self.completions(examples, responses, mask)
        rewards = self._as_tensor(self._reward(completions), mask)
        gold = rewards if self._gold is None else self._as_tensor(self._gold(completions), mask)
        if self._is_shaped:
            cut = torch.tensor(completions.cut, device=rewards.device).reshape(rewards.shape)
            rewards = self.task.shaped(rewards, mask.sum(-1), cut, self.max_new_tokens).to(rewards)
        return rewards, gold

    def _as_tensor(self, rewards: Sequence[float], mask: Tensor) -> Tensor:
        count = mask.shape[0] * mask.shape[1]
        rule = f"its reward must give one number for each of {count} responses"
        try:
            found = torch.tensor(list(rewards), dtype=self.dtype)
        except (TypeError, ValueError) as error:
            raise SpecError("task", self.task.kind, f"{rule}, not {reprlib.repr(rewards)}") from error
        if found.shape != (count,):
            raise SpecError("task", self.task.kind, f"{rule}, not shape {tuple(found.shape)}")
        if not bool(torch.isfinite(found).all()):
            bad = int((~torch.isfinite(found)).nonzero()[0])
            rule = f"reward of response {bad} = {float(found[bad])}: must be finite"
            raise FloatingPointError(f"task = {self.task.kind!r}: {rule}")
        return found.reshape(mask.shape[:2]).to(self.device)

    def completions(self, examples: Sequence[Example], responses: Tensor, mask: Tensor) -> Completions:
        """Responses as text, flat over (B, K)."""
        generations = responses.shape[1]
        rows = zip(responses.flatten(0, 1).tolist(), mask.flatten(0, 1).tolist(), strict=True)
        ids = [[token for token, chosen in zip(*row, strict=True) if chosen] for row in rows]
        repeated = [example for example in examples for _ in range(generations)]
        names = sorted({name for example in examples for name in example.extra})
        return Completions(
            prompts=[example.prompt for example in repeated],
            texts=self._texts(examples, ids, False),
            written=functools.partial(self._texts, examples, ids, True),
            ids=ids,
            lengths=response_lengths(responses, mask, self.eos_token_ids).flatten().tolist(),
            columns={name: [example.extra.get(name) for example in repeated] for name in names},
            generations=generations,
            ended=self.ended(responses, mask).flatten().tolist(),
            turns=[turns for example in examples for turns in several_turns(example, generations)],
        )

    def _texts(self, examples: Sequence[Example], ids: Sequence[Sequence[int]], special: bool) -> list[str]:
        """`TextEncoder.content` of each response, K of each example."""
        frames = [self.encoder.frame(example.prompt, special) for example in examples]
        generations = len(ids) // max(1, len(frames))
        return [self.encoder.content(row, frames[at // generations], special) for at, row in enumerate(ids)]

    def ended(self, responses: Tensor, mask: Tensor) -> Tensor:
        """Which responses (..., L) end with an end token or a stop string: (...) bool; the others were cut."""
        found = response_lengths(responses, mask, self.eos_token_ids) < mask.sum(-1)
        if not self.encoder.stop_strings:
            return found
        rows = zip(responses.flatten(0, -2), mask.flatten(0, -2), strict=True)
        stopped = [self.encoder.has_stop(tokens[chosen].tolist()) for tokens, chosen in rows]
        return found | torch.tensor(stopped, device=found.device).reshape(found.shape)

    def recorded(self, batch_size: int, noise: Noise) -> TextBatch:
        """The next recorded prompts with their responses, labels and, if they are wanted, rewards.

        A preference row keeps its own label unless the task relabels, and so do `recorded_rows`; other responses of
        the embedded language are labelled by the task's reward.
        """
        if self._recorded is None:
            self._recorded = self._load_recorded(noise)
        index = self._next("recorded", len(self._recorded), batch_size, noise)
        found = collate([self._recorded[i] for i in index], self.encoder.pad)
        assert found.responses is not None and found.mask is not None
        rewards = gold = weight = None
        if self.rewarded or self._drawn:
            rewards, gold = self.score(found.examples, found.responses, found.mask)
        pairs = found.pairs
        label = found.pair_label if self._labels is None else self._labels[index]
        if self._drawn:
            pairs = label = None
            if self.pairing is not None and rewards is not None:
                pairs, weight = choose_pairs(rewards, self.pairing, self.labeller.correct_above)
                count = count_pairs(self.generations, self.pairing)
                # Labels are part of the data: a row's is the same in every epoch.
                uniforms = Noise(noise.runs).uniforms("recorded labels", len(self._recorded), count, 2)[0]
                label = self._label(rewards, pairs, uniforms[index])
        return TextBatch(
            examples=found.examples,
            prompts=found.prompts.to(self.device),
            prompt_mask=found.prompt_mask.to(self.device),
            responses=found.responses.to(self.device),
            mask=found.mask.to(self.device),
            rewards=rewards,
            gold=gold,
            pairs=None if pairs is None else pairs.to(self.device),
            pair_label=None if label is None else label.to(self.device),
            pair_weight=weight,
            desirable=None if found.desirable is None else found.desirable.to(self.device),
        )

    def recorded_count(self, noise: Noise) -> int:
        """How many recorded rows an evaluation takes: all, but at most `evaluation_prompts`."""
        if self._recorded is None:
            self._recorded = self._load_recorded(noise)
        return min(len(self._recorded), self.task.evaluation_prompts)

    def _load_recorded(self, noise: Noise) -> Sequence[Example]:
        if (own := self.task.recorded_rows(self.encoder)) is not None:
            return own
        if self.task.data == LANGUAGE:
            self._drawn = True
            rng = np.random.default_rng(_RECORDED_SEED)
            return [
                self._record(self.examples[i], rng)
                for i in rng.integers(len(self.examples), size=self.task.recorded_prompts)
            ]
        rows = self.task.recorded_examples(self.examples, self.encoder.ends, np.random.default_rng(_RECORDED_SEED))
        if self.task.relabel:
            uniforms = Noise(noise.runs).uniforms("recorded labels", len(rows), 1, 2)[0]
            rows, self._labels = relabel(
                rows, self.score, self.labeller, uniforms, self.task.on_ties, self.encoder.pad, self.task.data
            )
        return rows

    def _record(self, example: Example, rng: np.random.Generator) -> Example:
        texts = [self.task.recorded_response(str(example.prompt), rng) for _ in range(self.generations)]
        ids = tuple(np.array(self.encoder.completion(text, may_be_empty=True), dtype=np.int32) for text in texts)
        return Example(example.where, example.prompt, example.prompt_ids, ids)

    def _next_prompts(self, batch_size: int, noise: Noise) -> list[int]:
        """Indices of the next prompts."""
        count, first = len(self.examples), self.given["prompts"]
        if not self.task.in_order:
            return self._next("prompts", count, batch_size, noise)
        self.given["prompts"] += batch_size
        return [i % count for i in range(first, first + batch_size)]

    def _next(self, name: str, count: int, batch_size: int, noise: Noise) -> list[int]:
        """The next indices without replacement; a batch may extend into the next epoch."""
        chosen: list[int] = []
        while len(chosen) < batch_size:
            epoch, position = divmod(self.given[name], count)
            part = _order(noise.runs[0], name, epoch, count)[position : position + batch_size - len(chosen)]
            chosen += part
            self.given[name] += len(part)
        return chosen

    def state_dict(self) -> dict[str, int]:
        """How many prompts and recorded rows have been drawn: epoch times their number, plus position; and a digest of
        the rows."""
        return self.given | {"data": self.digest}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """SpecError for a state of other rows than these; a state without a digest, or with 0, is not checked."""
        if (held := state.get("data", 0)) and held != self.digest:
            rule = "has other rows than those that the run was started with: must be the same, to resume"
            raise SpecError("data", self.task.data, rule)
        self.given = {name: int(state[name]) for name in self.given}


def _reward_of(task: Task) -> Reward:
    """The function that `task.reward` returns; SpecError for a method that is no such thing."""
    name, rule = f"{type(task).__name__}.reward", "must take no argument, and return a function of completions"
    try:
        inspect.signature(task.reward).bind()
    except TypeError as error:
        raise SpecError(name, str(inspect.signature(task.reward)), rule) from error
    if not callable(found := task.reward()):
        raise SpecError(name, found, rule)
    return found


@functools.lru_cache(maxsize=4)
def _order(run: tuple[int, int], name: str, epoch: int, count: int) -> tuple[int, ...]:
    noise = Noise([run])
    stream = f"{name} order"
    noise.load_state_dict({stream: epoch * count})
    return tuple(noise.uniforms(stream, count)[0].argsort(stable=True).tolist())


def several_turns(example: Example, generations: int) -> list[Conversation | None]:
    """The messages of each of K recorded responses that has several turns; None for any other."""
    if example.turns is None:
        return [None] * generations
    return [turns if len(turns) > 1 else None for turns in example.turns]


def response_lengths(responses: Tensor, mask: Tensor, eos_token_ids: Sequence[int]) -> Tensor:
    """|y|, tokens before EOS. responses, mask: (..., L); returns (...) int64."""
    ends = torch.tensor(list(eos_token_ids), device=responses.device)
    return (mask & ~torch.isin(responses, ends)).sum(-1)
