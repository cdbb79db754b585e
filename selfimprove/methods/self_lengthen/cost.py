"""What a run of Self-Lengthen takes, and what `selfimprove check` shows of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from selfimprove.methods.self_lengthen.options import SelfLengthen
from selfimprove.methods.self_lengthen.plan import lengthening_room
from selfimprove.methods.self_lengthen.questions import extend
from selfimprove.models.chat import render_prompt
from selfimprove.recipe.recipe import Recipe
from selfimprove.steps.cost import PROBE, Cost, Data, Preview, Tokens


def cost(recipe: Recipe, options: SelfLengthen) -> Cost:
    """Two policies a round, and the final one."""
    return Cost(lambda data: _tokens(recipe, options, data), trains=("SFT",), each_round=2, once=1, at_once=1)


def preview(loop: Any, options: SelfLengthen) -> Preview:
    """How often each round asks, and the question to the Extender."""
    recipe, first, room = loop.recipe, loop.data.round_prompts[0][0], lengthening_room(loop)
    asked = render_prompt(loop.tokenizer, extend(first.text, "(an answer, as it was sampled)"))
    return Preview(
        lines=[_calls(recipe, len(loop.data.round_prompts[0]))],
        examples=[("question to the Extender for the whole text", asked)],
        between=len(render_prompt(loop.tokenizer, extend("", ""))),
        prompt=room.asked,
        example=room.example,
        at_once=one_try(recipe),
    )


def _calls(recipe: Recipe, prompts: int) -> str:
    """What a round of Self-Lengthen asks for, with all its tries and with one."""
    most, least = (lengthening_calls(one, prompts) for one in (recipe, one_try(recipe)))
    parts = [
        f"{least.answers:,} to {most.answers:,} answers",
        f"{least.extensions:,} to {most.extensions:,} extensions",
    ]
    if most.instructions:
        parts.insert(0, f"{least.instructions:,} to {most.instructions:,} instructions")
    return f"each round asks for {', '.join(parts)}: with one try, and with all tries, of each"


class Calls(NamedTuple):
    """How often a round of `self_lengthen` asks, with all its tries: for an instruction, an answer, a longer text.
    `texts`: the longer texts wanted."""

    instructions: int
    answers: int
    extensions: int
    texts: int


def lengthening_calls(recipe: Recipe, prompts: int) -> Calls:
    """Of a round of so many prompts, where nothing passes before its last try and nothing is dropped as short."""
    options = recipe.options
    answers = (options.instructions or prompts) * options.initial
    texts = answers * options.extensions
    return Calls(
        instructions=options.instructions * options.instruct_tries,
        answers=answers * options.initial_tries,
        extensions=texts * options.extension_tries * options.micro_iterations * 2,
        texts=texts,
    )


def one_try(recipe: Recipe) -> Recipe:
    """The recipe where everything passes at once."""
    tries = dict.fromkeys(("instruct_tries", "initial_tries", "extension_tries"), 1)
    return recipe.model_copy(update={recipe.section: recipe.options.model_copy(update=tries)})


def _tokens(recipe: Recipe, options: SelfLengthen, data: Data) -> Tokens:
    """Every round: `lengthening_calls`, and SFT of Generator and Extender; then SFT on the texts of all rounds. A new
    instruction is taken to be as long as the longest prompt, a forced beginning to be two thirds of an answer."""
    rows, rounds, question = data.rows, len(data.prompts), data.between
    new, most = recipe.sampling.max_new_tokens, recipe.training.max_length
    calls, instruction = lengthening_calls(recipe, len(rows) // rounds), max(rows)
    opening = 2 * new // 3
    text, about = opening + new, question + instruction
    enriched, extended = about + text // 2, about + text + opening
    lengths = (instruction + new, instruction + text, about + new + text)
    answered, longer, outlined = (min(length, most) for length in lengths)
    answers = calls.texts // options.extensions
    examples = calls.texts * (longer + outlined) + answers * answered + calls.texts * longer
    return Tokens(
        read=rounds
        * (
            calls.instructions * 4 * instruction  # two are shown for a new one, which is then asked about
            + calls.answers * instruction
            + calls.extensions * (enriched + extended) / 2
        ),
        sampled=rounds * (calls.instructions * (new + 4) + (calls.answers + calls.extensions) * new),
        scored=(2 * rounds + 1) * 2 * PROBE * outlined,
        trained=recipe.sft.epochs * rounds * examples,
        policies=rounds + 2,
    )
