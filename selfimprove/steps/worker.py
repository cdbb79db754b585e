"""The one entry for heavy work: `worker(step_dir, shard)` does a piece of a step from its folder alone.

The loop calls it in this process; `accelerate launch -m selfimprove.steps.worker STEP_DIR SHARD` calls it on every
rank. A shard's output appears whole under its final name or not at all.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from selfimprove.artefacts import LATEST, write_json
from selfimprove.errors import SelfImproveError
from selfimprove.quiet import quiet_libraries
from selfimprove.steps.kind import Advance, step_kind


def worker(step_dir: str | Path, shard: int, advance: Advance = lambda n: None) -> None:
    """Does one shard of the step whose folder is `step_dir`; `advance` is told of finished units."""
    folder = Path(step_dir)
    task = json.loads((folder / "step.json").read_text())
    step_kind(task["step"]).work(folder, task, shard, advance)


class _Report:
    """Progress for a parent that polls `progress.json`."""

    def __init__(self, folder: Path) -> None:
        self.path, self.done, self.last = folder / "progress.json", 0, 0.0

    def __call__(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self.last > 0.5:
            write_json(self.path, {"done": self.done})
            self.last = time.monotonic()


class Latest:
    """A training's last figures, in `latest.json` for whoever shows how far it is; at most one a second is written."""

    def __init__(self, folder: Path) -> None:
        self.path, self.last = folder / LATEST, 0.0

    def __call__(self, figures: Mapping[str, float]) -> None:
        if time.monotonic() - self.last > 1:
            write_json(self.path, dict(figures))
            self.last = time.monotonic()


def latest(folder: Path) -> dict[str, float]:
    """What `Latest` wrote last; empty where it wrote nothing."""
    try:
        return dict(json.loads((folder / LATEST).read_text()))
    except (OSError, ValueError):
        return {}


def die_with_parent() -> None:
    """Linux: a SIGKILL of the loop takes the training processes along (PR_SET_PDEATHSIG), so that none goes on
    writing into a folder that a restarted run works in."""
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() == 1 and "RANK" in os.environ:  # it died before this was said
            sys.exit(1)


def main() -> None:
    """`python -m selfimprove.steps.worker STEP_DIR SHARD`, also under `accelerate launch`."""
    if "RANK" in os.environ:
        die_with_parent()
    quiet_libraries()
    folder, shard = Path(sys.argv[1]), int(sys.argv[2])
    first = os.environ.get("RANK", "0") == "0"
    try:
        worker(folder, shard, _Report(folder) if first else lambda n: None)
    except SelfImproveError as error:
        if not (folder / "error.json").exists():
            said = {"kind": type(error).__name__, "message": str(error), "history": getattr(error, "history", [])}
            write_json(folder / "error.json", said)
        sys.exit(1)


if __name__ == "__main__":
    main()
