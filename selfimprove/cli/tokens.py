"""How many tokens a recipe's run goes through: pure functions of the recipe and of its data's lengths.

Upper bounds: every response is taken to use all of `sampling.max_new_tokens`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from selfimprove.judging.rubric import RubricOptions
    from selfimprove.recipe.recipe import Recipe

# Examples and responses whose log-probs tell that a training changed something, each under both policies.
_PROBE = 8


@dataclass(frozen=True)
class Tokens:
    """`read`: prompts that are sampled from; `sampled`: written; `scored`: forward only; `trained`: forward and
    backward, with the prompts that stand before what is learnt. `policies`: how many are evaluated."""

    read: float
    sampled: float
    scored: float
    trained: float
    policies: int


def tokens_of(recipe: Recipe, prompts: Sequence[Sequence[int]], examples: int, between: int, gpu: bool) -> Tokens:
    """Of a whole run.

    Args:
        prompts: tokens of each prompt, by round.
        examples: tokens of all seed examples.
        between: tokens of the instruction's turn, where there are two turns; of `self_judge` the question to a judge
            without the texts in it; of `self_lengthen` the longer question about a text without text and instruction.
        gpu: on one, `training.gradient_checkpointing: auto` is on, and a prompt is then not shared by its samples.
    """
    rows = [length for group in prompts for length in group]
    if recipe.method == "score":
        return _score(recipe, rows, between, gpu)
    if recipe.method == "star":
        return _star(recipe, rows, len(prompts), between)
    if recipe.method == "expert_iteration":
        return _expert_iteration(recipe, rows, len(prompts))
    if recipe.method == "self_judge":
        return _self_judge(recipe, rows, len(prompts), between)
    if recipe.method == "self_lengthen":
        return _self_lengthen(recipe, rows, len(prompts), between)
    new, epochs = recipe.sampling.max_new_tokens, recipe.training.epochs
    sampled = len(rows) * recipe.sampling.n * new
    return Tokens(
        read=sum(rows),
        sampled=sampled,
        scored=3 * (sum(rows) + sampled),
        trained=examples * (epochs if recipe.method == "sft" else recipe.sft.epochs)
        + epochs * 2 * (sum(rows) + len(rows) * new),
        policies=len(prompts) + 2,
    )


def with_rubric(tokens: Tokens, recipe: Recipe, rows: Sequence[int], rubric: RubricOptions, question: int) -> Tokens:
    """`tokens` with those of a rubric that a local model reads to rank each prompt's samples.

    Args:
        question: tokens of what the judge is asked, without the texts in it.
    """
    n, new = recipe.sampling.n, recipe.sampling.max_new_tokens
    each, texts = (n * (n - 1), 2) if rubric.of == "pair" else (n, 1)
    read = each * (sum(rows) + len(rows) * (question + texts * new))
    if rubric.parser in ("labels", "digits"):
        return replace(tokens, scored=tokens.scored + read)
    written = each * len(rows) * rubric.max_new_tokens
    return replace(tokens, read=tokens.read + read, sampled=tokens.sampled + written)


def _score(recipe: Recipe, rows: Sequence[int], between: int, gpu: bool) -> Tokens:
    """Both stages: every update samples, and its samples go through the reference once and are trained, in each pass.
    And the probes, one of the base and one after each stage."""
    score, n, new = recipe.score, recipe.sampling.n, recipe.sampling.max_new_tokens
    stages = [stage.updates for stage in (score.stage_one, score.stage_two) if stage.updates]
    mean, updates, second = sum(rows) / len(rows), sum(stages), score.turns == 2
    used = updates * recipe.training.batch_size // n  # prompts, as often as they are used
    firsts = used * (score.first_attempts or n)
    probed = (len(stages) + 1) * min(score.probe_prompts, len(rows))
    probes = probed * max(1, n // 2)
    checkpointing = recipe.training.gradient_checkpointing
    keeps_cache = not (gpu if checkpointing == "auto" else checkpointing)
    shared = keeps_cache if score.share_prompt == "auto" else score.share_prompt
    row = (2 * new + between) if second else new
    forward = score.passes * (used * mean * (1 if shared else n) + used * n * row)
    return Tokens(
        read=(used + probed) * mean + second * (firsts + probes) * (mean + new + between),
        sampled=firsts * new + second * used * n * new + score.turns * probes * new,
        scored=forward + 2 * len(stages) * _PROBE * (mean + max(1, n // 2) * new),
        trained=forward,
        policies=len(stages) + 1,
    )


def _star(recipe: Recipe, rows: Sequence[int], rounds: int, between: int) -> Tokens:
    """Every round: two attempts, and SFT on the traces that are kept, which are at most `most_per_prompt`."""
    n, new = recipe.sampling.n, recipe.sampling.max_new_tokens
    traces = min(n, recipe.star.most_per_prompt)
    trace = sum(rows) + len(rows) * (2 * new + between)  # one of every prompt
    return Tokens(
        read=sum(rows) + n * (sum(rows) + len(rows) * (new + between)),
        sampled=2 * len(rows) * n * new,
        scored=2 * rounds * _PROBE * trace / len(rows),
        trained=recipe.sft.epochs * traces * trace,
        policies=rounds + 1,
    )


def _expert_iteration(recipe: Recipe, rows: Sequence[int], rounds: int) -> Tokens:
    """Every round: samples, and training on those kept, at most `most_per_prompt` of a prompt: SFT, or pairs with as
    many refused ones, whose reference is scored. The rows of earlier rounds that are replayed are trained again."""
    n, new, options = recipe.sampling.n, recipe.sampling.max_new_tokens, recipe.expert_iteration
    kept = min(n, options.most_per_prompt) * (sum(rows) + len(rows) * new)
    replayed = options.replay * kept * (rounds - 1) / 2
    scored = 2 * rounds * _PROBE * (sum(rows) / len(rows) + new)
    judged = options.judge.of or options.judge
    read = {"likelihood": 1, "implicit_reward": 2}.get(judged.kind, 0) * (sum(rows) + n * len(rows) * new)
    return Tokens(
        read=sum(rows),
        sampled=n * len(rows) * new,
        scored=read + (4 * kept if options.pairs else scored),
        trained=recipe.training.epochs * 2 * kept if options.pairs else recipe.sft.epochs * (kept + replayed),
        policies=rounds + 1,
    )


def _self_judge(recipe: Recipe, rows: Sequence[int], rounds: int, question: int) -> Tokens:
    """Every round: responses, one question about each with the reference, and training on it and the one without. A
    reference is taken to be as long as a response can be."""
    n, new, most = recipe.sampling.n, recipe.sampling.max_new_tokens, recipe.training.max_length
    plain, reference = (n * sum(min(row + question + texts * new, most) for row in rows) for texts in (1, 2))
    held = recipe.self_judge.held_out
    return Tokens(
        read=sum(rows),
        sampled=n * len(rows) * new,
        scored=reference + held * plain + 2 * rounds * _PROBE * plain / (n * len(rows)),
        trained=recipe.training.epochs * (1 - held) * (plain + reference),
        policies=rounds + 1,
    )


class Calls(NamedTuple):
    """How often a round of `self_lengthen` asks, with all its tries: for an instruction, an answer, a longer text.
    `texts`: the longer texts wanted."""

    instructions: int
    answers: int
    extensions: int
    texts: int


def lengthening_calls(recipe: Recipe, prompts: int) -> Calls:
    """Of a round of so many prompts, where nothing passes before its last try and nothing is dropped as short."""
    options = recipe.self_lengthen
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
    return recipe.model_copy(update={"self_lengthen": recipe.self_lengthen.model_copy(update=tries)})


def _self_lengthen(recipe: Recipe, rows: Sequence[int], rounds: int, question: int) -> Tokens:
    """Every round: `lengthening_calls`, and SFT of Generator and Extender; then SFT on the texts of all rounds. A new
    instruction is taken to be as long as the longest prompt, a forced beginning to be two thirds of an answer."""
    options, new, most = recipe.self_lengthen, recipe.sampling.max_new_tokens, recipe.training.max_length
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
        scored=(2 * rounds + 1) * 2 * _PROBE * outlined,
        trained=recipe.sft.epochs * rounds * examples,
        policies=rounds + 2,
    )
