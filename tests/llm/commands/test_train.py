"""The command line of language models: presets, options, what a run writes, and what it learns."""

from __future__ import annotations

import json
import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llm.__main__ import main
from llm.commands.options import parse
from llm.embedded.language import build_tokenizer
from llm.reward_models.calibration import wilson
from llm.reward_models.model import new_reward_model
from llm.tasks import LearnedReward, MinLength
from llm.tasks.environment import response_lengths
from llm.training.folder import closing_table
from llm.training.loggers import read_json_lines
from llm.training.memory import estimate
from llm.training.metrics import UpdateMetrics
from llm.training.presets import PRESETS
from llm.training.run import Run, device_for, execute
from sims.core.algorithms import find_algorithm
from sims.core.algorithms.clipped import GRPO
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, from_json
from sims.experiments.experiment import Experiment
from sims.experiments.options import OptionParser
from sims.experiments.store import Store, spec_hash
from tests.exits import exit_status

LARGE = [name for name in PRESETS if not name.startswith("tiny")]


def small(experiment: Experiment, **changes) -> Experiment:
    """A few tokens and prompts of an experiment."""
    policy = experiment.policy.replace(decoding=experiment.policy.decoding.replace(max_new_tokens=20))
    task = experiment.environment.replace(evaluation_prompts=8)
    settings = {"schedule": Schedule(batch_size=4, num_generations=2), "updates": 4, "evaluations": 2}
    return experiment.replace(**{"policy": policy, "environment": task} | settings | changes)


# Presets


@pytest.mark.parametrize("name", PRESETS)
def test_dry_run_of_every_preset_loads_nothing(name, capsys, monkeypatch):
    def loaded(*args, **kwargs):
        raise AssertionError("a dry run loads nothing")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", loaded)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", loaded)
    assert main(["train", "--preset", name, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    spec = json.loads(printed[: printed.index("\n}") + 2])
    assert from_json(spec) == PRESETS[name]
    for part in ("weights", "optimiser", "reference", "cache", "gradients", "activations", "logits", "peak"):
        assert part in printed


def test_large_presets_are_as_large_as_their_names():
    named = ("pythia-1.4b-min-length", "mistral-7b-ultrafeedback", "qwen2.5-1.5b-numinamath")
    counts = {name: estimate(PRESETS[name]).parameters for name in named}
    assert counts["qwen2.5-1.5b-numinamath"] == 1_543_714_304  # as published by the Qwen team, embeddings once
    assert counts["pythia-1.4b-min-length"] == 1_414_647_808  # as published by EleutherAI
    # 7,241,732,096 as published by Mistral AI, and rank-64 adapters: 64·(in + out) for each linear layer of 32 blocks:
    # q, o 4096→4096; k, v 4096→1024; gate, up 4096→14336; down 14336→4096.
    adapters = 32 * 64 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336))
    assert counts["mistral-7b-ultrafeedback"] == 7_241_732_096 + adapters
    assert estimate(PRESETS["mistral-7b-ultrafeedback"]).trained == adapters


def test_the_estimate_counts_what_a_run_holds():
    for name in ("tiny-min-length", "tiny-preference"):
        run, found = Run(PRESETS[name]), estimate(PRESETS[name])
        held = sum(p.numel() * p.element_size() for p in run.policy.model.parameters())
        moments = run.training.learner.optimiser
        assert found.held["weights"] == held
        assert found.held["optimiser"] == sum(x.numel() * x.element_size() for x in (*moments.mean, *moments.square))


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("reward") / "model"
    new_reward_model("pythia").save(folder, build_tokenizer())
    return str(folder)


@pytest.mark.parametrize("name", LARGE)
def test_large_presets_run_when_shrunken(name, reward_model):
    """Model, reward model and data are the embedded ones; algorithm, reward, scoring and schedule the preset's."""
    preset = PRESETS[name]
    if preset.policy.base_precision == "nf4":
        pytest.importorskip("bitsandbytes", reason="bases are quantised by bitsandbytes, which is not installed")
    tiny = PRESETS["tiny-min-length"]
    policy = preset.policy.replace(
        model="mistral" if "mistral" in name else "pythia", decoding=tiny.policy.decoding.replace(max_new_tokens=30)
    )
    learned = {"reward_model": reward_model} if preset.environment.kind == "learned_reward" else {}
    task = type(preset.environment)(**learned)
    schedule = preset.schedule.replace(batch_size=8)
    if preset.environment.kind == "verifiable":  # a few of many responses must be right, or no advantage differs
        task = task.replace(checker="exact")
    experiment = preset.replace(
        environment=task.replace(evaluation_prompts=4), policy=policy, schedule=schedule, updates=2, evaluations=1
    )
    updates = list(Run(experiment).train())
    assert [update.number for update in updates] == [1, 2]
    assert all(float(update.stats.grad_norm) > 0 for update in updates)


def test_the_default_preset_shortens_responses():
    """A fourth of the preset's updates. One seed, so that it repeats; over seeds 0 to 7 the length was 7.8 to 8.4."""
    experiment = PRESETS["tiny-min-length"].replace(updates=15, evaluations=1)
    run = Run(experiment)
    start = run.evaluate().numbers
    for _ in run.train():
        pass
    end = run.evaluate().numbers
    assert start["length"] > 14
    assert end["length"] < 10
    assert start["kl_policy_ref"] == pytest.approx(0, abs=1e-5)
    assert end["kl_policy_ref"] > 3


# What a run writes


def test_rows_have_trls_names(tmp_path, capsys):
    common = ["--max-new-tokens", "8", "--evaluation-prompts", "4", "--updates", "2", "--evaluations", "1"]
    pairs = ["--algorithm", "dpo", "--batch-size", "4", "--num-generations", "2"]
    assert main(["train", "--output", str(tmp_path / "dpo"), *common, *pairs]) == 0
    printed = capsys.readouterr().out
    assert "length" in printed and "\nreward: −length, in tokens before EOS (--task min_length)\n" in printed
    rows = read_json_lines(tmp_path / "dpo" / "metrics.jsonl")
    assert [row["update"] for row in rows] == [0, 1, 2, 2]
    assert set(rows[1]) >= {
        "loss",
        "grad_norm",
        "learning_rate",
        "reward",
        "reward_std",
        "kl",
        "entropy",
        "completions/mean_length",
        "completions/clipped_ratio",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
        "tokens_per_second",
    }
    assert rows[1]["kl"] == pytest.approx(
        0, abs=1e-5
    )  # of the distribution that drew the batch, which was the reference
    assert rows[1]["rewards/margins"] == pytest.approx(rows[1]["rewards/chosen"] - rows[1]["rewards/rejected"])
    samples = read_json_lines(tmp_path / "dpo" / "samples.jsonl")
    assert {"update", "prompt", "completion", "reward", "length"} == set(samples[0])
    assert main(["train", "--output", str(tmp_path / "grpo"), *common, "--algorithm", "grpo"]) == 0
    assert "clip_ratio/region_mean" in read_json_lines(tmp_path / "grpo" / "metrics.jsonl")[1]


def test_sample_and_evaluate_read_what_train_wrote(tmp_path, capsys):
    common = ["--max-new-tokens", "8", "--evaluation-prompts", "4"]
    assert main(["sft", "--output", str(tmp_path), *common, "--updates", "3", "--learning-rate", "1e-3"]) == 0
    model = ["--model", str(tmp_path / "model")]
    capsys.readouterr()
    assert main(["sample", *model, *common, "--count", "3"]) == 0
    assert capsys.readouterr().out.count("reward") == 3
    assert main(["sample", *model, *common, "--prompt", "two plus two cats :"]) == 0
    assert "two plus two cats" in capsys.readouterr().out
    assert main(["evaluate", *model, *common]) == 0
    tuned = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.split("\n") if line}
    assert abs(float(tuned["kl_policy_ref"][0])) > 1e-3  # against the model that it was trained from, not itself
    assert main(["evaluate", *common]) == 0
    same = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.split("\n") if line}
    assert float(same["kl_policy_ref"][0]) == pytest.approx(0, abs=1e-5)
    assert main(["evaluate", "--model", "mistral", *common]) == 0  # another architecture than its reference's
    other = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.split("\n") if line}
    assert float(other["kl_policy_ref"][1]) == 0 != float(other["kl_policy_ref"][0])
    assert same["win"][1:6] == ["0.500", "95", "%", "[0.150,", "0.850],"]  # against itself, on the same uniforms


def test_what_became_of_rows_is_told_once(tmp_path, capsys):
    """The model and its reference are evaluated on the same rows."""
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "two plus two cats :"}\n' + '{"prompt": ""}\n' * 2)
    line = f"evaluate --data {file} --on-bad-rows drop --max-new-tokens 4 --evaluation-prompts 2"
    assert main(line.split()) == 0
    assert capsys.readouterr().err.count("dropped 2 of 3 rows") == 1


def test_a_prompt_is_evaluated_once(tmp_path, capsys):
    """Five rows are five prompts, however many are asked for: the interval of the win rate is that of five."""
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"prompt": "two plus {x} :"}}\n' for x in "abcde"))
    data = ["--data", str(tmp_path / "rows.jsonl"), "--evaluation-prompts", "64", "--max-new-tokens", "4"]
    assert main(["evaluate", *data]) == 0
    table = capsys.readouterr().out
    assert "on 5 prompts" in table
    low, high = wilson(0.5, 5)
    assert f"95 % [{low:.3f}, {high:.3f}]" in table  # against itself


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["sample", "--threads", "100000000000"], "threads = 100000000000: must be int from 1 to 1,024"),
        (["evaluate", "--threads", "-3"], "threads = -3: must be int from 1 to 1,024"),
        (["sample", "--prompt", ""], "prompt = '': must have a token: this tokenizer makes none of it"),
    ],
)
def test_samples_that_cannot_be_drawn_are_one_line(arguments, line, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_execute_gives_records(tmp_path):
    experiment = small(PRESETS["tiny-min-length"], runs=2, algorithm=PRESETS["tiny-preference"].algorithm)
    assert from_json(json.loads(json.dumps(experiment.to_json()))) == experiment
    assert spec_hash(experiment.to_json()) != spec_hash(experiment.replace(seed=1).to_json())
    told: list[int] = []
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    arrays = execute([experiment], told.append)[0]
    after = (torch.get_rng_state(), np.random.get_state()[1], random.getstate())  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert (before[1] == after[1]).all()
    assert before[2] == after[2]
    assert told[-1] == experiment.updates
    evaluated = ("reward", "gold", "length", "kl_policy_ref", "entropy", "token_entropy", "finished")
    for name in (*evaluated, "loss", "logp_chosen"):
        assert arrays[name].shape == (2, 3)
    assert arrays["updates"].tolist() == [0, 2, 4]
    assert arrays["samples"].tolist() == [0, 16, 32]
    assert arrays["diverged_at"].tolist() == [-1, -1]
    assert arrays["best_reward"].tolist() == [0, 0]  # an immediate EOS
    assert not np.array_equal(arrays["reward"][0], arrays["reward"][1])
    # Run 1 of two is run 1 of any number.
    alone = execute([experiment.replace(runs=1)])[0]
    assert np.array_equal(alone["length"][0], arrays["length"][0])
    Store(tmp_path).save(experiment.name, experiment.to_json(), arrays, seconds=1.0, sources="x")


def test_the_pairs_of_the_first_batch_are_followed_from_the_reference_on():
    """At a learning rate of nearly 0 nothing moves; DPO's batch carries log π_ref, Pref-FT's does not."""
    for name in ("dpo", "pref_ft"):
        experiment = small(PRESETS["tiny-min-length"], runs=1, algorithm=find_algorithm(name)())
        still = execute([experiment.replace(optimiser=experiment.optimiser.replace(learning_rate=1e-12))])[0]
        for which in ("first_logp_winner", "first_logp_loser"):
            assert still[which][0] == pytest.approx(np.full(3, still[which][0, 0]), abs=1e-4)
        assert np.isnan(still["logp_chosen"][0, 0]) and np.isfinite(still["logp_chosen"][0, 1:]).all()
        moved = execute([experiment.replace(optimiser=experiment.optimiser.replace(learning_rate=3e-3))])[0]
        for which in ("first_logp_winner", "first_logp_loser"):
            assert moved[which][0, 0] == pytest.approx(still[which][0, 0], abs=1e-4)
        margin = moved["first_logp_winner"] - moved["first_logp_loser"]
        assert margin[0, -1] > margin[0, 0]
        assert moved["reference_reward"] == pytest.approx(moved["gold"][:, 0]) != pytest.approx(moved["gold"][:, -1])


def test_kl_is_to_the_policy_before_the_first_update_wherever_the_reference_moves():
    moving = Schedule(batch_size=4, num_generations=2, reference="copy", reference_every_updates=1)
    algorithm = find_algorithm("dpo")()
    runs = [
        Run(small(PRESETS["tiny-min-length"], algorithm=algorithm, schedule=schedule, updates=1, evaluations=1))
        for schedule in (moving.replace(reference="fixed", reference_every_updates=None), moving)
    ]
    for run in runs:
        list(run.train())
    assert runs[1].training.reference.version == 1  # it is the policy now
    fixed, moved = (run.evaluate().numbers["kl_policy_ref"] for run in runs)
    assert fixed == moved and abs(moved) > 1e-3
    held = [estimate(run.experiment).held for run in runs]
    one = held[0]["reference, sampler"]
    assert held[1]["reference, sampler"] == 2 * one


def test_embedded_models_stay_on_the_cpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device_for(PRESETS["tiny-min-length"]) == "cpu"
    assert device_for(PRESETS["pythia-1.4b-min-length"]) == "cuda"


@pytest.mark.parametrize("command", ["train", "sample", "evaluate"])
def test_no_command_takes_the_cpu_where_a_gpu_was_asked_for(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    output = ["--output", str(tmp_path)] if command == "train" else []
    assert main([command, *output, "--device", "cuda"]) == 2
    assert "device = 'cuda': there is no GPU here" in capsys.readouterr().err


def test_the_largest_reward_is_known_of_lengths_and_of_right_answers():
    for name, best in (("tiny-mode-length", 0.0), ("tiny-preference", 1.0)):
        assert PRESETS[name].environment.best_reward() == best
    assert np.isnan(PRESETS["pythia-1.4b-alpacafarm"].environment.best_reward())


def test_a_diverged_run_is_marked_and_the_next_goes_on():
    experiment = small(PRESETS["tiny-min-length"], runs=2)
    wild = experiment.replace(optimiser=experiment.optimiser.replace(learning_rate=1e38))
    arrays = execute([wild])[0]
    assert (arrays["diverged_at"] >= 1).all()
    assert np.isnan(arrays["length"][:, -1]).all()
    assert np.isfinite(arrays["length"][:, 0]).all()


def test_a_model_labels_its_own_samples():
    """From update 3 on rewards are beta times the log-ratio of the policy at the last sync, and gold is the task's."""
    given = "--algorithm dpo --num-generations 2 --batch-size 4 --labels implicit --implicit-beta 0.2 --temperature 0.8"
    more = "--implicit-after-updates 2 --max-new-tokens 20 --updates 4 --evaluations 1 --learning-rate 1e-3"
    experiment, _ = parse(OptionParser("test"), f"{given} {more}".split(), "tiny-min-length")
    run = Run(experiment.replace(precision="float64"))
    before, metrics = run.policy.clone(), UpdateMetrics(run)
    for update in run.train():
        batch = update.batch
        assert "gold" in metrics.row(update)
        lengths = response_lengths(batch.responses, batch.mask, run.policy.eos_token_ids)
        assert torch.equal(batch.gold, -lengths.double())
        if update.number <= 2:
            assert torch.equal(batch.rewards, batch.gold)
        else:
            logp, logp_ref = (policy.forward(batch).logp for policy in (before, run.training.reference.policy))
            own = 0.2 * (logp - logp_ref).sum(-1)
            torch.testing.assert_close(batch.rewards, own, rtol=0, atol=1e-10)
            assert torch.equal(batch.pair_label[:, 0], (own[:, 0] > own[:, 1]).double())
        before = run.policy.clone()


# Options


def test_options_change_any_field():
    given = "--preset tiny-mode-length --mode 7 --beta 0.25 --model mistral --top-p 0.9 --learning-rate 1e-5"
    more = "--compute-precision bfloat16 --gradient-checkpointing --label-temperature 2 --batch-size 16 --seed 3"
    experiment, _ = parse(OptionParser("test"), f"{given} {more}".split(), "tiny-min-length")
    assert (experiment.environment.mode, experiment.environment.label_temperature) == (7, 2.0)
    assert (experiment.policy.model, experiment.policy.decoding.top_p) == ("mistral", 0.9)
    assert experiment.policy.decoding.max_new_tokens == 33  # the preset's
    assert (experiment.policy.scoring.precision, experiment.policy.scoring.gradient_checkpointing) == ("bfloat16", True)
    assert (experiment.schedule.batch_size, experiment.schedule.num_generations, experiment.seed) == (16, 4, 3)
    assert (experiment.algorithm.beta, experiment.optimiser.learning_rate) == (0.25, 1e-5)


def test_another_task_keeps_the_presets_data():
    arguments = ["--preset", "pythia-1.4b-min-length", "--task", "mode-length"]
    experiment, _ = parse(OptionParser("test"), arguments, "tiny-min-length")
    assert experiment.environment.kind == "mode_length"
    assert experiment.environment.data == "tatsu-lab/alpaca_farm"


BAD = [
    (["--preset", "tiny-min-lenght"], "preset = 'tiny-min-lenght'", "did you mean tiny-min-length?"),
    (["--algorithm", "dpoo"], "algorithm = 'dpoo'", "did you mean dpo?"),
    (["--task", "minlength"], "task = 'minlength'", "did you mean min_length?"),
    (["--temperature", "0"], "temperature = 0", "must be float > 0"),
    (["--batch-size", "x"], "batch_size = 'x'", "must be int >= 1"),
    (["--num-generations", "1"], "num_generations = 1", "must be at least 2"),
    (["--learning-rat", "1"], "--learning-rat", "did you mean --learning-rate?"),
    (["--mode", "3"], "--mode", "did you mean"),
    (["--model", "no/such"], "model = 'no/such'", "must be pythia, mistral, a folder"),
    (["--task", "function"], "reward_funcs = None", 'must name a function as "module:function"'),
    (["--log-every", "0"], "log_every = 0", "must be int >= 1"),
    (["--threads", "100000000000"], "threads = 100000000000", "must be int from 1 to 1,024"),
    (["--threads", "0"], "threads = 0", "must be int from 1 to 1,024"),
    (["--lora-rank", "99999999"], "lora_rank = 99999999", "of memory for weights and optimiser, of which"),
    (["--run", "1"], "run = 1", "must be from 0 to runs - 1 = 0"),
    (["--data", "absent.jsonl"], "absent.jsonl", "no file or folder"),
    (
        ["--task", "verifiable", "--data", "x.jsonl", "--checker", "math_verify"],
        "checker = 'math_verify'",
        "pip install",
    ),
    (["--report-to", "tensorboard"], "report_to = 'tensorboard'", "pip install tensorboard"),
]


@pytest.mark.parametrize(("arguments", "field", "valid"), BAD)
def test_what_cannot_be_is_one_line_and_status_2(arguments, field, valid, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for library in ("math_verify", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(__import__("sys").modules, library, None)
    assert exit_status(main, ["train", "--output", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.split("\n")) == 1
    assert field in error
    assert valid in error


def test_reward_models_count_in_the_estimate(tmp_path):
    """7.1 billion parameters in bfloat16 beside the policy; a folder's own shape; twice where two reward."""
    paper = estimate(PRESETS["pythia-1.4b-alpacafarm"])
    assert paper.held["reward models"] / 2 == pytest.approx(7.11e9, rel=1e-3)  # 7.24 less its head of 32,000 x 4,096
    assert "reward models" not in estimate(PRESETS["pythia-1.4b-min-length"]).held
    model = new_reward_model("pythia")
    model.save(tmp_path / "judge", build_tokenizer())
    base = PRESETS["tiny-min-length"]
    one = base.replace(environment=LearnedReward(reward_model=str(tmp_path / "judge")))
    parameters = sum(p.numel() for p in model.parameters())
    assert estimate(one).held["reward models"] == 4 * parameters
    assert estimate(one).peak == estimate(base).peak + 4 * parameters
    two = one.replace(environment=one.environment.replace(gold_reward_model="somebody/unknown"))
    assert estimate(two).held["reward models"] == pytest.approx(8 * parameters, rel=1e-2)


@pytest.fixture
def logged(tmp_path):
    """A folder with two evaluations and the samples of the last."""
    ends = [{"update": n, "eval_reward": 0.5, "eval_kl": 0.25} for n in (0, 1)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, ends)) + "\n")
    texts = [("one\n\ntwo\n", "a\n- b"), ("three", "")]
    rows = [{"update": 1, "prompt": prompt, "completion": completion, "reward": 0.5} for prompt, completion in texts]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return tmp_path


def test_the_closing_table_has_a_line_a_completion(logged):
    assert "\n  one two → a - b\n  three → (empty)\n" in closing_table(logged)


@pytest.mark.parametrize("update", [0, 1])
@pytest.mark.parametrize("name", ["eval_reward", "eval_kl"])
def test_the_closing_table_tells_a_field_that_a_flipped_bit_has_renamed(name, update, logged):
    lines = (logged / "metrics.jsonl").read_text().splitlines(keepends=True)
    lines[update] = lines[update].replace(name, "eval_other")
    (logged / "metrics.jsonl").write_text("".join(lines))
    assert f"metrics.jsonl is damaged: update {update} has no {name}\n" in closing_table(logged)
    for row in (0, 1):
        lines[row] = lines[row].replace("eval_", "evil_")
    (logged / "metrics.jsonl").write_text("".join(lines))
    assert closing_table(logged).endswith("metrics.jsonl is damaged: it has no evaluation")


@pytest.mark.parametrize("name", ["update", "prompt", "completion", "reward"])
def test_a_sample_without_a_field_is_told(name, logged):
    samples = logged / "samples.jsonl"
    samples.write_text(samples.read_text().replace(f'"{name}"', '"other"', 1))
    with pytest.raises(SpecError, match=f"line 1 is damaged: it has no {name}"):
        closing_table(logged)


def test_a_run_of_another_task_is_not_called_after_the_preset_s(capsys):
    assert main(["train", "--task", "mode-length", "--algorithm", "dpo", "--num-generations", "2", "--dry-run"]) == 0
    assert '"name": "mode-length-dpo"' in capsys.readouterr().out


def test_an_unknown_command_lists_the_known(capsys):
    assert main(["tarin"]) == 2
    assert "must be one of pretrain, new, sft, reward, train" in capsys.readouterr().err


def test_python_without_docstrings_is_refused(monkeypatch, capsys):
    """Else transformers fails on the first of its classes, with a line about a section of it."""
    monkeypatch.setattr(sys, "flags", SimpleNamespace(optimize=2))
    assert main(["sample", "--prompt", "cat"]) == 2
    assert "error: PYTHONOPTIMIZE = 2: must be 0 or 1" in capsys.readouterr().err


@pytest.mark.parametrize(("cache", "measured"), [("static", 21.17), ("dynamic", 20.73)])
def test_the_estimate_of_drawing_is_what_a_gpu_allocated(cache: str, measured: float):
    """GiB at most while 32 responses of 128 tokens were drawn from mistral-7b in bfloat16 under float32 adapters of
    rank 64, prompts of 512 tokens, on an H200: of these 2.5 were the activations of the prompts' pass, in one layer."""
    preset = PRESETS["mistral-7b-ultrafeedback"]
    decoding = preset.policy.decoding.replace(max_new_tokens=128, cache_implementation=cache, sample_batch_size=32)
    found = estimate(
        preset.replace(
            environment=MinLength(data="rows.jsonl", max_prompt_length=512),
            policy=preset.policy.replace(decoding=decoding),
            algorithm=GRPO(beta=0.04),
            schedule=Schedule(batch_size=8, num_generations=4),
        )
    )
    assert found.held["weights"] > 14 * 2**30
    drawing = sum(found.held.values()) + sum(found.sampling.values())
    assert drawing / 2**30 == pytest.approx(measured, rel=0.02)
