"""Whole rounds over architectures in their smallest form: sampled, scored, trained, saved and read again."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import (
    ALSO_RUN,
    EXPERTS,
    WITH_PICTURES,
    WORKS,
    save_architecture,
    save_with_pictures,
    without_rates,
)
from rich.console import Console
from safetensors.torch import load_file
from test_training import LORA, request

from selfimprove.artefacts import Artefact, Store
from selfimprove.errors import InputError
from selfimprove.models.loading import load_base
from selfimprove.models.policy import Policy
from selfimprove.models.resolve import resolve_policy
from selfimprove.report.terminal import Progress
from selfimprove.steps.request import StepRequest
from selfimprove.steps.run import run_step
from selfimprove.training.stages import made_policy, read_history
from selfimprove.training.trained_parts import beside_text, train_all_weights

PROMPTS = {f"p{number}": (1, 40 + number, 50, 60 + number, *range(70, 70 + number)) for number in range(4)}
DRAWN = {"n": 2, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 6, "stop_ids": [2], "dtype": "float32"}
EXECUTION = {"device": "cpu", "batch_tokens": 4096}
Row = dict[str, Any]


class Steps:
    """Steps of a run in one folder, as the loop makes them."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)

    def run(self, made: StepRequest) -> Artefact:
        return run_step(self.store, made, Progress(Console(file=io.StringIO())))[0]

    def sampled(self, policy: Policy) -> list[Row]:
        """Two responses to each of PROMPTS, one after the other."""
        prompts = [{"prompt_id": id, "prompt_ids": ids} for id, ids in PROMPTS.items()]
        options = {**DRAWN, "backend": "transformers"}
        return self.run(
            StepRequest("sample", "", options, {"prompts": prompts}, {"policy": policy}, 0, EXECUTION)
        ).rows()

    def scored(self, policy: Policy, rows: list[Row]) -> list[float]:
        given = [
            {**{key: row[key] for key in ("prompt_id", "index", "ids")}, "prompt_ids": PROMPTS[row["prompt_id"]]}
            for row in rows
        ]
        options = {"dtype": "float32"}
        made = StepRequest("log_probs", "", options, {"responses": given}, {"policy": policy}, 0, EXECUTION)
        return [row["log_prob"] for row in self.run(made).rows()]

    def sft(self, policy: Policy, rows: list[Row], lora: Row | None) -> tuple[Policy, float]:
        """The policy after one optimizer step on every prompt's first response, and that step's loss."""
        examples = [{"prompt_ids": PROMPTS[row["prompt_id"]], "response_ids": row["ids"]} for row in rows[::2]]
        step = self.run(request("sft", policy, examples, lora=lora))
        return made_policy(policy, step, "M1"), read_history(step.folder)[0]["loss"]

    def dpo(self, policy: Policy, rows: list[Row], log_probs: list[float], lora: Row | None) -> tuple[Policy, Row]:
        """The policy after one step on every prompt's two responses, and its first batch, whose gate has passed."""
        pairs = [
            {
                "prompt_id": chosen["prompt_id"],
                "prompt_ids": PROMPTS[chosen["prompt_id"]],
                "chosen_ids": chosen["ids"],
                "rejected_ids": rejected["ids"],
                "confidence": 1.0,
                "reference_chosen_log_prob": log_probs[2 * number],
                "reference_rejected_log_prob": log_probs[2 * number + 1],
            }
            for number, (chosen, rejected) in enumerate(zip(rows[::2], rows[1::2], strict=True))
        ]
        step = self.run(request("dpo", policy, pairs, lora=lora))
        return made_policy(policy, step, "M2"), json.loads((step.folder / "first-batch.json").read_text())


def mean_loss(rows: list[Row], log_probs: list[float]) -> float:
    """Of the first responses, in nats per token, from the scorer."""
    return -sum(log_probs[::2]) / sum(len(row["ids"]) for row in rows[::2])


def whole_round(folder: Path, policy: Policy, lora: Row | None) -> list[Policy]:
    """Samples from the policy, trains it by SFT and then by DPO, and reads what each left; checked at every step."""
    steps = Steps(folder)
    rows = steps.sampled(policy)
    start = steps.scored(policy, rows)
    assert [row["log_prob"] for row in rows] == pytest.approx(start, abs=1e-2)
    tuned, loss = steps.sft(policy, rows, lora)
    assert loss == pytest.approx(mean_loss(rows, start), abs=1e-3)  # what is trained is what is scored
    after = steps.scored(tuned, rows)
    aligned, first = steps.dpo(tuned, rows, after, lora)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5) and first["mean_abs_margin"] < 1e-5
    last = steps.scored(aligned, rows)
    assert len({policy.digest, tuned.digest, aligned.digest}) == 3
    for before, now in ((start, after), (after, last)):
        assert max(abs(a - b) for a, b in zip(before, now, strict=True)) > 0.05
    return [tuned, aligned]


RUN = {name: (kind, without_rates(changes)) for name, (kind, changes) in sorted({**WORKS, **ALSO_RUN}.items())}
FULL = [*RUN][::3]  # every architecture's weights are trained alike; these are a sample, for time


@pytest.mark.parametrize(("name", "lora"), [*((name, LORA) for name in RUN), *((name, None) for name in FULL)])
def test_a_whole_round(name: str, lora: Row | None, tmp_path: Path) -> None:
    whole_round(tmp_path / "steps", resolve_policy(str(save_architecture(tmp_path / "model", *RUN[name]))), lora)


BALANCED = {
    "mixtral": ("Mixtral", {**EXPERTS, "output_router_logits": True, "router_aux_loss_coef": 10.0}),
    "by-default": ("Qwen3Moe", {**EXPERTS, "head_dim": 8, "router_aux_loss_coef": 10.0}),
    "jetmoe": ("JetMoe", {**EXPERTS, "kv_channels": 8, "output_router_logits": True, "aux_loss_coef": 10.0}),
}


@pytest.mark.parametrize("name", BALANCED)
def test_a_mixture_of_experts_trains_on_its_examples_alone(name: str, tmp_path: Path) -> None:
    kind, changes = BALANCED[name]
    policy, steps = resolve_policy(str(save_architecture(tmp_path / "model", kind, changes))), Steps(tmp_path / "steps")
    rows = steps.sampled(policy)
    trained, loss = steps.sft(policy, rows, lora=None)
    assert loss == pytest.approx(mean_loss(rows, steps.scored(policy, rows)), abs=1e-4)
    kept = {key: value for key, value in changes.items() if "aux" in key or "router" in key}
    saved = json.loads((Path(trained.base) / "config.json").read_text())
    assert {key: saved[key] for key in kept} == kept


# More than an output embedding stands behind its body.
UNKNOWN_HEAD = ("ModernBertDecoder", {"attention_dropout": 0.0, "mlp_dropout": 0.0, "embedding_dropout": 0.0})
EXAMPLE = {"prompt_id": "p0", "ids": (7, 8, 2)}
OPENED = {"Gemma3", "Gemma4", "GotOcr2", "Qwen3_5"}


@pytest.mark.parametrize("kind", sorted(OPENED))
def test_what_reads_pictures_is_not_trained_on_text(kind: str, tmp_path: Path) -> None:
    policy = resolve_policy(str(save_with_pictures(tmp_path / "model", kind)))
    towers = {name for name in load_file(tmp_path / "model" / "model.safetensors") if "vis" in name}
    assert towers
    listed = {**LORA, "target_modules": ["q_proj", "k_proj", "v_proj"]}  # names that towers have too
    for number, lora in enumerate((LORA, listed) if kind == "Gemma3" else (LORA,)):
        for made in whole_round(tmp_path / f"lora-{number}", policy, lora):
            adapted = load_file(Path(str(made.adapter)) / "adapter_model.safetensors")
            assert adapted and not any("vis" in name or "projector" in name for name in adapted)
    start, (_, made) = load_file(tmp_path / "model" / "model.safetensors"), whole_round(tmp_path / "full", policy, None)
    trained = load_file(Path(made.base) / "model.safetensors")
    assert all(trained[name].equal(start[name]) for name in towers & trained.keys())
    assert towers <= trained.keys() or kind == "Qwen3_5"  # whose text alone is opened


@pytest.mark.parametrize("kind", sorted(WITH_PICTURES.keys() - OPENED))
def test_what_transformers_opens_as_no_language_model_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    policy = resolve_policy(str(save_with_pictures(tmp_path / "model", kind)))
    with pytest.raises(InputError, match=rf"is a {kind}ForConditionalGeneration, which .* not .* as a language model"):
        load_base(policy, torch.float32, "cpu")


def test_a_head_that_trl_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    policy, steps = resolve_policy(str(save_architecture(tmp_path / "model", *UNKNOWN_HEAD))), Steps(tmp_path / "steps")
    rows = steps.sampled(policy)
    with pytest.raises(InputError, match=r"a ModernBertDecoderForCausalLM, which .* cannot train: .* nats per token"):
        steps.sft(policy, rows, LORA)


@pytest.mark.parametrize(("name", "listed"), [("llama", ["q_prj"]), ("falcon-h1", ["out_proj"])])
def test_a_list_of_layers_that_take_no_adapter_is_refused(name: str, listed: list[str], tmp_path: Path) -> None:
    policy = resolve_policy(str(save_architecture(tmp_path / "model", *RUN[name])))
    with pytest.raises(InputError, match=r"training\.lora\.target_modules: no adapter fits"):
        Steps(tmp_path / "steps").sft(policy, [EXAMPLE, EXAMPLE], {**LORA, "target_modules": listed})


def test_a_list_of_layers_goes_on_in_the_next_round_on_a_mixture_of_experts(tmp_path: Path) -> None:
    policy = resolve_policy(str(save_architecture(tmp_path / "model", *RUN["qwen3-moe"])))
    listed = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ]  # the experts' are parameters
    whole_round(tmp_path / "steps", policy, {**LORA, "target_modules": listed})


def test_frozen_towers_have_no_gradients(tmp_path: Path) -> None:
    model = load_base(resolve_policy(str(save_with_pictures(tmp_path / "model", "Gemma3"))), torch.float32, "cpu")
    assert beside_text(model) == ["model.vision_tower", "model.multi_modal_projector"]
    frozen = {name for name, weight in train_all_weights(model).named_parameters() if not weight.requires_grad}
    assert frozen and all(name.startswith(("model.vision_tower.", "model.multi_modal_projector.")) for name in frozen)
