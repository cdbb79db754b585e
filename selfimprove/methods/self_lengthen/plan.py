"""What of a text fits the model's context while Self-Lengthen extends it, said before anything is sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from selfimprove.data.words import count_words
from selfimprove.errors import InputError
from selfimprove.methods.self_lengthen.options import SelfLengthen
from selfimprove.methods.self_lengthen.questions import enrich, extend
from selfimprove.models.chat import render_prompt
from selfimprove.models.context import context_tokens
from selfimprove.models.policy import Policy

if TYPE_CHECKING:
    from selfimprove.inference import Inference
    from selfimprove.loop.loop import Loop


@dataclass(frozen=True)
class Room:
    """Lengths in tokens. A text's forced beginning is taken to be two thirds of an answer, as it is where all of an
    answer's paragraphs are of one length.

    Attributes:
        context: of a question and its answer together.
        new: `sampling.max_new_tokens`.
        question: of the longer question about a text, with the longest instruction and without the text.
        training: of an example, see `training.max_length`.
        word: tokens of a word, from the instructions.
    """

    context: int
    new: int
    question: int
    training: int
    word: float

    @property
    def longest(self) -> int:
        """The most that a text can have: its forced beginning, and an answer."""
        return self.new + 2 * self.new // 3

    @property
    def extendable(self) -> int:
        """The most that a text may have to be extended, however long its forced beginning is. Can be negative."""
        return self.context - self.question - self.longest

    @property
    def best_new(self) -> int:
        """`sampling.max_new_tokens` with which the longest texts are both reached and extended."""
        return 3 * (self.context - self.question) // 10

    @property
    def asked(self) -> int:
        """The longest question that can be asked."""
        return min(self.question + 2 * self.longest - self.new, self.context - self.new)

    @property
    def example(self) -> int:
        """The longest example that can be trained: question and answer, and the longer text."""
        return min(self.question + self.new + self.longest, self.training)

    def words(self, tokens: int) -> int:
        return int(tokens / self.word)


def lengthening_context(loop: Inference, policy: Policy) -> int:
    """Tokens of a question and its answer together: the model's context, or less where vLLM's engine has less."""
    engine = loop.sampler_execution(policy, loop.backend).get("vllm", {})
    return min(context_tokens(policy.base), engine.get("max_model_len", 2**31))


def lengthening_room(loop: Loop) -> Room:
    """Of a recipe's model, options and prompts."""
    tokenizer, texts = loop.tokenizer, [prompt.text for prompts in loop.data.round_prompts for prompt in prompts]
    tokens = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    around = max(len(render_prompt(tokenizer, ask("", ""))) for ask in (enrich, extend))
    return Room(
        context=lengthening_context(loop, loop.base_policy),
        new=loop.recipe.sampling.max_new_tokens,
        question=around + max(tokens),
        training=loop.data.room,
        word=sum(tokens) / max(sum(map(count_words, texts)), 1),
    )


def prepare(loop: Loop, options: SelfLengthen) -> None:
    """Notes how long a text may be to be extended, and where that, or `training.max_length`, is below what
    `self_lengthen.high` asks for. InputError where no prompt can be answered or no text be extended."""
    spare = len(loop.data.spare_prompts)
    if options.collect > spare and not options.instructions:
        raise InputError(
            f"self_lengthen.collect: {options.collect} prompts that no round has are wanted, and {spare} are left; "
            "lower it or data.prompts_per_round, add prompts, or let the model write instructions "
            "(self_lengthen.instructions)"
        )
    room, high, growth = lengthening_room(loop), options.high, options.growth
    prompt = max(len(prompt.prompt_ids) for prompts in loop.data.round_prompts for prompt in prompts)
    for what, needed in (("the longest prompt", prompt), ("a question about a text, without the text,", room.question)):
        if needed + room.new >= room.context:
            raise InputError(
                f"sampling.max_new_tokens: {what} has {needed:,} tokens, and {room.new:,} new ones do not fit behind "
                f"it in the context of {room.context:,}; {_fitting(room)}"
            )
    extendable = max(room.extendable, 0)
    loop.note(
        f"context of {room.context:,} tokens: a text of up to {extendable:,} (about {room.words(extendable):,} words) "
        f"can always be extended, beside the question ({room.question:,}), its new beginning ({2 * room.new // 3:,}) "
        f"and the rest ({room.new:,}, sampling.max_new_tokens); no text gets longer than {room.longest:,} tokens "
        f"(about {room.words(room.longest):,} words)"
    )
    if room.words(min(room.extendable, room.longest)) < high:
        why = "are not always extended" if room.extendable < room.longest else "cannot be written"
        loop.note(
            f"warning: texts of {high:,} words (self_lengthen.high) {why}: {_fitting(room)}, or lower "
            "self_lengthen.high, or take a model with a longer context"
        )
    text = int(high * room.word)
    if room.new < text:
        loop.note(
            f"warning: an answer of {high:,} words (self_lengthen.high) has about {text:,} tokens, and a Generator "
            f"that learns such texts is cut off at {room.new:,} (sampling.max_new_tokens): what it does not finish is "
            "rejected as `unfinished`, so lengths stop growing there by construction"
        )
    if (example := room.question + int(text / growth) + text) > room.training:
        loop.note(
            f"warning: to learn to extend to {high:,} words (self_lengthen.high, about {text:,} tokens) an example has "
            f"up to {example:,} tokens with the question and an answer of 1/{growth:g} of that, and there is room for "
            f"{room.training:,} (training.max_length and the model's context): longer ones are left out and counted"
        )


def _fitting(room: Room) -> str:
    best = room.best_new
    if best < 1:
        return f"the question alone has {room.question:,} tokens: take shorter prompts, or a longer context"
    return f"sampling.max_new_tokens={best} reaches most, about {room.words(best + 2 * best // 3):,} words"
