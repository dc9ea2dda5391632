"""vLLM beside the own sampler: tokens per second, how far each one's log-probs are from the trainer's, and a push of
weights. Random weights, the same 64 prompts of 32 tokens and 4 responses to each, temperature 0.9.

On a GPU the shape is Pythia-1.4B's under bfloat16 autocast, with responses of 256 tokens; under a CPU build of vLLM a
small one's in float32, with 32 tokens. Needs vLLM and a device that it runs on: pip install '.[vllm]'.
"""

from __future__ import annotations

import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llm.models.decoding import Decoding, VLLMDecoding
from llm.models.policy import CausalLMPolicy
from llm.models.settings import Scoring
from llm.models.shapes import SHAPES
from llm.models.vllm_sampler import VLLMPolicy, checkpoint_weights, stop_engine
from llm.training.metrics import WatchedSampler
from sims.core.loop.protocols import Prompts, SampleRequest
from sims.core.numerics.noise import Noise

PROMPTS, WIDTH, GROUP, ROUNDS = 64, 32, 4, 3
SMALL = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}


def policies(device: str) -> dict[str, CausalLMPolicy]:
    """The two, on one model."""
    kind, sizes = SHAPES["EleutherAI/pythia-1.4b"]
    large = device == "cuda"
    config = AutoConfig.for_model(kind, **sizes | ({} if large else SMALL | {"vocab_size": 1000}))
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    scoring = Scoring(precision="bfloat16" if large else "stored", score_batch_size=16)
    settings = {"max_new_tokens": 256 if large else 32, "temperature": 0.9, "sample_batch_size": PROMPTS * GROUP}
    return {
        "transformers": CausalLMPolicy(model, (0,), 0, Decoding(**settings), scoring),
        "vLLM": VLLMPolicy(model, (0,), 0, VLLMDecoding(**settings), scoring),
    }


def main() -> None:
    """Print the comparison, or what it needs."""
    try:
        from vllm.platforms import current_platform
    except ImportError:
        print("not run: vLLM is not installed")
        return
    device = current_platform.device_type
    if device not in ("cuda", "cpu"):
        print(f"not run: vLLM finds no device here ({device or 'none'})")
        return
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}\n{'':14}{'tokens/s':>10}{'|Δ log π| mean':>16}{'max':>10}{'ratio min':>11}{'max':>8}")
    tokens = torch.randint(1, 1000, (PROMPTS, WIDTH), generator=torch.Generator().manual_seed(0))
    both, noise = policies(device), Noise.single(0)
    for label, policy in both.items():
        policy.sample(SampleRequest(Prompts(tokens), GROUP, noise))  # compiles, captures graphs
        rates = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            count = int(policy.sample(SampleRequest(Prompts(tokens), GROUP, noise)).mask.sum())  # waits for the device
            rates.append(count / (time.perf_counter() - start))
        watched = WatchedSampler(policy)
        watched.sample(SampleRequest(Prompts(tokens), GROUP, noise))
        mean, largest, low, _, high = watched.mismatch.values()
        print(f"{label:14}{max(rates):10.0f}{mean:16.2e}{largest:10.2e}{low:11.5f}{high:8.5f}")
    count = sum(x.numel() for _, x in checkpoint_weights(both["vLLM"].model))
    with torch.no_grad():
        both["vLLM"].parameters()[0].mul_(1.0)  # another version of the same weights
    start = time.perf_counter()
    both["vLLM"]._engine().hold(both["vLLM"])
    if device == "cuda":
        torch.cuda.synchronize()
    print(f"a push of {count:,} weights: {time.perf_counter() - start:.3f} s")
    stop_engine()
