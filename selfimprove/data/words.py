"""Lengths of texts: words counted, what a long text must not be, where it is cut, and demands for a length. Pure
functions.

Source: Self-Lengthen (Quan et al., arXiv 2410.23933; code github.com/QwenLM/Self-Lengthen). A word is one CJK character
(U+4E00-9FFF, U+3000-303F, U+FF00-FFEF) or, of the rest, what stands between white space.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

KINDS = ("about", "range", "above", "below")
_CJK = "\u4e00-\u9fff\u3000-\u303f\uff00-\uffef"
_WORD = re.compile(f"[{_CJK}]|[^\\s{_CJK}]+")
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)|\d+")
# What a text is cut into, each with the white space behind it.
_PARAGRAPH, _LINE = re.compile(r"(?s).+?(?:\n\n\s*|\Z)"), re.compile(r".+?(?:\n\s*|\Z)")
_SENTENCE = re.compile(r"(?s).+?(?:(?<![.!?])[.!?]+[\"')\]”’]*\s+|(?<![。！？…])[。！？…]+[”’」』）】]*\s*|\Z)")


class Rules(NamedTuple):
    """What a text of a language must keep, and how a length is asked for in it.

    Attributes:
        ends: characters that a text may end with.
        run: no sequence of so many units may occur twice.
        unit: pattern (`re`) of a unit.
        forbidden: in none of the first two and last three lines, case and all; also as parts of words.
        demands: by kind, {low} and {high} are the numbers.
    """

    ends: str
    run: int
    unit: str
    forbidden: tuple[str, ...]
    demands: Mapping[str, str]


RULES = {
    "en": Rules(
        ends=".!?,;:-\"')]}>`",
        run=10,
        unit=r"\S+",
        forbidden=("revised", "revision", "response", "version", "paragraph"),
        demands={
            "about": "around {low} words",
            "range": "{low}-{high} words",
            "above": "more than {low} words",
            "below": "less than {high} words",
        },
    ),
    "zh": Rules(
        ends="。！？…”’）】)]}>`",
        run=13,
        unit=r"[\x00-\x7f]+|[^\x00-\x7f]",  # a whole run of ASCII, or one other character
        forbidden=(),
        # The authors' code has 小于 (less) where it means more, and the other way round.
        demands={"about": "大约{low}字", "range": "{low}字至{high}字", "above": "大于{low}字", "below": "小于{high}字"},
    ),
}


def words_of(text: str) -> list[str]:
    """The words in their order."""
    return _WORD.findall(text)


def count_words(text: str) -> int:
    """How many words the text has, as the authors count them."""
    return len(words_of(text))


def rejection(text: str, language: str | Rules = "en") -> str | None:
    """Why the text breaks the rules (the authors' `check_response`): `ending`, `forbidden word` or `repetition`, the
    first of them that holds; None where it keeps them. Whether it was finished only the caller knows.

    Raises ValueError for a language without rules.
    """
    rules, text = _rules(language), text.rstrip()
    if not text or text[-1] not in rules.ends:
        return "ending"
    lines = text.split("\n")
    outer = "\n".join(lines[:2] + lines[-3:])
    if any(word in outer for word in rules.forbidden):
        return "forbidden word"
    runs = _runs(re.findall(rules.unit, text), rules.run)
    return "repetition" if len(set(runs)) < len(runs) else None


def acceptable(text: str, language: str | Rules = "en") -> bool:
    """Whether the text keeps the rules of its language; see `rejection`."""
    return rejection(text, language) is None


def _rules(language: str | Rules) -> Rules:
    if isinstance(language, Rules):
        return language
    if language not in RULES:
        raise ValueError(f"no rules for language {language!r}: known are {', '.join(RULES)}; give `Rules` of your own")
    return RULES[language]


def _runs(units: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(units[start : start + n]) for start in range(len(units) - n + 1)]


def halves(text: str) -> tuple[str, str]:
    """The text cut in two where half of its paragraphs end; of an odd number the second half has one more.

    Paragraphs are divided by blank lines, or, where these divide two or fewer, by line breaks. Deviation: the authors
    stop there, and half of one paragraph is nothing; here a text of fewer than three paragraphs is cut between its
    sentences. A single sentence is the first half, the second is empty.
    """
    return _cut(text, 1, 2)


def first_two_thirds(text: str) -> str:
    """Two thirds of the text's paragraphs (else sentences, as in `halves`), rounded down, at least one."""
    return _cut(text, 2, 3)[0]


def _cut(text: str, part: int, of: int) -> tuple[str, str]:
    units = _units(text.strip())
    place = max(1, len(units) * part // of)
    return "".join(units[:place]).strip(), "".join(units[place:]).strip()


def _units(text: str) -> list[str]:
    """Paragraphs or sentences."""
    for pattern in (_PARAGRAPH, _LINE):
        if len(units := pattern.findall(text)) > 2:
            return units
    return _SENTENCE.findall(text)


def dropped_lines(text: str, random: Random, share: float = 0.2) -> str:
    """What the Extender is given to learn from: the text's lines, each dropped with probability `share`, with blank
    lines between them. Never nothing: where all would go, one stays."""
    lines = [line for line in text.split("\n") if line.strip()]
    kept = [line for line in lines if random.random() >= share]
    return "\n\n".join(kept or ([random.choice(lines)] if lines else []))


def keep_long(lengths: Sequence[int], random: Random) -> list[bool]:
    """Which texts of so many characters stay: kept where a random number exceeds 2 rank^3, with rank = 1 - place among
    the sorted lengths / n; equal ones in their order. Six of ten stay on average; the shortest does not, nor does a
    text that is alone."""
    n = len(lengths)
    place = {index: position for position, index in enumerate(sorted(range(n), key=lambda index: lengths[index]))}
    return [random.random() > 2 * (1 - place[index] / n) ** 3 for index in range(n)]


def length_demand(
    words: int,
    random: Random,
    language: str | Rules = "en",
    *,
    low: int = 2000,
    high: int = 8000,
    step: int = 1000,
) -> str:
    """A demand for the length that a text has: 40% around N, 25% A-B, 10% more than A, 25% less than B.

    N is `words` rounded to a multiple of `step` (in one case of five of twice the step), A the multiple below, at least
    `low`, B the one above, at most `high`. Raises ValueError unless low <= words < high.
    """
    if not low <= words < high:
        raise ValueError(f"words must be at least {low} and below {high}, found {words}")
    demands = _rules(language).demands
    unit = 2 * step if random.random() < 0.2 else step
    kind = random.choices(KINDS, weights=(0.40, 0.25, 0.10, 0.25))[0]
    # B is above `words` also where these are a multiple, so that no range is one number.
    below, above = max(words // unit * unit, low), min((words // unit + 1) * unit, high)
    near = max(round(words / unit), 1) * unit
    return demands[kind].format(low=near if kind == "about" else below, high=above)


def with_demand(instruction: str, demand: str, random: Random) -> str:
    """The instruction with a demand for its length in front, behind, or in a line of its own."""
    return random.choice((f"{demand} {instruction}", f"{instruction} {demand}", f"{instruction}\n\n{demand}"))


def demanded(kind: str, constraint: str) -> tuple[int | None, int | None]:
    """(low, high) of a demand in words, in any language with the digits 0 to 9: see `length_score`.

    Raises ValueError for a wrong kind, and where the text has another count of numbers than the kind needs.
    """
    numbers = [int(one.replace(",", "")) for one in _NUMBER.findall(constraint)]
    if len(numbers) != (2 if kind == "range" else 1):
        raise ValueError(f"{constraint!r} must have {'two numbers' if kind == 'range' else 'one number'} ({kind})")
    low, high = (None, numbers[0]) if kind == "below" else (numbers[0], numbers[1] if kind == "range" else None)
    _bounds(kind, low, high)
    return low, high


def length_score(words: int, kind: str, low: int | None, high: int | None) -> float:
    """LonGen's score, 0 to 1, of a text's length: 1 within the bounds (a, b), below max(2 words / a - 1, 0), above
    max(3 - 2 words / b, 0).

    Args:
        words: of the text, see `count_words`.
        kind: `about` N: (0.8 N, 1.2 N); `range`: (low, high); `above` N: (N, 1.5 N); `below` N: (0.5 N, N).
        low, high: N is `low` for about and above and `high` for below; the other one is None.

    Raises ValueError for a wrong kind, a bound that is missing, too many or below 1, and a range from high to low.
    """
    least, most = _bounds(kind, low, high)
    if words < least:
        return max(2 * words / least - 1, 0.0)
    return max(3 - 2 * words / most, 0.0) if words > most else 1.0


def _bounds(kind: str, low: int | None, high: int | None) -> tuple[float, float]:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; found {kind!r}")
    needs = {"low": kind != "below", "high": kind in ("range", "below")}
    for name, bound in (("low", low), ("high", high)):
        if needs[name] != (bound is not None):
            raise ValueError(f"kind {kind!r} {'needs' if needs[name] else 'takes no'} `{name}`; found {bound!r}")
        if bound is not None and bound < 1:
            raise ValueError(f"`{name}` must be at least 1, found {bound}")
    if low is None:
        assert high is not None
        return 0.5 * high, high
    if high is None:
        return (0.8 * low, 1.2 * low) if kind == "about" else (low, 1.5 * low)
    if low > high:
        raise ValueError(f"`low` must not be above `high`, found {low} and {high}")
    return low, high


def different_runs(text: str, n: int) -> int:
    """How many different runs of n words the text has: it does not grow where a text only repeats itself."""
    return len(set(_runs(words_of(text), n)))


def distinct_n(text: str, n: int) -> float:
    """Share of different ones among the text's runs of n words; 1 where it has fewer words."""
    runs = _runs(words_of(text), n)
    return len(set(runs)) / len(runs) if runs else 1.0


def longest_repeat(text: str) -> int:
    """Words of the longest run that occurs twice; the two may overlap. 0 where all words differ."""
    codes: dict[str, str] = {}
    coded = "".join(codes.setdefault(word, chr(len(codes))) for word in words_of(text))
    longest = 0
    for start in range(len(coded)):
        while coded.find(coded[start : start + longest + 1], start + 1) >= 0:
            longest += 1
    return longest
