"""The samples that a policy gradient learns from, kept where a person can read them: of every so many updates, and of
the last ones, so that they are there when a gate stops the training."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from selfimprove.artefacts import explained_write
from selfimprove.judging.outcomes import Rewarded
from selfimprove.methods.score.rollouts import Episode, Question

FOLDER = "samples"


def sample_rows(
    update: int,
    questions: Sequence[Question],
    episodes: Sequence[Episode],
    rewards: Sequence[Sequence[Rewarded]],
    advantages: torch.Tensor,
) -> list[dict[str, Any]]:
    """A row for each sample: its prompt, and of each attempt text, ids, reward (or why it is missing), whether it was
    truncated, whether the policy wrote it, and the advantage its tokens are trained with (None: with none)."""
    rows = []
    for episode, checked, own in zip(episodes, rewards, advantages.tolist(), strict=True):
        question = questions[episode.prompt]
        attempts = [
            {
                "text": attempt.text,
                "ids": list(attempt.ids),
                "reward": reward.value,
                **({"missing": reward.missing} if reward.missing else {}),
                "advantage": advantage if math.isfinite(advantage) else None,
                "truncated": attempt.truncated,
            }
            for attempt, reward, advantage in zip(episode.attempts, checked, own, strict=False)
        ]
        rows.append(
            {
                "update": update + 1,
                "prompt_id": question.id,
                "prompt": question.text,
                "answer": question.answer,
                "first_by_base": not episode.own_first,
                "attempts": attempts,
            }
        )
    return rows


def keep_rows(folder: Path, rows: Sequence[dict[str, Any]], update: int, rank: int, every: int, window: int) -> None:
    """Writes an update's rows into `folder`, and removes those of an earlier one that is neither the first, nor an
    `every`th, nor among the last `window`."""
    with explained_write(folder):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{update}-{rank}.tmp"
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        temporary.replace(folder / _name(update, rank))
        if update >= window and (older := update - window) and (older + 1) % every:
            (folder / _name(older, rank)).unlink(missing_ok=True)


def read_rows_of(folder: Path, update: int) -> list[dict[str, Any]]:
    """The kept rows of an update (from 0), of all processes; none where it was not kept."""
    files = sorted(folder.glob(_name(update, "*")))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def kept_updates(folder: Path) -> list[int]:
    """The updates (from 0) whose samples are kept, in order."""
    return sorted({int(file.name.split("-")[1]) - 1 for file in folder.glob("update-*.jsonl")})


def _name(update: int, rank: int | str) -> str:
    return f"update-{update + 1:06d}-{rank}.jsonl"
