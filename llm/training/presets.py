"""Experiments by name: the tiny ones take a minute on one core, the large ones follow the papers.

Large presets: Tajwar et al. 2024 and its code (github.com/Asap7772/understanding-rlhf). Differences from the paper:
1. its reward models for lengths are not public (its scripts leave their paths empty): the formulas that they were
   fitted to replace them;
2. nor is its SFT policy: that of Coste et al. 2024 replaces it, tuned on the same split, with the same prompt and rate;
3. AlpacaFarm's gold reward model is public only as a difference to LLaMA's weights: a public sequence classifier
   evaluates in its place, so that gold rewards are on another scale. It was trained on UltraFeedback among others, and
   AlpacaFarm's prompts contain tokens of Open-Assistant, which it does not know;
4. its learning rates decay along a cosine; here they are constant (--lr-scheduler-type cosine is theirs);
5. its offline pairs are 20,000 of its SFT policy's samples, labelled by each reward and, for skew, cut short
   (Asap7772/relabeled_alpacafarm_pythiasft_20K_preference_data_minlength, …_modelength and
   Asap7772/alpaca_skewexp_minlength_merged on the hub). Their columns and how they were cut were not found: for skew
   AlpacaFarm's human preference pairs are cut and labelled here, as `SkewLength` says;
6. nothing of UltraFeedback on Mistral-7B was released but relabelled data, whose name suggests UltraRM as the
   labeller: the settings are those of the paper's DPO, with LoRA instead of all weights, to fit one GPU. Zephyr's
   recipes for LoRA (alignment-handbook) have rank 64 with rate 5e-7 and beta 0.1, or rank 16 with 5e-6 and 0.01;
7. its mode for mode_length was not found: set --mode to the mode of the policy that is trained.

Hyper-parameters of its scripts for other algorithms at this scale: PPO learning rate 1e-6, clip 0.2, adaptive KL from
0.2, λ 0.95, value coefficient 0.1; REINFORCE 1e-5; RWR 1e-5, temperature 1 or 10, weights clipped to 20; Best-of-N
1e-6, N = 4; offline DPO 1e-7 or 5e-7, β 0.05 or 0.1, 16 pairs per update; Pref-FT five rates from 1e-8 to 1e-5.
"""

from __future__ import annotations

from typing import Any

from llm.embedded.language import MAX_RESPONSE_TOKENS
from llm.models.decoding import Decoding
from llm.models.settings import Scoring
from llm.models.spec import LanguageModelSpec
from llm.tasks import LearnedReward, MinLength, ModeLength, SkewLength, Task, Verifiable
from sims.core.algorithms.clipped import GRPO
from sims.core.algorithms.contrastive import DPO
from sims.core.algorithms.likelihood import SFT
from sims.core.algorithms.policy_gradient import RLOO
from sims.core.loop.optimise import Optimiser
from sims.core.schedule import Schedule
from sims.experiments.experiment import Experiment

from .learning_rate import ScheduledOptimiser

_TINY = LanguageModelSpec(
    model="pythia", decoding=Decoding(max_new_tokens=MAX_RESPONSE_TOKENS + 1, sample_batch_size=256)
)
_PYTHIA = LanguageModelSpec(
    # Its main branch has pickled weights only: transformers takes those that the hub converted (refs/pr/1).
    model="tlc4418/pythia_1.4b_sft_policy",
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
_QWEN = LanguageModelSpec(
    model="Qwen/Qwen2.5-1.5B-Instruct",
    micro_batch_size=2,
    decoding=Decoding(max_new_tokens=1024, temperature=1.0, sample_batch_size=64),
    scoring=Scoring(gradient_checkpointing=True, precision="bfloat16", score_batch_size=16),
)
_ULTRAFEEDBACK: dict[str, Any] = {
    "data": "HuggingFaceH4/ultrafeedback_binarized",
    "data_split": "train_prefs",
    "evaluation_split": "test_prefs",
    "data_kind": "preference",
    "max_prompt_length": 512,
    "max_completion_length": 512,
    "on_too_long": "truncate",
    "on_bad_rows": "drop",
}
_ALPACA_PROMPTS: dict[str, Any] = {
    "data": "tatsu-lab/alpaca_farm",
    "data_config": "alpaca_instructions",
    "data_split": "unlabeled",
    "evaluation_split": "val",
    # The prompt of both codes, except that they omit the line break where a row has no input.
    "prompt_template": "<|prompter|>{instruction}\n{input}<|endoftext|><|assistant|>",
    "max_prompt_length": 128,
    "on_too_long": "truncate",
}
_ALPACA_PAIRS: dict[str, Any] = _ALPACA_PROMPTS | {
    "data_config": "alpaca_human_preference",
    "data_kind": "preference",
    "chosen_column": "output_1",  # a further column says which is better; `relabel` ignores it
    "rejected_column": "output_2",
    "data_split": "preference[:90%]",
    "evaluation_split": "preference[90%:]",
    "max_completion_length": 256,
    "on_bad_rows": "drop",
    "relabel": True,
}
_GOLD = "Ray2333/reward-model-Mistral-7B-instruct-Unified-Feedback"


def _cosine(learning_rate: float) -> ScheduledOptimiser:
    """Rising over a tenth of all updates, then falling to 0: the handbook's and Open-R1's."""
    return ScheduledOptimiser(
        learning_rate=learning_rate, max_grad_norm=1.0, lr_scheduler_type="cosine", warmup_steps=0.1
    )


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
    """Online DPO: the released script's learning rate of 1e-5, one of its four β (0.01 to 0.5), 256 new tokens; the
    paper's 600 updates and 3 seeds. 64 samples per update, as the paper counts B; the script draws 64 pairs, and makes
    two updates on them."""
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
    name: experiment.replace(name=name.replace(".", "_"))  # a record's name may contain no dot
    for name, experiment in {
        "tiny-min-length": _tiny(MinLength()),
        "tiny-mode-length": _tiny(ModeLength()),
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
        "pythia-1.4b-skew-length": _pythia(SkewLength(**_ALPACA_PAIRS, cut_from=10, cut_to=22)).replace(
            schedule=Schedule(batch_size=32, num_generations=2, source="dataset"),
            optimiser=Optimiser(learning_rate=5e-7, max_grad_norm=1.0),  # offline DPO's
        ),
        "pythia-1.4b-alpacafarm": _pythia(LearnedReward(reward_model=_GOLD, **_ALPACA_PROMPTS)),
        # As Coste et al. (github.com/tlc4418/llm_optimization): 8e-6, 32 rows per update, 3 epochs of 10,000 rows.
        # Tajwar et al.: 8e-6 too, 4 rows per update, 10 epochs, Adafactor.
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
                **_ULTRAFEEDBACK,
            ),
            policy=_MISTRAL,
            algorithm=DPO(beta=0.1),
            schedule=Schedule(batch_size=32, num_generations=2),
            optimiser=Optimiser(learning_rate=5e-6, max_grad_norm=1.0),
            updates=1000,
            evaluations=10,
            runs=1,
        ),
        # The alignment handbook's recipe zephyr-7b-beta/dpo/config_qlora.yaml: 4 pairs on each of 8 GPUs, one epoch of
        # 61,135 pairs. Its base had adapters of its own, and its adapters a dropout of .05.
        "zephyr-7b-dpo-qlora": Experiment(
            name="dpo",
            environment=MinLength(**_ULTRAFEEDBACK),
            policy=_MISTRAL.replace(base_precision="nf4", lora_rank=16, lora_alpha=16.0),
            algorithm=DPO(beta=0.01),
            schedule=Schedule(batch_size=32, num_generations=2, source="dataset"),
            optimiser=_cosine(5e-6),
            updates=1910,
            evaluations=19,
            runs=1,
        ),
        # Open-R1's recipe Qwen2.5-1.5B-Instruct/grpo/config_demo.yaml, with its reward for the right answer alone: 16
        # responses, 16 times accumulated, on each of 7 GPUs; one epoch of 72,441 problems; TRL's β at that time.
        "qwen2.5-1.5b-numinamath": Experiment(
            name="grpo",
            environment=Verifiable(
                data="AI-MO/NuminaMath-TIR",
                data_split="train",
                evaluation_split="test",
                prompt_template="<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n",
                max_prompt_length=512,
                on_too_long="drop",
                checker="math_verify",
                answer_column="solution",
            ),
            policy=_QWEN,
            algorithm=GRPO(beta=0.04),
            schedule=Schedule(batch_size=256, num_generations=7),
            optimiser=_cosine(2e-5),
            updates=283,
            evaluations=10,
            runs=1,
        ),
    }.items()
}
