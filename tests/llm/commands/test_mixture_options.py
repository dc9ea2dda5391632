"""Losses that are added, as options of both programs and in the file that a run writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm.commands.options import as_options, parse
from sims.command_line import parse as parse_toy
from sims.core.algorithms.contrastive import DPO
from sims.core.algorithms.filtering import ReST
from sims.core.algorithms.likelihood import PrefFT
from sims.core.algorithms.mixture import Mixture
from sims.core.spec import SpecError
from sims.experiments.config_file import config_text
from sims.experiments.options import OptionParser, show

LINE = ["--algorithm", "mixture", "--losses", "dpo:beta=0.123456789:pairing=best-worst,pref-ft:pairing=best-worst"]
MIXTURE = Mixture((DPO(beta=0.123456789, pairing="best_worst"), PrefFT(pairing="best_worst")), (1.0, 0.25))


def test_from_the_command_line_to_the_file_and_back(tmp_path: Path) -> None:
    words = [*LINE, "--loss-weights", "1,0.25"]
    assert parse_toy(words)[0].algorithm == MIXTURE
    experiment, _ = parse(OptionParser("x", True), words, "tiny-min-length")
    assert experiment.algorithm == MIXTURE
    file = tmp_path / "run.yaml"
    file.write_text(config_text(as_options(experiment), "a run"))
    assert "dpo:pairing=best_worst:beta=0.123456789" in file.read_text()
    assert parse(OptionParser("x", True), ["--config", str(file)], "tiny-min-length")[0] == experiment


def test_switches_and_several_numbers_of_a_loss_come_back() -> None:
    losses = "dpo:length_normalised=true,rest:quantiles=0.1/0.25"
    found = parse_toy(["--algorithm", "mixture", "--losses", losses])[0].algorithm
    assert found == Mixture((DPO(length_normalised=True), ReST(quantiles=(0.1, 0.25))))
    assert show(found.losses) == losses


@pytest.mark.parametrize(
    ("losses", "line"),
    [
        ("dpo,pref-t", r"algorithm = 'pref_t': must be one of .*; did you mean pref_ft\?"),
        ("dpo:bta=1", r"bta = '1': dpo has no such field; it has pairing, beta, length_normalised"),
        ("dpo:beta", r"beta = '': must be given as dpo:beta=VALUE"),
        ("dpo:beta=0.1:beta=0.5", r"beta = '0.5': must be given once, not twice, of dpo"),
        ("dpo:beta=1e-39,sft", r"beta = 1e-39: must be 0, or at least 1.2e-38 in float32"),
        ("dpo:beta=x,sft", r"beta = 'x': must be float > 0"),
    ],
)
def test_what_cannot_be_read_is_named(losses: str, line: str) -> None:
    with pytest.raises(SpecError, match=line):
        parse_toy(["--algorithm", "mixture", "--losses", losses])
