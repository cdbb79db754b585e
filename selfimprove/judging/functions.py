"""The user's own judge: `module:function(prompt, response, answer)` returns a score, or None for missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module

from selfimprove.errors import InputError

# (score, None), or (None, why it is missing)
Verdict = tuple[float | None, str | None]


def load_function(name: str, where: str = "iterative_dpo.judge.function") -> Callable[[str, str, str | None], object]:
    """The function a recipe names under the key `where`; `InputError` where it cannot be imported."""
    module, colon, attribute = name.partition(":")
    try:
        if not colon:
            raise ImportError("expected module:function")
        function: Callable[[str, str, str | None], object] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{where}: {name!r} cannot be imported: {error}") from error
    return function


def function_verdict(
    function: Callable[[str, str, str | None], object], prompt: str, response: str, answer: str | None
) -> Verdict:
    """The function's score; its failure is missing with a reason, never a score."""
    try:
        value = function(prompt, response, answer)
    except Exception as error:  # the user's code may raise anything; its failure is not the response's
        return None, f"the function raised {type(error).__name__}"
    if value is None:
        return None, "the function returned None"
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None, f"the function returned {type(value).__name__}, not a number"
    return (number, None) if math.isfinite(number) else (None, "the function's score is not finite")
