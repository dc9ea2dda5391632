"""One batch through TRL 1.16's real trainers and through ours, on the same weights and tokens of the embedded Pythia.

tests/core/test_trl_*.py compare pure losses on looked-up logits. Here everything counts: padding (TRL's DPO pads on the
right, ours prompts on the left), positions, the shift by one, TRL's fused head against our chunks, and the gradient of
each weight.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from llm.data import Example, TextEncoder, collate
from llm.embedded import language
from llm.models.policy import CausalLMPolicy
from llm.models.settings import Scoring
from llm.reward_models.scoring import preference_batch
from sims.core.algorithms import Algorithm
from sims.core.algorithms.clipped import DAPO, GRPO, DrGRPO
from sims.core.algorithms.contrastive import DPO
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.objectives.batch import Batch
from tests.llm.trl_trainers import TOKENIZER, dpo_trainer, grpo_trainer, tiny_pythia

PAIRS, MOVED = 6, 0.03
ENCODER = TextEncoder(TOKENIZER)


def rows(responses: int) -> list[Example]:
    """Prompts of the embedded language, each cut to another length, with responses; one of these has no EOS."""
    rng = np.random.default_rng(0)
    found = []
    for i, prompt in enumerate(language.prompts(PAIRS, rng)):
        asked = ENCODER.prompt(prompt)[: 3 + i % 4]
        answers = [[*ENCODER.encode(language.sample_response(prompt, rng)), ENCODER.eos] for _ in range(responses)]
        if i == 0:
            answers[1] = answers[1][:5]
        arrays = (np.array(ids, dtype=np.int32) for ids in answers)
        found.append(Example(f"row {i}", prompt, np.array(asked, dtype=np.int32), tuple(arrays)))
    return found


def our_policy(model: PreTrainedModel) -> CausalLMPolicy:
    """Small chunks of logits, so that more than one is made."""
    scoring = Scoring(logits_at_a_time=70 * 16, score_batch_size=5)
    return CausalLMPolicy(model, (ENCODER.eos,), ENCODER.pad, scoring=scoring)


def ours(algorithm: Algorithm, policy: CausalLMPolicy, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss, and the gradient of each parameter by name, as an update of ours computes them."""
    learner = Learner(policy, Optimiser(), (), micro_batch_size=2)
    state = algorithm.initial_state((), torch.float64, torch.device("cpu"))
    targets, _ = algorithm.targets(batch, state)
    targets = algorithm.at_update(batch, algorithm.at_epoch(batch, targets, 0), None)
    gradients, loss = learner.gradient(algorithm, batch, targets)
    names = [name.removeprefix("model.") for name in policy.named_parameters()]
    return loss, dict(zip(names, gradients, strict=True))


def theirs(trainer: Any, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


def assert_same(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    """Loss to 1e-6 and the gradient of each parameter to 1e-5, relative. TRL rounds log-probs to float32."""
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert float(gradient.norm()) > 0, name
        assert float((found[1][name] - gradient).norm()) <= 1e-5 * float(gradient.norm()), name


def scored(policy: CausalLMPolicy, batch: Batch) -> Tensor:
    """Log-probs of the batch's responses: (B, K, L)."""
    with torch.no_grad():
        return policy.forward(batch).logp


def test_one_batch_of_dpo(tmp_path: Path) -> None:
    examples = rows(2)
    unused = [{"prompt": "a", "chosen": "b", "rejected": "c"}]  # a trainer wants data
    trainer = dpo_trainer(tiny_pythia(moved=MOVED), tiny_pythia(), tmp_path, unused, beta=0.3)
    inputs = trainer.data_collator(
        [
            {
                "prompt_ids": example.prompt_ids.tolist(),
                "chosen_ids": example.completion_ids[0].tolist(),
                "rejected_ids": example.completion_ids[1].tolist(),
            }
            for example in examples
        ]
    )
    batch = preference_batch(examples, ENCODER.pad)
    assert batch.prompt_mask is not None and not batch.prompt_mask.all() and not batch.mask.all()  # ragged
    batch = batch.replace(logp_ref=scored(our_policy(tiny_pythia()), batch))
    assert_same(ours(DPO(beta=0.3), our_policy(tiny_pythia(moved=MOVED)), batch), theirs(trainer, inputs))


def grpo_inputs(trainer: Any, batch: Batch, advantages: Tensor) -> dict[str, Tensor]:
    """What TRL's trainer makes of a generated batch: one row per response. Its reference scores them itself."""
    generations = batch.mask.shape[1]
    assert batch.prompt_mask is not None
    prompts, prompt_mask = (x.repeat_interleave(generations, 0) for x in (batch.prompts, batch.prompt_mask.long()))
    responses, mask = batch.responses.flatten(0, 1), batch.mask.flatten(0, 1).long()
    inputs = {
        "prompt_ids": prompts,
        "prompt_mask": prompt_mask,
        "completion_ids": responses,
        "completion_mask": mask,
        "advantages": advantages.flatten(),
        "old_per_token_logps": batch.need("logp_sampler").flatten(0, 1),
        "num_items_in_batch": mask.sum(),
    }
    if trainer.ref_model is not None:
        tokens, attention = torch.cat([prompts, responses], 1), torch.cat([prompt_mask, mask], 1)
        with torch.no_grad():
            inputs["ref_per_token_logps"] = trainer._get_per_token_logps_and_entropies(
                trainer.ref_model.double(), tokens, attention, responses.shape[1]
            )[0]
    return inputs


def grpo(
    loss_type: str, beta: float, folder: Path, moved: float, **settings: Any
) -> tuple[tuple[Tensor, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]:
    """What ours and TRL's make of one batch, on a policy that is `MOVED` from the reference and a sampler that is
    `moved`. Advantages and the sampler's log-probs are given to both; each scores the reference itself."""
    longest, generations = 60, 3
    trainer = grpo_trainer(
        tiny_pythia(moved=MOVED),
        lambda **_: [],
        ["a"],
        folder,
        loss_type=loss_type,
        beta=beta,
        epsilon=0.1,
        max_completion_length=longest,
        num_generations=generations,
        per_device_train_batch_size=generations * PAIRS,
        **settings,
    )
    trainer.current_gradient_accumulation_steps = 1  # as the training loop sets it
    algorithms: dict[str, GRPO] = {
        "grpo": GRPO(beta=beta, epsilon=0.1),
        "dr_grpo": DrGRPO(beta=beta, epsilon=0.1, constant_length=longest),
        "dapo": DAPO(beta=beta, epsilon=0.1, epsilon_high=None, drop_equal_groups=False),
    }
    algorithm, policy = algorithms[loss_type], our_policy(tiny_pythia(moved=MOVED))
    found = collate(rows(generations), ENCODER.pad)
    assert found.responses is not None and found.mask is not None
    batch = Batch(found.prompts, found.responses, found.mask, found.prompt_mask)
    rewards = torch.from_numpy(np.random.default_rng(1).normal(size=(PAIRS, generations)))
    sampler, reference = (scored(our_policy(tiny_pythia(moved=x)), batch) for x in (moved, 0.0))
    batch = batch.replace(rewards=rewards, logp_sampler=sampler, logp_ref=reference if beta > 0 else None)
    if moved != MOVED:
        clipped = (scored(policy, batch) - sampler).abs() > 0.2
        assert clipped[batch.mask].double().mean() > 0.05
    advantages = algorithm.targets(batch, {})[0]["advantages"]
    return ours(algorithm, policy, batch), theirs(trainer, grpo_inputs(trainer, batch, advantages))


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_one_batch_of_grpo(loss_type: str, beta: float, tmp_path: Path) -> None:
    assert_same(*grpo(loss_type, beta, tmp_path, 0.3 * MOVED, use_bias_correction_kl=False))


def test_trl_weighs_the_kl_by_the_ratio_unless_told_otherwise(tmp_path: Path) -> None:
    """TRL 1.16 multiplies k3 by w (use_bias_correction_kl, on by default): on fresh samples the loss is the same, and
    its gradient is that of another penalty."""
    (our_loss, our_gradients), (their_loss, their_gradients) = grpo("grpo", 0.1, tmp_path, MOVED)
    # Advantages add up to almost 0 there, so that the loss is β times the mean k3.
    assert our_loss.item() == pytest.approx(their_loss.item(), abs=1e-6)
    name = "gpt_neox.final_layer_norm.weight"
    apart = (our_gradients[name] - their_gradients[name]).norm() / their_gradients[name].norm()
    assert float(apart) > 1e-2
