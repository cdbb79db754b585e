"""A thought is not an answer: what follows the last thought of a text is graded, voted on, measured and run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_NAMES = "think|thinking|thought|reasoning|seed:think"
# DeepSeek-R1, Qwen3, Nemotron, Seed-OSS, OpenThinker, Magistral, gpt-oss (all channels but the last, `final`)
_CLOSES = rf"</(?:{_NAMES})>|<\|end_of_thought\|>|\[/THINK\]|<\|channel\|>\s*final\s*(?:<\|message\|>|$)"
_OPENS = rf"<(?:{_NAMES})>|<\|begin_of_thought\|>|\[THINK\]|<\|channel\|>\s*(?:analysis|commentary)"
_CLOSE = re.compile(_CLOSES, re.IGNORECASE)
# A mark in the middle of a line is spoken of, not used: "the <think> tag".
_OPEN = re.compile(rf"^\s*(?:<\|start\|>\s*assistant\s*)?(?:{_OPENS})", re.IGNORECASE | re.MULTILINE)
_EMPTY = re.compile(rf"\s*(?:{_OPENS})\s*(?:{_CLOSES})\s*", re.IGNORECASE)
_CLOSE_AT_END = re.compile(rf"(?:{_OPENS})\s*(?:{_CLOSES})\s*$", re.IGNORECASE)
_OPEN_AT_END = re.compile(rf"(?:{_OPENS})\s*$", re.IGNORECASE)


def answer_of(text: str, opened: bool = False) -> str | None:
    r"""What follows the last closing mark of a thought, without the white space around it; the text as it is where it
    has no thought; None where a thought is still open at its end, which is no answer yet.

    Args:
        opened: whether the text began inside a thought (see `opens_thought`).

    >>> answer_of("<think>\nMaybe 3?\n</think>\n\n4")
    '4'
    >>> answer_of("so it is 4.\n</think>\n4"), answer_of(" 4"), answer_of("Use the <think> tag.")
    ('4', ' 4', 'Use the <think> tag.')
    >>> answer_of("<think>Maybe 3, or") is answer_of("Maybe 3, or", opened=True) is None
    True
    """
    *_, last = [None, *_CLOSE.finditer(text)]
    rest = text if last is None else text[last.end() :]
    if _OPEN.search(rest) or (last is None and opened):
        return None
    return rest if last is None else rest.strip()


def without_opening(prompt: str, answer: str) -> str | None:
    r"""What of `answer` follows a prompt that ends in a thought of its own: where that is open, one with a thought,
    less its opening mark; where it is closed, one with an empty thought, less that. None for all others.

    >>> without_opening("assistant\n<think>\n", "<think>\nMaybe 3?\n</think>\n\n4")
    'Maybe 3?\n</think>\n\n4'
    >>> without_opening("assistant\n<think>\n", "Maybe 3?</think>4"), without_opening("<think>", "4")
    ('Maybe 3?</think>4', None)
    >>> without_opening("<think>\n\n</think>\n\n", "<think></think>\n4")
    '4'
    """
    if closes_thought(prompt):
        empty = _EMPTY.match(answer)
        return answer[empty.end() :] if empty else None
    opened = _OPEN_AT_END.search(prompt)
    if opened is None or not _CLOSE.search(answer):
        return None
    mark = opened.group().rstrip()
    rest = answer.lstrip()
    if not rest.startswith(mark):
        return answer
    return rest[len(mark) :].removeprefix(opened.group()[len(mark) :])


def said(tokenizer: Any, ids: Sequence[int], text: str, opened: bool = False) -> str | None:
    """`answer_of` a response, also where the marks of a thought are special tokens that its `text` has lost (gpt-oss's
    channels, Magistral's [THINK])."""
    marks, special = _special_marks(tokenizer)
    whole = tokenizer.decode(ids, skip_special_tokens=False) if marks else ""
    if not any(token in whole for token in marks):
        return answer_of(text, opened)
    answer = answer_of(whole, opened)
    if answer is not None:
        for token in special:
            answer = answer.replace(token, "")
    return answer


@lru_cache(maxsize=8)
def _special_marks(tokenizer: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the special tokens that open or close a thought, all special tokens) of a tokenizer."""
    special = tuple(tokenizer.all_special_tokens)
    marks = [token for token in special if _CLOSE.search(token) or _OPEN.search(token)]
    marks += [token for token in ("<|channel|>",) if token in tokenizer.get_added_vocab()]
    return tuple(marks), special


def opens_thought(prompt: str) -> bool:
    r"""Whether a rendered prompt ends inside a thought that its template opened, so that the answer begins there.

    >>> opens_thought("<|im_start|>assistant\n<think>\n"), opens_thought("<think>\n\n</think>\n\n")
    (True, False)
    """
    return bool(_OPEN_AT_END.search(prompt))


def closes_thought(prompt: str) -> bool:
    r"""Whether a rendered prompt ends with a thought that its template opened and closed.

    >>> closes_thought("<|im_start|>assistant\n<think>\n\n</think>\n\n"), closes_thought("<|im_start|>assistant\n")
    (True, False)
    """
    return bool(_CLOSE_AT_END.search(prompt))
