"""`training.accelerate`: what a person can get wrong in an accelerate file is said before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from selfimprove.errors import InputError
from selfimprove.recipe.recipe import load_recipe
from selfimprove.recipe.sections import Training
from selfimprove.shipped import recipes_folder
from selfimprove.training import accelerate_file
from selfimprove.training.accelerate_file import (
    check_accelerate_file,
    find_accelerate_file,
    missing_here,
    read_accelerate_file,
    require_here,
)

SHIPPED = sorted((recipes_folder() / "data" / "accelerate").glob("*.yaml"))
FSDP = yaml.safe_load((recipes_folder() / "data" / "accelerate" / "fsdp-2gpu.yaml").read_text())
ZERO = yaml.safe_load((recipes_folder() / "data" / "accelerate" / "zero3-8gpu.yaml").read_text())


def write(folder: Path, values: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def without(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != key}


def fsdp(**changes: Any) -> dict[str, Any]:
    return {**FSDP, "fsdp_config": {**FSDP["fsdp_config"], **changes}}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_files_are_accelerates_and_agree_with_a_recipe(path: Path) -> None:
    config = read_accelerate_file(path)
    check_accelerate_file(path, Training(processes=config.num_processes))
    assert len(SHIPPED) == 2


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ("a: [", ["not readable as YAML"]),
        ("just text", ["a mapping of keys; found str"]),
        ("", ["a mapping of keys; found NoneType"]),
        ({"method": "sft", "model": "x"}, ["not an accelerate config file: unknown `method`"]),
        ({**FSDP, "num_proceses": 2}, ["unknown `num_proceses`; did you mean `num_processes`?"]),
        (without(FSDP, "distributed_type"), ["`distributed_type` is missing", "FSDP, DEEPSPEED, MULTI_GPU"]),
        ({**FSDP, "distributed_type": "FSPD"}, ["unknown `FSPD`; did you mean `FSDP`?"]),
        ({**FSDP, "distributed_type": "MULTI_CPU"}, ["MULTI_CPU is not used here", "known here"]),
        (without(FSDP, "num_processes"), ["`num_processes` must say how many", "found None"]),
        ({**FSDP, "num_processes": -1}, ["`num_processes` must say how many", "found -1"]),
        ({**FSDP, "compute_environment": "AMAZON_SAGEMAKER"}, ["accelerate cannot read it"]),
        (fsdp(fsdp_state_dict_typ="x"), ["fsdp_config: unknown `fsdp_state_dict_typ`", "`fsdp_state_dict_type`"]),
        ({**ZERO, "deepspeed_config": {"zero_stge": 3}}, ["deepspeed_config: unknown `zero_stge`", "`zero_stage`"]),
    ],
)
def test_a_file_that_accelerate_could_not_use_is_refused(tmp_path: Path, values: Any, parts: list[str]) -> None:
    path = write(tmp_path, values)
    with pytest.raises(InputError) as refused:
        read_accelerate_file(path)
    for part in [f"training.accelerate: {path}", *parts]:
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("values", "training", "parts"),
    [
        (FSDP, {"processes": 1}, ["num_processes is 2, but training.processes is 1"]),
        ({**FSDP, "num_machines": 2}, {}, ["num_machines is 2", "its own machine only"]),
        ({**FSDP, "mixed_precision": "fp16"}, {}, ["mixed_precision is fp16", "auto it must be bf16"]),
        (without(FSDP, "mixed_precision"), {}, ["mixed_precision is no", "it must be bf16"]),
        (FSDP, {"dtype": "float32"}, ["mixed_precision is bf16", "float32 it must be no"]),
        (fsdp(fsdp_version=1), {}, ["fsdp_version is 1; only 2 is used here"]),
        ({**FSDP, "fsdp_config": {}}, {}, ["fsdp_version is 1 (the default)"]),
        (fsdp(fsdp_state_dict_type="SHARDED_STATE_DICT"), {}, ["saves no policy at the end"]),
        (fsdp(fsdp_activation_checkpointing=True), {}, ["gradient_checkpointing do the same"]),
        ({**ZERO, "num_processes": 2, "deepspeed_config": {"zero_stage": 3}}, {}, ["save_16bit_model must be true"]),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_the_recipe_is_refused(
    tmp_path: Path, values: Any, training: dict[str, Any], parts: list[str]
) -> None:
    path = write(tmp_path, values)
    with pytest.raises(InputError) as refused:
        check_accelerate_file(path, Training(**{"processes": 2, **training}))
    for part in [f"training.accelerate: {path}", *parts]:
        assert part in str(refused.value)


def test_what_fits_is_not_refused(tmp_path: Path) -> None:
    for values, training in (
        ({**FSDP, "mixed_precision": False}, {"dtype": "float32"}),  # `no` without quotes is false in YAML
        (fsdp(fsdp_activation_checkpointing=True), {"gradient_checkpointing": False}),
        ({"distributed_type": "MULTI_GPU", "num_processes": 2, "mixed_precision": "bf16"}, {}),
    ):
        check_accelerate_file(write(tmp_path, values), Training(**{"processes": 2, **training}))


def test_missing_deepspeed_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerate_file, "find_spec", lambda name: None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    recipe = load_recipe("llama-3-8b-instruct/cream")
    with pytest.raises(InputError, match=r"ZeRO, which is not installed: pip install deepspeed") as refused:
        require_here(recipe, "cuda")
    assert refused.value.exit_code == 2
    monkeypatch.setattr(accelerate_file, "find_spec", lambda name: object())
    require_here(recipe, "cuda")


def test_too_few_gpus_and_the_cpu_are_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_accelerate_file(next(path for path in SHIPPED if path.stem == "fsdp-2gpu"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert missing_here(config, "cuda") == ["the file asks for 2 GPUs, there are 1"]
    assert "would silently train plain copies" in missing_here(config, "cpu")[0]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert missing_here(config, "cuda") == []


def test_a_file_that_is_nowhere_is_an_error_with_the_places(tmp_path: Path) -> None:
    recipe = load_recipe("smollm2-135m/cream", ["training.accelerate=nowhere.yaml"])
    with pytest.raises(InputError, match=r"training.accelerate: no file 'nowhere.yaml'; looked at"):
        find_accelerate_file(recipe)
