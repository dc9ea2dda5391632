"""python -m llm pretrain, sample, evaluate and reward."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from llm.embedded import pretrain as pretraining
from llm.reward_models.calibration import wilson
from llm.training.run import Evaluation, Run
from llm.training.run import evaluate as draw_and_reward
from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError
from sims.experiments.options import OptionParser, add_options, from_options

from .options import add_device, device_of, parse


def pretrain(arguments: Sequence[str]) -> int:
    """Make an embedded model, or check one."""
    parser = OptionParser("python -m llm pretrain", description="Train a tiny model on the embedded language.")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to save it (default runs/pretrain-NAME)")
    parser.add_argument(
        "--check", metavar="NAME", help="train a saved one again (pythia, mistral or a folder) and compare"
    )
    add_options(parser, pretraining.PretrainConfig, "pretraining")
    options = parser.parse_strictly(arguments)
    torch.set_num_threads(1)
    if options.check is not None:
        rows = pretraining.check(options.check, progress=True)
        for row in rows:
            mark = "holds" if row.holds else "FAILS"
            print(f"{row.quantity:22}{row.committed:10.4f}{row.rerun:10.4f}   within {row.tolerance:.4f}: {mark}")
        return 0 if all(row.holds for row in rows) else 1
    config = from_options(options, pretraining.PretrainConfig)
    model, tokenizer, report = pretraining.pretrain(config, progress=True)
    folder = options.output or Path("runs") / f"pretrain-{config.architecture}"
    pretraining.save(folder, model, tokenizer, report)
    print(f"loss {report.held_out_loss:.4f} nats a token, of which the language's own entropy {report.entropy:.4f}")
    print(f"length sampled {report.sampled_length_mean:.1f} ± {report.sampled_length_sd:.1f}, ", end="")
    print(f"data {report.data_length_mean:.1f} ± {report.data_length_sd:.1f}; right answers {report.correct_rate:.2f}")
    print(folder)
    return 0


def sample(arguments: Sequence[str]) -> int:
    """Print responses of a model to given prompts, or to the task's."""
    parser = OptionParser("python -m llm sample", description="Responses of a model, to read.")
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="a prompt; may be given again")
    parser.add_argument("--count", type=int, default=5, metavar="INT", help="prompts of the task, without --prompt")
    run, options = _run(parser, arguments)
    if options.prompt is None:
        if options.count < 1:
            raise SpecError("count", options.count, "must be int >= 1")
        evaluation = _evaluate(run, options.count)
        rows = zip(evaluation.prompts, evaluation.completions, evaluation.rewards, evaluation.lengths, strict=True)
        for prompt, completion, reward, length in rows:
            print(f"{prompt}\n  {completion or '(empty)'}\n  reward {reward:g}, {length} tokens\n")
        return 0
    encoder = run.environment.encoder
    for prompt in options.prompt:
        tokens = torch.tensor([encoder.prompt(prompt)])
        drawn = run.policy.sample(tokens, run.experiment.schedule.num_generations, run.noise)
        for response, mask in zip(drawn.responses[0], drawn.mask[0], strict=True):
            print(f"{prompt}\n  {run.tokenizer.decode(response[mask], skip_special_tokens=True) or '(empty)'}\n")
    return 0


def evaluate(arguments: Sequence[str]) -> int:
    """Print what a model's samples are like, beside the reference's on the same prompts and uniforms."""
    parser = OptionParser("python -m llm evaluate", description="Reward, length, KL and win rate of a model.")
    parser.add_argument("--against", metavar="NAME", help="model that it is measured against (default: the preset's)")
    run, options = _run(parser, arguments)
    name = options.against or preset_model(options.preset)
    policy = run.experiment.policy.replace(model=name)  # type: ignore[attr-defined]
    reference = Run(run.experiment.replace(policy=policy), device=run.device)
    count = run.experiment.environment.evaluation_prompts  # type: ignore[attr-defined]
    run.training.reference.policy.copy_from(reference.policy)
    own, other = _evaluate(run, count), _evaluate(reference, count)
    print(f"{'':16}{'model':>10}{'reference':>12}    on {count} prompts")
    for key, value in own.numbers.items():
        print(f"{key:16}{value:10.3f}{other.numbers[key]:12.3f}")
    difference = np.array(own.golds) - np.array(other.golds)
    wins = (np.sign(difference) + 1) / 2
    low, high = wilson(float(wins.mean()), len(wins))  # ties make it a little too wide
    print(f"{'win rate':16}{wins.mean():10.3f}    95 % [{low:.3f}, {high:.3f}], by gold, ties one half")
    return 0


def preset_model(preset: str) -> str:
    """The model that a preset starts from."""
    from .options import find_preset

    return find_preset(preset).policy.model  # type: ignore[attr-defined, no-any-return]


def reward(arguments: Sequence[str]) -> int:
    """Hand over to the command that fits reward models."""
    command = importlib.import_module("llm.commands.reward")
    parser = OptionParser("python -m llm")
    command.add_parser(parser.add_subparsers(parser_class=OptionParser))
    return int(command.run(parser.parse_args(["reward", *arguments])) or 0)


def _run(parser: OptionParser, arguments: Sequence[str]) -> tuple[Run, argparse.Namespace]:
    add_device(parser)
    experiment, options = parse(parser, arguments, "tiny-min-length")
    torch.set_num_threads(options.threads)
    return Run(experiment, device=device_of(options)), options


def _evaluate(run: Run, prompts: int) -> Evaluation:
    noise: Noise = run.noise
    return draw_and_reward(
        run.policy, run.training.reference.policy, run.evaluation_environment, prompts, noise.runs[0]
    )
