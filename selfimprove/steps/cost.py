"""What a step would make and take, said by its kind: `selfimprove check` walks a method through such steps."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfimprove.models.policy import Policy
    from selfimprove.steps.memory import Memory, Plan, Shape


@dataclass(frozen=True)
class Tokens:
    """`read`: prompts that are sampled from; `sampled`: written; `scored`: forward only; `trained`: forward and
    backward, with the prompts that stand before what is learnt."""

    read: float = 0
    sampled: float = 0
    scored: float = 0
    trained: float = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __mul__(self, factor: float) -> Tokens:
        return Tokens(*(getattr(self, one.name) * factor for one in fields(self)))


@dataclass(frozen=True)
class Dry:
    """A step that is not made, and an upper bound of what it takes: every response has all of its tokens.

    Attributes:
        tokens: that go through the model of the step's `policy` or `start`.
        rows: what stands for the step's rows.
        plan, memory: how the work is done, and what that holds of a model's shape; None where it holds no such model.
        policies: that it leaves on disk; the second is the one half-way. `beside`: further ones while it works.
        history: what stands for a training's log.
    """

    tokens: Tokens = Tokens()
    rows: Sequence[Mapping[str, Any]] = ()
    plan: Plan | None = None
    memory: Callable[[Shape, Plan], Memory] | None = None
    policies: int = 0
    beside: int = 0
    history: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Preview:
    """What `selfimprove check` shows of a method beside its seed examples, prompts and pairs.

    Attributes:
        lines: what the run goes through, in sentences.
        examples: (title, token ids) of what else is sampled from or trained.
        at_once: the recipe where everything passes at once, for a second estimate of the time.
    """

    lines: Sequence[str] = ()
    examples: Sequence[tuple[str, list[int]]] = ()
    at_once: Any = None


def dry_log_prob(policy: Policy, prompt_id: str, index: int, tokens: int) -> float:
    """What stands for the log-prob (nats) of a prompt's response number `index`: all policies rank a prompt's responses
    alike, later ones (M1, M2, ...) the more clearly, and no two prompts are the same."""
    later = 1 + int("".join(filter(str.isdigit, policy.name)) or 0)
    return -tokens * (3 - 0.01 * later * index * (1 + zlib.crc32(prompt_id.encode()) / 2**32))
