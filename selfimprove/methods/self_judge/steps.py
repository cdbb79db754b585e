"""The steps of `self_judge`: similarities of answers and references, and the judge that is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfimprove.artefacts import read_rows, write_rows
from selfimprove.steps.kind import Advance, StepKind
from selfimprove.steps.shards import by_prompt, shard_of


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


SIMILARITY = StepKind(2, _similarity, "pairs", 2048, "pairs", "similarity")
JUDGE = StepKind(1, _judge, "examples", None, "steps", "training of the judge")
