"""The bugs that shipped in public libraries for preference tuning, which the properties are about.

The numbers are those of `tests/BUGS.md` in the repository, which also says which of our tests hold each. 37 is not in
use.
"""

from __future__ import annotations

from typing import NamedTuple


class Bug(NamedTuple):
    """where: the libraries, with the numbers of their issues, pull requests or commits."""

    bug: str
    where: str


BUGS = {
    1: Bug("k1 used as a loss has zero expected gradient", "TRL #2277, open-instruct #534"),
    2: Bug(
        "k3 in the loss descends KL(ref‖π), k2 descends KL(π‖ref), undocumented",
        "TRL #4967, verl #2953, OpenRLHF #1309",
    ),
    3: Bug("log-ratio reversed: k3 spikes, k1 pays for drifting", "rlhf-book code"),
    4: Bug(
        'per-token "unbiased" KL drops the future terms of the sequence KL', "TRL Nash-MD; `use_bias_correction_kl`"
    ),
    5: Bug("sequence-level ratio broadcast onto per-token KL", "TRL #6586"),
    6: Bug("KL sign flipped in the loss", "verl #179"),
    7: Bug("k3 clamped: no gradient where it matters", "verl, OpenRLHF"),
    8: Bug("exp(x) − 1 − x cancels", "rlhf-book #525"),
    9: Bug("logged KL has the two policies swapped", "TRL #168"),
    10: Bug("loss not divided by accumulation steps", "TRL #2615 … #3716"),
    11: Bug("denominator spans the generation batch, not the update", "TRL #5619"),
    12: Bug("denominator counts masked tokens", "TRL #6439, #6478"),
    13: Bug("critic loss inflated by micro-batching", "verl #6957"),
    14: Bug("short sequences over-weighted by per-micro-batch means", "open-instruct #1161"),
    15: Bug("reduction does not do what its name says", "verl #931, TRL #2881, #3187"),
    16: Bug("length weight after broadcasting", "TRL #6654"),
    17: Bug("averages of averages across ranks", "torchtune #2172, TRL #6380"),
    18: Bug("sum for mean; missing ½ in the value loss", "HALOs, verl #2016"),
    19: Bug("IPO on summed against averaged log-probs, silently mixed", "TRL #1265"),
    20: Bug("label smoothing ignored by the sigmoid loss", "TRL 1.16"),
    21: Bug("SPPO-hard: wrong scale of β", "TRL #1615"),
    22: Bug("log1p(−exp x) cancels in ORPO", "TRL #4763"),
    23: Bug("CISPO without the log π factor", "open-instruct #1269"),
    24: Bug("GSPO with token-level reduction", "OpenRLHF 1b23ecf0"),
    25: Bug("JSD mixture weights swapped", "TRL #3043"),
    26: Bug("KTO's mismatched pairs match themselves, or none are left", "TRL #1380, #1911"),
    27: Bug("reward-scaling branches inverted", "TRL #3992"),
    28: Bug("(B,) added to (B, T): broadcasts when B = T", "HALOs"),
    29: Bug("advantages passed as the mask", "verl #2513"),
    30: Bug("EOS masked when pad = eos: stopping is never learned", "TRL #3200, #6357"),
    31: Bug("prompt or padding not masked", "TRL #1625, OpenRLHF #237"),
    32: Bug("off-by-one masks, double shift", "verl #3287, torchtune #2613"),
    33: Bug("no attention mask when scoring", "TRL #2708"),
    34: Bug("position ids wrong under left padding", "TRL #6800, OpenRLHF #217"),
    35: Bug("NaN × 0; an all-masked row divides by zero", "verl #2377, OpenRLHF #1240"),
    36: Bug("metrics include padding", "TRL #2022 … #6803"),
    38: Bug("truncation leaves empty or identical completions", "TRL #3398, rlhf-book #503"),
    39: Bug("double BOS, extra EOS", "TRL #4481"),
    40: Bug("tokens merge across the prompt boundary", "TRL #2054, #4639"),
    41: Bug("reward read at the wrong token", "transformers #35352"),
    42: Bug("one response per prompt gives all-zero advantages", "OpenRLHF #1250"),
    43: Bug("variance floor shrinks close-reward groups; residue explodes equal ones", "verl #6348"),
    44: Bug("ddof differs between libraries", "TRL, verl against HALOs"),
    45: Bug("groups mix prompts", "TRL #3725, #4271"),
    46: Bug("missing reward treated as 0, or 0.0 as missing", "TRL #5902, OpenRLHF #1219"),
    47: Bug("returns lost across masked spans; unmasked whitening", "verl #7300, #1527"),
    48: Bug("sampling temperature, top-p or top-k differ from scoring", "TRL #3029, OpenRLHF #857"),
    49: Bug("dropout makes the ratio ≠ 1 at step 0", "TRL #639, #3234"),
    50: Bug("reference is the wrong adapter, or is trained", "TRL #1193, #6591"),
    51: Bug("bf16 log-probs", "OpenRLHF #634"),
    52: Bug("seed set too late, or global", "TRL #4887, #1648"),
    53: Bug("gradients dropped between accumulation steps", "open-instruct #1498"),
}
