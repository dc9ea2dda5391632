"""vLLM as the sampler, through a stand-in with its interface: distribution, rows, seeds, weights, schedule, mismatch,
errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor

from llm.__main__ import main
from llm.commands.options import parse
from llm.models.decoding import Decoding, VLLMDecoding
from llm.models.sampling import truncate
from llm.models.vllm_sampler import VLLMPolicy, check_sampler, checkpoint_weights, stop_engine
from llm.training.loggers import read_json_lines
from llm.training.memory import estimate
from llm.training.metrics import WatchedSampler, sampler_mismatch
from llm.training.presets import PRESETS
from llm.training.run import Run
from sims.core.loop.protocols import Prompts, SampleRequest, Samples
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, from_json
from sims.experiments.experiment import Experiment
from sims.experiments.options import OptionParser
from tests.llm.models.vllm_stand_in import LLM, vllm  # noqa: F401
from tests.llm.tiny_models import EOS, PAD, SHAPES, pad_left, plain_distributions, plain_log_probs, tiny_model

pytestmark = pytest.mark.usefixtures("vllm")
PROMPTS = [[5, 3, 8, 4], [7], [6, 9], [10, 10, 3]]
LENGTH, GROUP = 8, 5


def vllm_policy(model: torch.nn.Module, eos: tuple[int, ...] = (EOS,), **decoding) -> VLLMPolicy:
    return VLLMPolicy(model, eos, PAD, VLLMDecoding(**{"max_new_tokens": LENGTH} | decoding))


def adapted(shape: str = "mistral") -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        config = LoraConfig(r=2, lora_alpha=3, target_modules="all-linear", init_lora_weights=False)
        return get_peft_model(tiny_model(shape), config).double().eval()


def draw(policy: VLLMPolicy, prompts: list[list[int]] = PROMPTS, seed: int = 0, **options) -> Samples:
    tokens, mask = pad_left(prompts, **options)
    return policy.sample(SampleRequest(Prompts(tokens, mask), GROUP, Noise.single(seed)))


def rows(samples: Samples) -> list[list[int]]:
    """Responses without what is masked."""
    flat = zip(samples.responses.flatten(0, 1), samples.mask.flatten(0, 1), strict=True)
    return [tokens[mask].tolist() for tokens, mask in flat]


# The distribution, the rows, the seeds


@pytest.mark.parametrize("shape", [*SHAPES, "adapted"])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8)])
def test_log_probs_are_those_of_our_distribution(shape: str, temperature: float, top_p: float):
    model = adapted() if shape == "adapted" else tiny_model(shape)
    samples = draw(vllm_policy(model, temperature=temperature, top_p=top_p))
    for i, row in enumerate(rows(samples)):
        distributions = truncate(plain_distributions(model, PROMPTS[i // GROUP], row, temperature), top_p)
        expected = distributions.gather(-1, torch.tensor(row).unsqueeze(-1)).squeeze(-1)
        found = samples.logp.flatten(0, 1)[i, : len(row)]
        torch.testing.assert_close(found, expected.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("eos", [(EOS,), (7, 9), (EOS, 7, 9)])
def test_the_policys_own_tokens_end_a_response_and_the_mask_counts_them(eos: tuple[int, ...]):
    """The configuration's own is a token that is none of the policy's, and ends nothing."""
    model = tiny_model("gpt_neox")
    model.config.eos_token_id = 5
    samples = draw(vllm_policy(model, eos))
    assert any(5 in row[:-1] for row in rows(samples))
    assert samples.responses.shape == samples.mask.shape == samples.logp.shape == (len(PROMPTS), GROUP, LENGTH)
    ended = 0
    for tokens, mask, logp in zip(*(x.flatten(0, 1) for x in samples), strict=True):
        length = int(mask.sum())
        assert mask[:length].all() and not set(tokens[: length - 1].tolist()) & set(eos)
        assert length == LENGTH or int(tokens[length - 1]) in eos
        assert (tokens[length:] == PAD).all() and (logp[length:] == 0).all() and (logp[:length] < 0).all()
        ended += int(tokens[length - 1]) in eos
    assert 0 < ended < len(PROMPTS) * GROUP


def test_prompts_lose_their_padding(vllm: type[LLM]):  # noqa: F811
    policy = vllm_policy(tiny_model("gpt_neox"))
    plain, padded = draw(policy), draw(policy, value=12, extra=9)
    assert [row for row, _ in vllm.started[0].requests[:20]] == [row for row in PROMPTS for _ in range(GROUP)]
    assert rows(plain) == rows(padded)


def test_each_response_has_a_seed_of_its_own(vllm: type[LLM]):  # noqa: F811
    policy = vllm_policy(tiny_model("gpt_neox"))
    whole, again, other = draw(policy), draw(policy), draw(policy, seed=1)
    seeds = [seed for _, seed in vllm.started[0].requests]
    assert len(set(seeds[:20])) == 20 and all(0 <= seed < 2**53 for seed in seeds)
    assert seeds[:20] == seeds[20:40] and not set(seeds[:20]) & set(seeds[40:])
    assert rows(whole) == rows(again) != rows(other)
    assert rows(draw(policy, PROMPTS[:2])) == rows(whole)[: 2 * GROUP]  # whatever stands beside it


def test_responses_that_would_not_fit_or_were_cut_off_are_errors(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SpecError, match="vllm_max_model_length = 11: must be at least 12"):
        draw(vllm_policy(tiny_model("gpt_neox"), vllm_max_model_length=11))
    fits = vllm_policy(tiny_model("gpt_neox"), vllm_max_model_length=12)
    assert draw(fits).mask.sum(-1).max() == LENGTH
    LLM.started[0].most = 6
    with pytest.raises(RuntimeError, match=r"vLLM: response .* ended after 2 tokens: length"):
        draw(fits)
    LLM.started[0].most = 12
    monkeypatch.setattr(LLM, "_output", _broken)
    with pytest.raises(FloatingPointError, match="vLLM's log-probs of response token 1 are not finite"):
        draw(fits)


def _broken(self: LLM, prompt: list[int], *drawn: Tensor, whole=LLM._output) -> object:  # type: ignore[no-untyped-def]
    output = whole(self, prompt, *drawn)
    for at in output.outputs[0].logprobs[1:2]:
        next(iter(at.values())).logprob = float("nan")
    return output


# Weights


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_have_their_checkpoints_names(shape: str, tmp_path: Path):
    model = tiny_model(shape)
    model.save_pretrained(tmp_path)
    saved, pushed = load_file(tmp_path / "model.safetensors"), dict(checkpoint_weights(model))
    assert saved.keys() == pushed.keys()
    assert all(torch.equal(saved[name], x) for name, x in pushed.items())
    assert shape != "gpt_neox" or "embed_out.weight" in pushed  # lm_head, in memory


def test_adapters_are_merged_and_the_model_stays_as_it_is(tmp_path: Path):
    model = adapted()
    before = {name: p.clone() for name, p in model.named_parameters()}
    pushed = {name: x.clone() for name, x in checkpoint_weights(model.get_base_model())}  # merging is in place below
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    model.merge_and_unload().save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == pushed.keys()
    for name, x in saved.items():
        torch.testing.assert_close(pushed[name], x, rtol=1e-12, atol=1e-12)


def test_the_engine_is_given_weights_when_it_has_others_and_never_else(vllm: type[LLM]):  # noqa: F811
    policy = vllm_policy(tiny_model("gpt_neox"))
    reference = policy.clone()
    draw(policy)
    draw(policy)
    engine = vllm.started[0]
    assert len(engine.pushes) == 1
    draw(reference)  # equal weights, of another policy
    assert len(engine.pushes) == 2
    with torch.no_grad():
        policy.parameters()[0].mul_(1.01)
    draw(reference)
    assert len(engine.pushes) == 2  # the policy moved, the reference did not
    reference.copy_from(policy)
    draw(reference)
    assert len(engine.pushes) == 3 and len(vllm.started) == 1
    # Two policies of different weights, neither of which was ever changed in place.
    earlier, later, name = vllm_policy(tiny_model("gpt_neox")).clone(), policy.clone(), "gpt_neox.embed_in.weight"
    draw(earlier)
    draw(later)
    assert torch.equal(engine.pushes[3][name], engine.pushes[1][name])
    assert torch.equal(engine.pushes[4][name], engine.pushes[2][name])
    torch.testing.assert_close(engine.pushes[2][name], engine.pushes[1][name] * 1.01, rtol=1e-12, atol=0)


def small(schedule: Schedule, **changes) -> Experiment:
    preset = PRESETS["tiny-min-length"]
    decoding = VLLMDecoding(max_new_tokens=10)
    task = preset.environment.replace(evaluation_prompts=4)
    return preset.replace(
        environment=task, policy=preset.policy.replace(decoding=decoding), schedule=schedule, **changes
    )


@pytest.mark.parametrize(("period", "synced"), [(None, [0, 1, 2, 3]), (2, [0, 2]), (float("inf"), [0])])
@pytest.mark.parametrize("evaluates", [False, True])
def test_the_engine_follows_the_schedule(period: float | None, synced: list[int], evaluates: bool):
    """What draws each batch are the weights of the last sync, whether or not the policy is evaluated in between."""
    experiment = small(Schedule(batch_size=4, num_generations=2, sync_every_updates=period), updates=4, evaluations=4)
    run = Run(experiment)
    name, weights, batches = "gpt_neox.final_layer_norm.weight", [], []

    def current() -> Tensor:
        return dict(checkpoint_weights(run.policy.model))[name].clone()

    if evaluates:
        run.evaluate()
    weights.append(current())
    for update in run.train():
        batches.append(LLM.started[0].pushes[-1][name])
        weights.append(current())
        assert update.staleness == update.number - 1 - max(s for s in synced if s < update.number)
        if evaluates:
            run.evaluate()
            assert torch.equal(LLM.started[0].pushes[-1][name], weights[-1])
    for update, drawn_by in enumerate(batches):
        assert torch.equal(drawn_by, weights[max(s for s in synced if s <= update)])
    if not evaluates:
        assert len(LLM.started[0].pushes) == len(synced)


# The mismatch


def test_the_mismatch_by_hand():
    """Differences 0.1, −0.5 of one response and 0.2 of another, whose second slot is masked."""
    sampler = torch.tensor([[[-1.0, -2.0], [-3.0, 0.0]]], dtype=torch.float64)
    trainer = sampler + torch.tensor([[[0.1, -0.5], [0.2, 5.0]]], dtype=torch.float64)
    found = sampler_mismatch(sampler, trainer, torch.tensor([[[True, True], [True, False]]]))
    ratios = torch.tensor([-0.4, 0.2], dtype=torch.float64).exp()
    assert found == {
        "sampling/sampling_logp_difference/mean": pytest.approx(0.8 / 3, abs=1e-12),
        "sampling/sampling_logp_difference/max": pytest.approx(0.5, abs=1e-12),
        "sampling/importance_sampling_ratio/min": pytest.approx(float(ratios[0]), abs=1e-12),
        "sampling/importance_sampling_ratio/mean": pytest.approx(float(ratios.mean()), abs=1e-12),
        "sampling/importance_sampling_ratio/max": pytest.approx(float(ratios[1]), abs=1e-12),
    }


@pytest.mark.parametrize("error", [0.0, 0.01])
def test_an_engine_that_computes_otherwise_is_seen(error: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LLM, "error", error)
    model = tiny_model("gpt_neox")
    policy = vllm_policy(model)
    tokens, mask = pad_left(PROMPTS)
    watched = WatchedSampler(policy)
    samples = watched.sample(SampleRequest(Prompts(tokens, mask), GROUP, Noise.single(0)))
    differences = [
        float((plain_log_probs(model, PROMPTS[i // GROUP], row).detach() - logp[: len(row)]).abs().max())
        for i, (row, logp) in enumerate(zip(rows(samples), samples.logp.flatten(0, 1), strict=True))
    ]
    found = watched.mismatch["sampling/sampling_logp_difference/max"]
    assert found == pytest.approx(max(differences), abs=1e-10)
    assert (found > 1e-3) == (error > 0)


@pytest.mark.parametrize("period", [None, 2])
def test_the_mismatch_holds_no_staleness(period: float | None):
    """In float32, at a learning rate that moves log-probs by far more than rounding does."""
    experiment = small(Schedule(batch_size=4, num_generations=2, sync_every_updates=period), updates=4, evaluations=1)
    run = Run(experiment.replace(optimiser=experiment.optimiser.replace(learning_rate=1e-2)))
    watched = WatchedSampler.watch(run.training.collector)
    for _ in run.train():
        assert 0 <= watched.mismatch["sampling/sampling_logp_difference/max"] < 1e-4


# The command line


COMMON = ["--max-new-tokens", "10", "--evaluation-prompts", "4", "--batch-size", "4", "--num-generations", "2"]


def test_train_runs_end_to_end_and_says_who_drew(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--preset", "tiny-min-length", *COMMON, "--evaluations", "2", "--sync-every-updates", "3"]
    whole = ["train", *options, "--use-vllm", "--updates", "6", "--output", str(tmp_path / "whole")]
    assert main(whole) == 0
    spec = json.loads((tmp_path / "whole" / "spec.json").read_text())
    assert spec["experiment"]["policy"]["decoding"]["kind"] == "vllm_decoding"
    updates = [row for row in read_json_lines(tmp_path / "whole" / "metrics.jsonl") if "loss" in row]
    assert len(updates) == 6 and all(row["sampling/sampling_logp_difference/max"] < 1e-4 for row in updates)
    assert all(abs(row["sampling/importance_sampling_ratio/mean"] - 1) < 1e-4 for row in updates)
    # Stopped with a stale sampler and taken up again, bit for bit.
    first = ["train", *options, "--use-vllm", "--updates", "4", "--output", str(tmp_path / "half")]
    assert main(first) == 0
    assert main([*whole[:-1], str(tmp_path / "half"), "--resume"]) == 0
    weights = [load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "half")]
    assert all(torch.equal(x, weights[1][name]) for name, x in weights[0].items())
    # Each run stops its engine; here one draws for the two policies that are compared.
    assert [engine.stopped for engine in LLM.started] == [True] * 3
    assert main(["evaluate", *COMMON, "--use-vllm", "--model", str(tmp_path / "whole" / "model")]) == 0
    assert len(LLM.started) == 4 and len(LLM.started[-1].pushes) == 2
    capsys.readouterr()


def test_the_own_sampler_is_watched_too_if_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    line = ["train", *COMMON, "--updates", "2", "--evaluations", "1", "--output", str(tmp_path / "run")]
    assert main([*line, "--log-sampler-mismatch"]) == 0
    updates = [row for row in read_json_lines(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert len(updates) == 2 and all(row["sampling/sampling_logp_difference/max"] < 1e-4 for row in updates)
    assert not LLM.started
    capsys.readouterr()


def test_options_choose_the_sampler_and_a_spec_without_it_is_what_it_was():
    def decoding(*arguments: str) -> Decoding:
        return parse(OptionParser("test"), arguments, "tiny-min-length")[0].policy.decoding

    preset = PRESETS["tiny-min-length"].policy.decoding
    assert decoding() == decoding("--no-use-vllm") == preset and type(decoding()) is Decoding
    found = decoding("--use-vllm", "--vllm-gpu-memory-utilization", "0.5", "--temperature", "0.5")
    kept = {"max_new_tokens": preset.max_new_tokens, "sample_batch_size": preset.sample_batch_size}
    assert found == VLLMDecoding(**kept, temperature=0.5, vllm_gpu_memory_utilization=0.5)
    experiment = small(Schedule())
    assert from_json(json.loads(json.dumps(experiment.to_json()))) == experiment


def test_the_engine_is_started_as_told():
    policy = vllm_policy(
        tiny_model("gpt_neox"), sample_batch_size=7, vllm_gpu_memory_utilization=0.5, vllm_enforce_eager=True
    )
    draw(policy)
    options = LLM.started[0].options
    assert (options.rows, options.memory, options.eager) == (7, 0.5, True)
    assert LLM.started[0].most == policy.model.config.max_position_embeddings
    with pytest.raises(RuntimeError, match="this process runs an engine of another shape"):
        draw(vllm_policy(tiny_model("mistral")))
    stop_engine()
    draw(vllm_policy(tiny_model("mistral")))
    assert [engine.config.model_type for engine in LLM.started] == ["gpt_neox", "mistral"]


BAD = [
    (["--vllm-enforce-eager"], "vllm_enforce_eager = True: only means something with use_vllm"),
    (["--use-vllm", "--temperature", "0.001"], "temperature = 0.001: must be at least 0.01 with use_vllm"),
    (["--use-vllm", "--vllm-gpu-memory-utilization", "0"], "vllm_gpu_memory_utilization = 0.0: must be float > 0"),
    (["--use-vllm", "--precision", "float64"], "precision = 'float64': must be float32 with use_vllm"),
    (
        ["--use-vllm", "--sharding", "full", "--processes", "2"],
        "sharding = 'full': must be none with use_vllm: each process's vLLM needs the full weights",
    ),
    (["--use-vllm", "--algorithm", "nash-md"], "use_vllm = True: nash_md samples from a mixture of two policies"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
@pytest.mark.parametrize("dry", [False, True])
def test_what_cannot_be_is_refused_before_any_work(arguments, message, dry, tmp_path, capsys):
    more = ["--dry-run"] if dry else []
    assert main(["train", "--output", str(tmp_path / "run"), "--num-generations", "2", *arguments, *more]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (tmp_path / "run").exists() and not LLM.started


def test_a_machine_that_cannot_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    arguments = ["train", *COMMON, "--use-vllm", "--output", str(tmp_path / "run")]
    platform = sys.modules["vllm.platforms"].current_platform
    for kind, found in (("cuda", "cuda"), ("", "no device")):
        monkeypatch.setattr(platform, "device_type", kind)
        assert main(arguments) == 2
        assert f"use_vllm = True: needs a GPU: vLLM runs on {found} here, the run on cpu" in capsys.readouterr().err
    for module in ("vllm", "vllm.platforms"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert "needs the library vllm: the extra vllm" in error and "\n" not in error
    assert not (tmp_path / "run").exists()
    with pytest.raises(SpecError, match="needs the library vllm"):
        Run(small(Schedule()))
    check_sampler(small(Schedule()))  # without a device: whatever the machine
    assert main([*arguments, "--dry-run"]) == 0


def test_a_blend_is_an_error():
    policy = vllm_policy(tiny_model("gpt_neox"))
    tokens, mask = pad_left(PROMPTS)
    with pytest.raises(ValueError, match="one policy"):
        policy.sample(SampleRequest(Prompts(tokens, mask), GROUP, Noise.single(0), blend=(policy.clone(), 0.5)))


def test_the_engine_counts_in_the_estimate(monkeypatch: pytest.MonkeyPatch):
    """The weights once more, and what was the sampler's; adapters not, which are merged."""
    for name in ("tiny-min-length", "mistral-7b-ultrafeedback"):
        base = PRESETS[name]
        decoding = base.policy.decoding
        fields = {field: getattr(decoding, field) for field in decoding.names()}
        ours, theirs = (
            estimate(base.replace(policy=base.policy.replace(decoding=d))) for d in (decoding, VLLMDecoding(**fields))
        )
        part = theirs.held["vLLM, or 0.3 of the GPU"]
        adapters = ours.trained if base.policy.lora_rank else 0
        size = 4 if name.startswith("tiny") else 2
        assert part == size * (ours.parameters - adapters) + ours.sampling["cache"] + ours.sampling["logits"]
        assert theirs.peak == sum(ours.held.values()) + part + sum(ours.updating.values()) and not theirs.sampling
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (0, 100 * 2**30))
    tiny = small(Schedule())
    assert estimate(tiny).held["vLLM, or 0.3 of the GPU"] == 30 * 2**30
