"""python -m llm pretrain: train an embedded model again from scratch, or check a saved one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from llm.training import pretrain as pretraining
from sims.experiments.options import OptionParser, add_options, from_options


def main(arguments: Sequence[str]) -> int:
    """Train an embedded model, or check a saved one."""
    parser = OptionParser("python -m llm pretrain", description="Train a tiny model on the embedded language.")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the model (default runs/pretrain-NAME)")
    parser.add_argument(
        "--check",
        metavar="NAME",
        help="train a saved model (pythia, mistral or a folder) again, and compare with its report",
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
    print(f"loss {report.held_out_loss:.4f} nats per token; the entropy of the language is {report.entropy:.4f}")
    print(f"length sampled {report.sampled_length_mean:.1f} ± {report.sampled_length_sd:.1f}, ", end="")
    print(f"data {report.data_length_mean:.1f} ± {report.data_length_sd:.1f}; right answers {report.correct_rate:.2f}")
    print(folder)
    return 0
