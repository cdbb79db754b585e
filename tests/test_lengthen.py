"""Words, the filter of long texts, cuts, demands and scores of length: a table of cases, and what holds always."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove.data.words import (
    KINDS,
    RULES,
    Rules,
    acceptable,
    count_words,
    demanded,
    different_runs,
    distinct_n,
    dropped_lines,
    first_two_thirds,
    halves,
    keep_long,
    length_demand,
    length_score,
    longest_repeat,
    rejection,
)

TEXTS = st.text(st.sampled_from("ab .!\n中文。，　"), max_size=60)
PIECES = st.lists(st.sampled_from(["One.", "Two, three!", "四五。", "six"]), min_size=1, max_size=9)


def words(n: int, start: int = 0) -> str:
    return " ".join(f"w{i}" for i in range(start, start + n))


def characters(n: int, start: int = 0x4E00) -> str:
    return "".join(map(chr, range(start, start + n)))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        (" \n\t", 0),
        ("One two, three.", 3),
        ("state-of-the-art - yes", 3),  # a dash between spaces is a word, as for the authors
        ("今天天气很好。", 7),  # the mark counts
        ("，！（）", 4),
        ("　", 1),  # so does the ideographic space
        ("他说hello world吗", 5),
        ("GPT4模型v2版", 5),
        ("ひらがな", 1),  # kana are outside the ranges
        ("“好”", 3),  # so are these quotes, each between two of them
    ],
)
def test_words(text: str, count: int) -> None:
    assert count_words(text) == count


@given(TEXTS)
def test_words_as_the_authors_count_them(text: str) -> None:
    cjk = r"[\u4e00-\u9fff\u3000-\u303f\uff00-\uffef]"
    assert count_words(text) == len(re.findall(cjk, text)) + len(re.sub(cjk, " ", text).split())


ENGLISH = [
    ("", "ending"),
    ("  \n", "ending"),
    ("All is well.", None),
    ("All is well. \n\n", None),
    ("All is well", "ending"),
    ("All is well…", "ending"),
    ("All is well。", "ending"),
    *((f"All is well{mark}", None) for mark in ".!?,;:-\"')]}>`"),
    ("A conversion.", "forbidden word"),
    ("A revised text.", "forbidden word"),
    ("Revised text.", None),  # only in small letters
    ("a\nA version.\nc\nd\ne\nf.", "forbidden word"),
    ("a\nb\nA version.\nd\ne\nf.", None),  # neither of the first two nor of the last three
    ("a\nb\nc\nA version.\ne\nf.", "forbidden word"),
    ("a\nb\nc\nd\ne\nThe last paragraph.", "forbidden word"),
    (f"{words(9)} and {words(9)} end.", None),
    (f"{words(10)} and {words(10)} end.", "repetition"),
    (f"{words(10)} and {words(9)} W9 end.", None),
    ("ha " * 10 + ".", None),
    ("ha " * 11 + ".", "repetition"),  # the two overlap
    (f"{words(10)}\n\nand {words(5)}\n{words(5, 5)} end.", "repetition"),
    (f"{words(10)} and {words(10)}", "ending"),  # the first reason
]
CHINESE = [
    ("", "ending"),
    ("今天很好。", None),
    ("今天很好。 \n", None),
    ("今天很好", "ending"),
    ("今天很好.", "ending"),
    ("今天很好，", "ending"),
    *((f"今天很好{mark}", None) for mark in "。！？…”’）】)]}>`"),
    ("这是 version 2。", None),  # no word is forbidden
    (f"{characters(12)}和{characters(12)}。", None),
    (f"{characters(13)}和{characters(13)}。", "repetition"),
    (
        f"{characters(6)} one two {characters(6, 0x5000)}和{characters(6)} one two {characters(6, 0x5000)}。",
        "repetition",
    ),
    (f"{characters(6)}one{characters(5, 0x5000)}和{characters(6)}one{characters(5, 0x5000)}。", None),  # 12 units
    (f"{characters(6)}one{characters(6, 0x5000)}和{characters(6)}two{characters(6, 0x5000)}。", None),
    (f"{words(30)} {words(30)}。", None),  # a run of ASCII is one unit
]


@pytest.mark.parametrize(("text", "why"), ENGLISH)
def test_the_english_rules(text: str, why: str | None) -> None:
    assert rejection(text) == why and acceptable(text, "en") == (why is None)


@pytest.mark.parametrize(("text", "why"), CHINESE)
def test_the_chinese_rules(text: str, why: str | None) -> None:
    assert rejection(text, "zh") == why and acceptable(text, "zh") == (why is None)


def test_rules_of_another_language() -> None:
    german = RULES["en"]._replace(ends=".", run=3, forbidden=("Fassung",))
    assert rejection("Eine Fassung.", german) == "forbidden word"
    assert rejection("eins zwei drei und eins zwei drei.", german) is None
    assert rejection("eins zwei drei und eins zwei drei .", german) == "repetition"
    assert isinstance(german, Rules)
    for call in (lambda: rejection("text.", "de"), lambda: length_demand(3000, Random(0), "de")):
        with pytest.raises(ValueError, match="no rules for language 'de': known are en, zh"):
            call()


@given(TEXTS)
def test_a_repetition_is_a_run_that_occurs_twice(text: str) -> None:
    text = re.sub(r"[^ab \n]", "", text) + " ."
    assert (rejection(text) == "repetition") == (longest_repeat(text) >= 10)


# ---- cuts


@pytest.mark.parametrize(
    ("text", "first", "second", "thirds"),
    [
        ("", "", "", ""),
        ("A\n\nB\n\nC\n\nD", "A\n\nB", "C\n\nD", "A\n\nB"),
        ("A\n\nB\n\nC\nD", "A", "B\n\nC\nD", "A\n\nB"),
        ("A\n\n\n\nB\n\n\nC", "A", "B\n\n\nC", "A\n\n\n\nB"),  # nothing between blank lines is no paragraph
        ("A\nB\n\nC\nD", "A\nB", "C\nD", "A\nB"),  # two paragraphs: by lines
        ("A\nB\nC", "A", "B\nC", "A\nB"),
        ("One. Two!\n\nThree? Four", "One. Two!", "Three? Four", "One. Two!"),  # two lines: by sentences
        ('He said: "No." Then he left. So.', 'He said: "No."', "Then he left. So.", 'He said: "No." Then he left.'),
        ("一。二！三？四", "一。二！", "三？四", "一。二！"),
        ("Version 1.5 works. It does. Well.", "Version 1.5 works.", "It does. Well.", "Version 1.5 works. It does."),
        ("One sentence", "One sentence", "", "One sentence"),
    ],
)
def test_cuts(text: str, first: str, second: str, thirds: str) -> None:
    assert halves(text) == (first, second)
    assert first_two_thirds(text) == thirds


@given(PIECES, st.sampled_from(["\n\n", "\n", " ", "\n \n"]))
def test_halves_lose_nothing(pieces: list[str], between: str) -> None:
    text = between.join(pieces)
    first, second = halves(text)
    assert first and text.startswith(first) and text.endswith(second)
    assert not text[len(first) : len(text) - len(second)].strip()
    assert text.startswith(first_two_thirds(text)) and len(first_two_thirds(text)) >= len(first)


def test_dropped_lines() -> None:
    text = "\n".join(f"line {i}" for i in range(2000)) + "\n\n \n"
    kept = dropped_lines(text, Random(0)).split("\n\n")
    assert 0.77 < len(kept) / 2000 < 0.83 and kept == sorted(kept, key=lambda line: int(line[5:]))
    assert dropped_lines("a\n\nb", Random(0), share=0.0) == "a\n\nb"
    assert {dropped_lines("a\nb", Random(seed), share=1.0) for seed in range(20)} == {"a", "b"}
    assert dropped_lines(" \n", Random(0)) == ""


def test_keep_long() -> None:
    lengths = list(range(1, 5001))
    kept = [length for length, keep in zip(lengths, keep_long(lengths, Random(1)), strict=True) if keep]
    # All of rank above 2^(-1/3) go; of the others, 1 - 2 rank^3 stay.
    assert min(kept) > 5000 * (1 - 0.5 ** (1 / 3)) - 1
    assert 0.57 < len(kept) / 5000 < 0.62
    assert sum(length > 4000 for length in kept) / 1000 > 0.97
    assert keep_long([7], Random(0)) == [False] and keep_long([], Random(0)) == []
    # Equal ones stand in their order: of ten the first has rank 1 and never stays, the last has 0.1 and nearly always.
    equal = [keep_long([7] * 10, Random(seed)) for seed in range(200)]
    assert not any(one[0] for one in equal) and sum(one[9] for one in equal) > 190


# ---- demands and scores

WORDS = st.integers(2000, 7999)


@given(WORDS, st.integers(0, 10**6), st.sampled_from(["en", "zh"]))
def test_a_demand_is_read_back_and_holds(count: int, seed: int, language: str) -> None:
    demand = length_demand(count, Random(seed), language)
    kind = next(kind for kind in KINDS if matches(kind, demand, language))
    low, high = demanded(kind, demand)
    assert all(bound is None or (bound % 1000 == 0 and 2000 <= bound <= 8000) for bound in (low, high))
    if kind == "about":
        assert low is not None and abs(low - count) <= 1000
    else:
        assert (low or 0) <= count < (high or 10**9) and low != high


def matches(kind: str, demand: str, language: str) -> bool:
    pattern = re.escape(RULES[language].demands[kind]).replace(r"\{low\}", r"\d+").replace(r"\{high\}", r"\d+")
    return re.fullmatch(pattern, demand) is not None


def test_how_often_each_kind_is_demanded() -> None:
    demands = [length_demand(3400, Random(seed)) for seed in range(4000)]
    found = Counter(demands)
    assert set(found) == {
        "around 3000 words", "3000-4000 words", "more than 3000 words", "less than 4000 words",
        "around 4000 words", "2000-4000 words", "more than 2000 words",
    }  # fmt: skip
    kinds = Counter(next(kind for kind in KINDS if matches(kind, demand, "en")) for demand in demands)
    assert [kinds[kind] / 4000 for kind in KINDS] == pytest.approx([0.4, 0.25, 0.1, 0.25], abs=0.03)
    assert 0.17 < sum(found[demand] for demand in found if demand.startswith("around 4000")) / kinds["about"] < 0.23


def test_chinese_demands_say_more_and_less_the_right_way_round() -> None:
    demands = {length_demand(3400, Random(seed), "zh") for seed in range(200)}
    assert {"大约3000字", "3000字至4000字", "大于3000字", "小于4000字"} <= demands


@given(st.integers(60, 249), st.integers(0, 10**6))
def test_short_lengths(count: int, seed: int) -> None:
    demand = length_demand(count, Random(seed), low=60, high=250, step=20)
    numbers = [int(one) for one in re.findall(r"\d+", demand)]
    assert all(0 < one <= 280 for one in numbers)
    with pytest.raises(ValueError, match="at least 60 and below 250, found 250"):
        length_demand(250, Random(seed), low=60, high=250, step=20)


@pytest.mark.parametrize(
    ("kind", "constraint", "bounds"),
    [
        ("about", "around 2,500 words", (2500, None)),
        ("range", "2000字至3000字", (2000, 3000)),
        ("above", "大于2000字", (2000, None)),
        ("below", "less than 8000 words", (None, 8000)),
    ],
)
def test_demands_are_read(kind: str, constraint: str, bounds: tuple[int | None, int | None]) -> None:
    assert demanded(kind, constraint) == bounds


@pytest.mark.parametrize(
    ("kind", "constraint", "said"),
    [
        ("about", "two thousand words", "must have one number"),
        ("range", "around 2000 words", "must have two numbers"),
        ("range", "3000-2000 words", "must not be above"),
        ("near", "around 2000 words", "must be one of about, range, above, below; found 'near'"),
        ("below", "less than 0 words", "must be at least 1"),
    ],
)
def test_demands_that_are_none(kind: str, constraint: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        demanded(kind, constraint)


@pytest.mark.parametrize(
    ("kind", "low", "high", "at"),
    [
        ("about", 1000, None, {0: 0, 400: 0, 600: 0.5, 800: 1, 1000: 1, 1200: 1, 1500: 0.5, 1800: 0, 9999: 0}),
        ("range", 1000, 2000, {500: 0, 750: 0.5, 999: 0.998, 1000: 1, 2000: 1, 2500: 0.5, 3000: 0}),
        ("above", 1000, None, {500: 0, 750: 0.5, 1000: 1, 1500: 1, 1875: 0.5, 2250: 0}),
        ("below", None, 1000, {250: 0, 375: 0.5, 500: 1, 1000: 1, 1250: 0.5, 1500: 0}),
    ],
)
def test_scores(kind: str, low: int | None, high: int | None, at: dict[int, float]) -> None:
    for count, score in at.items():
        assert length_score(count, kind, low, high) == pytest.approx(score, abs=1e-12)


@given(st.integers(0, 20000), st.sampled_from(KINDS), st.integers(1, 8000), st.integers(0, 4000))
def test_scores_are_shares_and_fall_away_from_the_bounds(count: int, kind: str, low: int, wider: int) -> None:
    bounds = {"range": (low, low + wider), "below": (None, low)}.get(kind, (low, None))
    score, more = length_score(count, kind, *bounds), length_score(count + 1, kind, *bounds)
    assert 0 <= score <= 1 and 0 <= more <= 1
    least = {"about": 0.8 * low, "below": 0.5 * low}.get(kind, low)
    assert score <= more or count >= least


@pytest.mark.parametrize(
    ("kind", "low", "high", "said"),
    [
        ("near", 1, None, "kind must be one of"),
        ("about", None, 1000, "kind 'about' needs `low`"),
        ("about", 1000, 1000, "kind 'about' takes no `high`"),
        ("range", 1000, None, "kind 'range' needs `high`"),
        ("range", 2000, 1000, "must not be above"),
        ("above", None, None, "kind 'above' needs `low`"),
        ("below", 1000, None, "kind 'below' takes no `low`"),
        ("below", None, -1, "`high` must be at least 1"),
    ],
)
def test_wrong_bounds(kind: str, low: int | None, high: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        length_score(1000, kind, low, high)


# ---- repetition


@pytest.mark.parametrize(
    ("text", "longest", "different", "distinct"),
    [
        ("", 0, 0, 1.0),
        ("a b c", 0, 2, 1.0),
        ("a b a b", 2, 2, 2 / 3),
        ("a a a a", 3, 1, 1 / 3),
        ("好的好的", 2, 2, 2 / 3),
        ("the cat sat and the cat ran", 2, 5, 5 / 6),
    ],
)
def test_repetition(text: str, longest: int, different: int, distinct: float) -> None:
    assert longest_repeat(text) == longest
    assert different_runs(text, 2) == different
    assert distinct_n(text, 2) == pytest.approx(distinct)


@given(st.lists(st.sampled_from("abc"), max_size=25))
def test_the_longest_repeat_by_looking_everywhere(units: list[str]) -> None:
    n = len(units)
    runs = [
        size
        for size in range(1, n)
        for i in range(n - size)
        for j in range(i + 1, n - size + 1)
        if units[i : i + size] == units[j : j + size]
    ]
    assert longest_repeat(" ".join(units)) == max(runs, default=0)
