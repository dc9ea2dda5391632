"""The same algorithm code trains a table and a language model: same loss, same gradient, same run.

A language model whose logits are a table's stands behind `CausalLMPolicy`: prompts become left-padded tokens, responses
are drawn through a cache, and scored through backbone and head. Whatever differs from the table is a bug.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, GPT2Config

from llm.models.decoding import Decoding
from llm.models.policy import CausalLMPolicy
from llm.models.settings import Scoring
from sims.core.algorithms import Algorithm, all_algorithms
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import Labels, Policy, Prompts
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, OutputRequest
from sims.core.objectives.preferences import Pairing
from sims.core.schedule import Schedule
from sims.environments import EnumerableEnvironment, TokenTree
from sims.environments.space import EOS, TokenSpace
from sims.policies import TablePolicy
from tests.llm.tiny_models import pad_left

TREE = TokenTree(num_prompts=3)
VOCABULARY, LENGTH = TREE.vocabulary, TREE.max_length
ALGORITHMS = list(all_algorithms().values())
by_name = pytest.mark.parametrize("algorithm", [cls() for cls in ALGORITHMS], ids=[cls.kind for cls in ALGORITHMS])


class TableBackbone(nn.Module):
    """Hidden states are the logits and the value of the prefix. Tokens from VOCABULARY on name the prompt.

    table: (X, nodes, V), values: (X, nodes).
    """

    def __init__(self, space: TokenSpace, table: Tensor, values: Tensor) -> None:
        super().__init__()
        self.space = space
        self.table, self.values = nn.Parameter(table.clone()), nn.Parameter(values.clone())

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past_key_values: DynamicCache | None = None, **_: Any
    ) -> SimpleNamespace:
        if past_key_values is None:
            tokens = input_ids
        else:
            keys = input_ids[:, None, :, None].double()
            tokens = past_key_values.update(keys, keys, 0)[0][:, 0, :, 0].long()
        first = torch.tensor([sum(VOCABULARY**i for i in range(depth)) for depth in range(LENGTH)])
        context = state = depth = torch.zeros_like(tokens[:, 0])
        states = []
        for token, real in zip(tokens.unbind(1), attention_mask.bool().unbind(1), strict=True):
            context = torch.where(real & (token >= VOCABULARY), token - VOCABULARY, context)
            chosen = real & (token < VOCABULARY)
            state = torch.where(chosen, state * VOCABULARY + token, 0)
            depth = torch.where(chosen, depth + 1, 0)
            node = (first[depth.clamp(max=LENGTH - 1)] + state) % self.space.nodes
            states.append(torch.cat([self.table[context, node], self.values[context, node].unsqueeze(-1)], -1))
        return SimpleNamespace(last_hidden_state=torch.stack(states[-input_ids.shape[1] :], 1))


class TableHead(nn.Module):
    def forward(self, states: Tensor) -> Tensor:
        return states[..., :VOCABULARY]


class TableModel(nn.Module):
    """What `CausalLMPolicy` asks of a model of transformers, and no more."""

    def __init__(self, backbone: TableBackbone) -> None:
        super().__init__()
        sizes = {"n_embd": VOCABULARY + 1, "n_layer": 1, "n_head": 1, "bos_token_id": None}
        self.base_model, self.head = backbone, TableHead()
        self.config = GPT2Config(vocab_size=VOCABULARY, eos_token_id=EOS, **sizes)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.base_model(input_ids, attention_mask).last_hidden_state))


class TableLM(CausalLMPolicy):
    """Its critic reads the value out of the hidden state and is not trained itself."""

    def __init__(self, logits: Tensor, values: Tensor) -> None:
        super().__init__(
            TableModel(TableBackbone(TREE.space, logits, values)),
            eos_token_ids=(EOS,),
            pad_token_id=EOS,
            decoding=Decoding(max_new_tokens=LENGTH, sample_batch_size=5),
            scoring=Scoring(logits_at_a_time=4 * VOCABULARY, score_batch_size=7),
            critic="shared",
        )
        self.language_model.critic.weight.data[VOCABULARY] = 1.0
        self._trainable = {name: p for name, p in self._trainable.items() if not name.startswith("critic.")}


def as_tokens(ids: Tensor) -> Prompts:
    """Prompt x as x + 1 tokens, padded on the left with an id that no vocabulary has. ids: (B,)."""
    return Prompts(*pad_left([[VOCABULARY + x] * (x + 1) for x in ids.tolist()], value=10**6, extra=1))


@dataclass(frozen=True, eq=False, kw_only=True)
class KnownPrompts(Prompts):
    """Prompts that remember what they are."""

    ids: Prompts


class TextEnvironment:
    """The table's environment, whose prompts are text."""

    def __init__(self, inner: EnumerableEnvironment) -> None:
        self.inner = inner

    def prompts(self, batch_size: int, noise: Noise) -> KnownPrompts:
        ids = self.inner.prompts(batch_size, noise)
        text = as_tokens(ids.tokens)
        return KnownPrompts(text.tokens, text.mask, ids=ids)

    def label(
        self, prompts: KnownPrompts, responses: Tensor, mask: Tensor, pairing: Pairing | None, noise: Noise
    ) -> Labels:
        return self.inner.label(prompts.ids, responses, mask, pairing, noise)


def policies(generator: torch.Generator) -> tuple[TablePolicy, TableLM]:
    """The data policy, and values that are not all 0, as a table and as a language model."""
    logits = torch.from_numpy(TREE.reference_logp())
    values = torch.randn(logits.shape[:-1], generator=generator, dtype=torch.float64)
    return TablePolicy(TREE.space, logits[None].clone(), values[None].clone()), TableLM(logits, values)


def as_text_batch(batch: Batch) -> Batch:
    """A batch of one run of the table as a batch of the language model."""
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    values = {name: x[0] if isinstance(x, Tensor) else x for name, x in values.items()}
    prompts = as_tokens(values["prompts"])
    probes = None if batch.probes is None else as_text_batch(batch.probes)
    return Batch(**values | {"prompts": prompts.tokens, "prompt_mask": prompts.mask, "probes": probes})


def loss_and_gradient(algorithm: Algorithm, policy: Policy, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """One batch through everything that an algorithm does with it."""
    for parameter in policy.parameters():
        parameter.requires_grad_(True)
    with torch.no_grad():
        state = algorithm.initial_state(batch.lead, torch.float64, torch.device("cpu"))
        targets, _ = algorithm.targets(batch, state)
        targets = algorithm.at_epoch(batch, targets, 0)
        probe_logp = policy.forward(batch.probes).logp if batch.probes is not None else None
        targets = algorithm.at_update(batch, targets, probe_logp)
    loss = algorithm.loss(policy.forward(batch, OutputRequest(values=algorithm.needs_critic)), batch, targets).sum()
    return loss, list(torch.autograd.grad(loss, policy.parameters(), allow_unused=True, materialize_grads=True))


@by_name
def test_one_batch_gives_the_same_loss_and_gradient(algorithm: Algorithm):
    generator = torch.Generator().manual_seed(0)
    table, model = policies(generator)
    schedule = Schedule(batch_size=8, num_generations=4)
    learner = Learner(table, Optimiser(), (1,))
    training = Training(table, TREE.build(torch.float64, Noise.of(0, 1)), algorithm, schedule, learner, Noise.of(0, 1))
    batch = next(training.train(1)).batch
    with torch.no_grad():  # a policy that has left both the sampler and the reference
        for mine, theirs in zip(table.parameters(), model.parameters(), strict=True):
            mine += 0.3 * torch.randn(mine.shape, generator=generator, dtype=torch.float64)
            theirs.copy_(mine[0])
    loss, gradient = loss_and_gradient(algorithm, table, batch)
    loss_model, gradient_model = loss_and_gradient(algorithm, model, as_text_batch(batch))
    torch.testing.assert_close(loss_model, loss, rtol=1e-10, atol=1e-10)
    for theirs, mine in zip(gradient_model, gradient, strict=True):
        torch.testing.assert_close(theirs, mine[0], rtol=1e-10, atol=1e-10)
    assert gradient[0].abs().max() > 1e-4
    assert (gradient[1].abs().max() > 1e-4) == algorithm.needs_critic


@by_name
def test_the_same_loop_makes_the_same_run(algorithm: Algorithm):
    """Three batches of two updates, from the same seed, to the last token drawn."""
    table, model = policies(torch.Generator().manual_seed(0))
    environment = TREE.build(torch.float64, Noise.of(0, 1))
    schedule = Schedule(batch_size=4, num_generations=4, minibatch_size=2)
    optimiser = Optimiser(learning_rate=0.1)
    runs = (
        Training(table, environment, algorithm, schedule, Learner(table, optimiser, (1,)), Noise.of(0, 1)),
        Training(
            model,
            TextEnvironment(environment),
            algorithm,
            schedule,
            Learner(model, optimiser, (), micro_batch_size=1),
            Noise.single(0),
        ),
    )
    for mine, theirs in zip(*(run.train(6) for run in runs), strict=True):
        assert torch.equal(mine.batch.responses[0], theirs.batch.responses)
        assert torch.equal(mine.batch.mask[0], theirs.batch.mask)
        torch.testing.assert_close(theirs.stats.loss, mine.stats.loss[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(theirs.stats.grad_norm, mine.stats.grad_norm[0], rtol=1e-10, atol=1e-10)
    for mine, theirs in zip(table.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(theirs, mine[0], rtol=1e-9, atol=1e-9)
