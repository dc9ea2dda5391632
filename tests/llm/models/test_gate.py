"""What every model folder passes when it is loaded: files, layers, numbers, tokens, and what the weights compute."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DynamicCache

from llm.__main__ import main
from llm.embedded import EMBEDDED
from llm.models import forward, proof
from llm.models.gate import INDEX, WEIGHTS
from llm.models.loading import build_policy, load_config, load_model, load_tokenizer
from llm.models.policy import CausalLMPolicy
from llm.models.proof import prove
from llm.models.spec import LanguageModelSpec
from llm.models.writing import write_model
from llm.reward_models.model import load_reward_model, new_reward_model
from llm.training.presets import PRESETS
from llm.training.run import Run
from sims.core.spec import SpecError
from sims.experiments.whole import CHECKSUMS, changed, write_checksums
from tests.llm.architectures import build
from tests.llm.tiny_models import tiny_model, tiny_policy

CPU = torch.device("cpu")


def policy_of(folder: Path | str, **settings: Any) -> CausalLMPolicy:
    spec = LanguageModelSpec(model=str(folder), **settings)
    return build_policy(spec, load_tokenizer(spec), False, torch.float32, CPU)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMBEDDED["pythia"], tmp_path / "base", ignore=shutil.ignore_patterns(CHECKSUMS)))


def change_json(file: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        held = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(held | changes))

    return change


def change_tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return changed


def without_a_layer(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if ".layers.1." in name]:
        del tensors[name]


def with_a_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["gpt_neox.final_layer_norm.weight"][3] = torch.nan


def narrower(tensors: dict[str, torch.Tensor]) -> None:
    tensors["gpt_neox.final_layer_norm.weight"] = tensors["gpt_neox.final_layer_norm.weight"][:-1].clone()


def index(**placed: str) -> Callable[[Path], None]:
    """The folder's tensors placed in part.safetensors by an index, but for those that `placed` places otherwise."""

    def change(folder: Path) -> None:
        shutil.move(folder / WEIGHTS, folder / "part.safetensors")
        names = dict.fromkeys(load_file(folder / "part.safetensors"), "part.safetensors")
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names | placed}))

    return change


def only_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def a_second_time(folder: Path) -> None:
    """Other weights of one layer in a further file, where the index names the first."""
    index()(folder)
    held = json.loads((folder / INDEX).read_text())["weight_map"]
    names = [name for name in held if ".layers.1." in name]
    tensors = load_file(folder / "part.safetensors")
    other = {name: tensors[name] + 1 for name in names} | {
        "gpt_neox.embed_in.weight": tensors.pop("gpt_neox.embed_in.weight")
    }
    save_file(tensors, folder / "part.safetensors", {"format": "pt"})
    save_file(other, folder / "rest.safetensors", {"format": "pt"})
    placed = held | {"gpt_neox.embed_in.weight": "rest.safetensors"}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def beside_an_older_file(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder / "older")
    index()(folder)
    (folder / "older").rename(folder / WEIGHTS)


def of_type(dtype: torch.dtype) -> Callable[[Path], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["gpt_neox.embed_in.weight"] = tensors["gpt_neox.embed_in.weight"].to(dtype)

    return change_tensors(change)


def truncated(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:5000])


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "more layers asked for than there are": (
        change_json("config.json", num_hidden_layers=6),
        "has no weights for gpt_neox.layers.2.* and .* more: must have those of all layers",
    ),
    "a layer deleted": (change_tensors(without_a_layer), "has no weights for gpt_neox.layers.1"),
    "no layers asked for": (
        change_json("config.json", num_hidden_layers=0),
        "has weights of no layer, gpt_neox.layers.0.* must have those of config.json alone",
    ),
    "fewer layers asked for": (change_json("config.json", num_hidden_layers=1), "of no layer, gpt_neox.layers.1"),
    "a weight of another shape": (change_tensors(narrower), "final_layer_norm.weight"),
    "a weight that is not a number": (
        change_tensors(with_a_nan),
        r"gpt_neox.final_layer_norm.weight: 1 of 64 weights are NaN or infinite",
    ),
    "an index that points outside": (
        index(**{"gpt_neox.final_layer_norm.weight": "../other.safetensors"}),
        r"index.json names '../other.safetensors': must be files of this folder",
    ),
    "an index that names a missing file": (
        index(**{"gpt_neox.final_layer_norm.weight": "gone.safetensors"}),
        "has no gone.safetensors: must hold weights as safetensors",
    ),
    "an index that names a missing tensor": (
        index(**{"nothing.weight": "part.safetensors"}),
        "part.safetensors has no tensor 'nothing.weight'",
    ),
    "an index of another form": (
        lambda folder: [
            (folder / WEIGHTS).unlink(),
            (folder / INDEX).write_text('{"metadata": {}, "weight_map": [1]}'),
        ],
        "weight_map must be an object",
    ),
    "an index without what transformers reads first": (
        lambda folder: [index()(folder), change_json(INDEX, metadata=None)(folder)],
        'index.json: metadata must be an object, as in "metadata": {}$',
    ),
    "a tensor in a file that the index does not name for it": (
        a_second_time,
        "rest.safetensors has 'gpt_neox.layers.1.* too, which .*index.json says is in part.safetensors",
    ),
    "files of an index beside a single one, which would be taken": (
        beside_an_older_file,
        "has model.safetensors and model.safetensors.index.json, which names other files: must have the weights once",
    ),
    "weights that are integers": (of_type(torch.int8), "embed_in.weight is of type I8: must be of floating-point"),
    "weights that are true or false": (of_type(torch.bool), "embed_in.weight is of type BOOL: must be of floating"),
    "more layers than any machine has room for": (
        change_json("config.json", num_hidden_layers=10**9),
        "num_hidden_layers = 1000000000: must be at most 10,000",
    ),
    "pickled weights": (only_a_pickle, "has no model.safetensors, only pytorch_model.bin, a pickle"),
    "truncated weights": (truncated, "model.safetensors is damaged: .*: must be a file of safetensors"),
    "empty weights": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "model.safetensors is damaged"),
    "a configuration that is a list": (
        lambda folder: (folder / "config.json").write_text("[1]"),
        "config.json is of type list: must be a JSON object",
    ),
    "a truncated configuration": (
        lambda folder: (folder / "config.json").write_text('{"model_type": '),
        "config.json cannot be read: .*: must be a JSON object",
    ),
    "a truncated generation config, whose ends would be lost": (
        lambda folder: (folder / "generation_config.json").write_text('{"eos_token_id": [1'),
        "generation_config.json cannot be read: .*: must be a JSON object",
    ),
    "a size that makes everything NaN": (
        change_json("config.json", layer_norm_eps=float("nan")),
        "its logits are not finite: must be numbers|its score of a short text is nan",
    ),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "an unknown architecture": (change_json("config.json", model_type="gpt_9"), "gpt_9"),
    "a size of another type": (
        change_json("config.json", hidden_size="wide"),
        r'config.json: hidden_size = "wide": must be int >= 1',
    ),
    "no heads": (change_json("config.json", num_attention_heads=0), "num_attention_heads = 0: must be int >= 1"),
    "a composite": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "gemma3"}'),
        r"is a composite of several models \(gemma3\): must be a text model alone",
    ),
    "an encoder with a decoder": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}'),
        r"is an encoder with a decoder \(t5\): must be a decoder alone",
    ),
}


def one_line(error: pytest.ExceptionInfo[SpecError], folder: Path, rule: str) -> None:
    message = str(error.value)
    assert "\n" not in message and str(folder) in message and re.search(rule, message), message


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("role", ["policy", "new_reward_model", "reward_model"])
def test_a_damaged_folder_is_refused_in_one_line_whatever_it_is_loaded_for(fault: str, role: str, tmp_path: Path):
    folder = tmp_path / "base"
    if role == "reward_model":
        new_reward_model("pythia").save(folder, load_tokenizer(LanguageModelSpec()))
    else:
        shutil.copytree(EMBEDDED["pythia"], folder, ignore=shutil.ignore_patterns(CHECKSUMS))
    change, rule = FAULTS[fault]
    change(folder)
    load = {"policy": policy_of, "new_reward_model": new_reward_model, "reward_model": load_reward_model}[role]
    with pytest.raises(SpecError) as error:
        load(folder)
    one_line(error, folder, rule)


def test_what_is_neither_folder_nor_hub_name_is_refused_under_its_own_setting(folder: Path, tmp_path: Path, capsys):
    """An empty name is not the folder that one is in; the hub is asked for no file and no dangling link."""
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    rule = "must be pythia, mistral, a folder with a model, or a hub name"
    for name in ("", str(folder / "config.json"), str(tmp_path / "nowhere"), str(tmp_path / "loop")):
        for load in (load_config, load_tokenizer):
            with pytest.raises(SpecError, match=f"^model = .*: {rule}$"):
                load(LanguageModelSpec(model=name))
        for arguments, said in (
            (["evaluate", "--evaluation-prompts", "2", "--against", name or "nowhere/x/y"], "against"),
            (["reward", "--output", str(tmp_path / "out"), "--labels", name or "nowhere/x/y"], "labels"),
            (["train", "--task", "learned-reward", "--reward-model", name or "nowhere/x/y"], "reward_model"),
        ):
            assert main(arguments) == 2
            assert re.match(rf"error: {said} = \S+: .*{rule}", capsys.readouterr().err)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SpecError, match=r"^model = .*base': must hold a tokenizer, .*that transformers can read: "):
        load_tokenizer(LanguageModelSpec(model=str(folder)))


def test_weights_in_several_files_are_read(folder: Path):
    index()(folder)
    expected = load_model(LanguageModelSpec(), torch.float32, CPU).state_dict()
    found = load_model(LanguageModelSpec(model=str(folder)), torch.float32, CPU).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_code_in_a_folder_is_not_run(folder: Path):
    (folder / "modeling.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    change_json("config.json", model_type="mine", auto_map={"AutoConfig": "modeling.C"})(folder)
    with pytest.raises(SpecError, match="custom code"):
        policy_of(folder)
    assert not (folder / "ran").exists()


def test_the_folder_of_a_run_is_answered_with_its_model(tmp_path: Path):
    (tmp_path / "run.yaml").write_text("seed: 0")
    for rule in ("is not there yet: its command with --resume", f"is {tmp_path / 'model'}"):
        for load in (policy_of, new_reward_model):
            with pytest.raises(SpecError, match=f"^model = .* is the folder of a run: its model {rule}"):
                load(tmp_path)
        (tmp_path / "model").mkdir(exist_ok=True)


# Tokens


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows_is_refused(folder: Path):
    tokenizer = load_tokenizer(LanguageModelSpec())
    rows = load_config(LanguageModelSpec()).vocab_size
    tokenizer.add_tokens([f"word{i}" for i in range(rows)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(SpecError) as error:
        policy_of(folder)
    one_line(error, folder, f"its tokenizer has the token id {len(tokenizer) - 1}: must be below the {rows} rows")


@pytest.mark.parametrize("value", [10**6, [2, 10**6], -2, "2", [2, None], True])
def test_an_end_token_that_is_no_token_is_refused(value: Any, folder: Path):
    change_json("generation_config.json", eos_token_id=value)(folder)
    with pytest.raises(SpecError) as error:
        policy_of(folder)
    one_line(error, folder, "eos_token_id = .*: must be token ids below|eos_token_id")


def test_every_end_token_of_the_generation_config_ends_a_response(folder: Path):
    change_json("generation_config.json", eos_token_id=[5, 2])(folder)
    assert policy_of(folder).eos_token_ids == (2, 5)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False, "temperature": 0.9},
        {"do_sample": True, "temperature": 0.1},
        {"suppress_tokens": [3, 4]},
        {"forced_eos_token_id": 2},
        {"bad_words_ids": [[3]]},
        {"no_repeat_ngram_size": 2},
        {"stop_strings": ["x"]},
    ],
)
def test_sampling_settings_of_a_folder_are_named_never_applied_and_never_in_the_way_of_saving(
    settings: dict[str, Any], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    expected = policy_of("pythia")
    capsys.readouterr()
    change_json("generation_config.json", **settings)(folder)
    policy = policy_of(folder)
    assert next(reversed(settings)) in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert policy.decoding == expected.decoding and policy.eos_token_ids == expected.eos_token_ids
    policy.model.save_pretrained(tmp_path / "saved")


# What the weights compute


def test_a_model_that_does_not_decode_as_it_computes_is_refused(monkeypatch: pytest.MonkeyPatch):
    mamba = build("mamba")
    if transformers.__version__.startswith("4."):  # where its cache is one of its own
        with pytest.raises(SpecError, match="its cache is of a kind of its own in transformers 4"):
            prove(tiny_policy(mamba).language_model, "model", "mamba")
        return
    prove(tiny_policy(mamba).language_model, "model", "mamba")
    monkeypatch.setattr(forward, "_is_recurrent", lambda cache: False)
    with pytest.raises(SpecError, match=r"MambaForCausalLM: it decodes from its cache with log-probs that are .* off"):
        prove(tiny_policy(mamba).language_model, "model", "mamba")


def test_a_cache_whose_rows_do_not_leave_is_refused(monkeypatch: pytest.MonkeyPatch):
    policy = tiny_policy()

    def first_rows(self: DynamicCache, staying: torch.Tensor) -> None:
        self.batch_select_indices(torch.arange(len(staying)))

    monkeypatch.setattr(DynamicCache, "reorder_cache", first_rows)
    with pytest.raises(SpecError, match="it decodes from its cache"):
        prove(policy.language_model, "model", "tiny")


@pytest.mark.parametrize("shape", ["gpt2", "gpt_neox"])
def test_positions_that_count_padding_are_refused(shape: str, monkeypatch: pytest.MonkeyPatch):
    policy, own = tiny_policy(tiny_model(shape)), forward.hidden_states

    def shifted(backbone: Any, tokens: torch.Tensor, attention: torch.Tensor, cache: Any = None) -> torch.Tensor:
        if cache is not None:
            return own(backbone, tokens, attention, cache)
        return backbone(input_ids=tokens, attention_mask=attention.long() * 0 + 1).last_hidden_state

    monkeypatch.setattr(proof, "hidden_states", shifted)
    with pytest.raises(SpecError, match="it scores a response to a padded prompt"):
        prove(policy.language_model, "model", "tiny")


def test_a_model_that_attends_to_later_tokens_is_refused():
    bidirectional = build("bert-generation")
    with pytest.raises(SpecError, match="it attends to tokens that come after"):
        prove(tiny_policy(bidirectional).language_model, "model", "both ways")


def test_the_proof_holds_in_half_precision():
    prove(tiny_policy(tiny_model("mistral", dtype=torch.bfloat16)).language_model, "model", "tiny")
    prove(tiny_policy(tiny_model("gpt2", dtype=torch.float32), precision="bfloat16").language_model, "model", "tiny")


def test_too_few_positions_for_the_proof_are_named():
    with pytest.raises(SpecError, match="has 8 positions: must have at least 9"):
        prove(tiny_policy(tiny_model("gpt2", n_positions=8)).language_model, "model", "tiny")


def test_a_reward_model_is_no_policy(tmp_path: Path):
    new_reward_model("pythia").save(tmp_path / "scores", load_tokenizer(LanguageModelSpec()))
    with pytest.raises(
        SpecError, match=r"is a reward model \(GPTNeoXForSequenceClassification\): must be a model that w"
    ):
        policy_of(tmp_path / "scores")


def test_a_reward_model_of_two_labels_is_refused(tmp_path: Path):
    config = transformers.GPTNeoXConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
    )
    transformers.GPTNeoXForSequenceClassification(config).save_pretrained(tmp_path / "two")
    for load in (load_reward_model, new_reward_model):
        with pytest.raises(SpecError) as error:
            load(tmp_path / "two")
        one_line(error, tmp_path / "two", "has 2 labels: must have 1, the score")


def test_a_reward_model_whose_scores_padding_changes_is_refused(monkeypatch: pytest.MonkeyPatch):
    def mean_state(backbone: Any, tokens: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        states = forward.hidden_states(backbone, tokens, attention)
        return states.mean(1, keepdim=True).expand_as(states)

    monkeypatch.setattr("llm.reward_models.model.hidden_states", mean_state)
    with pytest.raises(SpecError, match=r"model = 'pythia': .* padding changes its score by"):
        new_reward_model("pythia")


# Adapters: what one command writes, every command reads


def test_a_folder_of_adapters_is_read_as_the_model_it_makes(tmp_path: Path):
    adapted = load_model(LanguageModelSpec(lora_rank=2), torch.float32, CPU)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
    folder, tokens = tmp_path / "adapters", torch.arange(8).unsqueeze(0)
    adapted.save_pretrained(folder)  # type: ignore[operator]
    load_tokenizer(LanguageModelSpec()).save_pretrained(folder)
    expected, base = adapted(tokens).logits, AutoModelForCausalLM.from_pretrained(EMBEDDED["pythia"])(tokens).logits
    assert not torch.allclose(expected, base, atol=1e-2)
    torch.testing.assert_close(policy_of(folder).model(tokens).logits, expected, rtol=1e-5, atol=1e-5)
    assert len(policy_of(folder).parameters()) == len(policy_of("pythia").parameters())  # all can be trained
    states = adapted.get_base_model().base_model(tokens).last_hidden_state  # type: ignore[operator]
    found = new_reward_model(folder).classifier.base_model(tokens).last_hidden_state  # type: ignore[operator]
    torch.testing.assert_close(found, states, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change, rule",
    [
        (change_json("adapter_config.json", base_model_name_or_path=None), "base_model_name_or_path = null"),
        (change_json("adapter_config.json", peft_type="PREFIX_TUNING"), "must be LORA"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b""), "is damaged"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "must be a JSON object"),
        (change_json("adapter_config.json", base_model_name_or_path=str(EMBEDDED["mistral"])), "must fit their base"),
        (change_json("adapter_config.json", base_model_name_or_path="./none"), "_name_or_path = .*must be pythia"),
        (lambda f: change_json("adapter_config.json", base_model_name_or_path=str(f))(f), "has adapters itself"),
        (change_json("adapter_config.json", lora_alpha=float("nan")), "weights are NaN"),
    ],
)
def test_damaged_adapters_are_refused_in_one_line(change: Callable[[Path], object], rule: str, tmp_path: Path):
    folder = tmp_path / "adapters"
    load_model(LanguageModelSpec(lora_rank=2), torch.float32, CPU).save_pretrained(folder)  # type: ignore[operator]
    load_tokenizer(LanguageModelSpec()).save_pretrained(folder)
    change(folder)
    with pytest.raises(SpecError) as error:
        policy_of(folder)
    one_line(error, folder, rule)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_adapters_on_adapters_are_refused(device: str, tmp_path: Path):
    """What peft would save of them names the model under both: read again, the first are lost."""
    load_model(LanguageModelSpec(lora_rank=2), torch.float32, CPU).save_pretrained(tmp_path)  # type: ignore[operator]
    with pytest.raises(SpecError, match=r"holds adapters, on which no others can be put .* export RUN .* --merge"):
        load_model(LanguageModelSpec(model=str(tmp_path), lora_rank=2), torch.float32, torch.device(device))


@pytest.mark.parametrize("other", ["another model of its shape", "trained on since", "merged into it already"])
def test_adapters_are_read_over_the_weights_alone_that_they_were_trained_on(other: str, folder: Path, tmp_path: Path):
    spec = LanguageModelSpec(model=str(folder), lora_rank=2)
    adapters, tokenizer = tmp_path / "adapters", load_tokenizer(spec)
    write_model(adapters, load_model(spec, torch.float32, CPU), tokenizer)
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    change_json("adapter_config.json", base_model_name_or_path=str(moved))(adapters)
    under = policy_of(adapters).model  # the same weights elsewhere are the same model
    if other == "merged into it already":
        with torch.no_grad():
            next(iter(under.parameters())).mul_(1.01)  # new adapters change nothing
        shutil.rmtree(moved)
        write_model(moved, under, tokenizer)
    else:
        changed = folder if other == "trained on since" else moved
        change_tensors(lambda tensors: tensors["gpt_neox.final_layer_norm.bias"].add_(0.1))(changed)  # type: ignore[arg-type, return-value]
        change_json("adapter_config.json", base_model_name_or_path=str(changed))(adapters)
    with pytest.raises(SpecError) as error:
        policy_of(adapters)
    one_line(error, adapters, "has other weights than the model that these adapters were trained on")


def test_adapters_name_their_base_for_whoever_reads_them_from_another_folder(tmp_path: Path, monkeypatch):
    load_model(LanguageModelSpec(), torch.float32, CPU).save_pretrained(tmp_path / "base")  # type: ignore[operator]
    monkeypatch.chdir(tmp_path)
    adapted: Any = load_model(LanguageModelSpec(model="base", lora_rank=2), torch.float32, CPU)
    assert adapted.peft_config["default"].base_model_name_or_path == str(tmp_path / "base")


def test_an_architecture_without_a_classifier_is_no_reward_model(folder: Path):
    change_json("config.json", model_type="mamba")(folder)
    for load in (new_reward_model, load_reward_model):
        with pytest.raises(SpecError) as error:
            load(folder)
        one_line(error, folder, "is a mamba, of which transformers has no classifier")


def test_a_policy_that_diverged_is_named_with_update_and_value():
    run = Run(PRESETS["tiny-min-length"].replace(updates=2, evaluations=1))
    with torch.no_grad():
        next(iter(run.policy.model.parameters())).fill_(torch.nan)
    with pytest.raises(RuntimeError, match="update 1: sampling: logits of response token 0 are nan, not finite"):
        next(run.train())


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_models_are_what_was_written(name: str) -> None:
    files = {path.name for path in EMBEDDED[name].iterdir()} - {CHECKSUMS}
    assert changed(EMBEDDED[name], files) == []


@pytest.mark.parametrize(("class_name", "kept"), [("TokenizersBackend", False), ("GPT2Tokenizer", True)])
def test_a_tokenizer_has_a_class_that_transformers_4_knows(tmp_path: Path, class_name: str, kept: bool) -> None:
    def save_pretrained(folder: Path, **_: object) -> None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": class_name}))

    both = SimpleNamespace(save_pretrained=save_pretrained)
    write_model(tmp_path / "out", both, both)  # type: ignore[arg-type]
    held = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert held["tokenizer_class"] == (class_name if kept else "PreTrainedTokenizerFast")


@pytest.mark.parametrize(("file", "told"), [(WEIGHTS, "damaged"), ("generation_config.json", "is taken as it is")])
def test_a_flipped_bit_is_noticed_where_checksums_were_written(
    folder: Path, capsys: pytest.CaptureFixture[str], file: str, told: str
) -> None:
    held = bytearray((folder / file).read_bytes())
    at = held.index(b"5.") if file.endswith(".json") else len(held) - 1
    held[at] ^= 1  # the least bit of a weight, or a digit of the version that wrote the file
    write_checksums(folder)
    (folder / file).write_bytes(held)
    try:
        policy_of(folder)
        said = capsys.readouterr().err
    except SpecError as error:
        said = str(error)
    assert f"{file} is not what was written there (its checksum differs)" in said and told in said
    (folder / CHECKSUMS).unlink()
    policy_of(folder)
