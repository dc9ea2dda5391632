"""Estimated memory of a run, part by part, from its spec and the model's shape; nothing is loaded."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig

from llm.distributed.spread import Sharding
from llm.models.copies import cast_at_each_call
from llm.models.decoding import VLLMDecoding
from llm.models.layers import checkpoint_layers
from llm.models.loading import load_config, locate, meta_model
from llm.models.quantised import largest_layer, parameter_count
from llm.models.shapes import SHAPES
from llm.models.spec import LanguageModelSpec
from llm.tasks import LearnedReward
from sims.core.loop.train import uses_reference
from sims.core.spec import Spec, SpecError
from sims.experiments.experiment import Experiment
from sims.experiments.memory import Sizes, available, check_fits, check_steps, in_units, sizes_of

_PROMPT = 128  # assumed tokens of a prompt where the task sets no limit


@dataclass(frozen=True)
class Estimate:
    """Bytes of each part: `held` throughout the run, or in use while sampling or updating."""

    parameters: int
    trained: int
    held: dict[str, int]
    sampling: dict[str, int]
    updating: dict[str, int]
    processes: int = 1

    @property
    def peak(self) -> int:
        """Everything held, plus the larger of the two phases."""
        return sum(self.held.values()) + max(sum(self.sampling.values()), sum(self.updating.values()))

    def lines(self) -> list[str]:
        """A table, in GiB."""
        parts = [("held", self.held), ("sampling", self.sampling), ("updating", self.updating)]
        rows = [f"  {phase:9} {name:24}{size / 2**30:10.3f}" for phase, part in parts for name, size in part.items()]
        return [
            f"{self.parameters:,} parameters, {self.trained:,} of them trained",
            "memory, GiB" if self.processes == 1 else f"memory of each of {self.processes} processes, GiB",
            *rows,
            f"  {'peak':34}{self.peak / 2**30:10.3f}   held and the larger of sampling and updating",
        ]


def estimate(experiment: Experiment, processes: int = 1, sharding: Sharding = "none") -> Estimate:
    """Memory of a run on one device, that of each of several processes.

    Counted: weights, gradients, moments, copies, cache and logits. Activations are 17 numbers times the hidden width
    per token and layer (34 bytes in bfloat16: Korthikanti et al. 2022, without attention matrices), fewer with
    checkpointing, in the precision of the computation. Reward models count with their weights, in bfloat16 if the run
    computes in it; one whose shape is not known offline is assumed as large as the policy.

    Sharding (llm.distributed.sharded) splits what is held. It gathers the root's weights and those of three blocks: the
    one that computes, the next one, and its communication buffer; in an update, also gradients of the root and of two
    blocks. This part, unlike the others, was not compared with measurements. vLLM counts as its share of the GPU, if
    there is one, and at least as its weights, the cache of the responses drawn together, and logits; it keeps them
    during updates.

    Not counted: unused memory of the allocator, the device's context (about half a GiB on a GPU), activations of reward
    models and of vLLM.
    """
    spec: LanguageModelSpec = experiment.policy  # type: ignore[assignment]
    schedule, algorithm, decoding, scoring = experiment.schedule, experiment.algorithm, spec.decoding, spec.scoring
    config, model = load_config(spec), meta_model(spec, experiment.dtype)
    every: list[nn.Parameter] = list(model.parameters())
    trained = [p for p in every if p.requires_grad]
    weights, own = _bytes(every), _bytes(trained)
    critic = algorithm.needs_critic and spec.critic == "own"
    backbone: Any = model.base_model
    base = sum(p.numel() for p in backbone.parameters()) * experiment.dtype.itemsize if critic else 0

    stale = schedule.source == "policy" and schedule.sync_period != schedule.updates_per_batch
    # The reference, which otherwise is in the machine's memory; a sampler that is not the policy; the initial policy,
    # where the reference moves.
    asked = uses_reference(algorithm, schedule, experiment.labelling) or sharding != "none"
    copies = int(asked) + int(stale or schedule.source == "pool") + int(schedule.reference != "fixed")
    copied = own
    if scoring.precision == "bfloat16" and schedule.reference != "ema" and sharding == "none":
        half = [p for p in cast_at_each_call(model, trained) if p.dtype == torch.float32]
        copied -= _bytes(half) // 2
    parts = 1 if sharding == "none" else processes
    held = {
        "weights": (weights + base) // parts,
        "optimiser": (2 if experiment.optimiser.method == "adam" else 0) * (own + base) // parts,
        "reference, sampler": copies * copied // parts,
    }
    reward_models = sum(_reward_model_parameters(name, spec, config) for name in _reward_models(experiment))
    if reward_models:
        held["reward models"] = reward_models * (2 if scoring.precision == "bfloat16" else 4)
    prompt = getattr(experiment.environment, "max_prompt_length", None) or _PROMPT
    length = prompt + decoding.max_new_tokens
    compute = 2 if scoring.precision == "bfloat16" else experiment.dtype.itemsize
    if spec.base_precision == "bfloat16":
        compute = 2
    # Autocast keeps a half-precision copy of the weights that it casts; of quantised ones a layer's are made at a time.
    wider = own if spec.base_precision != "as_run" else weights
    cast = wider // experiment.dtype.itemsize * 2 if scoring.precision == "bfloat16" else 0
    cast += largest_layer(model) * compute
    gathered = {"weights cast": cast}, {"weights cast": cast}
    if sharding != "none":
        gathered = _gathered(model, compute, whole_to_sample=sharding == "update")
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    drawn = min(decoding.sample_batch_size, -(-schedule.batch_size // processes) * schedule.num_generations)
    slot = config.num_hidden_layers * 2 * heads * head * compute  # of the cache, for a token
    drawing = {
        "cache": drawn * length * slot,
        # float32 logits and distribution, float64 distribution and its cumulative sum
        "logits": drawn * config.vocab_size * (4 + 4 + 8 + 8 + 8),
    }
    # The prompts' own pass comes before it; a cache of fixed size has room for the responses from the start.
    reading = drawn * prompt * _of_a_token(config, compute, spec.lora_rank is not None)
    reading += drawing["cache"] if decoding.cache_implementation == "static" else drawn * prompt * slot
    sampling = drawing | {"prompts, beyond that": max(0, reading - sum(drawing.values()))} | gathered[0]
    if isinstance(decoding, VLLMDecoding):
        merged = sum(p.numel() for p in every) - (sum(p.numel() for p in trained) if spec.lora_rank else 0)
        needed = merged * compute + sum(drawing.values())
        share = decoding.vllm_gpu_memory_utilization
        whole = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else 0
        held[f"vLLM, or {share:g} of the GPU"], sampling = max(needed, int(share * whole)), {}
    minibatch = -(-(schedule.minibatch_size or schedule.batch_size) // processes)
    prompts = min(spec.micro_batch_size or minibatch, minibatch)
    tokens = prompts * schedule.num_generations * length
    block = min(scoring.logits_at_a_time, tokens * config.vocab_size)
    updating = {
        "gradients": (own + base) // parts,
        "activations": _activations(config, tokens, compute, scoring.gradient_checkpointing) * (2 if critic else 1),
        "logits": block * (compute + 3 * 4),  # logits, their float32 copy, log-distribution, gradient
        **gathered[1],
    }
    return Estimate(parameter_count(model), sum(p.numel() for p in trained), held, sampling, updating, processes)


def check_memory(experiment: Experiment, device: str, processes: int = 1, sharding: Sharding = "none") -> None:
    """Refuse, with SpecError, a run whose counts are far beyond the memory of this machine, or of its GPU.

    Weights, cache and tokens are counted, without what `estimate` knows only roughly."""
    spec: LanguageModelSpec = experiment.policy  # type: ignore[assignment]
    parts = (spec.decoding, spec.scoring, spec, experiment.environment, experiment.schedule, experiment)
    sizes, config = sizes_of(*parts), load_config(spec)
    held = sum(estimate(experiment, processes, sharding).held.values())
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else available()
    if free is not None and held > free:  # no count of prompts or tokens is to blame
        field = "model" if spec.lora_rank is None or spec.lora_rank <= config.hidden_size else "lora_rank"
        rule = f"needs {in_units(held)} of memory for weights and optimiser, of which {in_units(free)} are free"
        raise SpecError(field, getattr(spec, field), f"{rule}: must be smaller")
    wide = config.hidden_size * config.num_hidden_layers

    def least(sizes: Sizes) -> float:
        batch = -(-sizes["batch_size"] // processes)
        drawn = max(batch, sizes.get("pool_size", 0)) * sizes["num_generations"]
        rows = max(drawn, sizes.get("evaluation_prompts", 0))
        together = min(sizes.get("micro_batch_size", batch), sizes.get("minibatch_size", batch))
        kept = 0 if spec.scoring.gradient_checkpointing else together * sizes["num_generations"] * wide
        cached = 0 if isinstance(spec.decoding, VLLMDecoding) else min(sizes["sample_batch_size"], rows) * wide // 8
        return held + sizes["max_new_tokens"] * (rows * 28 + 4 * kept + 2 * cached)

    check_fits(sizes, least, free)


def check_new_model(spec: Spec, vocabulary: int, bytes_each: Mapping[str, float] | None = None) -> None:
    """Refuse, with SpecError, settings of a new transformer that are far beyond the memory of this machine: weights,
    gradient and two moments are counted. spec: with the fields hidden, layers, max_positions. bytes_each: of further
    counts, such as documents."""
    sizes, further = sizes_of(spec), bytes_each or {}
    counted = {"hidden", "layers", "max_positions", *further}

    def least(sizes: Sizes) -> float:
        wide = sizes["hidden"]
        weights = wide * (2 * vocabulary + sizes["max_positions"]) + 12 * sizes["layers"] * wide**2
        return 16.0 * weights + sum(sizes[name] * each for name, each in further.items())

    check_steps(sizes)
    check_fits({name: x for name, x in sizes.items() if name in counted}, least)


def _gathered(model: nn.Module, compute: int, whole_to_sample: bool) -> tuple[dict[str, int], dict[str, int]]:
    """What sharding gathers at a time, while sampling and in an update; blocks in the precision of the computation."""
    blocks = [list(block.parameters()) for block in checkpoint_layers(model)]
    inside = {id(p) for block in blocks for p in block}
    root = [p for p in model.parameters() if id(p) not in inside]
    sizes = [sum(p.numel() for p in block) for block in blocks]
    few = _bytes(root) + 3 * compute * max(sizes)
    sampling = _bytes(root) + compute * sum(sizes) if whole_to_sample else few
    # Of a block's gradient, as computed and as the float32 that is sent.
    trained = sum(p.numel() for p in blocks[0] if p.requires_grad)
    gradients = _bytes([p for p in root if p.requires_grad]) + 2 * (compute + 4) * trained
    return {"gathered weights": sampling}, {"gathered weights": few, "gathered gradients": gradients}


def _reward_models(experiment: Experiment) -> set[str]:
    """The reward models that a run loads."""
    task = experiment.environment
    if not isinstance(task, LearnedReward):
        return set()
    return {task.reward_model} if task.gold_reward_model is None else {task.reward_model, task.gold_reward_model}


def _reward_model_parameters(name: str, spec: LanguageModelSpec, policy: PretrainedConfig) -> int:
    known = name in SHAPES or locate(name, "reward_model")[1]
    config = load_config(spec.replace(model=name, revision=None), "reward_model") if known else copy.deepcopy(policy)
    config.num_labels = 1
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    return sum(p.numel() for p in model.parameters())


def _bytes(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def _of_a_token(config: PretrainedConfig, compute: int, adapted: bool) -> int:
    """Bytes of a token's activations in one layer where no gradient is asked for, at their most: in the MLP, whose
    parts are alive together, beside four hidden states, and under adapters one part and a float32 state more."""
    parts = (3 if _is_gated(config) else 2) + adapted
    return parts * _inner(config) * compute + config.hidden_size * (4 * compute + 4 * adapted)


def _inner(config: PretrainedConfig) -> int:
    """Width inside an MLP: four times that outside where a configuration does not say (GPT-2)."""
    found = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    return found if isinstance(found, int) else 4 * config.hidden_size


def _is_gated(config: PretrainedConfig) -> bool:
    """Whether each MLP has a third matrix."""
    return config.model_type in ("mistral", "llama", "qwen2")


def _activations(config: PretrainedConfig, tokens: int, compute: int, checkpointing: bool) -> int:
    """Bytes kept for the backward pass: 17 times the hidden width, at 2 bytes the 34 of the paper."""
    wide = _inner(config) / (4 * config.hidden_size)
    gated = 1.5 if _is_gated(config) else 1.0
    layer = tokens * config.hidden_size * compute * (9 + 8 * wide * gated)
    layers = config.num_hidden_layers
    return int(layers * tokens * config.hidden_size * compute + layer if checkpointing else layers * layer)
