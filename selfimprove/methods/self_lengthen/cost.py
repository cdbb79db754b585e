"""What a run of Self-Lengthen takes, and what `selfimprove check` shows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from selfimprove.data.rows import RenderedPrompt
from selfimprove.loop.data import seed_responses
from selfimprove.methods.self_lengthen.options import SelfLengthen
from selfimprove.methods.self_lengthen.plan import lengthening_room
from selfimprove.methods.self_lengthen.questions import extend
from selfimprove.models.chat import render_prompt
from selfimprove.models.policy import Policy
from selfimprove.recipe.recipe import Recipe
from selfimprove.steps.cost import Preview

if TYPE_CHECKING:
    from selfimprove.loop.dry import DryLoop

# Examples whose log-probs tell that a training changed something.
_PROBE = 8


def cost(loop: DryLoop, options: SelfLengthen) -> Policy:
    """The method with all its tries (`lengthening_calls`), as its texts would decide. A new instruction is taken to be
    as long as the longest prompt, a forced beginning to be two thirds of an answer."""
    base = generator = extender = loop.base_policy
    recipe, new = loop.recipe, loop.recipe.sampling.max_new_tokens
    instruction = max(len(prompt.prompt_ids) for prompts in loop.data.round_prompts for prompt in prompts)
    about = instruction + len(render_prompt(loop.tokenizer, extend("", "")))
    opening = 2 * new // 3
    text = opening + new
    answer, longer, outlined = (instruction, new), (instruction, text), (about + new, text)
    loop.evaluate(base)
    texts = 0
    for round in loop.rounds():
        calls = lengthening_calls(recipe, len(round.prompts))
        texts += calls.texts
        _new_instructions(loop, base, calls.instructions, instruction)
        _draw(loop, generator, calls.answers, instruction, new)
        _draw(loop, extender, calls.extensions // 2, about + text // 2, new)
        _draw(loop, extender, calls.extensions // 2, about + text + opening, new)
        generator = _learn(loop, generator, calls.texts, longer)
        if round.number < recipe.rounds:
            extender = _learn(loop, extender, calls.texts, outlined)
        loop.evaluate(generator, round)
    if options.instructions:
        _new_instructions(loop, base, options.collect * options.instruct_tries, instruction)
    _draw(loop, generator, options.collect * options.initial * options.initial_tries, instruction, new)
    final = _learn(loop, base, texts // options.extensions, answer, *[longer] * options.extensions)
    loop.evaluate(final)
    return final


def _new_instructions(loop: DryLoop, policy: Policy, count: int, length: int) -> None:
    """So many, each from two that are shown, and whether it is suitable."""
    _draw(loop, policy, count, 3 * length, loop.recipe.sampling.max_new_tokens)
    _draw(loop, policy, count, length, 4)


def _draw(loop: DryLoop, policy: Policy, count: int, prompt: int, new: int) -> None:
    """So many answers to prompts of so many tokens."""
    if count:
        ids = (loop.stops[0],) * min(prompt, lengthening_room(loop).context - new)
        with loop.times(count):
            asked = [RenderedPrompt(f"asked {len(loop.walked.steps)}", ids, "")]  # no two are one step
            loop.draw(policy, asked, "texts", n=1, temperature=1.0, top_p=1.0, max_new_tokens=new)


def _learn(loop: DryLoop, start: Policy, count: int, *lengths: tuple[int, int]) -> Policy:
    """SFT on so many times an example of each of these lengths (question, answer), and the probe of its weights."""
    most, token = loop.data.room, loop.stops[0]
    rows = [
        {"prompt_ids": [token] * min(asked, most - 1), "response_ids": [token] * max(1, min(said, most - asked))}
        for asked, said in lengths
    ]
    with loop.times(count):
        trained, _ = loop.train("sft", start, loop.training_options("sft"), "examples", rows)
    probe = seed_responses([max(rows, key=lambda row: len(row["prompt_ids"]))] * _PROBE)
    for policy in (start, trained):
        loop.log_probs(probe, policy)
    return trained


def preview(loop: Any, options: SelfLengthen) -> Preview:
    """How often each round asks, and the question to the Extender."""
    recipe, first = loop.recipe, loop.data.round_prompts[0][0]
    asked = render_prompt(loop.tokenizer, extend(first.text, "(an answer, as it was sampled)"))
    return Preview(
        lines=[_calls(recipe, len(loop.data.round_prompts[0]))],
        examples=[("question to the Extender for the whole text", asked)],
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
