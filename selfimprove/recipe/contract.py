"""What a method is: a plain function over a `Loop`, with its own section of the recipe and what it needs of the others.

    class Options(selfimprove.Options):
        \"\"\"Section `best_of_n`.\"\"\"
        judge: JudgeOptions = JudgeOptions(kind="likelihood")

    @method(options=Options, needs=Needs(prompts=True, responses=2))
    def best_of_n(loop, options): ...

It is found by its name, ours or an installed package's (`registry.py`), or as `file.py:function` beside the recipe. A
task is the same and trains no policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from selfimprove.recipe.sections import Strict

if TYPE_CHECKING:
    from selfimprove.report.part import Maker


class Options(Strict):
    """A method's own section of a recipe, which stands under the method's name. An unknown key is an error."""


@dataclass(frozen=True)
class Needs:
    """What a recipe must have.

    Attributes:
        seed, prompts, pairs: that part of `data`.
        responses: the least `sampling.n`.
        suites: at least one under `evaluate`.
        rounds: every round has its own slice of the prompts; otherwise all are for all of the run.
        whole: a prompt that does not fit the context is refused, rather than left out and counted.
        model: the run has a model of its own.
    """

    seed: bool = False
    prompts: bool = False
    pairs: bool = False
    responses: int = 1
    suites: bool = False
    rounds: bool = True
    whole: bool = False
    model: bool = True


@dataclass(frozen=True, eq=False)
class Method:
    """A method or a task; made by `method` and `task`, which say what each part is."""

    name: str
    run: Callable[..., Any]
    options: type[Options] | None = None
    needs: Needs = Needs()
    reads: frozenset[str] = frozenset()
    leaves: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    suits: Callable[[Any, Any], None] | None = None
    check: Callable[[Any, Any], Any] | None = None
    prepare: Callable[[Any, Any], Any] | None = None
    turns: Callable[[Any], Sequence[str]] | None = None
    preview: Callable[[Any, Any], Any] | None = None
    cost: Callable[[Any, Any], Any] | None = None
    over: Literal["loop", "inference"] = "loop"
    trains: bool = True
    report: tuple[Maker, ...] = ()

    def __call__(self, loop: Any, *found: Any) -> Any:
        """Runs it with the options of the loop's recipe."""
        return self.run(loop, loop.recipe.options, *found)


def method(
    options: type[Options] | None = None,
    needs: Needs = Needs(),
    *,
    reads: Sequence[str] = (),
    leaves: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    suits: Callable[[Any, Any], None] | None = None,
    prepare: Callable[[Any, Any], Any] | None = None,
    turns: Callable[[Any], Sequence[str]] | None = None,
    preview: Callable[[Any, Any], Any] | None = None,
    cost: Callable[[Any, Any], Any] | None = None,
    report: Sequence[Maker] = (),
) -> Callable[[Callable[..., Any]], Method]:
    """Makes a function `(loop, options) -> Policy` a method of its name.

    Args:
        options: its section of the recipe. A field `judge` may also stand at the top of the recipe, and a field of type
            `JudgeOptions` or `Reward` is checked before the run begins.
        needs: what the recipe must have.
        reads: of the keys that only some methods read, those that this one does: `judge`, `sampling.stop`.
        leaves: sections that every other method reads and this one does not, such as `sft`.
        defaults: of other sections, where the recipe says nothing: `{"sampling.temperature": 1.0}`.
        suits: `(recipe, options)`; raises ValueError where the two do not go together. Reads no files.
        prepare: `(loop, options) -> {name: digest}`: finds what is needed before anything is written, and says what of
            it a recipe's text does not show. Raises InputError.
        turns: the user's turns that follow an answer, by the options: room is kept for them and another answer.
        preview: `(loop, options) -> Preview`, for `selfimprove check`.
        cost: `(loop, options)`: what `selfimprove check` walks through in the method's place (`loop/dry.py`), where
            the texts themselves decide what it does.
        report: `(events) -> Part` each: what the report shows of it (`selfimprove/report/part.py`).
    """

    def make(function: Callable[..., Any]) -> Method:
        return Method(
            getattr(function, "__name__", "method"),
            function,
            options,
            needs,
            frozenset(reads),
            frozenset(leaves),
            dict(defaults or {}),
            suits,
            None,
            prepare,
            turns,
            preview,
            cost,
            report=tuple(report),
        )

    return make


def task(
    options: type[Options] | None = None,
    needs: Needs = Needs(),
    *,
    reads: Sequence[str] = (),
    suits: Callable[[Any, Any], None] | None = None,
    check: Callable[[Any, Any], Any] | None = None,
    prepare: Callable[[Any, Any], Any] | None = None,
    report: Sequence[Maker] = (),
    over: Literal["loop", "inference"] = "inference",
) -> Callable[[Callable[..., Any]], Method]:
    """Makes a function a task: it measures or uses models and trains none.

    Args:
        over: `loop`, as a method, or `inference`: `(inference, options, found)` with what `prepare` found.
        check: `(recipe, options)`: what is wrong with the user's files, said before anything is written.
    """

    def make(function: Callable[..., Any]) -> Method:
        return Method(
            getattr(function, "__name__", "task"),
            function,
            options,
            needs,
            frozenset(reads),
            suits=suits,
            check=check,
            prepare=prepare,
            report=tuple(report),
            over=over,
            trains=False,
        )

    return make
