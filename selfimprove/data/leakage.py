"""Is an evaluation text in the training data? Normalised match and word n-gram overlap."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# Words, and arithmetic signs before a number: without these "2 + 3" and "2 - 3" would be the same text.
_WORD = re.compile(r"[^\W_]+|[-+*/^%=<>](?=\s*[\d(])")


def leaks(training: Iterable[str], evaluation: Iterable[str], n: int = 13) -> list[tuple[str, str, str]]:
    """(training text, evaluation text, why) for every training text that gives an evaluation text away.

    Two texts match when they are equal after normalisation (NFKC, lower case, punctuation and white space
    collapsed), or when they share a run of `n` words (13 as for GPT-3, arXiv 2005.14165, appendix C).

    A shared run counts only if no part of it of (n + 1) // 2 words occurs in another evaluation text too:
    what evaluation texts have in common is their task's instruction, not an item, and training prompts of
    the same task rightly hold it. The part, not only the whole run: "... with that word only. penguin, mouse"
    is eleven words of instruction and two of the item, so the whole run can be unique and say nothing (on
    the `words` suite, 60 false alarms).
    The price: items that are near-copies of each other are found by the exact match only, and so are texts
    shorter than `n` words or in scripts without spaces.

    A pair is listed once, in the order of the training texts. Raises ValueError for n < 2.
    """
    if n < 2:
        raise ValueError(f"n must be at least 2, found {n}")
    items: dict[tuple[str, ...], str] = {}  # words -> the first evaluation text that reads so
    for text in evaluation:
        items.setdefault(_words(text), text)
    items.pop((), None)
    runs = _telling_runs(list(items), n)

    found = []
    for text in dict.fromkeys(training):
        words = _words(text)
        if words in items:
            found.append((text, items[words], "the same text after normalisation"))
        hits: dict[tuple[str, ...], int] = {}
        for start, run in enumerate(_runs(words, n)):
            item = runs.get(run)
            if item is not None and item != words:
                hits.setdefault(item, start)
        for item, start in hits.items():
            found.append((text, items[item], f"{n} words in common: {' '.join(words[start : start + n])!r}"))
    return found


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).lower()))


def _runs(words: tuple[str, ...], length: int) -> list[int]:
    """Hashes of all runs of `length` words: 64 bits, a tenth of the memory of the words themselves."""
    return [hash(run) for run in zip(*(words[i:] for i in range(length)), strict=False)]


def _telling_runs(items: list[tuple[str, ...]], n: int) -> dict[int, tuple[str, ...]]:
    """Run of `n` words -> the one item that it identifies."""
    part = (n + 1) // 2
    seen: set[int] = set()
    shared: set[int] = set()
    for words in items:
        parts = set(_runs(words, part))
        shared |= parts & seen
        seen |= parts
    runs: dict[int, tuple[str, ...]] = {}
    for words in items:
        clean = 0  # parts in a row, ending here, that no other item has
        whole = _runs(words, n)
        for end, run in enumerate(_runs(words, part)):
            clean = 0 if run in shared else clean + 1
            if clean > n - part:
                runs[whole[end - (n - part)]] = words
    return runs
