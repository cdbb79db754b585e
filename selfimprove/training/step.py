"""The steps `sft` and `dpo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfimprove.steps.kind import Advance, StepKind


def _sft(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.training.stages import already_trained, train_sft

    if not already_trained(folder):
        train_sft(folder, task, advance)


def _dpo(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.training.stages import already_trained, train_preference

    if not already_trained(folder):
        train_preference(folder, task, advance)


SFT = StepKind(1, _sft, "examples", None, "steps", "SFT")
DPO = StepKind(1, _dpo, "pairs", None, "steps", "DPO")
