"""python -m llm train tunes a language model; sft fine-tunes it on recorded responses. Their output is a folder.

<output>/spec.json  run.yaml  metrics.jsonl  samples.jsonl  checkpoint-00000060/  model/
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from llm.distributed.spread import Ranks, Sharding, check_processes, check_sharding, joined
from llm.models.decoding import VLLMDecoding
from llm.models.loading import check_attention
from llm.models.quantised import check_library
from llm.models.vllm_sampler import check_sampler, stop_engine
from llm.models.writing import write_model
from llm.training import checkpoint
from llm.training.checkpoint import CONFIG, METRICS, SPEC, Checkpoint, CheckpointError
from llm.training.folder import (
    MODEL,
    SAMPLE,
    SAMPLES,
    Start,
    begin,
    check_apart,
    closing_table,
    held_in,
    stored,
    try_to_save,
    weights_read,
)
from llm.training.loggers import JsonLines, Logger, TensorBoard, WeightsAndBiases, read_json_lines
from llm.training.loop import Loop
from llm.training.memory import check_memory, estimate
from llm.training.metrics import WatchedSampler
from llm.training.read_again import ask_again
from llm.training.run import Run, RunError
from llm.training.run_fit import SHOWN, RunFit
from llm.training.written_by import RUNS, check_written_by
from sims.core.spec import SpecError
from sims.experiments.command import FAILED, failed, keeping
from sims.experiments.config_file import config_text
from sims.experiments.experiment import Experiment
from sims.experiments.folders import check_folder, path, written_by_one
from sims.experiments.memory import check_size
from sims.experiments.options import OptionParser, whole

from .options import add_device, as_options, check_threads, device_of, parse
from .saving import add_checkpoints, saving_of
from .trl_names import TRL_NAMES

EXAMPLES = """examples:
  python -m llm train --preset tiny-min-length
  python -m llm train --preset tiny-mode-length --algorithm dpo --num-generations 2 --batch-size 64 --updates 100
  python -m llm train --preset tiny-min-length --reward-funcs my_rewards:brevity
  python -m llm train --config runs/tiny-min-length/run.yaml --seed 1 --output again
  python -m llm train --model base --data pairs.jsonl --data-kind preference --source dataset --algorithm dpo
  python -m llm train --model base --data pairs.jsonl --task learned-reward --reward-model scores
  python -m llm train --preset pythia-1.4b-min-length --dry-run
  python -m llm train --preset pythia-1.4b-min-length --use-vllm
  torchrun --nproc-per-node 2 -m llm train --processes 2
  torchrun --nproc-per-node 8 -m llm train --preset pythia-1.4b-min-length --processes 8 --sharding full
"""
SFT_EXAMPLES = """examples:
  python -m llm sft                                            on responses of the embedded language
  python -m llm sft --model base --data texts.jsonl --data-kind language_modeling
  python -m llm sft --model base --data pairs.jsonl --data-kind prompt_completion --completion-column chosen \\
    --max-prompt-length 128 --max-completion-length 256 --on-too-long truncate --held-out-share 0.1
"""
_KEPT = (  # options of what the run logs and keeps, which a resumed one goes on with
    "log_every",
    "log_kl",
    "log_sampler_mismatch",
    "save_every",
    "save_total_limit",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "report_to",
)
_BAR = {
    "loss": "loss",
    "reward": "reward",
    "kl": "kl",
    "completions/mean_length": "length",
    "entropy": "entropy",
    "rewards/margins": "margin",
    "logps/chosen": "chosen",
    "logps/rejected": "rejected",
    "clip_ratio/region_mean": "clipped",
    "staleness": "stale",
    "tokens_per_second": "tok/s",
}


def main(arguments: Sequence[str], command: str = "train") -> int:
    """Exit status: 0 for success, 1 for a run that failed. Raises SpecError for invalid options."""
    examples = SFT_EXAMPLES if command == "sft" else EXAMPLES
    about = (__doc__ or "").split("\n\n")[0]
    parser = OptionParser(f"python -m llm {command}", True, TRL_NAMES, description=about, epilog=examples)
    group = parser.add_argument_group("run")
    group.add_argument("--output", type=path, metavar="DIR", help="folder of the run (default runs/NAME)")
    group.add_argument("--run", type=whole, metavar="INT", help="index of the run; selects random numbers (default 0)")
    group.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in the folder, by the settings stored there; --output alone suffices",
    )
    group.add_argument("--overwrite", action="store_true", help="delete the run in the folder and start again")
    group.add_argument("--dry-run", action="store_true", help="print the spec and estimated memory; load nothing")
    group.add_argument(
        "--log-every", type=whole, default=1, metavar="INT", help="updates between rows of metrics (default 1)"
    )
    group.add_argument(
        "--log-kl",
        action="store_true",
        help="log the KL divergence of every drawn batch although the algorithm needs no reference: scores each batch "
        "once more (evaluations have it anyway)",
    )
    group.add_argument(
        "--log-sampler-mismatch",
        action=argparse.BooleanOptionalAction,
        help="score every draw again under the model that drew it, and log the difference (default: with vLLM only)",
    )
    add_checkpoints(group, "at evaluations", "of the best value of --metric-for-best-model")
    group.add_argument(
        "--metric-for-best-model",
        metavar="NAME",
        help="keep the checkpoint with the best value of this metric, too: eval_reward, eval_nll or another that "
        "metrics.jsonl has at evaluations",
    )
    group.add_argument(
        "--greater-is-better",
        action=argparse.BooleanOptionalAction,
        help="whether the best value is the greatest (default: yes, but for names that end in loss, nll or perplexity)",
    )
    group.add_argument(
        "--report-to",
        action="append",
        choices=("none", "tensorboard", "wandb"),
        help="log metrics there, beside metrics.jsonl (default none)",
    )
    group.add_argument(
        "--processes",
        type=whole,
        metavar="INT",
        help="refuse to run unless so many processes were started (see torchrun)",
    )
    group.add_argument(
        "--sharding",
        default="none",
        choices=get_args(Sharding),
        help="full: split weights, gradients and optimiser moments over the processes (FSDP); update: likewise, but "
        "gather all weights for sampling, which is faster if they fit; none: each process holds all (default none)",
    )
    add_device(group)  # type: ignore[arg-type]
    held, before = _resumed(arguments, command)
    parser.set_defaults(**{name: before[name] for name in _KEPT if name in before and name != "report_to"})
    experiment, options = parse(
        parser, arguments, "tiny-sft" if command == "sft" else "tiny-min-length", held and held[0]
    )
    if options.report_to is None:  # as no default: what is given is added to a default
        options.report_to = before.get("report_to", [])
    if options.run is None:
        options.run = held[1] if held else 0
    _check(experiment, options)
    if options.dry_run:
        print(json.dumps(experiment.to_json(), indent=1))
        for name, probability in experiment.environment.overlap().items():  # type: ignore[attr-defined]
            print(f"overlap, {name}: {probability:.2g}")
        print("\n".join(estimate(experiment, options.processes or check_processes(None), options.sharding).lines()))
        return 0
    folder: Path = options.output or Path("runs") / experiment.name
    check_folder("output", folder)
    # What --overwrite deletes of either is what a run has written.
    check_written_by("output", folder, RUNS if options.overwrite else [command])
    check_apart(experiment, folder)
    try:
        with keeping(lambda: _left(folder)):
            train(experiment, folder, options, command)
    except (RunError, CheckpointError) as error:
        left = checkpoint.found(folder)
        rest = f"; the last good checkpoint is {left[-1][1]}" if left and str(left[-1][1]) not in str(error) else ""
        return failed(error, FAILED, rest)
    return 0


def _left(folder: Path) -> str:
    """What a run that was stopped has on disk."""
    left = checkpoint.found(folder)
    if left:
        return f"{left[-1][1]} is kept: the same command with --resume goes on from there"
    return "there was no checkpoint yet: the same command with --resume starts again"


def _resumed(arguments: Sequence[str], command: str) -> tuple[tuple[Experiment, int] | None, dict[str, Any]]:
    """Of a run that is resumed, what is stored in its folder: its settings, and what it logs and keeps. Settings are
    None where a preset is named, or where a command that says more than the folder finds none: it was stopped before
    it wrote them, and starts."""
    first = OptionParser("python -m llm", True, add_help=False)
    first.add_argument("--resume", action="store_true")
    first.add_argument("--output", type=path)
    first.add_argument("--preset")
    options, more = first.parse_known_args(list(arguments))
    if not options.resume or options.output is None:
        return None, {}
    before = checkpoint.stored_options(options.output)
    if options.preset is not None or (more and not (options.output / SPEC).exists()):
        return None, before
    return stored(options.output, commands=[command]), before


def _check(experiment: Experiment, options: argparse.Namespace) -> None:
    if options.load_best_model_at_end and options.metric_for_best_model is None:
        raise SpecError("load_best_model_at_end", True, "needs --metric-for-best-model")
    check_threads(options.threads)
    for name in ("log_every", "save_every", "save_total_limit", "processes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise SpecError(name, value, "must be int >= 1")
    base_precision = experiment.policy.base_precision  # type: ignore[attr-defined]
    check_sharding(options.sharding, options.processes or check_processes(None), experiment.policy)  # type: ignore[arg-type]
    if not 0 <= options.run < experiment.runs:
        raise SpecError("run", options.run, f"must be from 0 to runs - 1 = {experiment.runs - 1}")
    if options.resume and options.overwrite:
        raise SpecError("overwrite", True, "cannot be combined with --resume")
    device = device_of(options)
    where = torch.device("meta" if options.dry_run else device)
    check_attention(experiment.policy, experiment.dtype, where)  # type: ignore[arg-type]
    check_sampler(experiment, None if options.dry_run else device, options.sharding)
    if not options.dry_run:
        if base_precision == "nf4":
            check_library()
        check_size(experiment)
        check_memory(experiment, device, options.processes or check_processes(None), options.sharding)


def _config(experiment: Experiment, options: argparse.Namespace) -> str:
    """The file beside a run that reproduces it, and only it: no default of ours enters."""
    values = {"run": options.run, "sharding": options.sharding} | _options(options)
    header = "python -m llm train --config run.yaml --output FOLDER makes this run again"
    return config_text(as_options(experiment) | values, header)


def _options(options: argparse.Namespace) -> dict[str, Any]:
    """What the run logs and keeps, by option."""
    return {name: getattr(options, name) for name in _KEPT if getattr(options, name) is not None}


def train(experiment: Experiment, folder: Path, options: argparse.Namespace, command: str = "train") -> None:
    """Train in a folder, from the start or from its last checkpoint."""
    torch.set_num_threads(options.threads)
    device = device_of(options)
    with joined(options.processes, device) as ranks, written_by_one("output", folder, ranks.first):
        held = ranks.in_turn(
            lambda: held_in(experiment, folder, options.run, options.resume, options.overwrite), device
        )
        try:
            _train(experiment, folder, options, held, device, ranks, command)
        finally:
            stop_engine()


def _train(
    experiment: Experiment,
    folder: Path,
    options: argparse.Namespace,
    held: Checkpoint | None,
    device: str,
    ranks: Ranks,
    command: str,
) -> None:
    read = weights_read(experiment) if ranks.first else {}  # before they are loaded: a folder may be removed then
    run = Run(experiment, options.run, device, ranks, options.sharding)
    watched = options.log_sampler_mismatch
    if isinstance(run.policy.decoding, VLLMDecoding) if watched is None else watched:
        WatchedSampler.watch(run.training.collector)
    if held is not None:
        run.load_state_dict(held.tensors, held.numbers)
    done = run.training.updates if held is not None else -1  # the rows that stay; without a checkpoint none
    loggers: list[Logger] = []
    samples = Logger()
    numbers = held.numbers if held is not None else {}
    if ranks.first:
        try_to_save(run)
        # From here on the folder holds a run.
        start = Start(experiment=experiment, run=options.run, weights=read, options=_options(options), command=command)
        begin(folder, start, options.overwrite)
        checkpoint.write_text(folder / CONFIG, _config(experiment, options))
        if "tensorboard" in options.report_to:
            loggers.append(TensorBoard(folder, done))
        if "wandb" in options.report_to:
            loggers.append(WeightsAndBiases(folder, experiment.name, experiment.to_json()))
        loggers.append(JsonLines(folder / METRICS, done, numbers))
        samples = JsonLines(folder / SAMPLES, done, numbers)
        if held is not None:
            logged = read_json_lines(folder / SAMPLES, SAMPLE)[-SHOWN:]
            ask_again(experiment, logged, run.evaluation_environment.examples)
    fit, points = RunFit(run, samples, options.log_kl), set(experiment.evaluated_at)
    saving = saving_of(options, options.metric_for_best_model, options.greater_is_better)
    settings = experiment.to_json()
    loop = Loop(folder, settings, saving, points, loggers, [samples], options.log_every, ranks.first)
    loop.run(fit, fit.evaluate, experiment.name, fit.row, _BAR)
    weights = run.model_weights()
    if ranks.first:
        write_model(folder / MODEL, run.policy.model, run.tokenizer, weights=weights, parents=False)
        print(closing_table(folder))
        if fit.updates < experiment.updates:
            print(f"the model is that of update {fit.updates}, which was best")
        print(f"reward: {experiment.environment.description} (--task {experiment.environment.kind})")  # type: ignore[attr-defined]
