"""python -m llm export writes the model of a run's checkpoint as a folder that transformers loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llm.models.adapters import weights_digest
from llm.models.loading import build_policy, load_tokenizer
from llm.models.quantised import restored
from llm.models.spec import LanguageModelSpec
from llm.models.writing import write_model
from llm.training import checkpoint
from llm.training.checkpoint import CheckpointError
from llm.training.folder import check_read, check_weights, stored
from sims.core.loop.train import load_policy
from sims.core.spec import SpecError
from sims.experiments.command import FAILED, failed
from sims.experiments.folders import check_new, path
from sims.experiments.options import OptionParser, whole

EXAMPLES = """examples:
  python -m llm export runs/tiny-min-length                    list its checkpoints
  python -m llm export runs/tiny-min-length --update 40 --output at-40
  python -m llm export runs/adapted --update 40 --output whole --merge
  python -m llm sample --model at-40 --prompt "the cat"
"""


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 for success, 1 for a checkpoint that is damaged. Raises SpecError for invalid options."""
    parser = OptionParser("python -m llm export", description=(__doc__ or ""), epilog=EXAMPLES)
    parser.add_argument("folder", type=path, help="folder of a run of train or sft")
    parser.add_argument("--update", type=whole, metavar="INT", help="of the checkpoint (default: the last)")
    parser.add_argument(
        "--output", type=path, metavar="DIR", help="new folder for model and tokenizer; none: list the checkpoints"
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="add LoRA adapters to the weights of their base; of a quantised one, to those that it computed with",
    )
    options = parser.parse_strictly(arguments)
    experiment, _ = stored(options.folder, "folder")
    there: dict[int, Path] = dict(checkpoint.found(options.folder))
    if options.update is None and options.output is None:
        print("\n".join(f"{update:8}  {place}" for update, place in there.items()) or "no checkpoints")
        return 0
    if options.update is None and there:
        options.update = max(there)
    if options.update not in there:
        known = ", ".join(map(str, there)) or "there is none"
        raise SpecError("update", options.update, f"must be that of a checkpoint: {known}")
    if options.output is None:
        raise SpecError("output", None, "must name a new folder for the model")
    check_new("output", options.output)
    try:
        held = checkpoint.read(there[options.update])
    except CheckpointError as error:
        return failed(error, FAILED)
    # Not a whole `Run`, which would want the data and the reward model too.
    spec: LanguageModelSpec = experiment.policy  # type: ignore[assignment]
    check_read(experiment, options.folder, "model", "tokenizer")
    if spec.lora_rank is not None:  # a checkpoint holds adapters alone
        check_weights(experiment, options.folder, {"model": weights_digest(spec.model)})
    tokenizer = load_tokenizer(spec)
    policy = build_policy(spec, tokenizer, experiment.algorithm.needs_critic, experiment.dtype, torch.device("cpu"))
    load_policy(policy, held.tensors)
    model: Any = policy.model
    if options.merge:
        if not hasattr(model, "merge_and_unload"):
            raise SpecError("merge", True, "the run has no adapters: lora_rank = none")
        model = restored(model).merge_and_unload()  # type: ignore[operator]
    write_model(options.output, model, tokenizer)
    print(options.output)
    return 0
