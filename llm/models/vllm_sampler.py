"""vLLM as the sampler: an engine in the training process, on the same GPU, that samples from the weights it is given.

    python -m llm train --preset pythia-1.4b-min-length --use-vllm

The engine is made from the policy's configuration. Whenever a policy samples, its weights are loaded into the engine,
unless the engine holds them already. A fresh sampler is the policy itself, whose weights an update changed since the
last draw; a stale one is a copy whose weights change at syncs only. An evaluation, or an algorithm that samples from
the reference, loads the weights of that policy.

Three things differ from drawing with transformers:
1. log-probs come from other kernels, in the engine's precision. A batch's `logp_sampler` are the engine's own; metrics
   log how far the trainer's are from them;
2. tokens are a function of one seed per response, taken from the run's noise, and of vLLM's version and the device: the
   same responses in any order and any batch, up to rounding, but not those that transformers would draw;
3. a mixture of two policies cannot be sampled.

With several processes, each has an engine, for its slice of the prompts.

Written against the sources of vLLM 0.22.0 and 0.31.0, and run on a CPU build of 0.31.0 only, in one process and in
two: there log-probs differed by 4e-6 at most in float32, and by 3e-3 on average under bfloat16 (against random weights;
python -m tests.benchmarks vllm_sampler). It has not been run on a GPU: speed and memory are unmeasured.
"""

from __future__ import annotations

import copy
import os
import socket
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sims.core.loop.protocols import SampleRequest, Samples
from sims.core.spec import SpecError
from sims.experiments.experiment import Experiment

from .decoding import Decoding, VLLMDecoding
from .policy import CausalLMPolicy


def check_sampler(experiment: Experiment, device: torch.device | str | None = None, sharding: str = "none") -> None:
    """SpecError for an experiment that its sampler cannot sample, or a device that vLLM cannot run on (None: not
    checked)."""
    decoding = experiment.policy.decoding  # type: ignore[attr-defined]
    if decoding.cache_implementation == "static" and sharding != "none":
        raise SpecError("cache_implementation", "static", f"must be dynamic with sharding = {sharding}")
    if not isinstance(decoding, VLLMDecoding):
        return
    algorithm = experiment.algorithm
    if any(
        distribution.name == "mixture"
        for distribution in algorithm.slot_distributions(experiment.schedule.num_generations)
    ):
        raise SpecError(
            "use_vllm", True, f"{algorithm.kind} samples from a mixture of two policies, vLLM only from one"
        )
    if experiment.precision == "float64":
        raise SpecError("precision", "float64", "must be float32 with use_vllm")
    if sharding != "none":
        raise SpecError("sharding", sharding, "must be none with use_vllm: each process's vLLM needs the full weights")
    if (base := experiment.policy.base_precision) == "nf4":  # type: ignore[attr-defined]
        raise SpecError("base_precision", base, "must be as_run or bfloat16 with use_vllm, which holds whole weights")
    if device is None:
        return
    try:
        from vllm.platforms import current_platform
    except ImportError as error:
        raise SpecError("use_vllm", True, "needs the library vllm: the extra vllm of pyproject.toml") from error
    needed, found = torch.device(device).type, current_platform.device_type
    if found != needed:
        raise SpecError("use_vllm", True, f"needs a GPU: vLLM runs on {found or 'no device'} here, the run on {needed}")


class VLLMPolicy(CausalLMPolicy):
    """A policy whose responses vLLM draws; everything else is done by its own model."""

    decoding: VLLMDecoding

    def sample(self, request: SampleRequest) -> Samples:
        """Draw K responses per prompt as `CausalLMPolicy.sample` does, from the same distribution, by one uniform per
        response.

        Raises FloatingPointError for log-probs that are not finite; RuntimeError for a response that was cut off.
        """
        if request.blend is not None:
            raise ValueError("blend: vLLM draws from one policy")
        (prompts, prompt_mask), num_generations = self._check_before_sampling(request), request.num_generations
        rows = [row[mask].tolist() for row, mask in zip(prompts, prompt_mask, strict=True)]
        longest = max(map(len, rows)) + self.decoding.max_new_tokens
        if self._most is not None and longest > self._most:
            rule = f"must be at least {longest}: the tokens of a prompt and of the longest response to it"
            raise SpecError("vllm_max_model_length", self._most, rule)
        uniforms = request.noise.uniforms(request.stream, len(rows), num_generations)
        seeds = (uniforms * 2.0**53).long().flatten().tolist()  # all the bits that a uniform has
        engine = self._engine()
        engine.hold(self)
        requests = [row for row in rows for _ in range(num_generations)]
        drawn = engine.draw(requests, seeds, self.decoding, self.eos_token_ids)
        found = self._up_to_stop(self._as_tensors(drawn, prompts.device))
        return Samples(*(x.unflatten(0, (len(rows), num_generations)) for x in found))

    def _as_tensors(self, drawn: list[tuple[list[int], list[float]]], device: torch.device) -> Samples:
        """Tokens, mask and log-probs, (N, L) each, of rows of tokens and their log-probs."""
        shape = (len(drawn), self.decoding.max_new_tokens)
        responses = torch.full(shape, self.pad_token_id)
        mask, logp = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.float64)
        for i, (tokens, logps) in enumerate(drawn):
            responses[i, : len(tokens)] = torch.tensor(tokens)
            logp[i, : len(tokens)] = torch.tensor(logps, dtype=torch.float64)
            mask[i, : len(tokens)] = True
        if not bool(torch.isfinite(logp).all()):
            token = int((~torch.isfinite(logp)).any(0).nonzero()[0])
            raise FloatingPointError(f"sampling: vLLM's log-probs of response token {token} are not finite")
        dtype = torch.promote_types(next(self.model.parameters()).dtype, torch.float32)
        return Samples(responses.to(device), mask.to(device), logp.to(device, dtype))

    @property
    def _most(self) -> int | None:
        """Tokens that a prompt and its response may have together; unlike in transformers, the last one counts."""
        return self.decoding.vllm_max_model_length or self.language_model.positions

    def _engine(self) -> Engine:
        core, decoding = self.language_model.core, self.decoding
        config = copy.deepcopy(core.config)
        config.architectures = [type(core).__name__]
        stored = next(self.model.parameters()).dtype
        dtype = torch.bfloat16 if self.scoring.precision == "bfloat16" else stored
        return running_engine(
            config.to_json_string(),
            dtype=str(dtype).removeprefix("torch."),
            max_model_len=self._most,
            max_num_seqs=decoding.sample_batch_size,
            # vLLM's default sets memory aside for tens of thousands of tokens at a time, as TRL found.
            max_num_batched_tokens=max(4096, decoding.sample_batch_size),
            gpu_memory_utilization=decoding.vllm_gpu_memory_utilization,
            enforce_eager=decoding.vllm_enforce_eager,
        )


_running: dict[tuple[Any, ...], Engine] = {}


def running_engine(config: str, **options: Any) -> Engine:
    """The engine of this process, started on first use; all policies of one shape share it, as each loads its weights.

    Raises RuntimeError if an engine with another shape or other options is running: vLLM destroys the process groups of
    torch.distributed when it stops, so that a second one cannot be started.
    """
    key = (config, *options.items())
    if key not in _running:
        if _running:
            raise RuntimeError("vLLM: this process runs an engine of another shape or with other options")
        _running[key] = Engine(config, **options)
    return _running[key]


def stop_engine() -> None:
    """Stop the engine of this process, if one runs; to be called before the process leaves its group."""
    for engine in _running.values():
        engine.stop()
    _running.clear()


class Engine:
    """vLLM in this process, and a record of whose weights it holds. config: JSON of the model's configuration; options:
    of vLLM's.

    Starting it reseeds Python's, NumPy's and PyTorch's global generators, as vLLM does; this package does not use them.
    """

    def __init__(self, config: str, **options: Any) -> None:
        from vllm import LLM

        self._folder = tempfile.TemporaryDirectory(prefix="vllm-")  # kept until the engine is deleted
        Path(self._folder.name, "config.json").write_text(config)
        _name_this_process()
        self._llm = LLM(
            model=self._folder.name,
            load_format="dummy",  # weights come from the policy, before the first draw
            skip_tokenizer_init=True,
            generation_config="vllm",  # none of the model's own sampling defaults
            logprobs_mode="processed_logprobs",  # of the distribution that draws, temperature and top_p included
            distributed_executor_backend="external_launcher",  # in this process, so that weights need not be sent
            **options,
        )
        self._owner: weakref.ref[nn.Module] | None = None
        self._versions: list[int] = []

    def stop(self) -> None:
        """Free the device's memory, which vLLM by itself does only when the process ends."""
        self._llm.llm_engine.engine_core.shutdown()

    def hold(self, policy: CausalLMPolicy) -> None:
        """Load a policy's weights, adapters merged, unless the engine holds them already."""
        owner = policy.language_model
        versions = [p._version for p in policy.parameters()]  # autograd's count of changes in place
        if self._owner is not None and self._owner() is owner and self._versions == versions:
            return
        self._owner = None  # unknown, should loading fail
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": checkpoint_weights(owner.core)})
        self._llm.reset_prefix_cache()  # keys and values of other weights
        self._owner, self._versions = weakref.ref(owner), versions

    def draw(
        self, prompts: Sequence[list[int]], seeds: Sequence[int], decoding: Decoding, eos_token_ids: Sequence[int]
    ) -> list[tuple[list[int], list[float]]]:
        """One response per prompt, from its seed: tokens with EOS, and their log-probs under the distribution that drew
        them."""
        from vllm import SamplingParams

        settings: dict[str, Any] = {
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "max_tokens": decoding.max_new_tokens,
            "ignore_eos": True,  # the policy's own tokens end a response, and no others
            "stop_token_ids": list(eos_token_ids),
            "logprobs": 0,  # of the drawn token alone
            "detokenize": False,
        }
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            sampling_params=[SamplingParams(seed=seed, **settings) for seed in seeds],
            use_tqdm=False,
        )
        rows = []
        for i, output in enumerate(outputs):
            drawn = output.outputs[0]
            tokens = list(drawn.token_ids)
            if len(tokens) < decoding.max_new_tokens and (not tokens or tokens[-1] not in eos_token_ids):
                raise RuntimeError(f"vLLM: response {i} ended after {len(tokens)} tokens: {drawn.finish_reason}")
            rows.append((tokens, [at[token].logprob for at, token in zip(drawn.logprobs, tokens, strict=True)]))
        return rows


@torch.no_grad()
def checkpoint_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a model of transformers as its checkpoint names them, which is how vLLM knows them.

    Adapters of peft inside it are added to the weights that they change, one at a time and leaving the model alone:
    W + (α/r)·B·A, in the precision of the adapter. Not for parameters that stand in several pieces in memory and as one
    in a checkpoint.
    """
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "get_delta_weight")]  # peft's
    adapted = {id(layer.get_base_layer().weight): layer for layer in layers}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        value = parameter.detach()
        if id(parameter) in adapted:
            layer = adapted[id(parameter)]
            for adapter in layer.active_adapters:
                change = layer.get_delta_weight(adapter)
                value = value.to(torch.promote_types(value.dtype, change.dtype)) + change
        yield from _as_stored(model, {name.replace(".base_layer.", "."): value}).items()


def _as_stored(model: PreTrainedModel, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names that they have in a checkpoint."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers 4 holds text models as their checkpoints do
        return weights
    return revert_weight_conversion(model, weights)


def _name_this_process() -> None:
    """Set the environment variables of a launcher where there is none: vLLM joins the process group that they name."""
    if "MASTER_PORT" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(free.getsockname()[1])
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, value)
