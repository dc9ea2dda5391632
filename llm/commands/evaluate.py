"""python -m llm evaluate: a model's samples compared with those of a reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm.judges import Judge
from llm.reward_models.calibration import wilson
from llm.tasks import JudgeReward
from llm.training.evaluation import EvaluatedSamples
from llm.training.run import Run
from sims.core.spec import SpecError
from sims.experiments.options import OptionParser

from .options import find_preset
from .sample import OF_A_RUN, evaluated, run_of


def main(arguments: Sequence[str]) -> int:
    """Print means over samples of a model and of a reference, on the same prompts and uniforms."""
    parser = OptionParser(
        "python -m llm evaluate",
        elsewhere=OF_A_RUN,
        description="Reward, length, KL and win rate of a model against a reference, on the same prompts and uniforms. "
        "The win rate compares the gold rewards of two responses to a prompt; with --task judge --judge-mode pairwise "
        "the judge compares the responses themselves, in both orders.",
    )
    parser.add_argument(
        "--against",
        metavar="NAME",
        help="reference: pythia, mistral, a folder or a hub name (default: the model that the preset starts from)",
    )
    run, options = run_of(parser, arguments)
    name = options.against or preset_model(options.preset)
    policy = run.experiment.policy.replace(model=name)  # type: ignore[attr-defined]
    try:
        reference = Run(run.experiment.replace(policy=policy), device=run.device, told=False)
    except SpecError as error:
        raise SpecError("against", name, error.valid) if error.field == "model" else error from None
    # Not more than there are: the interval would take two samples to one prompt for two prompts.
    count = min(run.experiment.environment.evaluation_prompts, len(run.evaluation_environment.examples))  # type: ignore[attr-defined]
    if run.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        model = run.experiment.policy.model  # type: ignore[attr-defined]
        rule = f"must have the tokens of {model}, whose responses it scores: name what that started from"
        raise SpecError("against", name, rule)
    run.initial = reference.policy  # which may be of another architecture
    own, other = evaluated(run, count), evaluated(reference, count)
    print(f"{'':16}{'model':>10}{'reference':>12}    on {count} prompts")
    for key, value in own.shown.items():
        print(f"{key:16}{value:10.3f}{other.numbers[key]:12.3f}")
    won, by = wins(run.experiment.environment, own, other)
    low, high = wilson(float(won.mean()), len(won))  # ties make it a little too wide
    print(f"{'win rate':16}{won.mean():10.3f}    95 % [{low:.3f}, {high:.3f}], by {by}, ties one half")
    return 0


def wins(task: object, own: EvaluatedSamples, other: EvaluatedSamples) -> tuple[np.ndarray, str]:
    """(N,): 1 where the model's response is better than the reference's, ½ for a tie; and by what."""
    if isinstance(task, JudgeReward) and task.judge_mode == "pairwise":
        prompts, texts = own.drawn.prompts, (own.drawn.texts, other.drawn.texts)
        return np.array(Judge(task).labels(prompts, *texts)), "the judge's comparisons in both orders"
    difference = np.array(own.golds) - np.array(other.golds)
    return (np.sign(difference) + 1) / 2, "gold" if own.has_gold else "reward"


def preset_model(preset: str) -> str:
    """The model that a preset starts from."""
    return find_preset(preset).policy.model  # type: ignore[attr-defined, no-any-return]
