"""Does it hurt to train on the prompt's tokens too? (C60) In paired DPO they cancel; supervised fine-tuning of a
language model, on demonstrations of right answers, with and without them."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms import language_model as lm
from figures.arms.gating import effect_of, lowest_score, part, tuned_well
from figures.catalogue import claim
from figures.claims import Verdict, row_of, theorem_of
from figures.figure import Figure, Records
from figures.lab import Lab, product
from figures.report.style import RC, bound, colour, curve, key
from sims.core.algorithms.likelihood import SFT
from sims.core.losses.contrastive import dpo_loss
from sims.core.schedule import Schedule
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, scores
from sims.experiments.store import Arrays, Record
from sims.statistics.gates import placebo, room, trained

RUNS, SEED = 20, 601  # each run with demonstrations of its own
DEMONSTRATIONS, BATCH = 512, 16
PASSES = {"one pass": 1, "five passes": 5}
EVERY = 32  # updates between two evaluations: one pass
GRID, TUNING_RUNS = product(learning_rate=(2e-3, 4e-3, 8e-3, 1.6e-2)), 1
MASKS = {"masked": ("responses alone", "-"), "all": ("prompts too", "--")}
INSTANCES = 200

CANCELS = claim("C60", "paired DPO")
HURTS = {name: claim("C60", f"SFT, right answers, {name}") for name in PASSES}


def arms() -> dict[str, Experiment]:
    """passes/mask."""
    from llm.tasks import Verifiable

    base = lm.preset("tiny", "min")
    return {
        f"{name}/{mask}": base.replace(
            name=f"prompt_mask-{mask}",
            environment=Verifiable(evaluation_prompts=128, recorded_prompts=DEMONSTRATIONS, demonstration_seed=SEED),
            algorithm=SFT(include_prompt=mask == "all"),
            schedule=Schedule(batch_size=BATCH, num_generations=1, source="dataset"),
            updates=passes * DEMONSTRATIONS // BATCH,
            evaluations=passes * DEMONSTRATIONS // BATCH // EVERY,
            runs=RUNS,
            seed=SEED,
        )
        for name, passes in PASSES.items()
        for mask in MASKS
    }


def prompt_cancels(instances: int) -> Arrays:
    """How far DPO's loss, and its gradient by the responses' log-probs, are from what they are without the prompt."""
    generator = torch.Generator().manual_seed(60)

    def uniform(*shape: int) -> torch.Tensor:
        return -3.0 * torch.rand(instances, *shape, generator=generator, dtype=torch.float64)

    prompt, prompt_ref, logp_ref = uniform(1), uniform(1), uniform(2)
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for shared, shared_ref in ((0.0, 0.0), (prompt, prompt_ref)):
        logp = (uniform(2) if not found else found[0][0].detach()).requires_grad_(True)
        ratio = (logp + shared) - (logp_ref + shared_ref)
        loss = dpo_loss(ratio[:, 0] - ratio[:, 1], beta=0.1)
        (gradient,) = torch.autograd.grad(loss.sum(), logp)
        found.append((logp, loss.detach(), gradient))
    errors = (found[1][1] - found[0][1]).abs() + (found[1][2] - found[0][2]).abs().sum(-1)
    return {"excess": errors.numpy()}


def collect(lab: Lab) -> Records:
    """Each arm tuned for its own score at its end."""
    chosen = arms()
    many = 4 if lab.quick else INSTANCES
    code = [f"{__name__}:prompt_cancels"]
    cancels = lab.exact("prompt_mask-cancels", {"instances": many}, lambda: prompt_cancels(many), code)
    return {**lab.tuned_records(chosen, dict.fromkeys(chosen, GRID), TUNING_RUNS), "prompt": cancels}


def draw(records: Records) -> MatplotlibFigure:
    """Scores over the updates, one panel per number of passes."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(1, len(PASSES), figsize=(9.5, 4.4), layout="constrained", sharey=True)
        for axis, name in zip(axes, PASSES, strict=True):
            _panel(axis, records, name)
        axes[0].set_ylabel("score: right answers on other prompts")
        lines = [key("sft", label, linestyle=line, mfc=_face(line)) for label, line in MASKS.values()]
        fig.legend(handles=lines, loc="outside lower center", ncols=2, title="trained on the tokens of")
    return fig


def _face(line: str) -> str:
    return colour("sft") if line == "-" else "white"


def _panel(axes: Axes, records: Records, name: str) -> None:
    for mask, (_, line) in MASKS.items():
        record = records[f"{name}/{mask}"]
        curve(axes, record.arrays["updates"], scores(record), "sft", line)
    bound(axes, 1.0, "all right")
    axes.set_title(f"tuned for {name} over the demonstrations", loc="left")
    axes.set(xlabel="updates", ylim=(-0.1, 1.1))


def verdicts(records: Records) -> list[Verdict]:
    """C60: the theorem of paired DPO, and SFT after few updates and after many."""
    errors = [float(x) for x in records["prompt"].arrays["excess"]]
    note = "The same prompt stands in both responses."
    rows = [theorem_of(CANCELS, "token", errors, FIGURE.name, [records["prompt"].hash], note)]
    return rows + [_hurts(name, records[f"{name}/masked"], records[f"{name}/all"]) for name in PASSES]


def _hurts(name: str, masked: Record, both: Record) -> Verdict:
    tested = HURTS[name]
    arms = {"responses": masked, "prompts too": both}
    gates = [
        room(final_scores(masked), final_scores(both), lowest_score([masked, both]), 1.0, tested.margin),
        placebo(None, tested.margin, "the arms differ in the mask alone"),
        *tuned_well(tested.margin, masked, both),
        trained({mask: r.arrays["kl_policy_ref"][:, -1].astype(float) for mask, r in arms.items()}),
    ]
    note = (
        "The embedded model was pretrained on responses alone, so that its prompts are news to it, 5 predicted tokens "
        "beside some 17; a model that has read prompts like these before may lose less."
    )
    effect = effect_of([part(1.0, masked), part(-1.0, both)])
    return row_of(tested, "lm", effect, FIGURE.name, [masked.hash, both.hash], note, gates)


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    record = records["one pass/masked"]
    taken = ", ".join(
        f"{name} {r.spec['optimiser']['learning_rate']:g}" for name, r in records.items() if name != "prompt"
    )
    runs = len(record.arrays["reward"])
    return (
        f"{lm.model_of(record)}, {runs} runs per arm, each with {DEMONSTRATIONS} demonstrations "
        f"of its own: a prompt, and a response whose answer is right. SFT, the loss summed over the responses' tokens, "
        f"or over those of prompts and responses; {BATCH} demonstrations per update. Score of sampled responses to "
        "prompts that are in no demonstration: 0 is the reference, which is right some 43 % of the time, 1 all right; "
        "mean and 95 % band. The number of updates stands before the runs, and each arm is tuned for it by one run of "
        f"another seed at each of {len(GRID)} learning rates; they took {taken}."
    )


FIGURE = Figure(
    name="prompt_mask",
    title="Does it hurt to train on the prompt's tokens?",
    tags=("data",),
    claims=("C60",),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
