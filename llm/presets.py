"""Experiments by name, written out: the tiny ones run on a core in a minute, the large ones are the papers'.

Large presets: Tajwar et al. 2024 and its code (github.com/Asap7772/understanding-rlhf). Where they and the paper part:
1. the paper's reward models for lengths are not public: its formulas stand in, which those models were fitted to;
2. AlpacaFarm's gold reward model is public as a difference to LLaMA's weights alone: a public sequence classifier
   judges in its place, so that gold rewards are on another scale;
3. its learning rates decay along a cosine; here they are constant (--lr-scheduler-type cosine is theirs);
4. nothing of UltraFeedback on Mistral-7B was released: settings are DPO's of the same paper, with LoRA in place of all
   weights, so that one GPU holds it.
5. the mode that mode_length aims at was not found in either: set --mode to that of the policy that is trained.

Hyper-parameters for its other algorithms at this scale: PPO learning rate 1e-6, clip 0.2, adaptive KL, λ 0.95; RWR
1e-5, temperature 1 or 10, weights clipped to 20; Best-of-N 1e-6, N = 4; offline DPO 1e-7 or 5e-7, β 0.05 or 0.1.
"""

from __future__ import annotations

from typing import Any

from llm.language import MAX_RESPONSE_TOKENS
from llm.models import LanguageModelSpec
from llm.sampling import Decoding
from llm.scoring import Scoring
from llm.tasks import LearnedReward, MinLength, ModeLength, SkewLength, Task, Verifiable
from sims.core.algorithms.contrastive import DPO
from sims.core.algorithms.likelihood import SFT
from sims.core.algorithms.policy_gradient import RLOO
from sims.core.experiment import Experiment
from sims.core.optimise import Optimiser
from sims.core.schedule import Schedule

_TINY = LanguageModelSpec(
    model="pythia", decoding=Decoding(max_new_tokens=MAX_RESPONSE_TOKENS + 1, sample_batch_size=256)
)
_PYTHIA = LanguageModelSpec(
    model="tlc4418/pythia_1.4b_sft_policy",  # the paper's SFT: learning rate 8e-6 on AlpacaFarm's sft split
    micro_batch_size=4,
    decoding=Decoding(max_new_tokens=256, temperature=1.0, sample_batch_size=64),
    scoring=Scoring(gradient_checkpointing=True, precision="bfloat16", score_batch_size=16),
)
_MISTRAL = LanguageModelSpec(
    model="HuggingFaceH4/mistral-7b-sft-beta",
    base_precision="bfloat16",
    lora_rank=64,
    lora_alpha=64.0,
    micro_batch_size=2,
    decoding=Decoding(max_new_tokens=512, temperature=1.0, sample_batch_size=64),
    scoring=Scoring(gradient_checkpointing=True, precision="bfloat16", score_batch_size=8),
)
_ALPACA_PROMPTS: dict[str, Any] = {
    "data": "tatsu-lab/alpaca_farm",
    "data_config": "alpaca_instructions",
    "data_split": "unlabeled",
    "evaluation_split": "val",
    # The line break is there for rows without an input too.
    "prompt_template": "<|prompter|>{instruction}\n{input}<|endoftext|><|assistant|>",
    "max_prompt_length": 128,
    "on_too_long": "truncate",
}
_ALPACA_PAIRS: dict[str, Any] = _ALPACA_PROMPTS | {
    "data_config": "alpaca_human_preference",
    "data_kind": "preference",
    "chosen_column": "output_1",  # the row says which is better in a column of its own, which `relabel` overrules
    "rejected_column": "output_2",
    "data_split": "preference[:90%]",
    "evaluation_split": "preference[90%:]",
    "max_completion_length": 256,
    "on_bad_rows": "drop",
    "relabel": True,
}
_GOLD = "Ray2333/reward-model-Mistral-7B-instruct-Unified-Feedback"


def _tiny(task: Task) -> Experiment:
    return Experiment(
        name="preset",
        environment=task,
        policy=_TINY,
        algorithm=RLOO(),
        schedule=Schedule(batch_size=32, num_generations=4),
        optimiser=Optimiser(learning_rate=3e-4, max_grad_norm=10.0),
        updates=60,
        evaluations=6,
        runs=1,
    )


def _pythia(task: Task) -> Experiment:
    """Online DPO at the released script's settings: B = 64 samples, learning rate 1e-5, 600 updates, 3 seeds."""
    return Experiment(
        name="preset",
        environment=task,
        policy=_PYTHIA,
        algorithm=DPO(beta=0.1),
        schedule=Schedule(batch_size=32, num_generations=2),
        optimiser=Optimiser(learning_rate=1e-5, max_grad_norm=1.0),
        updates=600,
        evaluations=12,
        runs=3,
    )


PRESETS: dict[str, Experiment] = {
    name: experiment.replace(name=name.replace(".", "_"))  # a record's name holds no point
    for name, experiment in {
        "tiny-min-length": _tiny(MinLength()),
        "tiny-mode-length": _tiny(ModeLength(mode=24)),
        "tiny-skew-length": _tiny(SkewLength()).replace(
            algorithm=DPO(beta=0.1),
            schedule=Schedule(batch_size=64, num_generations=2, source="dataset"),
        ),
        "tiny-preference": _tiny(Verifiable()).replace(
            algorithm=DPO(beta=0.1, pairing="correct_incorrect"), optimiser=Optimiser(learning_rate=1e-3)
        ),
        "tiny-sft": _tiny(MinLength()).replace(
            algorithm=SFT(),
            schedule=Schedule(batch_size=32, num_generations=1, source="dataset"),
        ),
        "pythia-1.4b-min-length": _pythia(MinLength(**_ALPACA_PROMPTS)),
        "pythia-1.4b-mode-length": _pythia(ModeLength(mode=200, **_ALPACA_PROMPTS)),
        "pythia-1.4b-skew-length": _pythia(SkewLength(**_ALPACA_PAIRS)).replace(
            schedule=Schedule(batch_size=32, num_generations=2, source="dataset"),
            optimiser=Optimiser(learning_rate=5e-7, max_grad_norm=1.0),
        ),
        "pythia-1.4b-alpacafarm": _pythia(LearnedReward(reward_model=_GOLD, **_ALPACA_PROMPTS)),
        "pythia-1.4b-sft": Experiment(
            name="sft",
            environment=MinLength(
                **_ALPACA_PROMPTS
                | {"data_split": "sft", "data_kind": "prompt_completion", "completion_column": "output"}
            ),
            policy=_PYTHIA.replace(model="EleutherAI/pythia-1.4b"),
            algorithm=SFT(),
            schedule=Schedule(batch_size=32, num_generations=1, source="dataset"),
            optimiser=Optimiser(learning_rate=8e-6, max_grad_norm=1.0),
            updates=900,
            evaluations=9,
            runs=1,
        ),
        "mistral-7b-ultrafeedback": Experiment(
            name="dpo",
            environment=LearnedReward(
                reward_model=_GOLD,
                data="HuggingFaceH4/ultrafeedback_binarized",
                data_split="train_prefs",
                evaluation_split="test_prefs",
                data_kind="preference",
                max_prompt_length=512,
                max_completion_length=512,
                on_too_long="truncate",
                on_bad_rows="drop",
            ),
            policy=_MISTRAL,
            algorithm=DPO(beta=0.1),
            schedule=Schedule(batch_size=32, num_generations=2),
            optimiser=Optimiser(learning_rate=5e-6, max_grad_norm=1.0),
            updates=1000,
            evaluations=10,
            runs=1,
        ),
    }.items()
}
