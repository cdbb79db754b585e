"""The methods, one file each. A method is a plain function over the durable steps of a `Loop`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selfimprove.loop import Loop
    from selfimprove.policy import Policy


def find_method(name: str) -> Callable[[Loop], Policy]:
    """`selfimprove.methods.<name>.<name>`."""
    method: Callable[[Loop], Policy] = getattr(import_module(f"selfimprove.methods.{name}"), name)
    return method
