"""What a kind of suites is: its keys, and a function that measures a policy.

    class Vowels(SuiteOptions):
        \"\"\"Keys of a suite of the kind `vowels`, beside name, data and limit.\"\"\"
        max_new_tokens: int = 8

    @suite_kind(Vowels)
    def vowels(loop, loaded, policy, found) -> Outcome: ...

Found by its name as methods are: ours, those of installed packages, and `kind: file.py:vowels` beside the suite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from selfimprove.data.labelled import LabelledPair
from selfimprove.data.scored import Scored
from selfimprove.data.sources import Prompt
from selfimprove.report.part import Maker
from selfimprove.suites.suite_kinds import (
    Suite,
    SuiteOptions,
)

if TYPE_CHECKING:
    from selfimprove.inference import Inference
    from selfimprove.models.policy import Policy
    from selfimprove.suites.outcome import Outcome


@dataclass(frozen=True)
class Loaded:
    """A suite and its items: `every` one for the leak gate, and those within its limit, which are asked. `scored`: the
    responses that the data bring with them."""

    suite: Suite
    path: Path
    every: list[Prompt]
    items: list[Prompt]
    pairs: list[LabelledPair]
    scored: list[Scored] = field(default_factory=list)


class Found(NamedTuple):
    """What a suite needs, as it was found before anything was trained, and the digests of it."""

    value: Any = None
    digests: tuple[str | None, ...] = ()


@dataclass(frozen=True, eq=False)
class SuiteKind:
    """A kind of suites; made by `suite_kind`, which says what each part is."""

    name: str
    options: type[SuiteOptions]
    measure: Callable[[Inference, Loaded, Policy, Any], Outcome]
    metric: str | Callable[[Any], str] = "accuracy"
    prepare: Callable[[Inference, Loaded], Found] | None = None
    answers: bool = True
    report: tuple[Maker, ...] = ()

    def metric_of(self, suite: SuiteOptions) -> str:
        """The name of the suite's value."""
        return self.metric if isinstance(self.metric, str) else self.metric(suite)


def suite_kind(
    options: type[SuiteOptions],
    *,
    metric: str | Callable[[Any], str] = "accuracy",
    prepare: Callable[[Inference, Loaded], Found] | None = None,
    answers: bool = True,
    report: Sequence[Maker] = (),
) -> Callable[[Callable[[Inference, Loaded, Policy, Any], Outcome]], SuiteKind]:
    """Makes a function `(loop, loaded, policy, found) -> Outcome` a kind of suites of its name.

    Args:
        options: the keys of a suite's file; `selfimprove.suites.suite_kinds.Generated` has those of sampling.
        metric: what the value is called, by the suite's options where it depends on them. A share, but for ours.
        prepare: `(loop, loaded)`: finds what is needed before anything is trained; it is given back as `found`.
        answers: every item must have an `answer`.
        report: `(events) -> Part` each: what the report shows beside value and groups (`selfimprove/report/part.py`).
    """

    def make(function: Callable[[Inference, Loaded, Policy, Any], Outcome]) -> SuiteKind:
        name = getattr(function, "__name__", "suite")
        return SuiteKind(name, options, function, metric, prepare, answers, tuple(report))

    return make
