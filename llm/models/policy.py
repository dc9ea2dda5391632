"""Any causal language model of transformers as a policy of the core: one run, so that (B, K, L) has no leading axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from llm.data.stops import count_up_to_stop
from sims.core.loop.protocols import SampleRequest, Samples
from sims.core.objectives.batch import LOG_PROBS, Batch, OutputRequest, Outputs, up_to_last

from .copies import copy_module, keep_as_computed
from .decoding import Decoding
from .sampling import generate
from .scoring import LanguageModel, check_parts
from .settings import Scoring


class CausalLMPolicy:
    """Samples, scores and copies a causal LM.

    model: any that takes attention_mask and position_ids; with adapters of peft, they alone are trained, and copies
    (the reference, the sampler) share the frozen base. Its trainable parameters are those that require a gradient when
    it is given. eos_token_ids: the tokens that end a response. pad_token_id: fills the slots after these; it may equal
    EOS, because masks are made while sampling. critic: None, on the `shared` backbone, or on its `own` copy. decode:
    the text of tokens, which stop strings are looked for in. copies_are_averaged: whether copies follow the policy by
    `blend_from`, which needs all digits.
    """

    copies_are_averaged = False

    def __init__(
        self,
        model: nn.Module,
        eos_token_ids: Sequence[int],
        pad_token_id: int,
        decoding: Decoding | None = None,
        scoring: Scoring | None = None,
        critic: Literal["shared", "own"] | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        if not eos_token_ids:
            raise ValueError("eos_token_ids = (): must name at least one token, or no response ever ends")
        self.decoding, self.scoring = decoding or Decoding(), scoring or Scoring()
        if self.decoding.stop_strings and decode is None:
            raise ValueError("decode = None: must be the text of tokens, for stop_strings to be found in")
        self._decode = decode or str
        self.eos_token_ids, self.pad_token_id = tuple(eos_token_ids), pad_token_id
        self.language_model = LanguageModel(model, critic, self.scoring)
        check_parts(self.language_model)
        self._trainable: dict[str, Tensor] = {
            name: p for name, p in self.language_model.named_parameters() if p.requires_grad
        }

    @property
    def model(self) -> nn.Module:
        """The model that was given."""
        return self.language_model.model

    def parameters(self) -> Sequence[Tensor]:
        return list(self._trainable.values())

    def named_parameters(self) -> dict[str, Tensor]:
        """`parameters` by their names in `language_model`."""
        return dict(self._trainable)

    def clone(self) -> Self:
        """A copy without gradient and without critic: values are never needed of a sampler or a reference. Under
        autocast it holds its matrices as they are computed with, unless `copies_are_averaged`."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.language_model = LanguageModel(copy_module(self.model, self.parameters()), None, self.scoring)
        twin.language_model.requires_grad_(False)
        theirs = dict(twin.language_model.named_parameters())
        twin._trainable = {name: theirs[name] for name in self._trainable if name in theirs}
        if self.scoring.precision == "bfloat16" and not self.copies_are_averaged:
            keep_as_computed(twin.language_model, twin.parameters())
        return twin

    @torch.no_grad()
    def copy_from(self, other: Self) -> None:
        for mine, theirs in self._shared_with(other):
            mine.copy_(theirs)

    @torch.no_grad()
    def blend_from(self, other: Self, rate: float) -> None:
        """Parameters in bfloat16 do not change where `rate` times the distance is below their resolution of 0.4 %."""
        for mine, theirs in self._shared_with(other):
            mine.lerp_(theirs.to(mine.dtype), rate)

    def _shared_with(self, other: Self) -> list[tuple[Tensor, Tensor]]:
        """Parameters of both, paired by name; a critic that only one of them has is left out."""
        critics = {name for name in self._trainable.keys() ^ other._trainable.keys() if name.startswith("critic.")}
        return [(p, other._trainable[name]) for name, p in self._trainable.items() if name not in critics]

    def sample(self, request: SampleRequest) -> Samples:
        """Draw K responses per prompt. prompts: (B, P) tokens; returns (B, K, L).

        noise: of one run, `Noise.single(seed)`. logp is under the distribution of `decoding`, top_p included. A
        response ends with EOS, with a stop string, or at `max_new_tokens`.
        """
        (prompts, prompt_mask), blend = self._check_before_sampling(request), request.blend
        shape = (len(prompts), request.num_generations)
        uniforms = request.noise.uniforms(request.stream, *shape, self.decoding.max_new_tokens)
        if blend is None:
            distributions: list[tuple[LanguageModel, float | Tensor]] = [(self.language_model, 1.0)]
        else:
            distributions = [(self.language_model, 1.0 - blend[1]), (blend[0].language_model, blend[1])]
        rows = [x.repeat_interleave(shape[1], 0) for x in (prompts, prompt_mask)]
        rows.append(uniforms.to(prompts.device).flatten(0, 1))
        stopped = self._stopped if self.decoding.stop_strings else None
        decoding, parts = self.decoding, []
        with self.language_model.computing(prompts.device):  # around the loop, so that weights are cast once
            for p, m, u in zip(*(x.split(decoding.sample_batch_size) for x in rows), strict=True):
                parts.append(generate(distributions, p, m, u, decoding, self.eos_token_ids, self.pad_token_id, stopped))
        drawn = self._up_to_stop(Samples(*(torch.cat(part) for part in zip(*parts, strict=True))))
        return Samples(*(x.unflatten(0, shape) for x in drawn))

    def _counts(self, responses: Tensor, mask: Tensor) -> list[int | None]:
        """How many tokens each row keeps that has a stop string; None for the others."""
        rows = zip(responses.tolist(), mask.sum(-1).tolist(), strict=True)
        return [count_up_to_stop(row[:length], self._decode, self.decoding.stop_strings) for row, length in rows]

    def _stopped(self, responses: Tensor, mask: Tensor) -> Tensor:
        return torch.tensor([count is not None for count in self._counts(responses, mask)], device=mask.device)

    def _up_to_stop(self, drawn: Samples) -> Samples:
        """Rows (N, L) without the tokens after their first stop string: the same, however many were drawn."""
        if not self.decoding.stop_strings:
            return drawn
        length = drawn.mask.shape[-1]
        kept = torch.tensor([length if n is None else n for n in self._counts(drawn.responses, drawn.mask)])
        after = torch.arange(length, device=drawn.mask.device) >= kept.to(drawn.mask.device).unsqueeze(-1)
        responses = drawn.responses.masked_fill(after, self.pad_token_id)
        return Samples(responses, drawn.mask & ~after, drawn.logp.masked_fill(after, 0.0))

    def forward(self, batch: Batch, request: OutputRequest = LOG_PROBS) -> Outputs:
        """Log-probs of responses (B, K, L) to prompts (B, P) at the temperature of `decoding`, over all tokens whatever
        its top_p; if asked for, values and entropies of their prefixes, and the prompts' own log-probs (B, P). 0 where
        mask is False, in padding, and for a prompt's first token, which nothing predicts.

        Masked slots after a response and the prompts' padding are ignored, even if they hold invalid token ids; a
        masked slot inside a response is read, as text that the policy did not choose.
        """
        responses, mask = batch.responses, batch.mask
        there = up_to_last(mask)
        prompts, prompt_mask = self._check_prompts(batch.prompts, batch.prompt_mask, there.sum(-1).amax(-1))
        width, shape = max(1, int(there.sum(-1).max())), responses.shape
        rows = [x.repeat_interleave(shape[1], 0) for x in (prompts, prompt_mask)]
        of_responses = (responses.masked_fill(~there, 0), there, mask)
        rows += [x[..., :width].flatten(0, 1).to(prompts.device) for x in of_responses]
        size = len(rows[0]) if torch.is_grad_enabled() else self.scoring.score_batch_size
        back = None
        if self.scoring.group_by_length and size < len(rows[0]):
            order = (rows[1].sum(-1) + rows[3].sum(-1)).argsort(stable=True)
            rows, back = [x[order] for x in rows], order.argsort()
        parts = []
        for p, m, *r in zip(*(x.split(size) for x in rows), strict=True):
            own = r if back is None else trim_right(*r)
            parts.append(self.language_model(p, m, *own, self.decoding.temperature, request))

        def joined(name: str, width: int, on_the_left: bool = False) -> Tensor:
            """An output of all parts, with zeros up to `width`: (B, K, width)."""
            found = [getattr(part, name) for part in parts]
            missing = [width - x.shape[1] for x in found]
            every = torch.cat([pad(x, (m, 0) if on_the_left else (0, m)) for x, m in zip(found, missing, strict=True)])
            return (every if back is None else every[back]).unflatten(0, shape[:2])

        prompt_logp = None
        if request.prompt_logp:  # the same for each response to a prompt: that of its first
            prompt_logp = joined("prompt_logp", prompts.shape[1], on_the_left=True)[:, 0]
        return Outputs(
            logp=joined("logp", shape[2]),
            values=joined("values", shape[2]) if request.values else None,
            entropy=joined("entropy", shape[2]) if request.entropy else None,
            prompt_logp=prompt_logp,
        )

    def _check_before_sampling(self, request: SampleRequest) -> tuple[Tensor, Tensor]:
        """`_check_prompts` for responses of up to `max_new_tokens`; ValueError for noise of several runs."""
        prompts, lead = request.prompts.tokens, request.noise.lead
        if lead:
            raise ValueError(f"noise: of {lead[0]} runs; a language model is one run: Noise.single(seed)")
        return self._check_prompts(
            prompts, request.prompts.mask, torch.full(prompts.shape[:1], self.decoding.max_new_tokens)
        )

    def _check_prompts(self, prompts: Tensor, mask: Tensor | None, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts on the model's device with 0 for their padding, and their mask; ValueError for invalid ones.

        lengths: (B,), tokens of the longest response to each prompt.
        """
        if prompts.dim() != 2:
            raise ValueError(f"prompts of shape {tuple(prompts.shape)}: must be (B, P) token ids")
        device = next(self.language_model.model.parameters()).device
        prompts = prompts.to(device)
        mask = torch.ones_like(prompts, dtype=torch.bool) if mask is None else mask.to(device).bool()
        if not bool(mask[:, -1].all()):
            row = int((~mask[:, -1]).nonzero()[0])
            raise ValueError(f"prompt {row}: must have tokens, and its padding on the left, but ends in padding")
        most = self.language_model.positions
        own = mask.sum(-1)
        row = int((own + lengths.to(device)).argmax())
        if most is not None and int(own[row] + lengths[row]) - 1 > most:  # the last token is not read
            many = f"prompt {row}: has {int(own[row])} tokens, and its response up to {int(lengths[row])}"
            raise ValueError(f"{many}, but the model has {most} positions")
        return prompts.masked_fill(~mask, 0), mask


def trim_right(tokens: Tensor, read: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, L) each, without the columns in which nothing is read."""
    width = max(1, int(read.sum(-1).max()))
    return tokens[:, :width], read[:, :width], chosen[:, :width]
