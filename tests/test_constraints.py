"""Constraints: the checkers' examples, what holds of any text, and the shipped instructions."""

from __future__ import annotations

import doctest
import json
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from selfimprove.errors import InputError
from selfimprove.judging.checkers import constraints
from selfimprove.judging.checkers.constraints import KINDS, keeps, lenient, read_constraints, strict

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import make_instructions  # noqa: E402

TEXTS = st.text(st.sampled_from("Ab c.,!?\"'\n-*{}:1Ää…“”"), max_size=60)
ANY = {"n": 2, "word": "Ab"}
EVERY = [
    {"kind": kind, **{key: value for key, value in ANY.items() if key in function.__annotations__}}
    for kind, function in KINDS.items()
]


def test_the_checkers_do_what_their_examples_say() -> None:
    found = doctest.testmod(constraints)
    assert found.attempted > 20 and not found.failed
    assert all(function.__doc__ and ">>>" in function.__doc__ for function in KINDS.values())


@given(TEXTS)
def test_any_text_is_checked_without_an_error_and_strict_is_never_more_than_lenient(text: str) -> None:
    for one in EVERY:
        assert isinstance(keeps(text, one), bool)
        assert strict(text, [one]) <= lenient(text, [one])
    assert not strict(" \n", EVERY[:1]) and not strict("", EVERY[-1:])


@given(TEXTS)
def test_bounds_that_exclude_each_other_are_never_both_kept(text: str) -> None:
    def kept(kind: str, **given: object) -> bool:
        return keeps(text, {"kind": kind, **given})

    assert kept("words_exactly", n=3) == (kept("words_at_least", n=3) and kept("words_at_most", n=3))
    assert not (kept("words_at_least", n=4) and kept("words_at_most", n=3))
    assert not (kept("lowercase") and kept("capitals"))
    assert not (kept("question") and kept("exclamation"))
    assert not (kept("includes", word="Ab") and kept("without", word="Ab"))
    assert kept("includes", word="ab") == kept("includes", word="AB")  # in any case of letters
    for place in ("begins_with", "ends_with", "twice"):
        assert not kept(place, word="Ab") or kept("includes", word="Ab")


@pytest.mark.parametrize("one", EVERY, ids=lambda one: str(one["kind"]))
def test_a_table_s_nulls_and_floats_are_read_as_what_they_were(one: dict[str, object]) -> None:
    as_table = {**dict.fromkeys(("word", "n")), **{k: float(v) if isinstance(v, int) else v for k, v in one.items()}}
    assert read_constraints([as_table], "row 1") == [one] == read_constraints(json.dumps([one]), "row 1")
    for wrong in ({**one, "wrod": "x"}, {**one, "kind": str(one["kind"]) + "x"}):
        with pytest.raises(InputError, match="row 1: "):
            read_constraints([wrong], "row 1")


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "two", float("nan")])
def test_a_number_of_words_is_a_whole_one(n: object) -> None:
    with pytest.raises(InputError, match="row 1"):
        read_constraints([{"kind": "words_at_most", "n": n}], "row 1")


# ---- the shipped instructions


def test_the_shipped_instructions_are_what_the_lists_make() -> None:
    for name, rows in make_instructions.files().items():
        shipped = [json.loads(line) for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
        assert shipped == rows, f"{name}: run `python tools/make_instructions.py`"
        assert all(read_constraints(row["constraints"], name) for row in rows)
        assert len({row["prompt"] for row in rows}) == len(rows)


def test_no_topic_and_no_word_of_one_part_is_in_another() -> None:
    lists = yaml.safe_load(make_instructions.LISTS.read_text(encoding="utf-8"))
    for kind in ("topics", "openers", "words"):
        parts = [{one.lower() for one in part} for part in lists[kind].values()]
        assert len(set().union(*parts)) == sum(map(len, parts)), kind
    assert not set(lists["trained"]) & set(lists["unseen"])
    assert set(lists["kinds"]) == {*lists["trained"], *lists["unseen"]}


def test_every_beginning_of_a_file_has_all_kinds_alike() -> None:
    for rows in make_instructions.files().values():
        kinds = len({row["group"] for row in rows})
        for start in range(0, len(rows), kinds):
            assert len({row["group"] for row in rows[start : start + kinds]}) == kinds
