"""python -m llm pretrain: train an embedded model again from scratch, or check a saved one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from llm.embedded import EMBEDDED
from llm.training import pretrain as pretraining
from llm.training.checkpoint import CheckpointError
from llm.training.memory import check_new_model
from llm.training.unfinished import Unfinished, stored, was_finished
from llm.training.written_by import check_written_by, written_by
from sims.core.spec import SpecError, to_json
from sims.experiments.command import FAILED, REFUSED, failed, keeping
from sims.experiments.folders import check_folder, path, written_by_one
from sims.experiments.options import OptionParser, add_options, from_options

from .saving import add_saving, config_of, kept_of, parsed, saving_of, settings_of


def _folder(options: argparse.Namespace) -> Path:
    """Where the model is kept."""
    name = from_options(options, pretraining.PretrainConfig).architecture
    return options.output or Path("runs") / f"pretrain-{name}"


def main(arguments: Sequence[str]) -> int:
    """Train an embedded model, or check a saved one."""
    parser = OptionParser("python -m llm pretrain", True, description="Train a tiny model on the embedded language.")
    parser.add_argument("--output", type=path, metavar="DIR", help="folder for the model (default runs/pretrain-NAME)")
    parser.add_argument(
        "--check",
        metavar="NAME",
        help="train a saved model (pythia, mistral or a folder) again, and compare with its report",
    )
    add_saving(parser, load_best=False)
    add_options(parser, pretraining.PretrainConfig, "pretraining")
    options = parsed(parser, arguments, _folder)
    torch.set_num_threads(1)
    if options.check is not None:
        try:
            rows = pretraining.check(options.check, progress=True)
        except OSError as error:
            raise SpecError(
                "check", options.check, f"must hold a saved model, or be one of {', '.join(EMBEDDED)}"
            ) from error
        for row in rows:
            mark = "holds" if row.holds else "FAILS"
            print(f"{row.quantity:22}{row.committed:10.4f}{row.rerun:10.4f}   within {row.tolerance:.4f}: {mark}")
        return 0 if all(row.holds for row in rows) else 1
    config = from_options(options, pretraining.PretrainConfig)
    folder = _folder(options)
    if options.resume and was_finished(folder, "pretrain"):
        return 0
    config = settings_of(options, pretraining.PretrainConfig, stored(folder, "pretrain") if options.resume else {})
    _check(config, folder)
    settings = {config.kind: to_json(config)}
    text = config_of("pretrain", options, [config])
    again = (options.resume, options.overwrite, options.evaluations, kept_of(options))
    progress = Unfinished(folder, "pretrain", settings, text, saving_of(options, "eval_loss"), *again)
    try:
        with keeping(progress.kept), written_by_one("output", folder):
            fit = pretraining.Pretraining(config)
            if (held := progress.held()) is not None:
                fit.load_state_dict(held.tensors, held.numbers)
            progress.run(fit, fit.evaluate, f"pretrain {config.architecture}")
            report = fit.report()
            pretraining.save(folder, fit.model, fit.tokenizer, report, progress.written())
            turn = progress.finish(fit.updates)
    except FloatingPointError as error:
        return failed(error, REFUSED)
    except CheckpointError as error:
        return failed(error, FAILED)
    print(f"loss {report.held_out_loss:.4f} nats per token; the entropy of the language is {report.entropy:.4f}")
    print(f"length sampled {report.sampled_length_mean:.1f} ± {report.sampled_length_sd:.1f}, ", end="")
    print(f"data {report.data_length_mean:.1f} ± {report.data_length_sd:.1f}; right answers {report.correct_rate:.2f}")
    print(f"{folder}{turn}")
    return 0


def _check(config: pretraining.PretrainConfig, folder: Path) -> None:
    """Refuse, with SpecError, what is beyond this machine, and a folder that is no model of an earlier call: it would
    be replaced."""
    wide = config.hidden * config.layers
    documents = {"held_out_documents": 500, "samples": 200.0 * wide, "batch_size": 800.0 * wide}
    check_new_model(config, 0, documents)
    check_folder("output", folder)
    check_written_by("output", folder, ["pretrain"])
    if folder.exists() and any(folder.iterdir()) and written_by(folder) is None:
        raise SpecError("output", str(folder), "holds other files: must be a new folder, or a model to be replaced")
