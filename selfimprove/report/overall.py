"""Where a run is, in one line: round, step k of n, time left, last loss and margin."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfimprove.report.summary import duration, fixed, number


@dataclass
class Overall:
    """What is known of a run that goes on. `expected`: (label, seconds) of each step, of an identical run before it or
    of a plan; without them neither the number of steps nor the time left is known."""

    expected: Sequence[tuple[str, float]] = ()
    clock: Callable[[], float] = time.monotonic
    round: int = 0
    rounds: int = 0
    figures: Mapping[str, Any] = field(default_factory=dict)
    _done: dict[str, str] = field(default_factory=dict)  # label by the step's id
    _took: list[tuple[float, float]] = field(default_factory=list)  # (seconds, expected ones) of the steps made
    _now: str = ""
    _since: float = 0.0

    def begin(self, label: str) -> None:
        """A step is looked for, or made."""
        self._now, self._since = label, self.clock()

    def finish(self, id: str, seconds: float | None) -> None:
        """It is there. `seconds`: what it took, None where it was there before."""
        if id not in self._done:
            if seconds is not None and (expected := next(self._left_of(self._now), None)) is not None:
                self._took.append((seconds, expected))
            self._done[id] = self._now
        self._now = ""

    def seconds_left(self) -> float | None:
        """As long as the steps to come took before, times how much longer the steps so far took than before."""
        if not self.expected or self._step() > len(self.expected):
            return None
        labels = dict.fromkeys(label for label, _ in self.expected)
        before = sum(seconds for label in labels for seconds in self._left_of(label))
        made, planned = (sum(one[place] for one in self._took) for place in (0, 1))
        ratio = made / planned if made > 0 and planned > 0 else 1.0
        spent = self.clock() - self._since if self._now else 0.0
        return max(before * ratio - spent, 0.0)

    def line(self) -> str:
        """Empty before the first step."""
        if not (step := self._step()):
            return ""
        of = f" of {len(self.expected)}" if step <= len(self.expected) else ""
        rounds = f" of {self.rounds}" if self.rounds else ""
        left = self.seconds_left()
        parts = [f"round {self.round}{rounds}"] if self.round else []
        parts += [f"step {step}{of}"] + ([f"{_about(left)} left"] if left is not None else [])
        loss, margin = (number(self.figures.get(key)) for key in ("loss", "margin"))
        parts += [f"loss {fixed(loss, 3)}"] if loss is not None else []
        parts += [f"margin {fixed(margin, 2, sign=True)}"] if margin is not None else []
        return ", ".join(parts)

    def _step(self) -> int:
        return len(self._done) + bool(self._now)

    def _left_of(self, label: str) -> Any:
        """The expected seconds of the steps of that label that are to come."""
        done = list(self._done.values()).count(label)
        return iter([seconds for name, seconds in self.expected if name == label][done:])


def _about(seconds: float) -> str:
    return duration(seconds) if seconds >= 60 else f"{seconds:.0f} s"
