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
from transformers import PreTrainedTokenizerBase

from llm.data import TextEncoder
from llm.data.whole import check_lengths, digest, repeated
from llm.distributed.spread import Ranks, joined
from llm.judges import JudgeSettings
from llm.models.forward import max_positions
from llm.models.gate import check_tokens
from llm.models.loading import load_tokenizer
from llm.models.settings import Scoring
from llm.models.spec import LanguageModelSpec
from llm.reward_models.calibration import HeldOut
from llm.reward_models.data import RewardData, load_margins, load_rows
from llm.reward_models.fit import Fit, RewardTraining
from llm.reward_models.labellers import load_labeller
from llm.reward_models.model import new_reward_model
from llm.reward_models.scoring import held_out, label_digest, label_pairs, preference_batch, scores_of
from llm.training.checkpoint import CheckpointError
from llm.training.read_again import files_digest
from llm.training.unfinished import Unfinished, stored, was_finished
from sims.core.algorithms.reward_model import RewardModelLoss
from sims.core.numerics.compiler import check_compiler
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch
from sims.core.objectives.preferences import Labeller
from sims.core.spec import SpecError, to_json
from sims.experiments.command import FAILED, REFUSED, failed, keeping, tell
from sims.experiments.folders import check_new, path, written_by_one
from sims.experiments.memory import check_fits, check_steps, sizes_of
from sims.experiments.options import OptionParser, add_options, whole

from .saving import add_saving, config_of, kept_of, parsed, saving_of, settings_of

EXAMPLES = """examples:
  python -m llm reward --output gold                           the language's own responses, shorter ones preferred
  python -m llm reward --labels gold --output proxy             a proxy, trained on the gold model's labels
  python -m llm reward --data pairs.jsonl --output mine        rows of prompt, chosen, rejected
  python -m llm reward --data pairs.jsonl --output mine --resume   after a stop: goes on from the last checkpoint
  python -m llm reward --data pairs.jsonl --output mine --labels judge --judge-model judge \\
    --judge-url http://127.0.0.1:8000/v1
  python -m llm reward --labels implicit --implicit-policy tuned --implicit-reference pythia --output own
"""


def main(arguments: Sequence[str]) -> int:
    """Fit a reward model as the options say."""
    return run(parsed(parser(), arguments))


def parser() -> OptionParser:
    """The options of `reward`."""
    parser = OptionParser("python -m llm reward", True, description=__doc__, epilog=EXAMPLES)
    parser.add_argument(
        "--output", required=True, type=path, metavar="FOLDER", help="folder for the reward model; must not exist"
    )
    parser.add_argument(
        "--processes", type=whole, metavar="N", help="refuse to run unless N processes were started (see torchrun)"
    )
    add_saving(parser, load_best=True)
    add_options(parser, RewardData, "pairs and labels", skip=JudgeSettings.names())
    add_options(parser, JudgeSettings, "judge (labels = judge)")
    add_options(parser, Labeller, "noise of the labels", skip=("correct_above",))
    add_options(parser, RewardModelLoss, "loss")
    add_options(parser, RewardTraining, "training")
    add_options(parser, Scoring, "memory")
    return parser


def run(options: argparse.Namespace) -> int:
    """Fit, evaluate on held-out pairs, save, print. Exit status: 0 for success, 2 for an error."""
    try:
        if options.resume and was_finished(options.output, "reward"):
            return 0
        held = stored(options.output, "reward") if options.resume else {}
        data, labeller = settings_of(options, RewardData, held), settings_of(options, Labeller, held)
        loss, training = settings_of(options, RewardModelLoss, held), settings_of(options, RewardTraining, held)
        scoring = settings_of(options, Scoring, held)
        check_new("output", options.output)
        check_steps(sizes_of(training))
        check_fits(sizes_of(data), lambda sizes: 500.0 * sizes["pairs"])
        device = "cuda" if torch.cuda.is_available() else "cpu"
        specs = (data, labeller, loss, training, scoring)
        settings, text = {spec.kind: to_json(spec) for spec in specs}, config_of("reward", options, specs)
        again = (options.resume, options.overwrite, options.evaluations, kept_of(options))
        progress = Unfinished(options.output, "reward", settings, text, saving_of(options, "eval_log_loss"), *again)
        with (
            keeping(progress.kept),
            joined(options.processes, device) as ranks,
            written_by_one("output", options.output, ranks.first),
        ):
            _run(data, labeller, loss, training, scoring, progress, device, ranks)
    except FloatingPointError as error:
        return failed(error, REFUSED)
    except CheckpointError as error:
        return failed(error, FAILED)
    return 0


def _run(
    data: RewardData,
    labeller: Labeller,
    loss: RewardModelLoss,
    training: RewardTraining,
    scoring: Scoring,
    progress: Unfinished,
    device: str,
    ranks: Ranks,
) -> None:
    if scoring.torch_compile:
        check_compiler("torch_compile", torch.device(device))
    tokenizer = load_tokenizer(LanguageModelSpec(model=data.model))
    rows, held_out_rows = load_rows(data, tokenizer, training.seed)
    shared = repeated(held_out_rows, rows)
    if shared and ranks.first:
        print(f"held out: {shared} of {len(held_out_rows)} pairs have a prompt that is trained on", file=sys.stderr)
    pad = TextEncoder(tokenizer).pad
    train, test = preference_batch(rows, pad), preference_batch(held_out_rows, pad)
    margin = None
    if data.margin_column is not None:
        margin = load_margins([*rows, *held_out_rows], data.margin_column)[: len(rows)]  # all are looked at
    answers = None
    if data.labels_name != "data":
        scores = _scores((train, test), data, tokenizer, scoring, device, progress, ranks)
        noise = Noise.single(training.seed)
        train, test = (label_pairs(x, score, labeller, noise) for x, score in zip((train, test), scores, strict=True))
        answers = [score.tolist() for score in scores] if data.labels_name == "judge" else None
    model = new_reward_model(data.model, training.seed, scoring).to(device)
    check_tokens("model", data.model, model.classifier, tokenizer)
    remedy = "set max_prompt_length and max_completion_length, and on_too_long to drop or truncate"
    for each in (rows, held_out_rows):
        check_lengths(data.data, each, max_positions(model.classifier.config), remedy, unread=0)
    fitting, started = Fit(model, train, loss, training, margin, ranks), time.perf_counter()
    known = digest([*rows, *held_out_rows])
    read = {"model, by its configuration or tokenizer": files_digest(data.model)}
    if data.labels_name != "judge":  # whose answers are kept
        read["labelling"] = label_digest(train, test)
    held = ranks.in_turn(lambda: progress.held(known, read, answers), device)
    before = held_out(model, test)
    if held is not None:
        fitting.load_state_dict(held.tensors, held.numbers)
    found: dict[int, HeldOut] = {0: before}

    def evaluate() -> dict[str, float]:
        done = fitting.updates
        found[done] = measured = found.get(done) or held_out(model, test)
        return {"eval_log_loss": measured.log_loss, "eval_accuracy": measured.accuracy}

    progress.run(fitting, evaluate, "reward", ranks.first)
    # Measured already, unless a resumed fit had only its saving left, or ends with the weights of an earlier update.
    after, seconds = found.get(fitting.updates) or held_out(model, test), time.perf_counter() - started
    if not ranks.first:
        return
    longer = held_out(LongerWins(), test)
    report = progress.settings | {"before": dataclasses.asdict(before), "held_out": dataclasses.asdict(after)}
    report |= {"longer_wins": longer.accuracy, "held_out_pairs_with_a_training_prompt": shared}
    report |= {"update": fitting.updates, "training_pairs": train.size, "seconds": round(seconds, 1)}
    model.save(progress.output, tokenizer, report, progress.written())
    turn = progress.finish(fitting.updates)
    print(f"{progress.output}: trained on {train.size} pairs in {seconds:.0f} s\n{table(before, after, longer)}{turn}")


def _scores(
    batches: Sequence[Batch],
    data: RewardData,
    tokenizer: PreTrainedTokenizerBase,
    scoring: Scoring,
    device: str,
    progress: Unfinished,
    ranks: Ranks,
) -> list[Tensor]:
    """What `labels` gives each response of the batches, (B, K) each. A judge is asked by one process, and once: it may
    answer otherwise the next time."""
    if data.labels_name != "judge":
        scorer = load_labeller(data, tokenizer, scoring, device)
        return [scores_of(batch, scorer) for batch in batches]
    shapes = [batch.mask.shape[:2] for batch in batches]
    found = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    kept = progress.answers()
    if kept is not None:
        found = [torch.tensor(scores, dtype=torch.float64).reshape(-1, 2) for scores in kept]
        if [x.shape for x in found] != shapes:
            raise SpecError("resume", str(progress.folder), "is a fit of other rows: --overwrite starts again")
    elif ranks.first:
        if progress.resume:
            tell("labels = 'judge': the judge is asked again, and may answer otherwise than before the fit was stopped")
        scorer = load_labeller(data, tokenizer, scoring, device)
        found = [scores_of(batch, scorer) for batch in batches]
    if kept is None:
        found = [x.to(device) for x in found]
        ranks.sum(found)  # of zeros, but for the first
    return [x.cpu() for x in found]


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
