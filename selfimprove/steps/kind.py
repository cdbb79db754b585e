"""What a step does: its kind stands beside its work, and is found by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove.registry import find, names

if TYPE_CHECKING:
    from selfimprove.steps.cost import Dry
    from selfimprove.steps.request import StepRequest

Advance = Callable[[int], None]


@dataclass(frozen=True)
class StepKind:
    """What a step does, from its folder alone: `work(folder, task, shard, advance)`.

    `version` goes up when its result can change; `input_name` is the input that is cut into equal shards of at most
    `shard_groups` prompts (None: one piece); `unit`: of what progress is told; `purpose`: what the report calls its
    time, by default its name. `dry(request)`: what it would make and take, for `selfimprove check`; without it no
    estimate is given of a method that has such a step.
    """

    version: int
    work: Callable[[Path, dict[str, Any], int, Advance], None]
    input_name: str
    shard_groups: int | None
    unit: str
    purpose: str = ""
    dry: Callable[[StepRequest], Dry] | None = None


def step_kind(name: str) -> StepKind:
    """The kind of that name, of ours or of an installed package. A step's folder names it and never a file."""
    found: StepKind = find("step", name)
    return found


def step_versions() -> dict[str, int]:
    """The version of every kind, by name."""
    return {name: step_kind(name).version for name in names("step")}
