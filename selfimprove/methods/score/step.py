"""The step `score`: one stage of policy-gradient training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfimprove.steps.kind import Advance, StepKind


def _score(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.methods.score.stage import clear_leftovers, train_score
    from selfimprove.training.stages import already_trained

    if not already_trained(folder):
        train_score(folder, task, advance)
    clear_leftovers(folder)


SCORE = StepKind(2, _score, "prompts", None, "steps", "SCoRe")
