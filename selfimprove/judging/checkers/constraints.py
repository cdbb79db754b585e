"""Constraints on a text that a program can check: pure functions, found by name.

A row of data carries `constraints: [{"kind": "begins_with", "word": "Open"}, ...]`; a text keeps its prompt's
constraints if it keeps each of them. `lenient` is IFEval's loose criterion (Zhou et al., arXiv 2311.07911, section
2.2): a text counts if it, or what is left of it without its first line, its last line, both, or its asterisks, keeps
all of them.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selfimprove.errors import InputError

# Goes up when a checker says otherwise of any text: what was measured or accepted before is then measured again.
VERSION = 1

# Numbers with their separators, abbreviations such as U.S., and words that hyphens and apostrophes join.
_WORD = re.compile(r"\d+(?:[.,:]\d+)+|(?:[^\W\d_]\.){2,}|[^\W_]+(?:['\-][^\W_]+)*")
_QUOTES = "\"'“”„«»`"
# Goes up when a checker says otherwise of any text: what was measured or accepted before is then measured again.
VERSION = 1

# Numbers with their separators, abbreviations such as U.S., and words that hyphens and apostrophes join.
_WORD = re.compile(r"\d+(?:[.,:]\d+)+|(?:[^\W\d_]\.){2,}|[^\W_]+(?:['\-][^\W_]+)*")
_QUOTES = "\"'“”„«»`"
# A full stop behind these, or behind a line's number, ends no sentence.
_ABBREVIATION = re.compile(r"(?:\b(?:mr|mrs|ms|dr|st|vs|e\.g|i\.e|[ap]\.m|u\.s)|(?:^|\n)\s*\d+)\.$", re.IGNORECASE)


def plain(text: str) -> str:
    """A text with composed letters, and one kind of apostrophe and of hyphen.

    >>> plain("don\u2019t") == "don't" and plain("re\u0301") == "r\xe9"
    True
    """
    return unicodedata.normalize("NFC", text).translate({0x2018: "'", 0x2019: "'", 0x2010: "-", 0x2011: "-"})


def words(text: str) -> list[str]:
    """The words of a text; hyphens and apostrophes join, and a number is one word.

    >>> words("It's a well-known sea, isn't it? $1,000 at 3:30 in the U.S. it was.")[:6]
    ["It's", 'a', 'well-known', 'sea', "isn't", 'it']
    >>> words("$1,000 at 3:30 in the U.S.")
    ['1,000', 'at', '3:30', 'in', 'the', 'U.S.']
    """
    return _WORD.findall(plain(text))


def words_at_most(text: str, n: int) -> bool:
    """
    >>> words_at_most("Rain falls.", 2), words_at_most("Rain falls down.", 2), words_at_most(" ", 2)
    (True, False, False)
    """
    return 0 < len(words(text)) <= n


def words_at_least(text: str, n: int) -> bool:
    """
    >>> words_at_least("Rain falls.", 2), words_at_least("Rain.", 2)
    (True, False)
    """
    return len(words(text)) >= n


def words_exactly(text: str, n: int) -> bool:
    """
    >>> words_exactly("Rain falls.", 2), words_exactly("Rain falls down.", 2)
    (True, False)
    """
    return len(words(text)) == n


def _count(text: str, word: str) -> int:
    """How often a word or a phrase stands in a text, in any case of letters; "light-coloured" has the word "light"."""
    return len(re.findall(rf"(?<!\w){re.escape(plain(word))}(?!\w)", plain(text), flags=re.IGNORECASE))


def includes(text: str, word: str) -> bool:
    """
    >>> includes("The Sea is deep.", "sea"), includes("A season.", "sea")
    (True, False)
    """
    return _count(text, word) > 0


def without(text: str, word: str) -> bool:
    """
    >>> without("A season.", "sea"), without("The sea.", "sea"), without("", "sea")
    (True, False, False)
    """
    return bool(text.strip()) and _count(text, word) == 0


def twice(text: str, word: str) -> bool:
    """Exactly two times.

    >>> twice("Sea to sea.", "sea"), twice("The sea.", "sea"), twice("Sea, sea, sea!", "sea")
    (True, False, False)
    """
    return _count(text, word) == 2


def begins_with(text: str, word: str) -> bool:
    """The first word, behind marks if there are any, in any case of letters.

    >>> begins_with("Open it.", "open"), begins_with('"Open up!" she said.', "Open"), begins_with("Opened.", "Open")
    (True, True, False)
    """
    return re.match(rf"[\W_]*{re.escape(plain(word))}(?!\w)", plain(text), flags=re.IGNORECASE) is not None


def ends_with(text: str, word: str) -> bool:
    """The last word, before marks if there are any, in any case of letters.

    >>> ends_with("We walked to the sea.", "sea"), ends_with("The sea is deep.", "sea")
    (True, False)
    """
    return re.search(rf"(?<!\w){re.escape(plain(word))}[\W_]*$", plain(text), flags=re.IGNORECASE) is not None


def lowercase(text: str) -> bool:
    """
    >>> lowercase("rain falls."), lowercase("Rain falls."), lowercase("123")
    (True, False, False)
    """
    return text.islower()


def capitals(text: str) -> bool:
    """
    >>> capitals("RAIN FALLS."), capitals("Rain falls."), capitals("123")
    (True, False, False)
    """
    return text.isupper()


def question(text: str) -> bool:
    """Ends with a question mark.

    >>> question("Does rain fall?"), question('"Does rain fall?"'), question("Rain falls.")
    (True, True, False)
    """
    return _ending(text).endswith("?")


def exclamation(text: str) -> bool:
    """Ends with an exclamation mark.

    >>> exclamation("Rain falls!"), exclamation("Rain falls.")
    (True, False)
    """
    return _ending(text).endswith("!")


def _ending(text: str) -> str:
    return re.sub(r"[^\w.!?…]+$", "", text)  # quotation marks, brackets, asterisks, emoji


def quoted(text: str) -> bool:
    """The whole text stands in double quotation marks.

    >>> quoted('"Rain falls."'), quoted("Rain falls."), quoted('"Rain" falls, he said "again"')
    (True, False, False)
    """
    inner = text.strip()
    return len(inner) > 2 and inner[0] in '"“' and inner[-1] in '"”' and not set(inner[1:-1]) & set('"“”')


def no_commas(text: str) -> bool:
    """
    >>> no_commas("Rain falls."), no_commas("Rain, falls."), no_commas("")
    (True, False, False)
    """
    return bool(text.strip()) and not set(text) & set(",，、")


def lines(text: str, n: int) -> bool:
    """So many lines, empty ones not counted.

    >>> lines("Rain\\n\\nfalls.", 2), lines("Rain falls.", 2)
    (True, False)
    """
    return len([line for line in text.splitlines() if line.strip()]) == n


def sentences(text: str, n: int) -> bool:
    """So many sentences: what ends with . ! ? or … before a blank or the end. A full stop behind an abbreviation or a
    line's number ends one too, so "1. Rain falls." has two and "Dr. Smith" begins a second.

    >>> sentences("Rain falls. It is wet!", 2), sentences("Pi is 3.14.", 1), sentences("Rain falls", 1)
    (True, True, True)
    """
    found = [part for part in re.split(rf"(?<=[.!?…])[{_QUOTES})\]]*\s+", text.strip()) if words(part)]
    return len(found) == n


def bullets(text: str, n: int) -> bool:
    """So many lines that begin with a dash, a star or a dot, and no other ones.

    >>> bullets("- rain\\n- sun", 2), bullets("rain\\n- sun", 2), bullets("- rain", 2)
    (True, False, False)
    """
    found = [line.strip() for line in text.splitlines() if line.strip()]
    return len(found) == n and all(re.match(r"[-*•]\s+\S", line) for line in found)


def is_json(text: str) -> bool:
    """Parses as a JSON object or list, also in a fenced block.

    >>> is_json('{"rain": 1}'), is_json('```json\\n[1]\\n```'), is_json("rain"), is_json("1")
    (True, True, False, False)
    """
    inner = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip())
    try:
        return isinstance(json.loads(inner), dict | list)
    except (ValueError, RecursionError):
        return False


KINDS: dict[str, Callable[..., bool]] = {
    "words_at_most": words_at_most,
    "words_at_least": words_at_least,
    "words_exactly": words_exactly,
    "includes": includes,
    "without": without,
    "twice": twice,
    "begins_with": begins_with,
    "ends_with": ends_with,
    "lowercase": lowercase,
    "capitals": capitals,
    "question": question,
    "exclamation": exclamation,
    "quoted": quoted,
    "no_commas": no_commas,
    "lines": lines,
    "sentences": sentences,
    "bullets": bullets,
    "json": is_json,
}

Constraint = Mapping[str, Any]


def read_constraints(value: Any, where: str) -> list[dict[str, Any]]:
    """A row's constraints, checked; `where` begins the message of an InputError.

    A column of JSON text is read as such, null keys (as tables make them of rows with different keys) are left out, and
    a whole number that a table made a float is one again.

    >>> read_constraints([{"kind": "words_at_most", "n": 9.0, "word": None}], "row 1")
    [{'kind': 'words_at_most', 'n': 9}]
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InputError(f"{where}: constraints is text that is not JSON ({error})") from None
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or not value or not all(isinstance(one, Mapping) for one in value):
        raise InputError(
            f'{where}: constraints must be a list such as [{{"kind": "begins_with", "word": "Open"}}], found {value!r}'
        )
    return [_read(one, where) for one in value]


def _read(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = {str(key): value for key, value in given.items() if value is not None}
    kind = found.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        close = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(KINDS)}"
        raise InputError(f"{where}: no constraint of kind {kind!r}; {hint}")
    needed = list(inspect.signature(KINDS[kind]).parameters)[1:]
    if set(found) - {"kind"} != set(needed):
        wants = " and ".join(f"`{name}`" for name in needed) or "no further key"
        raise InputError(f"{where}: constraint {kind!r} takes {wants}; found {', '.join(sorted(found))}")
    if "n" in found:
        n = found["n"]
        if isinstance(n, bool) or not isinstance(n, int | float) or not n >= 1 or n % 1:
            raise InputError(f"{where}: constraint {kind!r}: `n` must be a whole number from 1, found {n!r}")
        found["n"] = int(n)
    if "word" in found and not (isinstance(found["word"], str) and found["word"].strip()):
        raise InputError(f"{where}: constraint {kind!r}: `word` must be a word, found {found['word']!r}")
    if "word" in found:
        found["word"] = found["word"].strip()
    return found


def keeps(text: str, constraint: Constraint) -> bool:
    """Whether a text keeps one constraint.

    >>> keeps("Rain falls.", {"kind": "begins_with", "word": "Rain"})
    True
    """
    return KINDS[constraint["kind"]](text, **{key: value for key, value in constraint.items() if key != "kind"})


def strict(text: str, constraints: Sequence[Constraint]) -> bool:
    """Whether a text keeps all of them as it stands; an empty one keeps none.

    >>> strict("Rain falls.", [{"kind": "begins_with", "word": "Rain"}, {"kind": "no_commas"}])
    True
    """
    return bool(text.strip()) and all(keeps(text, one) for one in constraints)


def lenient(text: str, constraints: Sequence[Constraint]) -> bool:
    """IFEval's loose criterion: see the module.

    >>> said, asked = "Sure:\\n**Rain** falls.", [{"kind": "begins_with", "word": "Rain"}]
    >>> lenient(said, asked), strict(said, asked)
    (True, False)
    """
    rows = text.split("\n")
    found = [text, "\n".join(rows[1:]).strip(), "\n".join(rows[:-1]).strip(), "\n".join(rows[1:-1]).strip()]
    return any(strict(one, constraints) for one in [*found, *(one.replace("*", "") for one in found)])
