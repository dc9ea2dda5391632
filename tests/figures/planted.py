"""What every row of the report should answer, said a second time and by hand: which records raise its effect, which
lower it, by how much, and on which side the claim is.

`PLANTED` has one line for each row of claims.json. It is written from the words of the claim's effect, not from the
code that computes it: a figure that swaps two arms, turns a sign, takes another sampler or leaves an arm out disagrees
with its line.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any


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

    claimed: +1 or −1, the side of a claimed effect; 0 where the claim is that there is none, or at_most the margin.
    base: the quantities' means where nothing is planted, if not those of `synthetic.QUANTITIES`; the effect is then
    `base` itself, and cannot be negative. also: records that move the row in another way, such as the loss at which a
    run is read. closed: whether a gate is, whatever the records hold. weaker: arms that score less than all others, for
    the row's positive control or its placebo. raised: records that are raised by `times` whatever is planted, for a
    gate that wants an effect of its own; between the row's arms they cancel. along: records that move with those of
    the first term, or of each, for a placebo or a control that has the same arm.
    """

    figure: str
    id: str
    part: str
    setting: str
    claimed: int
    terms: tuple[Term, ...]
    at_most: bool = False
    base: float | None = None
    also: str | None = None
    closed: bool = False
    weaker: str | None = None
    raised: tuple[Term, ...] = ()
    along: str | tuple[str | None, ...] | None = None


def difference(plus: str, minus: str, quantity: str = "score") -> tuple[Term, ...]:
    return Term(plus, 1.0, quantity), Term(minus, -1.0, quantity)


def interaction(a: str, b: str, c: str, d: str) -> tuple[Term, ...]:
    """(a − b) − (c − d)."""
    return Term(a, 1.0), Term(b, -1.0), Term(c, -1.0), Term(d, 1.0)


def absent_behaviour() -> list[Planted]:
    """PPO on a learned reward ends where the reference is: the placebo."""
    found = []
    for part, masses, other, policies in (
        ("against offline DPO, within reach", "(0.1|0.01)", "dpo_offline", ("table", "mlp")),
        ("against offline DPO, rare", "(0.005|0.003)", "dpo_offline", ("table", "many")),
        ("against online DPO, within reach", "(0.1|0.01)", "dpo", ("mlp",)),
        ("against online DPO, rare", "(0.005|0.003)", "dpo", ("table", "many")),
    ):
        for policy in policies:
            terms = difference(f"{policy}/{masses}/(rloo|ppo)", f"{policy}/{masses}/{other}", "best")
            row = ("absent_behaviour", "C49", part, "bandit" if policy == "table" else "mlp")
            found.append(Planted(*row, 1, terms, weaker=f"{policy}/{masses}/ppo_learned"))
    for policy, setting in (("table", "bandit"), ("many", "mlp")):
        largest = (Term(f"{policy}/1e-06/.*", 1.0, "best"),)
        found.append(Planted("absent_behaviour", "C64", "all but lacking", setting, 0, largest, base=2e-4))
    nothing = (Term("table/0/.*", 1.0, "best"),)
    return [*found, Planted("absent_behaviour", "C64", "exactly 0", "bandit", 0, nothing, base=2e-7)]


def accuracy_and_reward() -> list[Planted]:
    figure, found = "accuracy_and_reward", []
    for name in ("ipo", "dpo"):
        for where in ("held-out", "on-policy"):
            terms = (Term(f"tuned/{name}/offline", 1.0, "proxy"), Term(f"tuned/{name}/offline", -1.0, "policy"))
            found.append(Planted(figure, "C20", f"{name}, {where}", "mlp", 1, terms))
    for part, source in (("offline", "offline"), ("online", "pointwise")):
        # All settings classify alike: the first of the 20 is taken.
        terms = (Term(f"sweep/ipo/{source}/0.01/0.01", 19 / 20),)
        found.append(Planted(figure, "C21", part, "mlp", 0, terms, also=f"sweep/.*/{source}/.*"))
    for part, more, less in (
        ("own labels, gain", "own", "stopped"),
        ("reward model, gain", "proxy", "stopped"),
    ):
        terms = difference(f"labels/{more}", f"labels/{less}")
        found.append(Planted(figure, "C67", part, "mlp", 1, terms))
    lost = difference("labels/gold", "labels/own")
    own = Planted(figure, "C67", "own labels, against gold", "mlp", 0, lost, at_most=True, weaker="labels/stopped")
    found.append(own)
    for part, more, less in (("larger reward models", "128/1024", "0/1024"), ("more pairs", "32/1024", "32/32")):
        found.append(Planted(figure, "C70", part, "mlp", 1, difference(f"size/{more}", f"size/{less}", "proxy")))
    return found


def alarms() -> list[Planted]:
    """Without a penalty length grows: the control."""
    found = []
    for place, setting in (("table", "bandit"), ("network", "mlp")):
        honest, longer = f"{place}/honest", f"{place}/length"
        for name in ("rloo", "online"):
            terms = difference(f"{place}/biased/.*/{name}", f"{place}/biased/.*/offline", "exploit")
            for part in ("per update", "at one nat"):
                found.append(Planted("alarms", "C55", f"{name}, {part}", setting, 1, terms))
        for share, words in (("0.5", "half"), ("2", "twice")):
            arm, part = f"{place}/penalty/{share}", f"penalty of {words} the bias"
            grown = (Term(arm, 1.0, "growth"),)
            found.append(Planted("alarms", "C56", f"{part}: length", setting, 0, grown, weaker=longer))
            found.append(Planted("alarms", "C56", f"{part}: gold", setting, 1, difference(arm, longer)))
        for share, words in (("1/5", "one in five"), ("1/2", "one in two")):
            arm, more, part = f"{place}/curated/{share}", f"{place}/ordinary/{share}", f"short-but-right pairs, {words}"
            grown = (Term(arm, 1.0, "growth"),)
            found.append(Planted("alarms", "C56", f"{part}: length", setting, 0, grown, weaker=more))
            found.append(Planted("alarms", "C56", f"{part}: gold", setting, 1, difference(arm, more)))
        for name in ("length", "style"):
            terms = difference(f"{place}/{name}", honest, "alarmed")
            found.append(Planted("alarms", "C57", f"hacks about {name}", setting, 1, terms))
        terms = difference(f"{place}/too_fast", f"{place}/right/none", "alarmed")
        found.append(Planted("alarms", "C58", "entropy halved a week before", setting, 1, terms))
        ranked = tuple(Term(term.arms, term.times / 2, term.quantity) for term in terms)
        found.append(Planted("alarms", "C58", "entropy as a ranking", setting, 1, ranked))
        for judge in ("right", "noisy", "biased"):
            terms = difference(f"{place}/{judge}/gate", f"{place}/{judge}/none")
            found.append(Planted("alarms", "C63", f"{judge} judge", setting, 1, terms))
    return found


def audit() -> list[Planted]:
    conditions = {
        "a": "released scoring, released learning rates",
        "b": "released scoring, tuned learning rates",
        "c": "right scoring, released learning rates",
        "d": "",
    }
    found = [
        Planted(
            "audit",
            "audit" if words else "C27",
            f"{where}, {words}" if words else f"token bandit, {where}",
            "token",
            1,
            difference(f"{where}/{c}/ipo", f"{where}/{c}/best_of_n"),
        )
        for where in ("R1", "R2")
        for c, words in conditions.items()
    ]
    for name in ("ipo", "best_of_n"):
        terms = interaction(f"R1/d/{name}", f"R1/offline/{name}", f"R2/d/{name}", f"R2/offline/{name}")
        found.append(Planted("audit", "C25", f"token bandit, {name}: R1 against R2", "token", 1, terms))
    return found


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
        loses = f"R2/{budget}/pref_ft/inf"
        found.append(Planted("batch_size", "C31", part, "bandit", 0, terms, at_most=True, weaker=loses))
    where, part = "network R2/short", "R2, 2,048 samples, network"
    terms = difference(f"{where}/.*/16", f"{where}/.*/inf")
    return [*found, Planted("batch_size", "C31", part, "mlp", 0, terms, at_most=True, weaker=f"{where}/pref_ft/inf")]


def beta_sweep() -> list[Planted]:
    interior = "(0.001|0.01|0.03|0.1|0.3|1|3)"
    rates = {"tuned": "learning rate tuned for each β", "held": "learning rate of β = 0.1"}
    families = (
        ("contrastive, noisy pool on R1", "R1/(dpo|ipo)", ("low", "high")),
        ("contrastive, noisy pool on R2", "R2/(dpo|ipo)", ("low", "high")),
        ("reinforcement, on-policy on R1 and R2", "R[12]/(rloo|ppo)", ("high",)),
        ("reinforcement, learned reward", "learned/(rloo|ppo)", ("low", "high")),
        ("contrastive, noisy pool on network", "network/(dpo|ipo)", ("low", "high")),
        ("reinforcement, learned reward, network", "learned network/(rloo|ppo)", ("low", "high")),
    )
    # Of three values of β one is planted, above the two others by as much for both algorithms.
    spread = []
    for other in ("dpo", "ipo", "rloo"):
        for place in ("R1", "R2"):
            for rate, words in rates.items():
                ppo, its = (f"{rate}/near/{place}/{name}/" for name in ("ppo", other))
                spread.append(
                    Planted(
                        *("beta_sweep", "C90", f"ppo against {other} on {place}, {words}", "bandit", 1),
                        difference(f"{ppo}0.3", f"{its}0.3"),
                        also=f"({ppo}|{its})(0.03|0.1)",
                        raised=(Term(f"{ppo}0.3", 0.2), Term(f"{its}0.3", 0.2)),
                    )
                )
    return spread + [
        Planted(
            "beta_sweep",
            "C51",
            f"{family}: too {end}, {words}",
            "mlp" if "network" in family else "bandit",
            1,
            difference(f"{rate}/{arms}/{interior}", f"{rate}/{arms}/{'0.0001' if end == 'low' else '10'}"),
        )
        for family, arms, ends in families
        for end in ends
        for rate, words in rates.items()
    ]


def chosen_likelihood() -> list[Planted]:
    """The margin grows by 4 nats in one step: each nat has a quarter of the change."""
    found = [
        Planted("chosen_likelihood", "C22", part, setting, -1, (Term(f"{arms}/(dpo|ipo)", 0.25, "chosen"),))
        for part, setting, arms in (
            ("table, 64 pairs per prompt, third nat", "bandit", "dense/10"),
            ("network, 1 prompt, third nat", "mlp", "wide/1"),
            *((f"network, 100 prompts, {nat} nat", "mlp", "wide/100") for nat in ("first", "second", "third")),
        )
    ]
    terms = (Term("wide/100/(dpo|ipo)", 0.25, "chosen"), Term("wide/1/(dpo|ipo)", -0.25, "chosen"))
    few = Planted("chosen_likelihood", "C22", "network, many against few, third nat", "mlp", -1, terms)
    return [*found, few]


def data_quality() -> list[Planted]:
    """C44 is of shares of variance: `test_data_quality.py`."""
    figure = "data_quality"
    sets = {
        "clean": "clean pairs",
        "noisy": "flipped labels",
        "good": "better responses",
        "good_noisy": "better responses, flipped labels",
        "few": "few pairs",
    }
    width = (f"width/{w}/{source}" for w in (2, 32) for source in ("online", "offline"))
    model = (f"model/{d}/{m}" for d in ("hard", "easy") for m in ("good", "poor"))
    found = [
        *(
            Planted(figure, "C43", said, "mlp", 1, difference(f"sets/{s}/ppo", f"sets/{s}/dpo"))
            for s, said in sets.items()
        ),
        Planted(figure, "C24", "DPO: width 2 against 32", "mlp", 1, interaction(*width)),
        Planted(figure, "C47", "PPO: pairs of the reward model × difficulty", "mlp", 1, interaction(*model)),
        Planted(
            *(figure, "C47", "PPO: pairs of the reward model, where it is easy", "mlp", 0),
            difference("again/model/easy/good", "again/model/easy/poor"),
            at_most=True,
            weaker="again/model/hard/poor",
        ),
    ]
    for name in ("dpo", "ppo"):
        clean = difference(f"sets/clean/{name}", f"sets/good_noisy/{name}")
        found.append(Planted(figure, "C45", name.upper(), "mlp", 1, clean))
        for n in (4, 15):
            terms, fewer = difference(f"aspects/{n}/{name}", f"aspects/all/{name}"), f"aspects/1/{name}"
            part = f"{name.upper()}: {n} × the pairs"
            found.append(Planted(figure, "C46", part, "mlp", 0, terms, at_most=True, weaker=fewer))
        for how in ("number", "cost"):
            terms = difference(f"labels/{how}/{name}", f"labels/human/{name}")
            found.append(Planted(figure, "C89", f"{name.upper()}: equal {how}", "mlp", 1, terms))
    return found


def gold_and_proxy() -> list[Planted]:
    figure, found = "gold_and_proxy", []
    for source in ("pointwise", "converged"):
        terms = (Term(f"rl/{source}", -1.0, "late"),)
        found.append(Planted(figure, "C11", f"RLOO, {source}", "mlp", 1, terms))
    found.append(Planted(figure, "C12", "DPO, 128 pairs", "mlp", 1, (Term("steps/128", -1.0, "late"),)))
    for name in ("ipo", "dpo"):
        for source in ("pointwise", "pairwise"):
            pooled = difference(f"sweep/{name}/{source}/.*", f"sweep/{name}/offline/.*")
            found.append(Planted(figure, "C13", f"{name}, pooled, {source}", "mlp", 1, pooled))
            tuned = difference(f"tuned/{name}/{source}", f"tuned/{name}/offline")
            found.append(Planted(figure, "C13", f"{name}, tuned, {source}", "mlp", 1, tuned))
        for source in ("offline", "pointwise", "pairwise", "converged"):
            terms = (Term(f"sweep/{name}/{source}/.*", -1.0, "late"),)
            found.append(Planted(figure, "C14", f"{name}, {source}", "mlp", 1, terms))
    for name in ("rloo", "dpo"):
        terms = difference(f"length/{name}/biased", f"length/{name}/unbiased", "length")
        found.append(Planted(figure, "C42", name, "token", 1, terms))
    return found


def forgetting() -> list[Planted]:
    found = [
        Planted("forgetting", "C59", f"{name}: forgets", "mlp", 1, (Term(f"network/{name}", -1.0, "gold_set"),))
        for name in ("dpo", "best_of_n", "rloo")
    ]
    for name in ("dpo", "best_of_n"):
        arms = (f"network/gate/{name}", f"network/{name}")
        gate = Planted("forgetting", "C59", f"{name}: gate, gold set", "mlp", 1, difference(*arms, "gold_set"))
        found += [gate, Planted("forgetting", "C59", f"{name}: gate, users", "mlp", 0, difference(*arms[::-1]))]
    for place, setting in (("table", "bandit"), ("network", "mlp")):
        for flip in ("0.2", "0.4"):
            terms = difference(f"{place}/pool/0", f"{place}/pool/{flip}")
            found.append(Planted("forgetting", "C61", f"flips {flip}", setting, 1, terms))
    return found


def gradient_variance() -> list[Planted]:
    return [
        Planted(
            "gradient_variance",
            "C50",
            f"RLOO against a perfect critic, K = {size}",
            setting,
            0,
            (Term(key, 1.0, "octaves"), Term(key, -1.0, "perfect")),
        )
        for setting, key in (("bandit", "actions-tables"), ("token", "tokens-tables"))
        for size in (4, 8, 16)
    ]


def lm_algorithms() -> list[Planted]:
    """On mode length three tunings, of which the mean is the effect."""

    def row(id: str, part: str, claimed: int, terms: tuple[Term, ...], at_most: bool = False) -> Planted:
        return Planted("lm_algorithms", id, part, "lm", claimed, terms, at_most=at_most)

    mine, theirs = (f"min/{name}/{{}}/." for name in ("dpo", "best_of_n"))
    arms = [name.format(sampler) for sampler in ("on", "off") for name in (mine, theirs)]
    slower = difference("min/ppo/on/.", "min/dpo/on/.")
    return [
        row("C27", "dpo, min length, over the run", 1, difference(*arms[:2])),
        row("C28", "dpo, min length, over the run", 1, interaction(*arms)),
        row("C31", "mode length", 0, difference("mode/.*/on/.", "mode/.*/off/."), at_most=True),
        row("C68", "dpo: min length, equal samples, over the run", 0, slower, at_most=True),
    ]


def lm_batch_and_reuse() -> list[Planted]:
    held, likelihood = "min length", "reuse/(best_of_n|rwr)"
    drop = difference("reuse/ppo/1", "reuse/ppo/[248]")
    extra = interaction(f"{likelihood}/1", f"{likelihood}/8", "reuse/ppo/1", "reuse/ppo/8")
    fresh = difference("more/batch/(rloo|dpo)/1", "more/batch/(rloo|dpo)/8")
    return [
        Planted("lm_batch_and_reuse", "C26", "min length", "lm", 1, fresh),
        Planted("lm_batch_and_reuse", "C29", held, "lm", 0, drop, at_most=True),
        Planted("lm_batch_and_reuse", "C30", held, "lm", 1, extra),
    ]


def lm_lengths() -> list[Planted]:
    skew = interaction(*(f"{task}/dpo/{sampler}(/.)?" for task in ("skew", "min") for sampler in ("on", "off")))
    return [
        # Both optima are unlikely under the reference: the gate of geometry is closed.
        Planted("lm_lengths", "C25", "skew against min length", "lm", 1, skew, closed=True),
        Planted("lm_lengths", "C25", "mode length", "lm", 0, difference("mode/dpo/on(/.)?", "mode/dpo/off(/.)?")),
    ]


def lm_likelihoods() -> list[Planted]:
    return [
        Planted(
            "lm_likelihoods",
            "C22",
            f"{sampler} DPO, {task} length",
            "lm",
            -1,
            (Term(f"{task}/dpo/{sampler[:-4]}", 0.5, "chosen"),),  # the margin grows by 2 nats
        )
        for task in ("min", "mode")
        for sampler in ("online", "offline")
    ]


def lm_rare_sync() -> list[Planted]:
    found = []
    for name in ("dpo", "grpo"):
        terms = difference(f"{name}/1", f"{name}/100")
        found.append(Planted("lm_rare_sync", "C32", f"{name}, sums: s = 100", "lm", 0, terms))
    return found


def lm_semi_online() -> list[Planted]:
    """Scores of all synced arms are raised, so that the control holds where one of them is three margins lower."""
    figure, where, weaker = "lm_semi_online", "lengths near 26", "grpo/inf"
    synced = (Term(".*/(1|5|10)", 0.14),)
    found = []
    for name in ("dpo", "ipo", "best_of_n", "grpo"):
        near = difference(f"{name}/1", f"{name}/5")
        found.append(Planted(figure, "C32", f"{name}, {where}: s = 5", "lm", 0, near, weaker=weaker, raised=synced))
        found.append(Planted(figure, "C33", f"{name}, {where}", "lm", 1, difference(f"{name}/5", f"{name}/inf")))
    rare = difference("dpo/1", "dpo/10")
    found.append(Planted(figure, "C32", f"dpo, {where}: s = 10", "lm", 0, rare, weaker=weaker, raised=synced))
    at_most = {("C34", where): difference("grpo/1", "dpo/1")}
    for name, label in (("dpo_nll", "dpo with NLL"), ("dpo_grpo", "dpo + grpo")):
        at_most["C39", f"{where}, s = 5: {label}"] = difference(f"{name}/5", "dpo/5")
    for row, terms in at_most.items():
        found.append(Planted(figure, *row, "lm", 0, terms, at_most=True, weaker=weaker, raised=synced))
    terms, falling = difference("dpo_epsilon/5", "dpo/5"), (Term("dpo(_epsilon)?/5", -0.5, "late"),)
    return [*found, Planted(figure, "C38", f"{where}, s = 5", "lm", 1, terms, raised=falling)]


def lm_sync_period() -> list[Planted]:
    """Scores of s = 10 and s = 5 fall at the end, and lengths from 1 after the first copy, less at β = 1."""
    figure, falling, short = "lm_sync_period", (Term("(few/)?(semi|rare)", -0.4, "late"),), "dpo, forbidden words"
    interacting = (
        *(Term(f"few/{name}", times, "late") for name, times in (("rare", -1.0), ("semi", 1.0))),
        *(Term(name, times, "late") for name, times in (("rare", 1.0), ("semi", -1.0))),
    )
    shorter = (Term("more/(semi|copied)", -12.0, "length"), Term("strong/(semi|copied)", -6.0, "length"))
    copied = difference("more/copied", "more/semi", "length")
    strong = difference("strong/copied", "strong/semi", "length")
    pairs, part = difference("group_dpo", "semi"), "forbidden words, s = 5: dpo, all pairs of right and wrong"
    found = [
        Planted(figure, "C32", f"{short}: s = 5", "lm", 0, difference("online", "semi"), weaker="offline"),
        Planted(figure, "C33", short, "lm", 1, difference("more/semi", "more/offline")),
        Planted(figure, "C35", "forbidden words", "lm", 1, interacting, raised=falling),
        Planted(figure, "C36", "DPO, forbidden words, s = 5", "lm", 1, copied, raised=shorter),
        Planted(figure, "C36", "DPO, forbidden words, s = 5, β = 1", "lm", 1, strong, raised=shorter),
        Planted(figure, "C39", part, "lm", 0, pairs, at_most=True, weaker="offline"),
    ]
    for when in ("online", "offline"):
        terms = difference(f"dense/{when}", when, "entropy")
        found.append(Planted(figure, "C37", f"{short}, {when}", "lm", 1, terms))
    return found


def exploit_steps() -> list[Planted]:
    """Octaves of the updates that the bias takes; what labels without it add moves the row as well."""
    found = []
    for name in ("rloo", "rloo_table", "online"):
        terms = difference("biased/.*/offline", f"biased/.*/{name}", "octaves")
        part = f"{name}, updates to half a token"
        found.append(Planted("exploit_steps", "C55", part, "token", 1, terms, also=f"unbiased/.*/({name}|offline)"))
    return found


def learned_critic() -> list[Planted]:
    """RLOO in place of PPO against DPO is the placebo."""
    figure, said = "learned_critic", "horizon 16 against 1"
    found = []
    for part, other in (("a critic that has learned", "dpo"), ("what a critic that has learned adds", "rloo")):
        arms = (f".*/{length}/{name}" for length in (16, 1) for name in ("ppo", other))
        along = (None, ".*/16/rloo", None, ".*/1/rloo") if other == "dpo" else None
        found.append(Planted(figure, "C65", f"{said}, {part}", "token", 1, interaction(*arms), along=along))
    return found


def lm_two_tasks() -> list[Planted]:
    figure, where = "lm_two_tasks", "dpo, a language model"
    one, other, mixed = (f"dpo/{order}" for order in ("rated_verifiable", "verifiable_rated", "mixed"))
    own = {"verifiable": "first", "rated": "second"}
    parts = tuple(Term(arm, times, q) for arm, times in ((one, 0.5), (other, -0.5)) for q in own.values())
    found = [Planted(figure, "C40", f"{where}: both tasks", "lm", 1, parts)]
    for (task, quantity), weaker in zip(own.items(), reversed(own), strict=True):
        terms = difference(f"dpo/{task}", mixed, quantity)
        alone: Any = {"at_most": True, "weaker": f"dpo/{weaker}", "along": f"dpo/{weaker}"}
        found.append(Planted(figure, "C41", f"{where}: {task}", "lm", 0, terms, **alone))
        terms = difference(f"dpo/{task}", "dpo/mixed_twice", quantity)
        found.append(Planted(figure, "C41", f"{where}, equal samples: {task}", "lm", 0, terms, **alone))
    return found


def prompt_mask() -> list[Planted]:
    return [
        Planted("prompt_mask", "C60", "paired DPO", "token", 1, (Term("prompt", 1.0, "excess"),)),
        *(
            Planted(
                "prompt_mask",
                "C60",
                f"SFT, right answers, {name}",
                "lm",
                1,
                difference(f"{name}/masked", f"{name}/all"),
            )
            for name in ("one pass", "five passes")
        ),
    ]


def lm_preferences() -> list[Planted]:
    """The largest response, of 33 tokens, has a score of −1: a score is 16.5 tokens."""
    tokens, name = 16.5, "lm_preferences"
    online, offline = Term("dpo/on/.*", tokens), Term("dpo/off/.*", -tokens)
    semi, stale = Term("dpo/semi/.*", tokens), Term("dpo/stale/.*", -tokens)
    part = "a reward model's preferences"
    return [
        Planted(name, "C13", f"online DPO against offline DPO, {part}", "lm", 1, (online, offline)),
        *(
            Planted(name, "C14", f"{words}, {part}", "lm", -1, (Term(arms, tokens, "fall"),))
            for words, arms in (
                ("dpo, online", "dpo/on/0.1/0.001"),
                ("dpo, offline", "longer/dpo/off/0.1/0.001"),
                ("ppo, online", "ppo/on/–/0.001"),
            )
        ),
        Planted(
            name, "C22", "offline DPO, an annotator's pairs", "lm", -1, (Term("dpo/off/0.1/0.001", 0.5, "chosen"),)
        ),
        Planted(name, "C33", f"dpo, {part}", "lm", 1, (semi, stale)),
        *(
            Planted(
                *(name, "C51", f"online DPO, {part}: too {end}", "lm", 1),
                (Term("(dpo/on/(0.1|1)|beta/on/10)/0.001", tokens), Term(f"beta/on/{beta}/0.001", -tokens)),
            )
            for end, beta in (("low", "0.01"), ("high", "100"))
        ),
    ]


def negative_gradient() -> list[Planted]:
    found = []
    variants = ("worst", "mean", "sum", "complement")
    for where, setting, budget, faster, compound in (
        ("R1", "bandit", 3, ("dpo", "ipo", *variants), ("dpo", "ipo", *variants)),
        ("R2", "bandit", 2, ("dpo",), ("dpo",)),
        ("network", "mlp", 3, ("dpo", "ipo", "sum"), ("dpo",)),
    ):
        for name in faster:
            for after in (2,) if where == "R2" else (3, 10):
                gain = difference(f"{where}/{name}/on/{after}", f"{where}/best_of_n/on/{after}")
                part = f"{name}, {where}, {after} updates"
                found.append(Planted("negative_gradient", "C27", part, setting, 1, gain))
        for name in compound:
            arms = (f"{where}/{arm}/{sampler}/{budget}" for sampler in ("on", "off") for arm in (name, "best_of_n"))
            found.append(Planted("negative_gradient", "C28", f"{name}, {where}", setting, 1, interaction(*arms)))
    return found


def online_contrastive_ppo() -> list[Planted]:
    return [
        Planted(
            "online_contrastive_ppo",
            "C68",
            f"{name}: {where}, equal {equal}{', over the run' if where == 'R2' else ''}",
            "mlp" if where == "network" else "bandit",
            0,
            difference(f"{where}/{equal}/ppo/.*", f"{where}/{equal}/{name}/.*"),
            at_most=True,
        )
        for where in ("R1", "R2", "network")
        for equal in ("samples", "compute")
        for name in ("dpo", "ipo")
    ]


ALGORITHMS = ("rloo", "best_of_n", "rwr", "dpo", "ipo")


def between_environments(unlikely: str, likely: str, name: str, short: bool) -> tuple[Term, ...]:
    end = "/short" * short
    keys = (f"{where}/{name}/{sampler}{end}" for where in (unlikely, likely) for sampler in ("on", "off"))
    return interaction(*keys)


def online_offline() -> list[Planted]:
    found = []
    for name in ALGORITHMS:
        for part, unlikely, likely in (("R1 against R2", "R1", "R2"), ("overlap axis", "0.01", "0.5")):
            short = name in ("dpo", "ipo")
            terms, ran = between_environments(unlikely, likely, name, short), ", short runs" * short
            found.append(Planted("online_offline", "C25", f"{name}: {part}{ran}", "bandit", 1, terms))
        terms = difference(f"R2/{name}/on", f"R2/{name}/off")
        control = f"R2/{'rwr' if name == 'best_of_n' else 'best_of_n'}/off"
        found.append(Planted("online_offline", "C25", f"{name}: not otherwise", "bandit", 0, terms, weaker=control))
    return found


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
    found = []
    for policy, setting in (("table", "bandit"), ("mlp", "mlp")):
        arms = (f"{policy}/{shift}/{arm}" for shift in ("0.65", "0.05") for arm in ("ppo", "dpo"))
        found.append(Planted("reference_shift", "C06", "near and far", setting, 1, interaction(*arms)))
        gain = difference(f"{policy}/0.65/dpo_after_sft", f"{policy}/0.65/dpo")
        hurt = (Term(f"{policy}/0.05/dpo", 0.3),)  # there is something to repair
        found.append(Planted("reference_shift", "C07", "under shift", setting, 1, gain, raised=hurt))
    return found


def replayed_data() -> list[Planted]:
    found = []
    for where, setting in (("bandit", "bandit"), ("network", "mlp")):
        ipo, best = f"{where}/ipo", f"{where}/best_of_n"
        exact = difference(f"{where}/(ipo|best_of_n)/online", f"{where}/.*/held/ordered")
        found.append(Planted("replayed_data", "C15", "in order", setting, 0, exact))
        for id, part, more, less in (
            ("C16", "IPO, settings of online", f"{ipo}/held/shuffled", f"{ipo}/offline"),
            ("C16", "IPO, tuned", f"{ipo}/shuffled", f"{ipo}/offline"),
            ("C16", "IPO, every arm by the settings of online", f"{ipo}/same/shuffled", f"{ipo}/same/offline"),
            ("C17", "IPO: within 4 batches", f"{ipo}/online", f"{ipo}/held/window_4"),
            ("C23", "settings of online", f"{best}/online", f"{best}/held/shuffled"),
            ("C23", "tuned", f"{best}/online", f"{best}/shuffled"),
        ):
            terms = difference(more, less)
            loses = {
                "C16": f"{ipo}/(held/shuffled|shuffled|offline)",
                "C17": f"{ipo}/held/shuffled",
                "C23": f"{best}/offline",
            }[id]
            # Arms by the settings of online: those that were tuned for themselves do no better.
            alike, tuned = "", (Term(f"{ipo}/shuffled", -0.5),) if id == "C17" else ()
            if "settings of online" in part:
                same, loses = "every arm" in part, loses.replace("|shuffled", "")
                name = ipo if id == "C16" else best
                alike = f"{ipo}/same/(shuffled|offline)" if same else loses
                tuned = (Term(f"{name}/(shuffled|offline)" if same else f"{name}/shuffled", -0.5),)
            found.append(
                Planted("replayed_data", id, part, setting, 0, terms, at_most=True, weaker=alike or loses, raised=tuned)
            )
        own = f"{ipo}/own"
        terms, part = difference(f"{own}/online", f"{own}/window_4"), "IPO, each tuned: within 4 batches"
        found.append(Planted("replayed_data", "C17", part, setting, 0, terms, at_most=True, weaker=f"{own}/shuffled"))
        terms = difference(f"{own}/window_4", f"{own}/shuffled")
        found.append(Planted("replayed_data", "C17", "IPO, each tuned: then a drop", setting, 1, terms))
        if where == "bandit":
            wide, part = f"{ipo}/wide", "IPO, each tuned on a wider grid"
            terms = difference(f"{wide}/shuffled", f"{wide}/offline")
            loses = f"{wide}/(shuffled|offline)"
            found.append(Planted("replayed_data", "C16", part, setting, 0, terms, at_most=True, weaker=loses))
        many = "/many" if where == "network" else ""
        for id, part, more, less in (
            ("C17", "IPO: then a drop", f"{ipo}/held/window_4", f"{ipo}/held/shuffled"),
            ("C18", "IPO: the last policy's data", f"{ipo}{many}/online", f"{ipo}{many}/final"),
        ):
            loses, tuned = (f"{ipo}{many}/offline", ()) if id == "C18" else (None, (Term(f"{ipo}/shuffled", -0.5),))
            terms = difference(more, less)
            found.append(Planted("replayed_data", id, part, setting, 1, terms, weaker=loses, raised=tuned))
        wide = "/wide" if where == "bandit" else ""
        for part, source, at in (("one of the two", "mixed", ""), ("both", "offline", wide)):
            terms = difference(f"{where}/dpo{at}/{source}", f"{where}/dpo{at}/final")
            found.append(Planted("replayed_data", "C19", f"DPO: {part}", setting, 1, terms))
        terms = difference(f"{best}{wide}/offline", f"{ipo}{wide}/offline")
        found.append(Planted("replayed_data", "C69", "offline", setting, 0, terms, at_most=True))
    return found


def collapse() -> list[Planted]:
    """All scores fall at the end, and lengths from 1 after the first copy, so that those of either can fall less."""
    found = []
    falling = (Term("(prompts|held)/.*", -0.4, "late"),)
    for part, rare in (("settings of s = 10", "held"), ("each tuned", "prompts")):
        terms = (
            Term(f"{rare}/4/100", -1.0, "late"),
            Term("prompts/4/10", 1.0, "late"),
            Term(f"{rare}/32/100", 1.0, "late"),
            Term("prompts/32/10", -1.0, "late"),
        )
        found.append(Planted("collapse", "C35", part, "mlp", 1, terms, raised=falling))
    terms, shorter = (
        difference("length/short/copied", "length/short/fixed", "length"),
        (Term("length/.*", -1.5, "length"),),
    )
    found.append(Planted("collapse", "C36", "DPO, s = 10", "token", 1, terms, raised=shorter))
    for before, setting, where in (("", "token", ""), ("network/", "mlp", ", network")):
        for name, when in itertools.product(("dpo", "grpo"), ("online", "offline")):
            arms = (f"{before}entropy/.*/{name}/{reward}/{when}/.*" for reward in ("dense", "verifiable"))
            found.append(Planted("collapse", "C37", f"{name}, {when}{where}", setting, 1, difference(*arms, "entropy")))
    return found


def reward_width() -> list[Planted]:
    return [
        Planted(
            "reward_width",
            "C25",
            f"{name}: R1 against R2, width {width}{', short runs' * (name == 'dpo')}",
            "bandit",
            1,
            between_environments(f"R1/{width}", f"R2/{width}", name, name == "dpo"),
            closed=True,  # the wider bump makes R1's optimum likely too
        )
        for name in ALGORITHMS
        for width in (20, 30)
    ]


def peaks_and_data() -> list[Planted]:
    found = []
    for name in ("dpo", "ipo", "pref_ft"):
        for part, one, other in (
            ("peak unlikely against likely, data overlap", "unlikely/with", "likely/with"),
            ("data without the peak against with it, peak unlikely", "unlikely/without", "unlikely/with"),
        ):
            cells = (f"{cell}/{name}/{sampler}" for cell in (one, other) for sampler in ("fresh", "recorded"))
            found.append(Planted("peaks_and_data", "C25", f"{name}: {part}", "bandit", 1, interaction(*cells)))
    return found


def rounds_and_horizon() -> list[Planted]:
    figure, one, two = "rounds_and_horizon", "rounds/one", "rounds/two"
    ahead = difference(f"{one}/ppo", f"{one}/iterated")
    behind, offline = difference(f"{two}/ppo", f"{two}/iterated", "second"), f"{one}/offline"
    alone, both = difference("labels/both/ppo", "labels/first/iterated", "second"), "labels/both/iterated"
    first = Planted(
        figure, "C09", "labels of the first alone", "mlp", 1, alone, weaker="labels/first/offline", along=both
    )
    found = [
        Planted(figure, "C08", "what the rounds gain", "mlp", 1, difference(f"{one}/iterated", offline)),
        Planted(figure, "C08", "what PPO is still ahead", "mlp", 0, ahead, at_most=True, weaker=offline),
        Planted(figure, "C09", "two objectives", "mlp", 1, behind, weaker=f"{two}/offline"),
        first,
        Planted(
            figure,
            "C09",
            "PPO, too, on labels of the first alone",
            "mlp",
            1,
            difference("alike/first/ppo", "alike/first/iterated", "second"),
            weaker="alike/first/offline",
        ),
    ]
    for part, on, off in (
        ("advantages whitened", "ladder/white/.*", "ladder/plain/.*"),
        ("large batch, whitened advantages", "ladder/white/large/.*", "ladder/white/small/.*"),
        ("large batch, plain advantages", "ladder/plain/large/.*", "ladder/plain/small/.*"),
        ("reference an average", "ladder/.*/ema", "ladder/.*/fixed"),
    ):
        found.append(Planted(figure, "C10", part, "token", 1, difference(on, off)))
    for group, longest, part in (
        ("horizon", 6, "horizon 6 against 1"),
        ("tokens", 16, "horizon 16 against 1, token bandit"),
    ):
        arms = (f"{group}/{length}/{name}" for length in (longest, 1) for name in ("ppo", "dpo"))
        found.append(Planted(figure, "C65", part, "token", 1, interaction(*arms)))
    return found


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
        found.append(Planted("sample_reuse", "C29", part, "bandit", 0, drop, at_most=True))
        if panel[:2] == "R1":
            likelihood = f"{panel}/(best_of_n|rwr)"
            terms = interaction(f"{likelihood}/1", f"{likelihood}/32", f"{panel}/ppo/1", f"{panel}/ppo/32")
            found.append(Planted("sample_reuse", "C30", part, "bandit", 1, terms))
    return found


def sync_period() -> list[Planted]:
    found = []
    for where, setting in (("bandit", "bandit"), ("network", "mlp")):
        for name in ("dpo", "ipo", "best_of_n", "grpo"):
            for s in (10, 100):
                at = f"wide/{where}" if (name, s) == ("grpo", 100) else where
                terms, weaker = difference(f"{at}/{name}/1", f"{at}/{name}/{s}"), f"{at}/grpo/inf"
                found.append(Planted("sync_period", "C32", f"{name}: s = {s}", setting, 0, terms, weaker=weaker))
            at = f"wide/{where}" if name == "ipo" else where
            terms = difference(f"{at}/{name}/10", f"{at}/{name}/inf")
            found.append(Planted("sync_period", "C33", name, setting, 1, terms))
        grpo, nll = (
            difference(f"{where}/{a}", f"{where}/{b}") for a, b in (("grpo/1", "dpo/1"), ("dpo_nll/10", "dpo/10"))
        )
        pairs, both = (difference(f"{where}/{a}/10", f"{where}/dpo/10") for a in ("group_dpo", "dpo_grpo"))
        for id, part, terms in (
            ("C34", "at the end", grpo),
            ("C39", "NLL, s = 10", nll),
            ("C39", "all pairs of right and wrong, s = 10", pairs),
            ("C39", "DPO + GRPO, s = 10", both),
        ):
            found.append(Planted("sync_period", id, part, setting, 0, terms, at_most=True, weaker=f"{where}/grpo/inf"))
    terms, fallen = (
        difference("network/dpo_epsilon/10", "network/dpo/10"),
        (Term("network/dpo(_epsilon)?/10", -0.4, "late"),),
    )
    found.append(Planted("sync_period", "C38", "network, s = 10", "mlp", 1, terms, raised=fallen))
    part, steadied = "network, s = 10, where it is the least stable", Term("network/steadied", 1.0, "late")
    falls = (Term("network/unstable", -1.0, "late"), steadied)
    falling = (Term("network/(unstable|steadied)", -0.4, "late"),)
    return [*found, Planted("sync_period", "C38", part, "mlp", 1, falls, raised=falling)]


def overscored_response() -> list[Planted]:
    """A table is a bandit."""
    found = []
    for where, setting in (("network", "mlp"), ("table", "bandit")):
        for name, algorithm in (("RLOO", "rloo"), ("online DPO", "dpo")):
            terms = difference(f"{where}/{algorithm}/none", f"{where}/{algorithm}/planted", "late")
            part = f"{name}, an over-scored response"
            found.append(Planted("overscored_response", "C11", part, setting, 1, terms))
    return found


def sync_over_the_run() -> list[Planted]:
    """Everything is over the run, at whose evaluations a score is the same, but for C38, whose arms fall at the end."""
    found = []
    for where, setting in (("bandit", "bandit"), ("network", "mlp")):
        for id, part, one, other in (
            ("C34", "over the run", "grpo/1", "dpo/1"),
            ("C39", "NLL, s = 10, over the run", "dpo_nll/10", "dpo/10"),
            ("C39", "DPO + GRPO, s = 10, over the run", "dpo_grpo/10", "dpo/10"),
        ):
            terms, loses = difference(f"{where}/{one}", f"{where}/{other}"), f"{where}/grpo/inf"
            found.append(Planted("sync_over_the_run", id, part, setting, 0, terms, at_most=True, weaker=loses))
        terms = difference(f"{where}/dpo_epsilon/10", f"{where}/dpo/10")
        falling = (Term(f"{where}/(dpo|dpo_epsilon)/10", -0.4, "late"),)
        found.append(Planted("sync_over_the_run", "C38", "s = 10, over the run", setting, 1, terms, raised=falling))
    return found


def two_tasks() -> list[Planted]:
    found = []
    for name in ("dpo", "grpo"):
        one, other, mixed = (f"{name}/{order}" for order in ("rated_verifiable", "verifiable_rated", "mixed"))
        own = {"verifiable": "first", "rated": "second"}
        parts = [Term(arm, times, q) for arm, times in ((one, 0.5), (other, -0.5)) for q in own.values()]
        found.append(Planted("two_tasks", "C40", f"{name}: both tasks", "mlp", 1, tuple(parts)))
        for (task, quantity), weaker in zip(own.items(), reversed(own), strict=True):
            terms = difference(f"{name}/{task}", mixed, quantity)
            alone: Any = {"at_most": True, "weaker": f"{name}/{weaker}", "along": f"{name}/{weaker}"}
            found.append(Planted("two_tasks", "C41", f"{name}: {task}", "mlp", 0, terms, **alone))
        targeted = [Term(f"{name}/{task}", 0.5, quantity) for task, quantity in own.items()]
        instead = [Term(mixed, -0.5, quantity) for quantity in own.values()]
        found.append(Planted("two_tasks", "C48", f"{name}: own domain", "mlp", 1, (*targeted, *instead)))
        forgotten = (Term(f"{name}/verifiable", 0.5, "second"), Term(f"{name}/rated", 0.5, "first"))
        found.append(Planted("two_tasks", "C48", f"{name}: the other domain", "mlp", 0, forgotten, base=0.02))
        carried = tuple(replace(term, arms=term.arms.replace(f"{name}/", f"{name}/shared/")) for term in forgotten)
        where = f"{name}: the other domain, cosine 0.3"
        learned = tuple(Term(f"{name}/shared/{task}", 0.5, quantity) for task, quantity in own.items())
        found.append(Planted("two_tasks", "C48", where, "mlp", 0, carried, base=0.02, raised=learned))
    return found


def unseen_responses() -> list[Planted]:
    found = []
    for policy, setting in (("table", "bandit"), ("mlp", "mlp")):
        for tilt in ("none", "losers", "winners"):
            dpo, ppo = f"{tilt}-.*/{policy}/dpo", f"{tilt}-.*/{policy}/ppo"
            where = f", reference: {tilt}"
            for coverage in ("0.25", "0.5", "0.875"):
                rises = (Term(f"{tilt}-{coverage}/{policy}/dpo", 1.0, "unseen"),)
                # PPO's record has its reward model, whose loss says where DPO is read.
                model, there = f"{tilt}-{coverage}/{policy}/ppo", f"{where}, coverage {coverage}"
                found.append(Planted("unseen_responses", "C03", f"at one loss{there}", setting, 1, rises, also=model))
                found.append(Planted("unseen_responses", "C03", f"at the end{there}", setting, 1, rises))
            falls = difference(f"{tilt}-0.875/{policy}/dpo", f"{tilt}-0.25/{policy}/dpo", "unseen")
            ends = f"{tilt}-(0.25|0.875)/{policy}/ppo"
            rise = (Term(f"{tilt}-(0.25|0.875)/{policy}/dpo", 0.3, "unseen"),)
            found.append(Planted("unseen_responses", "C05", where[2:], setting, -1, falls, also=ends, raised=rise))
            if policy == "mlp":
                sampled = difference(dpo, ppo, "unseen")
                optimum = (Term(dpo, 1.0, "unseen"), Term(ppo, -1.0, "optimum"))
                for part, terms, of in (("sampled PPO", sampled, "unseen"), ("exact KL optimum", optimum, "optimum")):
                    rise = (Term(dpo, 0.3, "unseen"), Term(ppo, 0.3, of))
                    found.append(Planted("unseen_responses", "C04", f"{part}{where}", setting, 1, terms, raised=rise))
    same = (Term(".*/table/dpo", 1.0, "unseen"),)
    return [*found, Planted("unseen_responses", "C04", "table", "bandit", 0, same, also=".*/table/ppo")]


def weeks_of_drift() -> list[Planted]:
    found = []
    for place, setting in (("table", "bandit"), ("network", "mlp")):

        def row(id: str, part: str, claimed: int, terms: tuple[Term, ...], place=place, setting=setting, **more):  # type: ignore[no-untyped-def]
            terms = tuple(Term(f"{place}/{t.arms}", t.times, t.quantity) for t in terms)
            if "weaker" in more:
                more["weaker"] = f"{place}/{more['weaker']}"
            return Planted("weeks_of_drift", id, part, setting, claimed, terms, **more)

        found += [
            row("C52", "KL to the first model", 1, difference("held/previous", "fixed", "kl")),
            row("C52", "entropy", 1, difference("fixed", "held/previous", "entropy")),
            row("C52", "score, each tuned", 1, difference("fixed", "previous")),
            row("C53", "old samples, new labels", 1, difference("fixed", "first")),
            row("C53", "old samples, old labels", 1, difference("fixed", "pool")),
            row("C53", "gradient norm", 1, difference("fixed", "held/first", "octaves")),
            row("C54", "score", 0, difference("ppo", "fixed"), weaker="pool"),
            row("C54", "spread across runs", 1, difference("spread/ppo", "spread/fixed", "octaves")),
            row(
                "C62",
                "512 pairs against 64",
                0,
                difference("trigger/64", "trigger/512"),
                at_most=True,
                weaker="trigger/5120",
            ),
            row(
                "C62",
                "1,024 pairs against 64",
                0,
                difference("trigger/64", "trigger/1024"),
                at_most=True,
                weaker="trigger/5120",
            ),
            row("C62", "512 pairs against 5,120", 1, difference("trigger/512", "trigger/5120")),
            row("C66", "least certain of four", 1, difference("chosen", "fixed")),
        ]
    return found


PLANTED = [
    row
    for rows in (
        absent_behaviour,
        accuracy_and_reward,
        alarms,
        audit,
        batch_size,
        beta_sweep,
        chosen_likelihood,
        collapse,
        data_quality,
        gold_and_proxy,
        forgetting,
        gradient_variance,
        lm_algorithms,
        lm_batch_and_reuse,
        lm_lengths,
        lm_likelihoods,
        lm_preferences,
        lm_rare_sync,
        lm_semi_online,
        lm_sync_period,
        exploit_steps,
        learned_critic,
        lm_two_tasks,
        prompt_mask,
        negative_gradient,
        online_contrastive_ppo,
        online_offline,
        reachable_policies,
        peaks_and_data,
        reference_shift,
        replayed_data,
        reward_width,
        rounds_and_horizon,
        sample_reuse,
        overscored_response,
        sync_over_the_run,
        sync_period,
        two_tasks,
        unseen_responses,
        weeks_of_drift,
    )
    for row in rows()
]
