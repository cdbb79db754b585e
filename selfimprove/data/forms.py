"""Rows and turns in the forms that people have them in, as those that are known here. Pure functions."""

from __future__ import annotations

import datetime
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
TURN_KEYS = ("role", "content", "from", "value", "weight", "train")
# What of a turn cannot be rendered: to train the turn without it would be to train another one.
_MORE = (
    "tool_calls", "function_call", "tool_call_id", "reasoning_content", "reasoning", "thinking",
    "images", "image", "audios", "audio", "videos", "video",
)  # fmt: skip
_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ \n]?")


def plain_value(value: Any) -> Any:
    """A value of a table as JSON has it: NaN is missing, and so are infinities; dates are ISO text; bytes are text in
    UTF-8, or else (a picture) an object that names them; decimal numbers are numbers.

    >>> plain_value({"a": float("nan"), "b": [1.0, float("inf")]})
    {'a': None, 'b': [1.0, None]}
    >>> plain_value([b"Hi", Decimal("72.00"), Decimal("NaN"), datetime.date(2020, 1, 31)])
    ['Hi', 72.0, None, '2020-01-31']
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(one) for one in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, Decimal):
        return plain_value(float(value))
    if isinstance(value, UUID | datetime.timedelta):
        return str(value)
    # What an object calls itself holds its address, another one in every process: no part of a key.
    return value if isinstance(value, str | int | None) else {"object": type(value).__name__}


def number_as_text(value: int | float) -> str:
    """A whole number that a table with a gap made a float stays whole.

    >>> number_as_text(72.0), number_as_text(1e16), number_as_text(0.5)
    ('72', '10000000000000000', '0.5')
    """
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def turn_of(turn: Any) -> tuple[dict[str, str] | None, str]:
    """(turn, "") of `role` and `content`, or of ShareGPT's `from` and `value`; (None, why not) for what is no turn or
    holds more than can be rendered.

    >>> turn_of({"from": "human", "value": "Hello"})
    ({'role': 'user', 'content': 'Hello'}, '')
    >>> turn_of({"role": "assistant", "content": "", "tool_calls": [{}]})[1]
    "`tool_calls` of a turn cannot be rendered here; remove the row, or write it into the turn's content"
    """
    if not isinstance(turn, Mapping):
        return None, f"a turn needs role (system, user, assistant) and content: {turn}"
    said = {**turn}
    if "role" not in said and "from" in said:
        said |= {"role": said["from"], "content": said.get("value")}
    for name in _MORE:
        if said.get(name):
            how = "remove the row, or write it into the turn's content"
            return None, f"`{name}` of a turn cannot be rendered here; {how}"
    role = _ROLES.get(str(said.get("role")), said.get("role"))
    if role not in ("system", "user", "assistant") or not isinstance(said.get("content"), str):
        return None, f"a turn needs role (system, user, assistant) and content: {turn}"
    return {"role": str(role), "content": said["content"]}, ""


def unlearned(turns: Sequence[Any]) -> str:
    """The mark by which the last answer of some turns is not to be learned (`weight: 0`, `train: false`), or nothing.

    >>> unlearned([{"role": "assistant", "content": "no", "weight": 0}, {"role": "user", "content": "Why?"}])
    'weight: 0'
    """
    for turn in reversed(turns):
        if (
            isinstance(turn, Mapping)
            and _ROLES.get(name := str(turn.get("role", turn.get("from"))), name) == "assistant"
        ):
            marks = [name for name in ("weight", "train") if turn.get(name) is not None and not turn[name]]
            return f"{marks[0]}: {turn[marks[0]]}".lower() if marks else ""
    return ""


def dialogue(text: str) -> list[dict[str, str]] | None:
    r"""The turns of a dialogue that was written into one text (HH-RLHF); None where the text is none.

    >>> dialogue("\n\nHuman: Hello\n\nAssistant: Hi")
    [{'role': 'user', 'content': 'Hello'}, {'role': 'assistant', 'content': 'Hi'}]
    >>> dialogue("\n\nHuman: Hello\n\nAssistant:")
    [{'role': 'user', 'content': 'Hello'}]
    >>> dialogue("\n\nHuman: Hello")
    [{'role': 'user', 'content': 'Hello'}]
    >>> dialogue("Human: a word") is None
    True
    """
    parts = _SPEAKER.split(text)
    both = "Human" in parts[1::2] and "Assistant" in parts[1::2]
    if parts[0].strip() or not (both or text.startswith("\n\nHuman:")):
        return None
    turns = [
        {"role": "user" if who == "Human" else "assistant", "content": said.strip()}
        for who, said in zip(parts[1::2], parts[2::2], strict=True)
    ]
    return turns[:-1] if turns[-1]["role"] == "assistant" and not turns[-1]["content"] else turns
