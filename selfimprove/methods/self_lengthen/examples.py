"""What Self-Lengthen's Generator, Extender and final model learn, of the texts that were kept."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from selfimprove.data.words import dropped_lines, length_demand, with_demand
from selfimprove.errors import RunFailed
from selfimprove.methods.self_lengthen.questions import extend, user
from selfimprove.models.chat import Message, render_example

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop
    from selfimprove.methods.self_lengthen.text import Extended, Text


def generator_examples(loop: Loop, extended: Sequence[Extended]) -> list[dict[str, list[int]]]:
    """Instruction -> longer text, as token ids."""
    return _examples(loop, [(user(one.longer.instruction), one.longer.text) for one in extended], "generator")


def extender_examples(loop: Loop, extended: Sequence[Extended]) -> list[dict[str, list[int]]]:
    """Instruction and answer -> longer text; of the answer each line is dropped with probability 0.2."""
    pairs = []
    for one in extended:
        choose = random.Random(f"lines|{loop.recipe.seed}|{one.longer.id}")
        outline = dropped_lines(one.initial.text, choose)
        pairs.append((extend(one.initial.instruction, outline), one.longer.text))
    return _examples(loop, pairs, "extender")


def demanding_examples(
    loop: Loop, extended: Sequence[Extended], collected: Sequence[Text]
) -> list[dict[str, list[int]]]:
    """Instruction with a demand of length -> text of that length: of all rounds' answers and longer texts, and of the
    `collected` ones, those between `low` and `high` words. RunFailed where there is none."""
    options = loop.recipe.options
    texts = list({one.id: one for pair in extended for one in (pair.initial, pair.longer)}.values()) + list(collected)
    fitting = [one for one in texts if options.low <= one.words < options.high]
    loop.note(
        f"{len(fitting)} of {len(texts)} texts have {options.low:,} to {options.high - 1:,} words and are trained"
    )
    if not fitting:
        raise RunFailed(
            f"no text of {len(texts)} has {options.low} to {options.high - 1} words (the longest has "
            f"{max((one.words for one in texts), default=0)}): nothing to train the final model on; set "
            "self_lengthen.low and high to lengths that were reached"
        )
    pairs = []
    for one in fitting:
        choose = random.Random(f"demand|{loop.recipe.seed}|{one.id}")
        demand = length_demand(
            one.words, choose, options.language, low=options.low, high=options.high, step=options.step
        )
        pairs.append((user(with_demand(one.instruction, demand, choose)), one.text))
    return _examples(loop, pairs, "final")


def _examples(loop: Loop, pairs: Sequence[tuple[list[Message], str]], what: str) -> list[dict[str, list[int]]]:
    rows = []
    for question, text in pairs:
        prompt_ids, response_ids = render_example(loop.tokenizer, question, text)
        if len(prompt_ids) + len(response_ids) <= loop.data.room:
            rows.append({"prompt_ids": prompt_ids, "response_ids": response_ids})
    if lost := len(pairs) - len(rows):
        loop.note(f"{lost} of {len(pairs)} examples for the {what} are longer than {loop.data.room} tokens: left out")
    if not rows:
        raise RunFailed(
            f"all {len(pairs)} examples for the {what} are longer than {loop.data.room} tokens (the model's context "
            "and training.max_length); raise training.max_length or lower sampling.max_new_tokens"
        )
    return rows
