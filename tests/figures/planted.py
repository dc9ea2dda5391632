"""What every row of the report should answer, said a second time and by hand: which records raise its effect, which
lower it, by how much, and on which side the claim is.

`PLANTED` has one line for each row of claims.json. It is written from the words of the claim's effect, not from the
code that computes it: a figure that swaps two arms, turns a sign, takes another sampler or leaves an arm out disagrees
with its line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Term:
    """Raising `quantity` of all records whose keys match `arms` by x raises the effect by `times`·x.

    arms: a regular expression for the whole key.
    """

    arms: str
    times: float
    quantity: str = "score"


@dataclass(frozen=True)
class Planted:
    """A row: its names, the terms of its effect, and where the claim puts it.

    claimed: +1 or −1, the side of a claimed effect; 0 where the claim is that there is none. cut: a loss, 0 where
    something is gained. base: the quantities' means where nothing is planted, if not those of `synthetic.QUANTITIES`;
    the effect is then `base` itself, and cannot be negative. also: records that move the row in another way, such as
    the loss at which a run is read.
    """

    figure: str
    id: str
    part: str
    setting: str
    claimed: int
    terms: tuple[Term, ...]
    cut: bool = False
    base: float | None = None
    also: str | None = None


def difference(plus: str, minus: str, quantity: str = "score") -> tuple[Term, ...]:
    return Term(plus, 1.0, quantity), Term(minus, -1.0, quantity)


def interaction(a: str, b: str, c: str, d: str) -> tuple[Term, ...]:
    """(a − b) − (c − d)."""
    return Term(a, 1.0), Term(b, -1.0), Term(c, -1.0), Term(d, 1.0)


def slope(x: tuple[float, ...], arms: str, sign: float, quantity: str) -> tuple[Term, ...]:
    """Of a least-squares line: Σ(x − x̄)y / Σ(x − x̄)². arms: with {} for each x."""
    off = np.array(x) - np.mean(x)
    weights = off / (off**2).sum()
    return tuple(Term(arms.format(f"{at:g}"), sign * w, quantity) for at, w in zip(x, weights, strict=True))


def absent_behaviour() -> list[Planted]:
    found = []
    for policy, setting in (("table", "bandit"), ("mlp", "mlp")):
        for part, masses, other in (
            ("against offline DPO, within reach", "(0.1|0.01)", "dpo_offline"),
            ("against offline DPO, rare", "(0.001|1e-06)", "dpo_offline"),
            ("against online DPO, within reach", "(0.1|0.01)", "dpo"),
        ):
            terms = difference(f"{policy}/{masses}/(rloo|ppo)", f"{policy}/{masses}/{other}", "best")
            found.append(Planted("absent_behaviour", "C49", part, setting, 1, terms))
        largest = (Term(f"{policy}/1e-06/.*", 1.0, "best"),)
        found.append(Planted("absent_behaviour", "C64", "all but lacking", setting, 0, largest, base=2e-3))
    nothing = (Term("table/0/.*", 1.0, "best"),)
    return [*found, Planted("absent_behaviour", "C64", "exactly 0", "bandit", 0, nothing, base=2e-7)]


def audit() -> list[Planted]:
    conditions = {
        "a": "released scoring, released learning rates",
        "b": "released scoring, tuned learning rates",
        "c": "right scoring, released learning rates",
        "d": "right scoring, tuned learning rates",
    }
    found = [
        Planted(
            "audit", "C27", f"{place}, {words}", "token", 1, difference(f"{place}/{c}/ipo", f"{place}/{c}/best_of_n")
        )
        for place in ("R1", "R2")
        for c, words in conditions.items()
    ]
    terms = interaction("R1/d/.*", "R1/offline/.*", "R2/d/.*", "R2/offline/.*")
    return [*found, Planted("audit", "C25", "token bandit, R1 against R2", "token", 1, terms)]


def batch_size() -> list[Planted]:
    found = [
        Planted("batch_size", "C26", part, setting, 1, difference(f"{where}/.*/16", f"{where}/.*/1024"))
        for part, setting, where in (
            ("R1, 2,048 samples", "bandit", "R1/short"),
            ("R1, 8,192 samples", "bandit", "R1/long"),
            ("R1, 2,048 samples, network", "mlp", "network/short"),
        )
    ]
    for part, budget, offline in (
        ("R2, 2,048 samples", "short", ".*"),
        ("R2, 8,192 samples", "long", ".*"),
        ("R2, 8,192 samples, supervised alone", "long", "(best_of_n|rwr|pref_ft)"),
    ):
        terms = difference(f"R2/{budget}/.*/16", f"R2/{budget}/{offline}/inf")
        found.append(Planted("batch_size", "C31", part, "bandit", 0, terms, cut=True))
    return found


def beta_sweep() -> list[Planted]:
    interior = "(0.001|0.01|0.03|0.1|0.3|1|3)"
    rates = {"tuned": "learning rate tuned for each β", "held": "learning rate of β = 0.1"}
    families = {"contrastive, noisy pool": "(dpo|ipo)", "reinforcement, on-policy": "(rloo|ppo)"}
    return [
        Planted(
            "beta_sweep",
            "C51",
            f"{family}: too {end}, {words}",
            "bandit",
            1,
            difference(f"{rate}/R[12]/{algorithms}/{interior}", f"{rate}/R[12]/{algorithms}/{beta}"),
        )
        for family, algorithms in families.items()
        for end, beta in (("low", "0.0001"), ("high", "10"))
        for rate, words in rates.items()
    ]


def chosen_likelihood() -> list[Planted]:
    found = [
        Planted("chosen_likelihood", "C22", part, setting, -1, (Term(f"{arms}/(dpo|ipo)", 1.0, "chosen"),))
        for part, setting, arms in (
            ("table, 100 prompts", "bandit", "table/100"),
            ("network, 1 prompt", "mlp", "wide/1"),
            ("network, 100 prompts", "mlp", "wide/100"),
        )
    ]
    terms = difference("wide/100/(dpo|ipo)", "wide/1/(dpo|ipo)", "chosen")
    few = Planted("chosen_likelihood", "C22", "network, many against few", "mlp", -1, terms)
    return [*found, few]


def gradient_variance() -> list[Planted]:
    part = "RLOO against a perfect critic"
    return [
        Planted("gradient_variance", "C50", part, setting, 0, (Term(key, 1.0, "octaves"), Term(key, -1.0, "perfect")))
        for setting, key in (("bandit", "actions-tables"), ("token", "tokens-tables"))
    ]


def lm_batch_and_reuse() -> list[Planted]:
    held, likelihood = "min length, settings of T = 1", "reuse/(best_of_n|rwr)"
    drop = difference("reuse/ppo/1", "reuse/ppo/[248]")
    extra = interaction(f"{likelihood}/1", f"{likelihood}/8", "reuse/ppo/1", "reuse/ppo/8")
    fresh = difference("batch/(rloo|dpo)/1", "batch/(rloo|dpo)/8")
    return [
        Planted("lm_batch_and_reuse", "C26", "min length", "lm", 1, fresh),
        Planted("lm_batch_and_reuse", "C29", held, "lm", 0, drop, cut=True),
        Planted("lm_batch_and_reuse", "C30", held, "lm", 1, extra),
    ]


def lm_lengths() -> list[Planted]:
    """Skew's online arm is min's: it is in both differences and cancels, so that offline alone is compared."""
    skew = difference("min/dpo/off", "skew/dpo/off")
    return [
        Planted("lm_lengths", "C25", "skew against min length", "lm", 1, skew),
        Planted("lm_lengths", "C25", "mode length", "lm", 0, difference("mode/dpo/on", "mode/dpo/off")),
    ]


def lm_likelihoods() -> list[Planted]:
    return [
        Planted(
            "lm_likelihoods",
            "C22",
            f"{sampler} DPO, {task} length",
            "lm",
            -1,
            (Term(f"{task}/dpo/{sampler[:-4]}", 1.0, "chosen"),),
        )
        for task in ("min", "mode")
        for sampler in ("online", "offline")
    ]


def negative_gradient() -> list[Planted]:
    found = []
    for place, setting, own in (
        ("R1", "bandit", "(worst|mean|sum|complement)"),
        ("R2", "bandit", "(worst|mean|sum|complement)"),
        ("network", "mlp", "sum"),
    ):
        for part, names in (("contrastive", "(dpo|ipo)"), ("Best-of-N's own", own)):
            off = f"{place}/{names}/off/.*", f"{place}/best_of_n/off/.*"
            on = f"{place}/{names}/on/.*", f"{place}/best_of_n/on/.*"
            found.append(Planted("negative_gradient", "C27", f"{part}, {place}", setting, 1, difference(*off)))
            found.append(Planted("negative_gradient", "C28", f"{part}, {place}", setting, 1, interaction(*on, *off)))
    return found


def online_contrastive_ppo() -> list[Planted]:
    return [
        Planted(
            "online_contrastive_ppo",
            "C68",
            f"{place}, equal {equal}",
            "bandit",
            0,
            difference(f"{place}/{equal}/ppo/.*", f"{place}/{equal}/(dpo|ipo)/.*"),
            cut=True,
        )
        for place in ("R1", "R2")
        for equal in ("samples", "compute")
    ]


def online_offline() -> list[Planted]:
    published = interaction("R1/.*/on", "R1/.*/off", "R2/.*/on", "R2/.*/off")
    axis = interaction("1e-06/.*/on", "1e-06/.*/off", "0.5/.*/on", "0.5/.*/off")
    return [
        Planted("online_offline", "C25", "R1 against R2", "bandit", 1, published),
        Planted("online_offline", "C25", "overlap axis", "bandit", 1, axis),
        Planted("online_offline", "C25", "not otherwise", "bandit", 0, difference("R2/.*/on", "R2/.*/off")),
    ]


def reachable_policies() -> list[Planted]:
    """No runs: what stands for them are problems, and what the quantities are of is computed exactly."""
    full, without = "reference with full support", "reference without the response"
    found = [
        ("C01", "three responses", 0, "excess", 2e-7),
        ("C02", without, 0, "without", 2e-7),
        ("C02", full, 0, "with", 2e-7),
    ]
    return [
        Planted("reachable_policies", id, part, "bandit", claimed, (Term("exact", 1.0, quantity),), base=base)
        for id, part, claimed, quantity, base in found
    ]


def reference_shift() -> list[Planted]:
    shifts, found = (0.05, 0.35, 0.65, 0.95), []
    for policy, setting in (("table", "bandit"), ("mlp", "mlp")):
        ppo = slope(shifts, f"{policy}/{{}}/ppo", 1.0, "score")
        dpo = slope(shifts, f"{policy}/{{}}/dpo", -1.0, "score")
        found.append(Planted("reference_shift", "C06", "slope", setting, 1, (*ppo, *dpo)))
        far = f"{policy}/(0.65|0.95)"
        gain = difference(f"{far}/dpo_after_sft", f"{far}/dpo")
        found.append(Planted("reference_shift", "C07", "under shift", setting, 1, gain))
    return found


def reward_width() -> list[Planted]:
    return [
        Planted(
            "reward_width",
            "C25",
            f"R1 against R2, width {width}",
            "bandit",
            1,
            interaction(*(f"{place}/{width}/.*/{sampler}" for place in ("R1", "R2") for sampler in ("on", "off"))),
        )
        for width in (20, 30)
    ]


def sample_reuse() -> list[Planted]:
    parts = {
        "R1/samples": "R1, equal samples",
        "R1/held": "R1, equal samples, settings of T = 1",
        "R1/steps": "R1, equal gradient steps",
        "R2/samples": "R2, equal samples",
    }
    found = []
    for panel, part in parts.items():
        drop = difference(f"{panel}/ppo/1", f"{panel}/ppo/[248]")
        found.append(Planted("sample_reuse", "C29", part, "bandit", 0, drop, cut=True))
        if panel[:2] == "R1":
            likelihood = f"{panel}/(best_of_n|rwr)"
            terms = interaction(f"{likelihood}/1", f"{likelihood}/32", f"{panel}/ppo/1", f"{panel}/ppo/32")
            found.append(Planted("sample_reuse", "C30", part, "bandit", 1, terms))
    return found


def unseen_responses() -> list[Planted]:
    found = []
    for policy, setting in (("table", "bandit"), ("mlp", "mlp")):
        dpo, ppo = f".*/{policy}/dpo", f".*/{policy}/ppo"
        rises = (Term(dpo, 1.0, "unseen"),)
        # PPO's record has its reward model, whose loss says where DPO is read.
        found.append(Planted("unseen_responses", "C03", "at one loss", setting, 1, rises, also=ppo))
        found.append(Planted("unseen_responses", "C03", "at the end", setting, 1, rises))
        sampled = difference(dpo, ppo, "unseen")
        optimum = (Term(dpo, 1.0, "unseen"), Term(ppo, -1.0, "optimum"))
        found.append(Planted("unseen_responses", "C04", "sampled PPO", setting, 1, sampled))
        found.append(Planted("unseen_responses", "C04", "exact KL optimum", setting, 1, optimum))
        falls = slope((0.25, 0.5, 0.875), f".*-{{}}/{policy}/dpo", 1.0, "unseen")
        found.append(Planted("unseen_responses", "C05", "slope", setting, -1, falls, also=ppo))
    return found


PLANTED = [
    row
    for rows in (
        absent_behaviour,
        audit,
        batch_size,
        beta_sweep,
        chosen_likelihood,
        gradient_variance,
        lm_batch_and_reuse,
        lm_lengths,
        lm_likelihoods,
        negative_gradient,
        online_contrastive_ppo,
        online_offline,
        reachable_policies,
        reference_shift,
        reward_width,
        sample_reuse,
        unseen_responses,
    )
    for row in rows()
]
