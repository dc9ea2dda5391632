"""What an experiment needs at least, in memory and time, held against what this machine has, before anything runs.

The largest tensors are counted, and doubled: in ten runs of all sizes the process grew by 2.2 to 6 times the count. So
what is refused could not have run, and what is close to the limit may still fail.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sims.core.spec import Spec, SpecError

from .experiment import Experiment

COPIES = 2  # of what is counted: intermediate results, and what an allocator keeps
GENERATOR = 1000  # bytes of a run's random generator, one per stream; at least two streams
QUICKEST = 2e-5  # seconds that an update of one run takes at least
LONGEST = 365 * 24 * 3600.0  # seconds; a run that takes more is a slip of the keyboard
STEPS = {"updates", "evaluations", "fit_steps", "sft_updates", "reward_model_steps", "steps", "epochs"}
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")

Sizes = Mapping[str, int]


def check_size(experiment: Experiment) -> None:
    """Refuse, with SpecError, an experiment that this machine could not finish in a year, or that is beyond its memory;
    of the memory of language models, `llm.training.memory` knows more."""
    sizes = sizes_of(experiment.policy, experiment.environment, experiment.schedule, experiment)
    check_steps(sizes)
    if not experiment.environment.text:
        check_fits(sizes, partial(least_bytes, experiment))


def check_steps(sizes: Sizes) -> None:
    """Refuse, with SpecError, a number of steps that would take more than a year, however small each is."""
    for name in STEPS & sizes.keys():
        if sizes[name] * QUICKEST > LONGEST:
            rule = (
                f"would take {sizes[name] * QUICKEST / LONGEST:,.0f} years at {QUICKEST * 1e6:.0f} µs each, a low guess"
            )
            raise SpecError(name, sizes[name], f"{rule}: must be at most {LONGEST / QUICKEST:.1e}")


def check_fits(sizes: Sizes, least: Callable[[Sizes], float], free: int | None = None) -> None:
    """Refuse, with SpecError, counts for which `least` gives more bytes than are free: it names the one that costs
    most, what all would take, what there is, and the largest value with which they would fit.

    free: bytes; None: what `available` says."""
    free = available() if free is None else free
    needed = least(sizes)
    if free is None or needed <= free:
        return
    name = min(sizes, key=lambda name: (least({**sizes, name: 1}), -sizes[name]))
    most = _largest(sizes, least, name, free)
    fits = f"at most {most:,} would fit" if most else "no smaller value alone would fit"
    rule = f"needs at least {in_units(needed)} of memory, of which {in_units(free)} are free: {fits}"
    raise SpecError(name, sizes[name], rule)


def sizes_of(*parts: Spec) -> dict[str, int]:
    """The counts among some settings, by the names of their fields; of layers' widths, the largest."""
    found: dict[str, int] = {}
    for part in parts:
        values = {name: getattr(part, name) for name in part.names()}
        found |= {name: x for name, x in values.items() if isinstance(x, int) and not isinstance(x, bool)}
        found |= {name: max(x) for name, x in values.items() if _is_widths(x)}
    return found


def least_bytes(experiment: Experiment, sizes: Sizes) -> float:
    """Bytes that a toy experiment holds at once, at least, if its counts were `sizes`."""
    number = 8 if experiment.precision == "float64" else 4
    prompts, (length, tokens) = sizes.get("num_prompts", 1), _space(sizes)
    record = 7 * number * (sizes["evaluations"] + 1)
    sample = length * (8 + 8 + 2 * number)  # tokens, uniforms, and log-probs of sampler and policy
    drawn = max(sizes["batch_size"], sizes.get("pool_size", 0), sizes.get("sft_batch_size", 0))
    if experiment.schedule.source == "replay":
        drawn = max(drawn, sizes["batch_size"] * sizes["updates"] // max(1, experiment.schedule.updates_per_batch))
    covered = getattr(experiment.environment, "coverage", 0.0) * sizes.get("num_responses", 0)
    recorded = prompts * covered**2 / 2  # pairs
    copies = 4 if experiment.optimiser.method == "adam" else 3  # policy, reference, gradient or one moment, the other
    policy = copies * number * _weights(experiment, sizes)
    if "hidden_size" in sizes:  # a transformer: what is kept for the gradient
        trained = max(sizes.get("minibatch_size", sizes["batch_size"]) * sizes["num_generations"], sizes["fit_samples"])
        kept = trained * (tokens + 8 * sizes["num_layers"] * sizes["hidden_size"])
        policy += number * length * max(kept, 2 * tokens * sizes.get("evaluation_samples", 0))
    else:  # cumulative probabilities, logits, log-probs
        policy += prompts * tokens * (8 + 2 * number)
    if getattr(experiment.environment, "reward_model", "none") == "mlp":
        width = sizes["reward_model_hidden"]
        policy += copies * number * width * (prompts + tokens + width)
    samples = drawn * sizes["num_generations"] * sample + recorded * (8 + sample)
    return COPIES * sizes["runs"] * (2 * GENERATOR + record + samples + policy)


def _weights(experiment: Experiment, sizes: Sizes) -> float:
    """The larger part of a policy's weights."""
    prompts, (length, tokens) = sizes.get("num_prompts", 1), _space(sizes)
    if "hidden_size" in sizes:
        return (tokens + length) * sizes["hidden_size"] + 12 * sizes["num_layers"] * sizes["hidden_size"] ** 2
    if "hidden" not in sizes:
        return prompts * tokens
    inputs = sizes["feature_size"] if getattr(experiment.policy, "features", "") == "uniform" else prompts
    layers = len(getattr(experiment.policy, "hidden", ()))
    return sizes["hidden"] * (inputs + tokens + (sizes["hidden"] if layers > 1 else 0))


def available() -> int | None:
    """Bytes that this process may still take: what is free, or what its group may have; None where nobody knows."""
    found = [_free_of_machine(), _free_of_group()]
    return min((x for x in found if x is not None), default=None)


def in_units(size: float) -> str:
    """3.2 GB"""
    power = min(int(math.log10(max(size, 1)) / 3), len(_UNITS) - 1)
    return f"{size / 1000**power:,.3g} {_UNITS[power]}"


def _space(sizes: Sizes) -> tuple[int, int]:
    """Tokens of a response, and how many there are to choose from."""
    for name in ("num_actions", "num_responses"):
        if name in sizes:
            return 1, sizes[name]
    return sizes.get("length", sizes.get("max_length", 1)), sizes.get("vocabulary", 1)


def _is_widths(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(x, int) for x in value)


def _largest(sizes: Sizes, least: Callable[[Sizes], float], name: str, free: int) -> int:
    """The largest value of a count with which all fits; 0 if none."""
    low, high = 0, sizes[name]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if least({**sizes, name: middle}) <= free else (low, middle)
    return low


def _free_of_machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _free_of_group() -> int | None:
    """What a container or a job may still take (Linux's cgroups, both versions)."""
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            return max(0, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return None
