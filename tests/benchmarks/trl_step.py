"""An optimiser step of DPO and of GRPO beside TRL's on the embedded Pythia; and the peak memory of log-probs over a
vocabulary of 50,304 beside the naive form.

Both sides start from the same weights, get the same 32 preference pairs, or draw 8 responses to each of the same 16
prompts at temperature 1 up to 59 tokens, and score the reference anew each step. Rounds alternate in one process, one
thread; seconds are the processor's. TRL's step is timed between its callbacks, so that its data loader stays out; ours
is a whole update.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PrinterCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar

from llm.embedded import language
from llm.embedded.language import MAX_RESPONSE_TOKENS
from llm.models.decoding import Decoding
from llm.models.policy import CausalLMPolicy
from llm.models.spec import LanguageModelSpec
from llm.tasks import MinLength
from llm.training.run import Run
from sims.core.algorithms import Algorithm
from sims.core.algorithms.clipped import GRPO
from sims.core.algorithms.contrastive import DPO
from sims.core.loop.optimise import Optimiser
from sims.core.objectives.batch import Batch
from sims.core.schedule import Schedule
from sims.experiments.experiment import Experiment
from tests.llm.trl_trainers import dpo_trainer, grpo_trainer, tiny_pythia

ROUNDS, STEPS = 6, 5  # the first step of each round warms up and does not count
PAIRS, PROMPTS, GENERATIONS, LONGEST = 32, 16, 8, MAX_RESPONSE_TOKENS + 1
RATE = 1e-9  # the policy stays where it is, so that all steps draw responses of the same lengths
VOCABULARY, ROWS, TOKENS = 50304, 8, 256


class Stopwatch(TrainerCallback):
    """Processor seconds of each step of TRL's, from before it generates or computes to after its optimiser."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.process_time() - self.start)


def trl_steps(trainer: Any) -> Callable[[], list[float]]:
    """A round of TRL's."""
    watch = Stopwatch()
    trainer.add_callback(watch)
    trainer.remove_callback(PrinterCallback)

    def steps() -> list[float]:
        watch.seconds.clear()
        trainer.train()
        return watch.seconds[1:]

    return steps


def our_steps(algorithm: Algorithm, schedule: Schedule, data: Path, **task: Any) -> Callable[[], list[float]]:
    """A round of ours."""
    experiment = Experiment(
        "benchmark",
        MinLength(data=str(data), **task),
        LanguageModelSpec(decoding=Decoding(max_new_tokens=LONGEST, sample_batch_size=PROMPTS * GENERATIONS)),
        algorithm,
        schedule,
        Optimiser(learning_rate=RATE, max_grad_norm=1.0),
        updates=ROUNDS * STEPS,
        evaluations=1,
        runs=1,
    )
    updates: Iterator[Any] = Run(experiment).train()

    def steps() -> list[float]:
        found = []
        for _ in range(STEPS):
            start = time.process_time()
            next(updates)
            found.append(time.process_time() - start)
        return found[1:]

    return steps


def compare(name: str, ours: Callable[[], list[float]], theirs: Callable[[], list[float]]) -> None:
    """Alternate rounds and print seconds per step, least and median, and the ratio of ours to TRL's."""
    seconds: dict[str, list[float]] = {"TRL": [], "ours": []}
    for _ in range(ROUNDS):
        seconds["TRL"] += theirs()
        seconds["ours"] += ours()
    least, middle = ({side: of(values) for side, values in seconds.items()} for of in (min, statistics.median))
    for label, found in (("least", least), ("median", middle)):
        ratio = found["ours"] / found["TRL"]
        print(f"{name:6}{label:8}{found['ours']:10.3f}{found['TRL']:10.3f}{ratio:12.2f}")


def brevity(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The reward of both sides: −|y|."""
    return [-float(len(ids)) for ids in completion_ids]


def response(prompt: str, rng: np.random.Generator) -> str:
    """A response of the language that is not empty: an empty one is not a row."""
    while not (text := language.sample_response(prompt, rng)):
        pass
    return text


def steps() -> None:
    """Print the comparison of DPO and of GRPO."""
    rng = np.random.default_rng(0)
    prompts = language.prompts(PAIRS, rng)
    rows = [{"prompt": p, "chosen": response(p, rng), "rejected": response(p, rng)} for p in prompts]
    common = {"learning_rate": RATE, "max_steps": STEPS, "lr_scheduler_type": "constant", "max_grad_norm": 1.0}
    print(f"{'seconds per step':16}{'ours':>10}{'TRL':>10}{'ours / TRL':>12}")
    with tempfile.TemporaryDirectory() as scratch:
        folder, data = Path(scratch) / "trl", Path(scratch) / "data"
        data.mkdir()
        (data / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (data / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts[:PROMPTS]))
        models = [tiny_pythia(torch.float32) for _ in range(3)]
        compare(
            "DPO",
            our_steps(
                DPO(beta=0.1),
                Schedule(batch_size=PAIRS, num_generations=2, source="dataset"),
                data / "pairs.jsonl",
                data_kind="preference",
            ),
            trl_steps(dpo_trainer(models[0], models[1], folder, rows, per_device_train_batch_size=PAIRS, **common)),
        )
        trainer = grpo_trainer(
            models[2],
            brevity,
            prompts[:PROMPTS],
            folder,
            beta=0.04,
            loss_type="grpo",
            num_generations=GENERATIONS,
            per_device_train_batch_size=PROMPTS * GENERATIONS,
            max_completion_length=LONGEST,
            **common,
        )
        schedule = Schedule(batch_size=PROMPTS, num_generations=GENERATIONS)
        compare("GRPO", our_steps(GRPO(beta=0.04), schedule, data / "prompts.jsonl"), trl_steps(trainer))


def resident(key: str) -> int:
    """Memory of this process as Linux reports it, in KiB: now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def log_probs(naive: bool) -> float:
    """Peak of this process, in GiB above what it held before, while log-probs and their gradient are computed."""
    torch.set_num_threads(1)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256
        )
    ).eval()
    tokens = torch.arange(ROWS * TOKENS).reshape(ROWS, 1, TOKENS) % VOCABULARY
    prompts, mask = tokens[:, 0, :1], torch.ones_like(tokens, dtype=torch.bool)
    policy = CausalLMPolicy(model, (0,), 0)
    before = resident("VmRSS")
    if naive:
        logits = model(torch.cat([prompts, tokens[:, 0, :-1]], 1)).logits
        logp = logits.log_softmax(-1).gather(-1, tokens[:, 0].unsqueeze(-1))
    else:
        logp = policy.forward(Batch(prompts, tokens, mask)).logp
    logp.sum().backward()
    return (resident("VmHWM") - before) / 2**20


def memory() -> None:
    """Print peak memory, each form in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        ours, naive = (pool.apply(log_probs, (form,)) for form in (False, True))
    one = ROWS * TOKENS * VOCABULARY * 4 / 2**30
    print(f"\npeak of {ROWS} x {TOKENS} log-probs and their gradient, GiB; one float32 tensor of logits has {one:.2f}")
    print(f"ours {ours:.2f}, naive {naive:.2f}, ours / naive {ours / naive:.2f}")


def main() -> None:
    """Print both."""
    disable_progress_bar()
    torch.set_num_threads(1)
    steps()
    memory()
