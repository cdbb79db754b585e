"""Memory and disk estimates: hand-computed, against what autograd keeps, and the table of the documentation."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from selfimprove.models import likelihood as scoring
from selfimprove.models.policy import Policy
from selfimprove.steps import memory as estimate
from selfimprove.steps.memory import (
    GIB,
    RUNTIME,
    Memory,
    Plan,
    Shape,
    disk,
    dpo,
    layer_activations,
    loading,
    plan_of,
    sft,
)
from selfimprove.steps.request import StepRequest

ROOT = Path(__file__).parent.parent
# 2 layers, hidden 8, 4 heads of 2 (2 for keys and values), MLP 16, vocabulary 10, embeddings apart.
SMALL = Shape.from_config(
    {
        "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 16, "vocab_size": 10,
    }
)  # fmt: skip
PLAN = Plan(half=False, gpu=False, prompt=6, response=4, example=5, n=2, batch_tokens=40, micro_batch=3, lora_rank=2)
HALF = replace(PLAN, half=True, gpu=True)


# ---- shapes


def test_a_shape_by_hand() -> None:
    # A layer: q and o 8 x 8, k and v 4 x 8, three of 8 x 16, two norms of 8.
    assert SMALL.layer_parameters == 2 * 64 + 2 * 32 + 3 * 128 == 576
    assert SMALL.parameters == 2 * (576 + 16) + 2 * 80 + 8 == 1352
    assert SMALL.adapter(2) == 2 * 2 * (16 + 16 + 12 + 12 + 3 * 24) == 512
    assert (SMALL.query, SMALL.key_value, SMALL.head) == (8, 4, 80)


def test_the_count_made_from_a_configuration_is_that_of_the_weights(tiny_policy: Policy) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_policy.base)
    counted = Shape.read(Path(tiny_policy.base))
    assert counted == Shape.from_config(model.config.to_dict())
    assert counted.parameters == sum(parameter.numel() for parameter in model.parameters())
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=3, target_modules="all-linear"))
    assert counted.adapter(3) == sum(p.numel() for p in peft.parameters() if p.requires_grad)


# ---- memory by hand


def test_sampling_by_hand() -> None:
    found = estimate.sampling(SMALL, PLAN)
    assert found.weights == 4 * 1352
    assert found.cache == 40 * 2 * 2 * 4 * 4  # 40 tokens, 2 layers, keys and values of 4 numbers
    assert found.logits == 3 * 4 * (40 // 10) * 10
    assert found.total == RUNTIME + found.weights + found.cache + found.logits + found.activations
    # The n rows of one request stay together, however few tokens a batch may have.
    assert estimate.sampling(SMALL, replace(PLAN, batch_tokens=1)).cache == 20 * 2 * 2 * 4 * 4


def test_scoring_is_bounded_as_the_scorer_bounds_it() -> None:
    assert estimate._LOGIT_BUDGET == scoring._LOGIT_BUDGET
    found = estimate.scoring(SMALL, PLAN)
    assert found.logits == (40 * 4 // 10) * 10 * 4 + 2 * 4 * 256 * 10
    wide = replace(SMALL, vocabulary=2**25)  # 2^27 numbers are 4 rows, or 8 since prompts are longer than responses
    assert estimate.scoring(wide, PLAN).cache == 20 * 2 * 2 * 4 * 4  # but never fewer than one prompt's responses


def test_lora_training_by_hand() -> None:
    found = sft(SMALL, PLAN)
    assert found.weights == 4 * 1352 + 4 * 512
    assert (found.gradients, found.optimizer) == (4 * 512, 8 * 512)
    token = 4 * (4 * 8 + 4 * 8 + 4 * 16 + 7 * 2) + 4 * 5
    assert layer_activations(SMALL, PLAN, 5) == token == 588
    assert found.activations == 3 * 15 * 588  # 2 layers and one for the gradients; 3 examples of 5 tokens
    assert found.logits == 15 * 10 * 33
    pairs = dpo(SMALL, PLAN)
    assert pairs.activations == 3 * 60 * (588 + 4 * 5)  # 3 pairs: 6 rows of 10 tokens
    assert pairs.logits == 16 * 6 * 5 * 10


def test_full_training_by_hand() -> None:
    plan = replace(PLAN, lora_rank=None)
    found = sft(SMALL, plan)
    assert found.weights + found.gradients + found.optimizer == 16 * 1352
    assert found.logits == 15 * 10 * 33 + 4 * 80
    # bf16: autocast's copy of the weights, and the fused head in tiles.
    half = dpo(SMALL, replace(plan, half=True, gpu=True))
    assert half.weights == 6 * 1352
    assert half.logits == 24 * 10 * 2 + 4 * 80


def test_dropout_acts_in_the_sft_only() -> None:
    dropped = replace(PLAN, dropout=True)
    assert sft(SMALL, dropped).activations == sft(SMALL, PLAN).activations + 3 * 15 * 6 * (40 + 8 + 16)
    assert dpo(SMALL, dropped) == dpo(SMALL, PLAN)


def test_checkpointing_keeps_the_layers_inputs() -> None:
    found = dpo(SMALL, replace(HALF, checkpointing=True))
    assert found.activations == 2 * 60 * 8 * 2 + 2 * 60 * layer_activations(SMALL, HALF, 10)
    full = dpo(SMALL, replace(HALF, checkpointing=True, lora_rank=None))
    plain = layer_activations(SMALL, replace(HALF, lora_rank=None), 10)
    assert full.activations == 2 * 60 * 8 * 4 + 2 * 60 * plain  # the residual stream is fp32


def test_processes_share_what_is_sharded_and_copy_what_is_not() -> None:
    one = dpo(SMALL, replace(HALF, lora_rank=None))
    four = dpo(SMALL, replace(HALF, lora_rank=None, processes=4, sharded=True))
    whole = 2 * 576 * 2 + 80 * 4  # the fused head gathers its matrix in fp32
    assert (four.weights, four.gradients, four.optimizer) == (1352 + whole, 1352, 2 * 1352)
    assert four.activations == one.activations, "each process has micro_batch pairs of its own"
    copies = dpo(SMALL, replace(HALF, lora_rank=None, processes=4))
    assert copies.gradients == 2 * one.gradients and copies.weights == one.weights


def test_an_engine_on_the_cpu_stands_beside_every_step() -> None:
    held, loading_more = estimate.engine_on_cpu(SMALL, PLAN, adapter=True)
    assert held == RUNTIME + 4 * 1352 + 4 * GIB
    assert loading_more == 4 * 1352
    assert estimate.engine_on_cpu(SMALL, PLAN, adapter=False)[1] == 0


def test_loading_and_disk_by_hand() -> None:
    full = replace(HALF, lora_rank=None, processes=8)
    assert loading(SMALL, HALF) == 2 * 1352
    assert loading(SMALL, full) == 8 * 4 * 1352
    assert loading(SMALL, replace(full, sharded=True)) == 2 * 8 * 4 * 1352
    found = disk(SMALL, HALF, trainings=4, middle=True)
    assert (found.policy, found.kept, found.while_training) == (4 * 512, 5 * 4 * 512, 3 * 12 * 512)
    assert disk(SMALL, full, trainings=4).total == 4 * 4 * 1352 + 3 * 12 * 1352
    assert disk(SMALL, replace(full, sharded=True), trainings=4).while_training == 3 * 16 * 1352


def test_a_plan_is_read_from_a_steps_request() -> None:
    options = {"dtype": "bfloat16", "batch_size": 16, "lora": {"r": 16, "dropout": 0.05}}
    execution = {"device": "cuda", "micro_batch_size": 4, "gradient_checkpointing": True}
    request = StepRequest("dpo", "", options, {}, {}, 0, execution, processes=8)
    plan = plan_of(request, prompt=700, response=256, n=5)
    assert (plan.half, plan.gpu, plan.prompt, plan.response, plan.n) == (True, True, 700, 256, 5)
    assert (plan.micro_batch, plan.lora_rank, plan.checkpointing, plan.dropout) == (2, 16, True, True)
    whole = replace(request, options={"dtype": "float32", "lora": None}, execution={"device": "cpu"}, processes=1)
    assert plan_of(whole, prompt=1, response=1) == Plan(half=False, gpu=False, prompt=1, response=1, example=0)


def test_nothing_is_left_out_of_the_total() -> None:
    assert Memory(1, 2, 3, 4, 5, 6).total == RUNTIME + 21


# ---- what autograd keeps


def kept_per_token(family: str, shape: dict[str, int], rank: int | None, half: bool, dropout: float) -> float:
    """Bytes a token that autograd keeps in one layer: the difference of a model of four layers and one of two."""
    config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[family]
    rows, width, found = 2, 128, []
    for layers in (2, 4):
        settings = config(**shape, num_hidden_layers=layers, vocab_size=64, tie_word_embeddings=True)
        made: Any = model(settings).to(torch.bfloat16 if half and rank else torch.float32)
        if rank:
            lora = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_dropout=dropout, target_modules="all-linear")
            made = get_peft_model(made, lora)
        weights = {parameter.untyped_storage().data_ptr() for parameter in made.parameters()}
        sizes: dict[int, int] = {}
        alive = []

        def keep(tensor: torch.Tensor, weights: Any = weights, sizes: Any = sizes, alive: Any = alive) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
            return tensor

        mask = torch.ones((rows, width), dtype=torch.long)
        mask[0, :3] = 0
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=half),
        ):
            made.train()(input_ids=mask, attention_mask=mask, use_cache=False, logits_to_keep=1)
        found.append(sum(sizes.values()))
    return (found[1] - found[0]) / 2 / (rows * width)


@pytest.mark.parametrize(
    ("family", "rank", "half", "dropout"),
    [
        ("llama", 16, False, 0.0), ("llama", 16, False, 0.1), ("llama", 16, True, 0.0), ("llama", 16, True, 0.1),
        ("llama", None, False, 0.0), ("llama", None, True, 0.0), ("qwen2", 16, True, 0.0), ("qwen2", 16, False, 0.0),
    ],
)  # fmt: skip
def test_activations_are_those_that_autograd_keeps(family: str, rank: int | None, half: bool, dropout: float) -> None:
    config = {
        "hidden_size": 384, "intermediate_size": 512, "num_attention_heads": 6, "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }  # fmt: skip
    shape = Shape.from_config({**config, "num_hidden_layers": 1, "vocab_size": 64})
    plan = replace(PLAN, half=half, lora_rank=rank, dropout=dropout > 0)
    # Under autocast bf16 copies of the layer's fp32 weights are kept too: they are no activations.
    trained = shape.adapter(rank) if rank else shape.layer_parameters
    copies = 2 * trained / 256 if half else 0
    kept = kept_per_token(family, config, rank, half, dropout)
    assert kept == pytest.approx(layer_activations(shape, plan, 128) + copies, rel=0.02)


# ---- the documentation


def test_the_table_of_the_documentation_is_the_scripts() -> None:
    table = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "scaling_table.py")], capture_output=True, text=True, check=True
    ).stdout
    assert table.strip() in (ROOT / "docs" / "scaling.md").read_text()


def test_published_sizes_are_met() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from scaling_table import MODELS
    finally:
        sys.path.pop(0)
    published = {
        "SmolLM2-135M": 134_515_008, "Qwen2.5-0.5B": 494_032_768, "Qwen2.5-1.5B": 1_543_714_304,
        "Qwen2.5-7B": 7_615_616_512, "Llama-3-8B": 8_030_261_248, "Llama-3-70B": 70_553_706_496,
    }  # fmt: skip
    assert {name: shape.parameters for name, shape in MODELS.items()} == published
    assert MODELS["Llama-3-8B"].parameters * 16 / GIB == pytest.approx(119.7, abs=0.1)
