"""Steps of DPO and of GRPO beside TRL's, in the shape of pythia-1.4b: seconds and peak memory, with metrics logged at
every step on both sides. Both compute under bfloat16 autocast with gradient checkpointing, in micro-batches of the same
size, on the same rows, and score the reference anew at each step.

The sides run one after another, each alone in memory. A step of TRL's is timed between its callbacks; ours is a whole
update and its metrics. The first step, in which layers are compiled, does not count.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llm.models.loading import load_model, load_tokenizer
from llm.models.spec import LanguageModelSpec
from llm.training.metrics import UpdateMetrics
from llm.training.run import Run
from sims.core.algorithms import Algorithm
from sims.core.algorithms.clipped import GRPO
from sims.core.algorithms.contrastive import DPO
from sims.core.loop.optimise import Optimiser
from sims.core.schedule import Schedule

from .random_models import random_folder, write_rows
from .section import Report
from .timed import experiment_of

RATE, STEPS = 1e-9, 5  # the first step warms up and does not count
FORMS = {  # of ours
    "DPO": ("static", "static, compiled", "static, compiled, kept", "static, varlen", "static, varlen, compiled"),
    "GRPO": ("static", "static, compiled", "static, varlen, compiled", "dynamic"),
}


def main(report: Report) -> None:
    """DPO on 32 recorded pairs of 128 + 256 tokens in micro-batches of 4; GRPO with 8 responses to 8 prompts."""
    try:
        import trl
    except Exception as error:
        report("not run", f"TRL cannot be imported: {type(error).__name__}: {error}")
        return
    report("TRL", trl.__version__)
    tiny = report.device == "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        folder = random_folder("pythia-1.4b", tiny, Path(scratch) / "pythia-1.4b")
        prompt, response, pairs, micro = (4, 8, 4, 2) if tiny else (128, 256, 32, 4)
        rows = write_rows(Path(scratch) / "pythia-1.4b.jsonl", 64, prompt, response)
        sizes = {"folder": folder, "rows": rows, "prompt": prompt, "response": response, "tiny": tiny, "micro": micro}
        groups = 2 if tiny else 8
        dpo = Schedule(batch_size=pairs, num_generations=2, source="dataset")
        grpo = Schedule(batch_size=groups, num_generations=groups)
        for name, algorithm, schedule, theirs in (
            ("DPO", DPO(beta=0.1), dpo, trl_dpo),
            ("GRPO", GRPO(beta=0.04), grpo, trl_grpo),
        ):
            found: dict[str, tuple[float, float]] = {}

            def timed_side(who: str, run: Callable[[], list[float]], found: Any = found, name: str = name) -> None:
                with report.part(f"{name}, {who}"):
                    seconds, peak = found[who] = side(report, run)
                    report(f"{name}, {who}: seconds per step, peak GiB", [round(seconds, 3), round(peak, 2)])

            timed_side("TRL", lambda t=theirs, s=schedule: t(report, s, sizes))
            for form in FORMS[name]:
                if tiny and "varlen" in form:
                    continue  # it needs a GPU
                sizes["form"] = form
                torch._dynamo.reset()
                timed_side(f"ours, {form}", lambda a=algorithm, s=schedule: ours(report, a, s, sizes))
            for who, (seconds, peak) in found.items():
                if who != "TRL" and "TRL" in found:
                    ratios = [round(seconds / found["TRL"][0], 3), round(peak / max(found["TRL"][1], 1e-9), 3)]
                    report(f"{name}, {who} / TRL: time, memory", ratios)


def side(report: Report, run: Callable[[], list[float]]) -> tuple[float, float]:
    """Median seconds of a step, and peak memory."""
    report.peak(anew=True)
    seconds = statistics.median(run()[1:])
    peak = report.peak(anew=True)
    gc.collect()
    if report.device == "cuda":
        torch.cuda.empty_cache()
    return seconds, peak


def ours(report: Report, algorithm: Algorithm, schedule: Schedule, sizes: dict[str, Any]) -> list[float]:
    """Seconds of each update, its metrics included."""
    scratch, long = sizes["folder"].parent, sizes["response"]
    cache, *forms = sizes["form"].split(", ")
    decoding = {"max_new_tokens": long, "cache_implementation": cache}
    experiment = experiment_of("pythia-1.4b", scratch, sizes["tiny"], algorithm, schedule, **decoding)
    micro = sizes["micro"] if schedule.source == "dataset" else max(1, sizes["micro"] * 2 // schedule.num_generations)
    policy: Any = experiment.policy.replace(micro_batch_size=micro)  # type: ignore[attr-defined]
    scoring = policy.scoring.replace(torch_compile="compiled" in forms, padding_free="varlen" in forms)
    if "kept" in forms:
        scoring = scoring.replace(gradient_checkpointing=False)
    policy = policy.replace(scoring=scoring, attn_implementation="varlen" if "varlen" in forms else None)
    experiment = experiment.replace(
        policy=policy,
        optimiser=Optimiser(learning_rate=RATE, max_grad_norm=1.0),
    )
    run = Run(experiment, device=report.device)
    metrics, found, updates = UpdateMetrics(run), [], run.train()
    for _ in range(STEPS):
        start = report.now()
        metrics.row(next(updates))
        found.append(report.now() - start)
    return found


def trl_dpo(report: Report, schedule: Schedule, sizes: dict[str, Any]) -> list[float]:
    """TRL's trainer of preferences, on the same rows."""
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    micro = sizes["micro"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = DPOConfig(
            **_common(report, sizes),
            beta=0.1,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=schedule.batch_size // micro,
            max_length=sizes["prompt"] + sizes["response"] + 8,
        )
        rows = load_dataset("json", data_files=str(sizes["rows"]), split="train", cache_dir=str(sizes["rows"].parent))
        trainer = DPOTrainer(
            _model(report, sizes), _model(report, sizes), config, train_dataset=rows, processing_class=_words(sizes)
        )
    return timed(report, trainer)


def trl_grpo(report: Report, schedule: Schedule, sizes: dict[str, Any]) -> list[float]:
    """TRL's trainer on groups, with transformers' generation."""
    from datasets import load_dataset
    from trl import GRPOConfig, GRPOTrainer

    drawn, micro = schedule.samples_per_batch, sizes["micro"] * 2
    _model(report, sizes).save_pretrained(sizes["folder"])  # its reference is read from there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = GRPOConfig(
            **_common(report, sizes),
            beta=0.04,
            loss_type="grpo",
            num_generations=schedule.num_generations,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=drawn // micro,
            max_completion_length=sizes["response"],
            temperature=1.0,
        )
        rows = load_dataset("json", data_files=str(sizes["rows"]), split="train", cache_dir=str(sizes["rows"].parent))
        trainer = GRPOTrainer(
            _model(report, sizes),
            lambda completion_ids, **_: [-float(len(ids)) for ids in completion_ids],
            config,
            train_dataset=rows.select_columns(["prompt"]),
            processing_class=_words(sizes),
        )
    return timed(report, trainer)


def timed(report: Report, trainer: Any) -> list[float]:
    """Seconds of each step, from its beginning to the beginning of the next, so that its metrics are in."""
    from transformers import PrinterCallback, TrainerCallback

    class Watch(TrainerCallback):
        """Notes when steps begin and logs are written."""

        def __init__(self) -> None:
            self.begun: list[float] = []
            self.ended: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun.append(report.now())

        def on_log(self, *_: Any, **__: Any) -> None:
            self.ended.append(report.now())

    watch = Watch()
    trainer.add_callback(watch)
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    trainer.train()
    report(f"{type(trainer).__name__}: seconds of train()", time.perf_counter() - start)
    return [end - begin for begin, end in zip(watch.begun, watch.ended, strict=False)]


def _common(report: Report, sizes: dict[str, Any]) -> dict[str, Any]:
    return {
        "output_dir": str(sizes["folder"].parent / "trl"),
        "report_to": "none",
        "use_cpu": report.device == "cpu",
        "bf16": report.device == "cuda",
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "learning_rate": RATE,
        "max_steps": STEPS,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
    }


def _model(report: Report, sizes: dict[str, Any]) -> Any:
    spec = LanguageModelSpec(model=str(sizes["folder"]), weights="random")
    return load_model(spec, torch.float32, torch.device(report.device))


def _words(sizes: dict[str, Any]) -> Any:
    return load_tokenizer(LanguageModelSpec(model=str(sizes["folder"])))
