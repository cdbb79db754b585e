"""Whole rounds over architectures in their smallest form: sampled, scored, trained, saved and read again."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from architectures import EXPERTS, save_architecture
from rich.console import Console
from test_training import request

from selfimprove.artefacts import Artefact, Store
from selfimprove.policy import Policy, resolve_policy
from selfimprove.reporting.terminal import Progress
from selfimprove.steps import StepRequest, run_step
from selfimprove.training.stages import made_policy, read_history

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


def mean_loss(rows: list[Row], log_probs: list[float]) -> float:
    """Of the first responses, in nats per token, from the scorer."""
    return -sum(log_probs[::2]) / sum(len(row["ids"]) for row in rows[::2])


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
