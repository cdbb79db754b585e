"""What a judge is: a function that scores all responses of a round, and what it needs of its section.

    class Words(selfimprove.Options):
        \"\"\"Under `options` of the judge's section.\"\"\"
        least: int = 3

    @judge(Words, bounded=False)
    def agreement(loop, options, responses, policy) -> Scores: ...

Ours stand beside their work; others are found by their name, or as `file.py:agreement` beside the recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selfimprove.registry import find

if TYPE_CHECKING:
    from selfimprove.recipe.contract import Options


@dataclass(frozen=True)
class AsReward:
    """How a kind rewards single answers: in a durable step, and in memory while a policy is trained.

    Attributes:
        step: `(section, search, opening) -> (options, policies, execution)` of such a step; in the options is all that
            changes a value.
        look: `(options, policy, execution, journal)` gives what looks at answers, from the step's folder alone.
        check: as the kind's own, where a reward needs more.
        whole: shown all turns of a prompt, not the last alone.
    """

    step: Callable[..., tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]
    look: Callable[..., Any]
    check: Callable[..., None] | None = None
    whole: bool = False


@dataclass(frozen=True, eq=False)
class JudgeKind:
    """A kind of judges; strangers make one by `judge`.

    Attributes:
        run: `(loop, options, responses, policy)`: by prompt id, for each response a number, None, or (None, a reason).
            Without `options` it is given the judge's section.
        options: what stands under `options` of the section.
        bounded: whether `right_from` means something for its scores as it stands.
        needs: the section's key that it cannot do without.
        compares: with the prompt's `answer`.
        reads_rows: all columns of the prompt's data.
        of: what another judge is to it, for a control; `needs_of`: it cannot do without; `link`: how people read it.
        truth: its scores are those of the judge behind it, by its true name.
        unit: of its scores.
        check: `(section, search, where, opening)`: InputError, with the key `where`, for what is not to be had.
        check_row: `(row, where)`: the same for a prompt's columns.
        identity: `(loop, section, policy)`: a digest of what decides beside the recipe's text.
        lenient: `(section, responses)`: scores that forgive the form; None where it has none.
        reward: how it rewards; None for one that needs a whole batch.
    """

    name: str
    run: Callable[..., Any]
    options: type[Options] | None = None
    bounded: bool = True
    needs: str = ""
    compares: bool = False
    reads_rows: bool = False
    of: str = ""
    needs_of: bool = False
    link: str = ""
    truth: bool = False
    unit: str = "score"
    check: Callable[..., None] | None = None
    check_row: Callable[[Any, str], Any] | None = None
    identity: Callable[..., str] | None = None
    lenient: Callable[..., Any] | None = None
    reward: AsReward | None = None


def judge(
    options: type[Options] | None = None, *, bounded: bool = True
) -> Callable[[Callable[[Any, Any, Any, Any], Any]], JudgeKind]:
    """Makes a function `(loop, options, responses, policy) -> Scores` a judge of its name. It sees all responses of a
    round, and may call the loop's steps: what it works out beside them is worked out anew by every start.

    Args:
        options: its own keys, strict, under `options` of the judge's section; without it the function is given the
            section.
        bounded: from `right_from` (.5) on a score counts as right; else whoever needs that has to say it.
    """

    def make(function: Callable[[Any, Any, Any, Any], Any]) -> JudgeKind:
        return JudgeKind(getattr(function, "__name__", "judge"), function, options, bounded, reads_rows=True)

    return make


def judge_kind(name: str) -> JudgeKind:
    """The kind of that name; a plain function that an installed package registers is one of kind `function`.

    Raises InputError, with the nearest name, where there is none.
    """
    found = find("judge", name)
    if isinstance(found, JudgeKind):
        return found
    own: JudgeKind = find("judge", "function")
    return own
