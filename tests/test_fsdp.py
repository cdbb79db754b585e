"""FSDP2 over two CPU processes (gloo), with the shipped file: sharded training is the training of one process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_training import built_trainer, example_rows, pair_rows, prepare, request
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from selfimprove.artefacts import write_json
from selfimprove.models.policy import Policy
from selfimprove.models.resolve import resolve_policy
from selfimprove.shipped import recipes_folder
from selfimprove.steps.worker import worker
from selfimprove.training.stages import newest_checkpoint

FILE = recipes_folder() / "data" / "accelerate" / "fsdp-2gpu.yaml"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The shipped FSDP file, for the CPU and in fp32."""
    values = yaml.safe_load(FILE.read_text())
    path = tmp_path / "fsdp-cpu.yaml"
    path.write_text(yaml.safe_dump({**values, "use_cpu": True, "mixed_precision": "no"}))
    return path


def launch(script: Path, config: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    command += ["--main_process_port", "0", str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def step_folder(folder: Path, step: str, policy: Policy, **changes: object) -> Path:
    rows = example_rows(9) if step == "sft" else pair_rows(policy, 9)
    task = prepare(folder, request(step, policy, rows, **changes))
    write_json(folder / "step.json", {**task, "shards": 1, "shard_groups": None})
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of an adapter's file, or of the model as Transformers opens it (under FSDP the file has a tied LM head twice)."""
    adapter = folder / "policy" / "adapter_model.safetensors"
    if adapter.is_file():
        return load_file(adapter)
    return AutoModelForCausalLM.from_pretrained(folder / "policy").state_dict()


def sharded(folder: Path, config: Path) -> dict[str, torch.Tensor]:
    launch(Path(__file__).with_name("fsdp_on_cpu.py"), config, str(folder), "0")
    return weights(folder)


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert set(one) == set(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_fsdp2_dpo_trains_the_adapter_of_one_process(tiny_policy: Policy, tmp_path: Path, config: Path) -> None:
    alone = step_folder(tmp_path / "alone", "dpo", tiny_policy)
    worker(alone, 0)
    split = step_folder(tmp_path / "split", "dpo", tiny_policy, gradient_checkpointing=True)  # as on a GPU
    assert difference(weights(alone), sharded(split, config)) < 1e-5
    shares = [json.loads((split / f"share-{rank}.json").read_text()) for rank in (0, 1)]
    assert sum(shares) == pytest.approx(1.0) and max(shares) < 0.55, "each process holds its half"
    first = json.loads((split / "first-batch.json").read_text())
    assert first["mean_abs_margin"] < 1e-4, "the policy is its own reference under FSDP too"


def test_fsdp2_full_weights_go_on_from_a_checkpoint(tiny_model: Path, tmp_path: Path, config: Path) -> None:
    """Tied embeddings, which the small Qwen2.5 models have, are one parameter in two places."""
    settings = AutoConfig.from_pretrained(tiny_model, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(settings).save_pretrained(tmp_path / "tied")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "tied")
    policy = resolve_policy(str(tmp_path / "tied"))
    changes = {"lora": None, "learning_rate": 1e-3, "checkpoint_steps": 1}
    alone = step_folder(tmp_path / "alone", "sft", policy, **changes)
    worker(alone, 0)
    split = step_folder(tmp_path / "split", "sft", policy, **changes)
    whole = sharded(split, config)
    assert difference(weights(alone), whole) < 1e-5
    shutil.rmtree(split / "policy")  # as if it had been killed after the second of three steps
    shutil.rmtree(split / "checkpoints" / "checkpoint-3")
    assert newest_checkpoint(split / "checkpoints") is not None
    assert difference(sharded(split, config), whole) == 0
    assert json.loads((split / "resumed-from.json").read_text()) == [2]


def test_a_reference_model_that_trl_loads_stays_in_main_memory(
    tiny_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under FSDP with full weights, until training begins; `auto` would spread it over all GPUs from every process."""
    made = request("dpo", tiny_policy, pair_rows(tiny_policy, 4), lora=None)
    assert built_trainer(tmp_path / "step", made, monkeypatch).args.model_init_kwargs == {"device_map": None}


def test_accelerate_does_not_shard_on_the_cpu_by_itself(tmp_path: Path, config: Path) -> None:
    """Why `missing_here` refuses a file on the CPU, and docs/scaling.md says so: when this fails, both can go."""
    script = tmp_path / "probe.py"
    script.write_text(
        "import sys, torch\n"
        "from accelerate import Accelerator\n"
        "a = Accelerator(cpu=True)\n"
        "open(f'{sys.argv[1]}-{a.process_index}', 'w').write(type(a.prepare(torch.nn.Linear(4, 4))).__name__)\n"
    )
    launch(script, config, str(tmp_path / "kind"))
    assert [(tmp_path / f"kind-{rank}").read_text() for rank in (0, 1)] == ["DistributedDataParallel"] * 2
