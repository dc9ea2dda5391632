"""`python -m llm reward`: fit a reward model to preferences, and measure it on held-out pairs."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from llm.data import TextEncoder
from llm.data.whole import check_lengths, digest, repeated
from llm.distributed.spread import Ranks, joined
from llm.models.gate import check_tokens
from llm.models.loading import load_tokenizer
from llm.models.scoring import Scoring, max_positions
from llm.models.spec import LanguageModelSpec
from llm.reward_models.calibration import HeldOut
from llm.reward_models.data import RewardData, load_margins, load_rows
from llm.reward_models.fit import Fit, RewardTraining
from llm.reward_models.labellers import load_labeller
from llm.reward_models.model import new_reward_model
from llm.reward_models.scoring import held_out, label_pairs, preference_batch
from llm.training.unfinished import Unfinished
from sims.core.algorithms.reward_model import RewardModelLoss
from sims.core.numerics.noise import Noise
from sims.core.objectives.preferences import Labeller
from sims.core.spec import SpecError, to_json
from sims.experiments.command import REFUSED, failed, keeping
from sims.experiments.folders import check_new, path
from sims.experiments.memory import check_fits, check_steps, sizes_of
from sims.experiments.options import OptionParser, add_options, from_options, whole

EXAMPLES = """examples:
  python -m llm reward --output gold                           the language's own responses, shorter ones preferred
  python -m llm reward --labels gold --output proxy             a proxy, trained on the gold model's labels
  python -m llm reward --data pairs.jsonl --output mine        rows of prompt, chosen, rejected
  python -m llm reward --data pairs.jsonl --output mine --resume   after a stop: goes on from the last checkpoint
  python -m llm reward --labels implicit --implicit-policy tuned --implicit-reference pythia --output own
"""


def main(arguments: Sequence[str]) -> int:
    """Fit a reward model as the options say."""
    return run(parser().parse_strictly(arguments))


def parser() -> OptionParser:
    """The options of `reward`."""
    parser = OptionParser("python -m llm reward", description=__doc__, epilog=EXAMPLES)
    parser.add_argument(
        "--output", required=True, type=path, metavar="FOLDER", help="folder for the reward model; must not exist"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with a fit that was stopped, from its last checkpoint"
    )
    parser.add_argument("--overwrite", action="store_true", help="delete what a fit that was stopped has left")
    parser.add_argument(
        "--save-every", type=whole, metavar="INT", help="updates between checkpoints (default: a tenth of all)"
    )
    parser.add_argument(
        "--evaluations", type=whole, default=4, metavar="INT", help="measurements on held-out pairs (default 4)"
    )
    parser.add_argument(
        "--processes", type=whole, metavar="N", help="refuse to run unless N processes were started (see torchrun)"
    )
    add_options(parser, RewardData, "pairs and labels")
    add_options(parser, Labeller, "noise of the labels", skip=("correct_above",))
    add_options(parser, RewardModelLoss, "loss")
    add_options(parser, RewardTraining, "training")
    add_options(parser, Scoring, "memory")
    return parser


def run(options: argparse.Namespace) -> int:
    """Fit, evaluate on held-out pairs, save, print. Exit status: 0 for success, 2 for an error."""
    try:
        data, labeller = from_options(options, RewardData), from_options(options, Labeller)
        loss, training = from_options(options, RewardModelLoss), from_options(options, RewardTraining)
        scoring = from_options(options, Scoring)
        check_new("output", options.output)
        for name in ("save_every", "evaluations"):
            if (value := getattr(options, name)) is not None and value < 1:
                raise SpecError(name, value, "must be int >= 1")
        check_steps(sizes_of(training))
        check_fits(sizes_of(data), lambda sizes: 500.0 * sizes["pairs"])
        device = "cuda" if torch.cuda.is_available() else "cpu"
        settings = {spec.kind: to_json(spec) for spec in (data, labeller, loss, training, scoring)}
        progress = Unfinished(options.output, settings, options.resume, options.overwrite)
        with keeping(progress.kept), joined(options.processes, device) as ranks:
            _run(data, labeller, loss, training, scoring, options, progress, device, ranks)
    except FloatingPointError as error:
        return failed(error, REFUSED)
    return 0


def _run(
    data: RewardData,
    labeller: Labeller,
    loss: RewardModelLoss,
    training: RewardTraining,
    scoring: Scoring,
    options: argparse.Namespace,
    progress: Unfinished,
    device: str,
    ranks: Ranks,
) -> None:
    tokenizer = load_tokenizer(LanguageModelSpec(model=data.model))
    rows, held_out_rows = load_rows(data, tokenizer, training.seed)
    shared = repeated(held_out_rows, rows)
    if shared and ranks.first:
        print(f"held out: {shared} of {len(held_out_rows)} pairs have a prompt that is trained on", file=sys.stderr)
    pad = TextEncoder(tokenizer).pad
    train, test = preference_batch(rows, pad), preference_batch(held_out_rows, pad)
    margin = None if data.margin_column is None else load_margins(rows, data.margin_column)
    if data.labels_name != "data":
        scorer, noise = load_labeller(data, tokenizer, scoring, device), Noise.single(training.seed)
        train, test = (label_pairs(batch, scorer, labeller, noise) for batch in (train, test))
        del scorer
    model = new_reward_model(data.model, training.seed, scoring).to(device)
    check_tokens("model", data.model, model.classifier, tokenizer)
    remedy = "set max_prompt_length and max_completion_length, and on_too_long to drop or truncate"
    for each in (rows, held_out_rows):
        check_lengths(data.data, each, max_positions(model.classifier.config), remedy, unread=0)
    fitting, started = Fit(model, train, loss, training, margin, ranks), time.perf_counter()
    held = progress.held(digest([*rows, *held_out_rows]))
    before = held_out(model, test)
    if held is not None:
        fitting.load_state_dict(held.tensors, held.numbers)
    if ranks.first:
        progress.begin(fitting.updates)
    total = training.updates(train.size)
    points = {total * i // options.evaluations for i in range(1, options.evaluations + 1)}
    every = options.save_every or max(1, total // 10)
    found: HeldOut | None = None
    with tqdm(total=total, initial=fitting.updates, desc="reward", disable=None if ranks.first else True) as bar:
        for update in fitting.train():
            bar.set_postfix(loss=f"{update.loss:.3f}", accuracy=f"{update.accuracy:.2f}", refresh=False)
            bar.update()
            found = held_out(model, test) if update.update in points else None
            if ranks.first:
                progress.log(update, found)
                if update.update % every == 0:
                    progress.save(fitting)
    # The last update is a point of evaluation; there was none if only the saving was left.
    after, seconds = found or held_out(model, test), time.perf_counter() - started
    if not ranks.first:
        return
    longer = held_out(LongerWins(), test)
    report = progress.settings | {"before": dataclasses.asdict(before), "held_out": dataclasses.asdict(after)}
    report |= {"longer_wins": longer.accuracy, "held_out_pairs_with_a_training_prompt": shared}
    model.save(options.output, tokenizer, report | {"training_pairs": train.size, "seconds": round(seconds, 1)})
    turn = progress.finish()
    print(f"{options.output}: trained on {train.size} pairs in {seconds:.0f} s\n{table(before, after, longer)}{turn}")


@dataclass(frozen=True)
class LongerWins:
    """Scores a response by its length: a baseline that shows whether a reward model has learned more than length."""

    def score(self, prompts: Tensor, prompt_mask: Tensor | None, responses: Tensor, mask: Tensor) -> Tensor:
        """(B, K); see `Scorer`."""
        return mask.sum(-1).double()


def table(before: HeldOut, after: HeldOut, longer: HeldOut) -> str:
    """Held-out accuracy, log loss and calibration error before and after fitting, the accuracy of length alone, and the
    reliability bins after fitting."""
    lines = [f"{'held out, ' + format(after.pairs, 'g') + ' pairs':<26}{'before':>8}{'after':>8}"]
    for name in ("accuracy", "log_loss", "calibration_error"):
        line = f"{name:<26}{getattr(before, name):>8.3f}{getattr(after, name):>8.3f}"
        low, high = after.accuracy_low, after.accuracy_high
        lines.append(f"{line}    95 % [{low:.3f}, {high:.3f}]" if name == "accuracy" else line)
    lines.append(f"{'accuracy of “longer wins”':<34}{longer.accuracy:>8.3f}")
    lines.append("\npredicted   pairs  mean prediction  right")
    for b in after.bins:
        if b.confidence is not None and b.accuracy is not None:
            lines.append(f"{b.low:.2f}-{b.high:.2f}{b.pairs:>8g}{b.confidence:>17.3f}{b.accuracy:>7.3f}")
    return "\n".join(lines)
