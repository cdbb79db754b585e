"""Adapter folders: the base they name, their kind, their own tokenizer and vocabulary, their files' modes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, IA3Config, LoraConfig, PeftConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfimprove.artefacts import sync_tree
from selfimprove.errors import InputError
from selfimprove.models.adapters import check_trainable, name_base
from selfimprove.models.loading import MODELS
from selfimprove.models.policy import load_tokenizer
from selfimprove.models.resolve import resolve_policy

LORA = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=False)
IA3 = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])


def write_adapter(base: Path, folder: Path, config: PeftConfig = LORA) -> Path:
    torch.manual_seed(0)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


def change(folder: Path, **values: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def logits(model: object) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[1, 2, 3]])).logits  # type: ignore[operator, no-any-return]


def old_weights(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    torch.save(load_file(file), folder / "adapter_model.bin")
    file.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (old_weights, "adapter_model.bin in place of adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no weights at all"),
        (lambda folder: change(folder, base_model_name_or_path=None), "names no base"),
        (lambda folder: change(folder, base_model_name_or_path=""), "names no base"),
        (lambda folder: (folder / "adapter_config.json").write_text('{"r": '), "not readable as JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "no adapter's configuration"),
    ],
)
def test_an_adapter_that_cannot_be_told_is_refused(
    tiny_model: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    folder = write_adapter(tiny_model, tmp_path / "a")
    spoil(folder)
    with pytest.raises(InputError, match=said):
        resolve_policy(str(folder))


def test_prompt_tuning_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = write_adapter(tiny_model, tmp_path / "a", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(InputError, match="PROMPT_TUNING, which is not read"):
        resolve_policy(str(folder))


def test_an_adapter_of_another_type_is_measured_but_not_trained(tiny_model: Path, tmp_path: Path) -> None:
    lora = resolve_policy(str(write_adapter(tiny_model, tmp_path / "lora")))
    other = resolve_policy(str(write_adapter(tiny_model, tmp_path / "ia3", IA3)))
    for policy in (lora, other, lora):  # one after the other on a base in memory
        model, context = MODELS.get(policy, torch.float32, "cpu")
        with context:
            torch.testing.assert_close(
                logits(model), logits(AutoPeftModelForCausalLM.from_pretrained(str(policy.adapter)))
            )
    options = {"r": 4, "alpha": 8, "target_modules": "all-linear"}
    check_trainable(lora, options)
    with pytest.raises(InputError, match="type IA3; only a LoRA adapter"):
        check_trainable(other, options)
    with pytest.raises(InputError, match=r"lora\.r: 2, but .* has 4"):
        check_trainable(lora, {**options, "r": 2})
    with pytest.raises(InputError, match=r"target_modules: v_proj, but .* has q_proj"):
        check_trainable(lora, {**options, "target_modules": ["v_proj"]})


def test_an_adapters_own_tokenizer_is_the_policys(tiny_model: Path, tmp_path: Path) -> None:
    folder = write_adapter(tiny_model, tmp_path / "a")
    plain = resolve_policy(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(folder)
    assert resolve_policy(str(folder)).digest == plain.digest  # the same one beside the adapter changes nothing
    tokenizer.chat_template = "{% for m in messages %}### {{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "b")
    write_adapter(tiny_model, tmp_path / "b")
    own = resolve_policy(str(tmp_path / "b"))
    assert load_tokenizer(own).chat_template == tokenizer.chat_template
    assert own.adapter_digest == plain.adapter_digest and own.digest != plain.digest


def test_a_larger_vocabulary_resizes_the_base_for_this_policy_alone(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    rows = model.get_input_embeddings().weight.shape[0]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [f"<tool{i}>" for i in range(rows - len(tokenizer) + 2)]}
    )
    model.resize_token_embeddings(len(tokenizer))
    for name, saved in (("whole", ["embed_tokens", "lm_head"]), ("lacking", None)):
        adapted = get_peft_model(
            model if name == "whole" else AutoModelForCausalLM.from_pretrained(tiny_model),
            LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], modules_to_save=saved),
        )
        adapted.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    bare, whole = resolve_policy(str(tiny_model)), resolve_policy(str(tmp_path / "whole"))
    for policy, size in ((bare, rows), (whole, len(tokenizer)), (bare, rows)):
        model, context = MODELS.get(policy, torch.float32, "cpu")
        with context:
            found = logits(model)
        assert found.shape[-1] == size
        if policy is whole:
            plain = AutoPeftModelForCausalLM.from_pretrained(str(policy.adapter))
            torch.testing.assert_close(found, logits(plain))
    with pytest.raises(InputError, match="adapter holds none for the others"):
        MODELS.get(resolve_policy(str(tmp_path / "lacking")), torch.float32, "cpu")


def test_a_hub_base_is_named_by_its_id_and_found_in_another_cache(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_adapter(tiny_model, tmp_path / "a")
    before = resolve_policy(str(folder))
    place = "/elsewhere/hub/models--org--tiny/snapshots/" + "a" * 40
    asked = []

    def snapshot_download(hub_id: str, revision: str | None, **options: object) -> str:
        asked.append((hub_id, revision))
        return str(tiny_model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    change(folder, base_model_name_or_path=place)  # as written before bases were named by id
    assert resolve_policy(str(folder)).digest == before.digest
    name_base(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", "a" * 40)
    assert resolve_policy(str(folder)).digest == before.digest
    assert asked == [("org/tiny", "a" * 40)] * 2
    change(folder, base_model_name_or_path=str(tiny_model), revision=None)
    name_base(folder)  # plain PEFT must open it: a local folder stays
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_model)


def test_a_run_that_is_not_there_is_never_the_hubs() -> None:
    with pytest.raises(InputError, match="`selfimprove run quickstart` makes it"):
        resolve_policy("runs/quickstart@M1")
    with pytest.raises(InputError, match="no run 'runs/nowhere'"):
        resolve_policy("runs/nowhere")


def test_files_have_the_modes_that_the_umask_gives(tmp_path: Path) -> None:
    for name in ("weights", "script"):
        (tmp_path / name).write_text("x")
    (tmp_path / "weights").chmod(0o600)
    (tmp_path / "script").chmod(0o700)
    before = os.umask(0o027)
    try:
        sync_tree(tmp_path)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("weights", "script")] == [0o640, 0o750]
