"""python -m llm sample: print responses of a model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from llm.data import RowError
from llm.training.evaluation import EvaluatedSamples, as_evaluated
from llm.training.evaluation import evaluate as draw_and_reward
from llm.training.run import Run
from sims.core.loop.protocols import Prompts, SampleRequest
from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError
from sims.experiments.options import OptionParser, whole

from .options import add_device, check_threads, device_of, parse

OF_A_RUN = {"config": "of a run give --model RUN/model, and the options of its task on the command line"}


def main(arguments: Sequence[str]) -> int:
    """Print responses of a model to given prompts, or to the task's."""
    parser = OptionParser(
        "python -m llm sample",
        elsewhere=OF_A_RUN,
        description="Print responses of a model to given prompts, or to the task's.",
    )
    parser.add_argument(
        "--prompt", action="append", metavar="TEXT", help="a prompt; may be repeated (default: prompts of the task)"
    )
    parser.add_argument(
        "--count",
        type=whole,
        default=5,
        metavar="INT",
        help="number of prompts of the task, without --prompt (default 5)",
    )
    run, options = run_of(parser, arguments)
    if options.prompt is None:
        if options.count < 1:
            raise SpecError("count", options.count, "must be int >= 1")
        evaluation = evaluated(run, options.count)
        rows = zip(evaluation.prompts, evaluation.completions, evaluation.rewards, evaluation.lengths, strict=True)
        for prompt, completion, reward, length in rows:
            print(f"{prompt}\n  {completion or '(empty)'}\n  reward {reward:g}, {length} tokens\n")
        return 0
    for prompt in options.prompt:
        try:
            ids = run.environment.encoder.prompt(prompt)
        except RowError as error:
            raise SpecError("prompt", prompt, "must have a token: this tokenizer makes none of it") from error
        tokens = Prompts(torch.tensor([ids]))
        drawn = run.policy.sample(SampleRequest(tokens, run.experiment.schedule.num_generations, run.noise))
        for response, mask in zip(drawn.responses[0], drawn.mask[0], strict=True):
            print(f"{prompt}\n  {run.environment.encoder.decode(response[mask].tolist()) or '(empty)'}\n")
    return 0


def run_of(parser: OptionParser, arguments: Sequence[str]) -> tuple[Run, argparse.Namespace]:
    """The run that the options describe, and the options; adds those for the device."""
    add_device(parser)
    experiment, options = parse(parser, arguments, "tiny-min-length")
    for prompt in getattr(options, "prompt", None) or ():
        if any("\ud800" <= x <= "\udfff" for x in prompt):
            raise SpecError("prompt", prompt, "must be text in UTF-8: it holds half a character")
    check_threads(options.threads)
    torch.set_num_threads(options.threads)
    return Run(experiment, device=device_of(options)), options


def evaluated(run: Run, prompts: int) -> EvaluatedSamples:
    """Samples of the run's policy on `prompts` of its evaluation prompts, with rewards."""
    noise: Noise = run.noise
    with as_evaluated(run.policy, run.initial):
        return draw_and_reward(run.policy, run.initial, run.evaluation_environment, prompts, noise.runs[0])
