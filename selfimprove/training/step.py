"""The steps `sft` and `dpo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfimprove.steps.cost import Dry, Tokens
from selfimprove.steps.kind import Advance, StepKind
from selfimprove.steps.memory import Plan, dpo, plan_of, sft
from selfimprove.steps.request import StepRequest
from selfimprove.training.accelerate_file import read_accelerate_file


def _sft(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.training.stages import already_trained, train_sft

    if not already_trained(folder):
        train_sft(folder, task, advance)


def _dpo(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.training.stages import already_trained, train_preference

    if not already_trained(folder):
        train_preference(folder, task, advance)


def training_plan(request: StepRequest, prompt: int = 0, response: int = 0, example: int = 0, **more: Any) -> Plan:
    """How a training works, with what its accelerate file says of the weights."""
    kind = read_accelerate_file(Path(request.accelerate)).distributed_type.value if request.accelerate else ""
    sharded = kind in ("FSDP", "DEEPSPEED")
    return plan_of(request, prompt=prompt, response=response, example=example, sharded=sharded, **more)


def _dry_sft(request: StepRequest) -> Dry:
    lengths = [len(row["prompt_ids"]) + len(row["response_ids"]) for row in request.inputs["examples"]]
    return Dry(
        Tokens(trained=request.options["epochs"] * sum(lengths)),
        plan=training_plan(request, example=max(lengths)),
        memory=sft,
        policies=2 if "keep_at" in request.options else 1,
    )


def _dry_dpo(request: StepRequest) -> Dry:
    """The prompt goes through the model with each of the two responses."""
    prompts = [len(row["prompt_ids"]) for row in request.inputs["pairs"]]
    responses = [len(row[name]) for row in request.inputs["pairs"] for name in ("chosen_ids", "rejected_ids")]
    return Dry(
        Tokens(trained=request.options["epochs"] * (2 * sum(prompts) + sum(responses))),
        plan=training_plan(request, prompt=max(prompts), response=max(responses)),
        memory=dpo,
        policies=1,
    )


SFT = StepKind(1, _sft, "examples", None, "steps", "SFT", _dry_sft)
DPO = StepKind(1, _dpo, "pairs", None, "steps", "DPO", _dry_dpo)
