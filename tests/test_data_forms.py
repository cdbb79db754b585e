"""Data as people have them: kinds of files, forms of rows, and values that are missing."""

from __future__ import annotations

import csv
import datetime
import doctest
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from selfimprove.data import forms
from selfimprove.data.sources import DataSource, load_examples, load_preferences, load_prompts
from selfimprove.errors import InputError

ROWS = [{"prompt": f"Say {word}", "response": word} for word in ("cat", "dog", "sun")]


def source(path: str, **more: Any) -> DataSource:
    return DataSource(path=path, **more)


def lines(folder: Path, *rows: dict[str, Any], name: str = "data.jsonl") -> DataSource:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return source(name)


def said(messages: Any) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in messages]


def test_the_examples_of_the_docstrings() -> None:
    assert doctest.testmod(forms).failed == 0


def test_kinds_of_files_hold_the_same_rows(tmp_path: Path) -> None:
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    for name in ("lines.json", "UPPER.JSONL", "bom.jsonl"):
        (tmp_path / name).write_text(text, encoding="utf-8-sig" if name == "bom.jsonl" else "utf-8")
    (tmp_path / "list.JSON").write_text(json.dumps(ROWS))
    for name, mark in (("table.csv", ","), ("table.TSV", "\t")):
        with (tmp_path / name).open("w", newline="") as file:
            table = csv.DictWriter(file, ["prompt", "response"], delimiter=mark)
            table.writeheader()
            table.writerows(ROWS)
    (tmp_path / "parts").mkdir()
    for number in (0, 1):
        part = pa.Table.from_pylist(ROWS[2 * number : 2 * number + 2])
        parquet.write_table(part, tmp_path / "parts" / f"train-0000{number}-of-00002.parquet")
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    names = [
        "lines.json",
        "UPPER.JSONL",
        "bom.jsonl",
        "list.JSON",
        "table.csv",
        "table.TSV",
        "parts",
        "parts/*.parquet",
    ]
    for name in [*names, "saved", str(tmp_path / "parts" / "*.parquet")]:
        found = load_examples(source(name), [tmp_path])
        assert [(one.prompt.messages[-1]["content"], one.response) for one in found] == [
            (row["prompt"], row["response"]) for row in ROWS
        ], name
    (tmp_path / "asked.txt").write_text("Say cat\n\n  Say dog  \n")
    assert [one.messages[-1]["content"] for one in load_prompts(source("asked.txt"), [tmp_path])] == [
        "Say cat",
        "Say dog",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "prompt,response\nx,y,z\n", "line 2: has more cells than the header"),
        ("a.csv", "prompt,response\nx\n", "line 2: has fewer cells than the header"),
        ("a.csv", "prompt,response\n", "there are no rows"),
        ("a.json", '{"data": [1]}', "one object per line.*under 'data'"),
        ("a.xlsx", "", "unknown kind of file '.xlsx'; use .jsonl"),
        ("parts/readme.md", "", "holds no file that ends with .jsonl"),
    ],
)
def test_files_that_are_not_what_they_say(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        load_prompts(source(name.partition("/")[0]), [tmp_path])


def test_a_folder_of_several_kinds_or_splits_is_refused(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "mixed").mkdir()
    for name in ("a.jsonl", "b.csv"):
        (tmp_path / "mixed" / name).write_text("")
    with pytest.raises(InputError, match=r"several kinds; give a pattern"):
        load_prompts(source("mixed"), [tmp_path])
    both = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS)})
    both.save_to_disk(str(tmp_path / "both"))
    with pytest.raises(InputError, match=r"several splits \(train, test\)"):
        load_prompts(source("both"), [tmp_path])


@pytest.mark.parametrize("missing", [float("nan"), float("inf"), None])
def test_what_a_table_left_out_is_missing(tmp_path: Path, missing: float | None) -> None:
    (found,) = load_examples(lines(tmp_path, {"instruction": "Say", "input": missing, "output": "cat"}), [tmp_path])
    assert found.prompt.messages[-1]["content"] == "Say"
    (asked,) = load_prompts(lines(tmp_path, {"prompt": "Say", "answer": missing}), [tmp_path])
    assert asked.answer is None
    with pytest.raises(InputError, match="line 1"):
        load_examples(lines(tmp_path, {"instruction": "Say", "output": missing}), [tmp_path])
    with pytest.raises(InputError, match=r"line 1.*rejected"):
        load_preferences(lines(tmp_path, {"prompt": "Say", "chosen": "a", "rejected": missing}), [tmp_path])


def test_whole_numbers_stay_whole_and_dates_are_text(tmp_path: Path) -> None:
    rows = [
        {"prompt": "8 x 9?", "answer": 72.0},
        {"prompt": "Large?", "answer": 1e16},
        {"prompt": "Half?", "answer": 0.5},
    ]
    found = load_prompts(lines(tmp_path, *rows), [tmp_path])
    assert [one.answer for one in found] == ["72", "10000000000000000", "0.5"]
    parquet.write_table(
        pa.Table.from_pylist(
            [{"prompt": "x", "day": datetime.date(2024, 7, 26), "at": datetime.datetime(2024, 7, 26, 1)}]
        ),
        tmp_path / "dated.parquet",
    )
    (dated,) = load_prompts(source("dated.parquet"), [tmp_path])
    assert json.loads(json.dumps(dated.row)) == {"prompt": "x", "day": "2024-07-26", "at": "2024-07-26T01:00:00"}


def test_columns_without_which_the_answer_cannot_be_known(tmp_path: Path) -> None:
    for row, turns in (
        (
            {"instruction": "When?", "context": "It opened in 1901.", "response": "1901"},
            [("user", "When?\n\nIt opened in 1901.")],
        ),
        ({"question": "When?", "context": "In 1901.", "response": "1901"}, [("user", "When?\n\nIn 1901.")]),
        ({"system": "In French.", "question": "Yes?", "response": "oui"}, [("system", "In French."), ("user", "Yes?")]),
        (
            {"system_prompt": "In French.", "question": "Yes?", "response": "oui"},
            [("system", "In French."), ("user", "Yes?")],
        ),
        ({"system": "", "question": "Yes?", "response": "yes"}, [("user", "Yes?")]),
        (
            {"instruction": "Again?", "history": [["Hello", "Hi"]], "output": "yes"},
            [("user", "Hello"), ("assistant", "Hi"), ("user", "Again?")],
        ),
    ):
        (found,) = load_examples(lines(tmp_path, row), [tmp_path])
        assert said(found.prompt.messages) == turns
    with pytest.raises(InputError, match="history must be a list"):
        load_examples(lines(tmp_path, {"instruction": "x", "history": ["Hello"], "output": "y"}), [tmp_path])


U, A, S = ((lambda text, role=role: {"role": role, "content": text}) for role in ("user", "assistant", "system"))


def test_sharegpt_is_read(tmp_path: Path) -> None:
    row = {
        "conversations": [
            {"from": "system", "value": "Be kind."},
            {"from": "human", "value": "Hello"},
            {"from": "gpt", "value": "Hi"},
        ]
    }
    for one in (lines(tmp_path, row), source("data.jsonl", fields={"messages": "conversations"})):
        (found,) = load_examples(one, [tmp_path])
        assert said(found.prompt.messages) == [("system", "Be kind."), ("user", "Hello")] and found.response == "Hi"


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ({**A("BAD"), "weight": 0}, "weight: 0"),
        ({**A("I look it up."), "tool_calls": [{"id": 1}]}, "`tool_calls` of a turn"),
        ({**A("4"), "reasoning_content": "2 and 2"}, "`reasoning_content` of a turn"),
        ({"role": "tool", "content": "x"}, "a turn needs role"),
    ],
)
def test_what_of_a_turn_cannot_be_trained_is_refused_by_name(
    tmp_path: Path, last: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"line 1: .*{message}"):
        load_examples(lines(tmp_path, {"messages": [U("x"), last]}), [tmp_path])


def test_nothing_is_refused_for_what_says_nothing(tmp_path: Path) -> None:
    turn = {**A("4"), "tool_calls": [], "reasoning_content": None, "weight": 1}
    (found,) = load_examples(
        lines(tmp_path, {"messages": [U("x"), {**A("no"), "weight": 0}, U("y"), turn]}), [tmp_path]
    )
    assert found.response == "4"


def test_the_prompt_of_a_pair_beside_turns_that_repeat_it(tmp_path: Path) -> None:
    def pair(prompt: Any, head: list[dict[str, str]]) -> Any:
        row = {"prompt": prompt, "chosen": [*head, A("good")], "rejected": [*head, A("bad")]}
        (found,) = load_preferences(lines(tmp_path, row), [tmp_path])
        return said(found.prompt.messages)

    assert pair("Hello", [U("Hello")]) == [("user", "Hello")]
    assert pair([S("In French."), U("Hello")], [U("Hello")]) == [("system", "In French."), ("user", "Hello")]
    assert pair([U("Hello")], [S("In French."), U("Hello")]) == [("system", "In French."), ("user", "Hello")]
    assert pair("Hello", [U("Hello"), A("Hi"), U("Again?")]) == [
        ("user", "Hello"),
        ("assistant", "Hi"),
        ("user", "Again?"),
    ]
    with pytest.raises(InputError, match=r"ital of Peru.*is not what the turns of chosen repeat"):
        pair("Which is the capital of Peru?", [U("Hello")])
    with pytest.raises(InputError, match="different system turns"):
        pair([S("In French."), U("Hello")], [S("In German."), U("Hello")])


def test_a_dialogue_in_a_string(tmp_path: Path) -> None:
    head = "\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: Again?\n\nAssistant:"
    turns = [("user", "Hello"), ("assistant", "Hi"), ("user", "Again?")]
    for row in (
        {"chosen": f"{head} yes", "rejected": f"{head} no"},
        {"prompt": head, "chosen": " yes", "rejected": " no"},
    ):
        (found,) = load_preferences(lines(tmp_path, row), [tmp_path])
        assert said(found.prompt.messages) == turns
        assert (found.chosen.strip(), found.rejected.strip()) == ("yes", "no")
    (asked,) = load_prompts(lines(tmp_path, {"prompt": "Human: is a word. Assistant: another"}), [tmp_path])
    assert said(asked.messages) == [("user", "Human: is a word. Assistant: another")]


def test_a_system_column_stands_before_turns_of_every_form(tmp_path: Path) -> None:
    told = [("system", "In French."), ("user", "Yes?")]
    for row in (
        {"conversations": [{"from": "human", "value": "Yes?"}, {"from": "gpt", "value": "oui"}]},
        {"prompt": [U("Yes?")], "completion": "oui"},
        {"prompt": "\n\nHuman: Yes?\n\nAssistant:", "completion": "oui"},
        {"messages": [S("In French."), U("Yes?"), A("oui")]},
    ):
        (found,) = load_examples(lines(tmp_path, {**row, "system": "In French."}), [tmp_path])
        assert said(found.prompt.messages) == told, row
    pair = {"system": "In French.", "chosen": [U("Yes?"), A("oui")], "rejected": [U("Yes?"), A("yes")]}
    (preference,) = load_preferences(lines(tmp_path, pair), [tmp_path])
    assert said(preference.prompt.messages) == told
    with pytest.raises(InputError, match=r"two system texts, 'In German\.' and 'In French\.'"):
        row = {"messages": [S("In German."), U("Yes?"), A("ja")], "system": "In French."}
        load_examples(lines(tmp_path, row), [tmp_path])


def test_answers_not_to_be_imitated_are_refused(tmp_path: Path) -> None:
    bad = {"prompt": "x", "completion": "BAD", "label": False}
    good = {"prompt": "y", "completion": "good", "label": True}
    with pytest.raises(InputError, match=r"line 2: `label: false`.*where"):
        load_examples(lines(tmp_path, good, bad), [tmp_path])
    (kept,) = load_examples(source("data.jsonl", where={"label": True}), [tmp_path])
    assert kept.response == "good"
    assert len(load_examples(source("data.jsonl", fields={"label": ""}), [tmp_path])) == 2
    for mark in ({"weight": 0}, {"weight": 0.0}, {"train": False}):
        with pytest.raises(InputError, match="is not to be learned"):
            load_examples(lines(tmp_path, {"messages": [U("x"), {**A("BAD"), **mark}, U("Why?")]}), [tmp_path])


def test_response_turns_repeat_the_prompt_once_or_are_of_another_question(tmp_path: Path) -> None:
    (found,) = load_examples(lines(tmp_path, {"prompt": [U("x")], "completion": [U("x"), A("y")]}), [tmp_path])
    assert said(found.prompt.messages) == [("user", "x")]
    with pytest.raises(InputError, match="not what the turns of response repeat"):
        load_examples(lines(tmp_path, {"prompt": "z", "completion": [U("x"), A("y")]}), [tmp_path])


def test_numbers_and_bytes_of_tables(tmp_path: Path) -> None:
    row = {"prompt": "8 x 9?", "choices": [72.0, 4.0], "answer": 72.0}
    (asked,) = load_prompts(lines(tmp_path, row), [tmp_path])
    assert (asked.choices, asked.right_choice) == (("72", "4"), 0)
    (tmp_path / "gap.csv").write_text("prompt,answer,score\na,72.0,0.5\nb,,1.0\nc,-4.0,2.0\n")
    found = load_prompts(source("gap.csv"), [tmp_path])
    assert [one.answer for one in found] == ["72", None, "-4"]
    assert [one.row["score"] for one in found] == ["0.5", "1.0", "2.0"], "0.5 says that the column is of fractions"
    (tmp_path / "sure.csv").write_text("prompt,chosen,rejected,confidence\nx,a,b,0.8\n")
    assert load_preferences(source("sure.csv"), [tmp_path])[0].confidence == 0.8
    rows = pa.table({"prompt": [b"caf\xc3\xa9"], "picture": [b"\xff\xd8"]})
    parquet.write_table(rows, tmp_path / "bytes.parquet")
    (text,) = load_prompts(source("bytes.parquet"), [tmp_path])
    assert text.messages[-1]["content"] == "café" and text.row["picture"]["bytes"] == 2
    with pytest.raises(InputError, match="prompt must be text"):
        load_prompts(source("bytes.parquet", fields={"prompt": "picture"}), [tmp_path])


def test_rows_that_are_not_the_data_stay_out(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    datasets.load_from_disk(str(tmp_path / "saved")).map(lambda row: {"response": "cached"})
    assert list((tmp_path / "saved").glob("cache-*.arrow")), "`map` leaves its cache beside the data"
    assert [one.response for one in load_examples(source("saved"), [tmp_path])] == [row["response"] for row in ROWS]
    (tmp_path / "splits").mkdir()
    for name in ("train-00000.jsonl", "test-00000.jsonl"):
        (tmp_path / "splits" / name).write_text(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(InputError, match=r"several splits \(test, train\).*splits/train\*\.jsonl"):
        load_prompts(source("splits"), [tmp_path])
    for text, message in (("prompt,prompt\na,b\n", "column 'prompt' twice"), ("", "no rows")):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            load_prompts(source("bad.csv"), [tmp_path])


def test_what_was_not_read_is_named_in_one_line(tmp_path: Path) -> None:
    notes: list[str] = []
    row = {
        "prompt": "Hello",
        "messages": [U("Hello"), {**A("Hi"), "name": "Bob"}],
        "tools": ["x"],
        "note": None,
        "s": "t",
    }
    load_examples(lines(tmp_path, row, row, name="chat.jsonl"), [tmp_path], note=notes.append)
    load_examples(source("chat.jsonl", where={"s": "t"}), [tmp_path], note=notes.append)
    place = tmp_path / "chat.jsonl"
    assert notes[:2] == [
        f"{place}: columns that are not read: `prompt`, `tools`, `s`",
        f"{place}: keys of turns that are not read: `name`",
    ]
    assert notes[2] == f"{place}: columns that are not read: `prompt`, `tools`"
    notes.clear()
    told = {"system": "In French.", "question": "Yes?", "response": "oui"}
    load_examples(lines(tmp_path, told, name="told.jsonl"), [tmp_path], note=notes.append)
    assert notes == []
    load_examples(source("told.jsonl", template="{question}"), [tmp_path], note=notes.append)
    assert notes == [f"{tmp_path / 'told.jsonl'}: columns that are not read: `system`"]
    notes.clear()
    pair = {"prompt": "x", "chosen": "a", "rejected": "b", "score_chosen": 1.0, "score_rejected": 5.0}
    other = {**pair, "score_chosen": 6.0}
    load_preferences(lines(tmp_path, pair, other, name="pairs.jsonl"), [tmp_path], notes.append)
    assert notes == [f"{tmp_path / 'pairs.jsonl'}: in 1 of 2 pairs the rejected answer has the higher score"]
