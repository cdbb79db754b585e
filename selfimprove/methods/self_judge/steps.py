"""The steps of `self_judge`: similarities of answers and references, and the judge that is trained."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfimprove.artefacts import read_rows, write_rows
from selfimprove.steps.cost import Dry, Tokens
from selfimprove.steps.kind import Advance, StepKind
from selfimprove.steps.memory import sft
from selfimprove.steps.request import StepRequest
from selfimprove.steps.shards import by_prompt, shard_of
from selfimprove.training.step import training_plan


def _similarity(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.methods.self_judge.similarity import cosines
    from selfimprove.models.policy import pick_device

    groups = shard_of(by_prompt(read_rows(folder / "inputs" / "pairs.arrow")), shard, task["shard_groups"])
    rows, execution = [row for group in groups for row in group], task["execution"]
    pairs = [(row["text"], row["reference"]) for row in rows]
    found = cosines(execution["folder"], pairs, pick_device(execution["device"]), advance)
    write_rows(
        folder / f"rows-{shard:05d}.arrow",
        [
            {"prompt_id": row["prompt_id"], "index": row["index"], **one._asdict()}
            for row, one in zip(rows, found, strict=True)
        ],
    )


def _judge(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.methods.self_judge.trainer import train_judge
    from selfimprove.training.stages import already_trained

    if not already_trained(folder):
        train_judge(folder, task, advance)


def _dry_similarity(request: StepRequest) -> Dry:
    return Dry(
        rows=[
            {
                "prompt_id": row["prompt_id"],
                "index": row["index"],
                "cosine": zlib.crc32(f"{row['prompt_id']}|{row['index']}".encode()) / 2**32,
                "cut": False,
            }
            for row in request.inputs["pairs"]
        ]
    )


def _dry_judge(request: StepRequest) -> Dry:
    """Two questions about each response at a time; its copy in the run's folder is a policy on disk too."""
    lengths = [len(row[name]) for row in request.inputs["examples"] for name in ("reference_ids", "plain_ids")]
    plan = training_plan(request, example=max(lengths))
    return Dry(
        Tokens(trained=request.options["epochs"] * sum(lengths)),
        plan=replace(plan, micro_batch=2 * plan.micro_batch),
        memory=sft,
        policies=2,
    )


SIMILARITY = StepKind(2, _similarity, "pairs", 2048, "pairs", "similarity", _dry_similarity)
JUDGE = StepKind(1, _judge, "examples", None, "steps", "training of the judge", _dry_judge)
