"""What `self_lengthen` asks a model, as conversations. The wording is this project's; in gist the authors'."""

from __future__ import annotations

from selfimprove.models.chat import Message

_INSTRUCT = (
    "Here are two instructions for writing a long text:\n\n1. {first}\n\n2. {second}\n\nWrite a third instruction of "
    "the same kind about something else. Write the instruction only."
)
_SUITABLE = (
    "Is the following instruction suitable for guiding a long text of more than {words} words? Answer only yes or no."
    "\n\n<instruction>\n{instruction}\n</instruction>"
)
_ENRICH = (
    "You are an expert in polishing texts. Below are an instruction and the beginning of a text that answers it, as an "
    "outline. Enrich this beginning: expand its paragraphs or add sections to it. Do not continue beyond it, do not "
    "repeat anything, and do not write long narratives.\n\n<instruction>\n{instruction}\n</instruction>\n\n<outline>\n"
    "{text}\n</outline>\n\nWrite the enriched beginning only."
)
_EXTEND = (
    "You are an expert in polishing texts. Below are an instruction and an outline of a text that answers it. Write "
    "the whole text, longer and richer than the outline: expand its paragraphs or add sections. Do not repeat "
    "anything, and do not write long narratives.\n\n<instruction>\n{instruction}\n</instruction>\n\n<outline>\n{text}\n"
    "</outline>\n\nWrite the whole text only."
)


def user(text: str) -> list[Message]:
    """The text as a user's only turn."""
    return [{"role": "user", "content": text}]


def instruct(first: str, second: str) -> list[Message]:
    """A third instruction, like these two."""
    return user(_INSTRUCT.format(first=first, second=second))


def suitable(instruction: str, words: int) -> list[Message]:
    """Whether the instruction suits a text of so many words: yes or no."""
    return user(_SUITABLE.format(words=words, instruction=instruction))


def enrich(instruction: str, text: str) -> list[Message]:
    """The beginning of an answer to the instruction, enriched and not continued."""
    return user(_ENRICH.format(instruction=instruction, text=text))


def extend(instruction: str, text: str) -> list[Message]:
    """The whole text, longer than this outline of it."""
    return user(_EXTEND.format(instruction=instruction, text=text))
