"""A text of Self-Lengthen, and its longer version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from selfimprove.data.words import count_words

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Text:
    """An answer to an instruction. `id` is its own in the run."""

    id: str
    instruction: str
    text: str

    @property
    def words(self) -> int:
        return count_words(self.text)


@dataclass(frozen=True)
class Extended:
    """An answer and its longer version."""

    initial: Text
    longer: Text
