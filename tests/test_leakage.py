"""Leaks between training and evaluation texts, and the shipped words task, which must have none."""

from __future__ import annotations

import json
import time
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove.data.leakage import leaks
from selfimprove.data.sources import DataSource, load_examples, load_prompts

ROOT = Path(__file__).resolve().parent.parent
WORDS = {
    "recipes/data/words/seed.jsonl": 96,
    "recipes/data/words/prompts.jsonl": 600,
    "recipes/data/words/development.jsonl": 198,
    "eval/words/test.jsonl": 300,
}
word = st.text(alphabet="abcdefghij", min_size=1, max_size=6)
ITEM = "a farmer had seventeen sheep and all but nine of them ran away during one cold night"


@pytest.mark.parametrize(
    ("training", "evaluation"),
    [
        ("What is 2 + 3?", "what  is 2 + 3"),
        ("“Ｆｕｌｌ” width, ﬁne!", 'full\nwidth "FINE"'),
        ("don't -- stop", "Don't stop."),
    ],
)
def test_exact_match_is_normalised(training: str, evaluation: str) -> None:
    assert leaks([training], [evaluation]) == [(training, evaluation, "the same text after normalisation")]


@pytest.mark.parametrize(
    ("training", "evaluation"),
    [("What is 2 + 3?", "What is 2 - 3?"), ("What is 7*3?", "What is 7/3?"), ("???", "!!!"), ("", "")],
)
def test_different_sums_are_different_texts(training: str, evaluation: str) -> None:
    assert leaks([training], [evaluation]) == []


def test_thirteen_shared_words_are_a_leak_and_twelve_are_not() -> None:
    words = ITEM.split()
    for count, found in ((13, 1), (12, 0)):
        training = "Somewhere else " + " ".join(words[:count]).upper() + ", says the teacher"
        result = leaks([training], [ITEM, "another text"])
        assert len(result) == found
    assert leaks([" ".join(words[:13])], [ITEM])[0][2] == f"13 words in common: {' '.join(words[:13])!r}"


def test_the_instruction_of_a_task_is_not_a_leak() -> None:
    instruction = "Which of these two animals is larger? Answer with the name of the larger animal only.\n\n"
    evaluation = [instruction + pair for pair in ("penguin, mouse", "horse, cat", "flea, elephant")]
    # 14 words of instruction and the first animal: a run that only one evaluation text has, but no item.
    assert leaks([instruction + "penguin, whale"], evaluation) == []
    assert [why for *_, why in leaks([instruction + "horse; cat"], evaluation)] == ["the same text after normalisation"]
    # Behind the same instruction a long item is still found.
    evaluation += [instruction + ITEM]
    assert [item for _, item, _ in leaks(["Once " + ITEM], evaluation)] == [instruction + ITEM]


@given(st.lists(st.lists(word, min_size=1, max_size=30).map(" ".join), max_size=8))
def test_a_copy_is_always_found_and_nothing_leaks_into_nothing(texts: list[str]) -> None:
    found = {training for training, _, why in leaks(texts, texts) if why.startswith("the same")}
    assert found == set(texts)
    assert leaks(texts, []) == leaks([], texts) == []


@given(
    st.lists(word, min_size=13, max_size=13, unique=True),
    st.lists(word, max_size=9),
    st.lists(word, max_size=9),
)
def test_a_run_of_thirteen_is_found_wherever_it_stands(run: list[str], before: list[str], after: list[str]) -> None:
    item = " ".join(run)
    assert len(leaks([" ".join([*before, *run, *after])], [item, "zzz"])) == 1


def test_a_run_must_be_longer_than_a_word() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        leaks([], [], n=1)


def test_ten_thousands_of_texts_take_seconds() -> None:
    training = [" ".join(f"w{(i * 7919 + j * j) % 30011}" for j in range(60)) for i in range(20_000)]
    start = time.perf_counter()
    found = leaks(training, [f"{i} {ITEM} {i}" for i in range(1000)] + [training[77] + " and so on"])
    assert [text for text, *_ in found] == [training[77]]
    assert time.perf_counter() - start < 10  # half a second on two cores


# The words task


def read(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (ROOT / name).read_text("utf-8").splitlines()]


def item(row: dict[str, str]) -> tuple[str, frozenset[str]]:
    """What makes a row the same question; plural and past share one space of words."""
    words = frozenset(row["prompt"].split("\n\n")[1].lower().split(", "))
    return ("word" if row["group"] in ("plural", "past") else row["group"]), words


def test_words_splits_are_disjoint() -> None:
    items = {name: [item(row) for row in read(name)] for name in WORDS}
    for name, found in items.items():
        assert len(set(found)) == len(found) == WORDS[name]
    for one, other in combinations(items.values(), 2):
        assert not set(one) & set(other)
    ids = [row["id"] for name in WORDS for row in read(name)]
    assert len(set(ids)) == len(ids)


def test_words_test_is_not_in_the_training_data() -> None:
    prompts = {name: [row["prompt"] for row in read(name)] for name in WORDS}
    for one, other in combinations(prompts, 2):
        assert leaks(prompts[one], prompts[other]) == []
    leaked = prompts["eval/words/test.jsonl"][5].upper()
    assert len(leaks([leaked], prompts["eval/words/test.jsonl"])) == 1


@pytest.mark.parametrize("name", WORDS)
def test_words_rows_load_and_every_prefix_is_balanced(name: str) -> None:
    rows = read(name)
    for length in (6, 32, 100, len(rows)):
        counts = Counter(row["group"] for row in rows[:length])
        assert len(counts) == 6
        assert max(counts.values()) - min(counts.values()) <= 1
    prompts = load_prompts(DataSource(path=name), [ROOT])
    assert [(p.id, p.answer, p.group) for p in prompts] == [(r["id"], r["answer"], r["group"]) for r in rows]
    if name.endswith("seed.jsonl"):
        examples = load_examples(DataSource(path=name), [ROOT])
        assert all(example.response == example.prompt.answer for example in examples)
    assert all(len(row["prompt"].split()) <= 25 for row in rows)
