"""What a judge is asked about an item's turn: the rubric's prompt with the item and what was answered in its places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfimprove.data.sources import Prompt, content
from selfimprove.errors import InputError
from selfimprove.judging.rubric import Rubric
from selfimprove.models.chat import Message


def pair_question(
    rubric: Rubric, item: Prompt, turn: int, first: Sequence[str], second: Sequence[str]
) -> list[Message]:
    """About two outputs, each a text for every turn up to this one; `first` is shown first."""
    values = {"output_1": first[0], "output_2": second[0]}
    if turn:
        values |= {"output_1_turn_2": first[1], "output_2_turn_2": second[1]}
    return _asked(rubric, item, turn, values)


def response_question(rubric: Rubric, item: Prompt, turn: int, texts: Sequence[str]) -> list[Message]:
    """About one output, a text for every turn up to this one."""
    values = {"response": texts[0]}
    if turn:
        values |= {"response_2": texts[1]}
    return _asked(rubric, item, turn, values)


def variant_of(rubric: Rubric, item: Prompt, turn: int) -> str:
    """The variant of a rubric for a turn: with the references where the item has them and the rubric can show them.

    Raises InputError for a later turn that the rubric has no prompt for.
    """
    later = "turn-2" if turn else ""
    with_reference = f"reference-{later}" if later else "reference"
    if len(item.references) > turn and rubric.has(with_reference):
        return with_reference
    if not rubric.has(later):
        raise InputError(f"judge: the rubric {rubric.name} has no prompt for a second turn (prompt-turn-2.txt)")
    return later


def _asked(rubric: Rubric, item: Prompt, turn: int, values: Mapping[str, str]) -> list[Message]:
    shown = {"instruction": content(item), **values}
    shown |= dict(zip(("reference", "reference_2"), item.references, strict=False))
    if turn:
        shown["instruction_2"] = item.later_turns[0]
    return rubric.messages(shown, variant_of(rubric, item, turn))
