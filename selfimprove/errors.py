"""The errors a person can meet, and the exit code each one means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class SelfImproveError(Exception):
    """Base of every error this package raises on purpose. `exit_code` is the CLI's."""

    exit_code = 1


class InputError(SelfImproveError):
    """What the user gave is wrong (recipe, file, option): exit code 2. Nothing was started or lost."""

    exit_code = 2


class RunFailed(SelfImproveError):
    """The run cannot go on (no pair left, non-finite scores, full disk): exit code 1. Finished steps are kept."""


class Interrupted(RunFailed):
    """Ctrl-C: exit code 130, as shells have it."""

    exit_code = 130


class GateError(RunFailed):
    """An invariant that the method rests on does not hold; see `selfimprove/gates.py`. `history`: the rows of the
    training that it stopped, for the report."""

    def __init__(self, message: str, history: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.history = list(history)
