"""Data sources: what they accept, what they refuse, and what the refusal says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from pydantic import ValidationError

from selfimprove.data.sources import DataSource, load_examples, load_preferences, load_prompts
from selfimprove.errors import InputError

text = st.text(min_size=1).filter(lambda value: bool(value.strip()))


def write(folder: Path, rows: Sequence[Any], name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def source(name: str = "data.jsonl", **options: Any) -> DataSource:
    return DataSource.model_validate({"path": name, **options})


def asked(rows: Sequence[Any]) -> list[str]:
    return [prompt.messages[-1]["content"] for prompt in rows]


# What is read


def test_rows_keep_file_order_and_every_column_its_meaning(tmp_path: Path) -> None:
    write(
        tmp_path,
        [
            {"id": "b", "prompt": "Two?", "answer": 2, "group": "numbers", "choices": ["1", "2"]},
            {"id": "a", "prompt": "One?"},
        ],
    )
    second, first = load_prompts(source(), [tmp_path])
    assert (second.id, second.answer, second.group, second.choices) == ("b", "2", "numbers", ("1", "2"))
    assert second.messages == ({"role": "user", "content": "Two?"},)
    assert (first.id, first.answer, first.group, first.choices) == ("a", None, None, None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(text, text), min_size=1, max_size=20), blank=st.booleans())
def test_jsonl_round_trip(tmp_path: Path, rows: list[tuple[str, str]], blank: bool) -> None:
    path = write(tmp_path, [{"prompt": prompt, "response": response} for prompt, response in rows])
    if blank:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"}\n", b"}\r\n\r\n"))
    examples = load_examples(source(), [tmp_path])
    assert [(e.prompt.messages[0]["content"], e.response) for e in examples] == rows
    assert len({e.prompt.id for e in examples}) == len(rows)


def test_json_list_and_parquet_read_the_same(tmp_path: Path) -> None:
    rows = [{"prompt": "A?", "answer": "a"}, {"prompt": "B?", "answer": "b"}]
    write(tmp_path, rows)
    (tmp_path / "data.json").write_text(json.dumps(rows, indent=1))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet", row_group_size=1)
    lines = load_prompts(source(), [tmp_path])
    assert load_prompts(source("data.json"), [tmp_path]) == lines
    assert load_prompts(source("data.parquet"), [tmp_path]) == lines


def test_bare_text_is_a_path_found_in_the_first_folder_that_has_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, [{"prompt": name}])
    bare = DataSource.model_validate("data.jsonl")
    assert bare == source()
    assert asked(load_prompts(bare, [tmp_path / "none", tmp_path / "two", tmp_path / "one"])) == ["two"]
    assert asked(load_prompts(source(str(tmp_path / "one/data.jsonl")), [tmp_path / "two"])) == ["one"]


def test_usual_column_names_and_named_columns(tmp_path: Path) -> None:
    write(tmp_path, [{"question": "Q?", "answer": "#### 4", "output": "Four."}])
    [example] = load_examples(source(), [tmp_path])
    assert (asked([example.prompt]), example.response) == (["Q?"], "Four.")
    named = source(fields={"prompt": "output", "response": "answer", "answer": ""})
    [example] = load_examples(named, [tmp_path])
    assert (asked([example.prompt]), example.response, example.prompt.answer) == (["Four."], "#### 4", None)


def test_alpaca_rows_keep_their_input(tmp_path: Path) -> None:
    write(
        tmp_path,
        [
            {"instruction": "List the verbs:", "input": "They ran.", "output": "ran"},
            {"instruction": "Say hi.", "input": "", "output": "hi"},
        ],
    )
    assert asked([e.prompt for e in load_examples(source(), [tmp_path])]) == [
        "List the verbs:\n\nThey ran.",
        "Say hi.",
    ]


def test_conversation_gives_prompt_and_last_assistant_turn(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "See you"},
    ]
    write(tmp_path, [{"messages": turns}])
    [example] = load_examples(source(), [tmp_path])
    assert (list(example.prompt.messages), example.response) == (turns[:4], "See you")
    assert load_prompts(source(), [tmp_path]) == [example.prompt]
    write(tmp_path, [{"messages": turns[:4]}])
    [open_end] = load_prompts(source(), [tmp_path])
    assert list(open_end.messages) == turns[:4]
    # Beside a prompt column (as in UltraChat) a conversation is used where it is needed or named.
    write(tmp_path, [{"prompt": "Hi", "messages": turns}])
    assert asked(load_prompts(source(), [tmp_path])) == ["Hi"]
    assert asked(load_prompts(source(fields={"messages": "messages"}), [tmp_path])) == ["Bye"]
    assert load_examples(source(), [tmp_path])[0].response == "See you"


def test_preferences_in_every_form_of_trl(tmp_path: Path) -> None:
    question, good, bad = (
        {"role": role, "content": content}
        for role, content in (("user", "Q?"), ("assistant", "good"), ("assistant", "bad"))
    )
    write(
        tmp_path,
        [
            {"prompt": "Q?", "chosen": "good", "rejected": "bad", "confidence": 0.75},
            {"prompt": [question], "chosen": [good], "rejected": [bad], "confidence": 1},
            {"chosen": [question, good], "rejected": [question, bad], "confidence": 0},
            {"prompt": "Q?", "chosen": [question, good], "rejected": [question, bad], "confidence": 0.5},
        ],
    )
    pairs = load_preferences(source(), [tmp_path])
    assert {(*asked([p.prompt]), len(p.prompt.messages), p.chosen, p.rejected) for p in pairs} == {
        ("Q?", 1, "good", "bad")
    }
    assert [p.confidence for p in pairs] == [0.75, 1.0, 0.0, 0.5]
    assert load_preferences(source(fields={"confidence": ""}), [tmp_path])[0].confidence == 1.0


def test_where_then_limit(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}", "level": i % 2, "hard": i > 3} for i in range(8)]
    write(tmp_path, [*rows, {"prompt": "no level"}])
    assert asked(load_prompts(source(where={"level": 1}), [tmp_path])) == ["1", "3", "5", "7"]
    assert asked(load_prompts(source(where={"level": 1, "hard": True}, limit=1), [tmp_path])) == ["5"]
    with pytest.raises(InputError, match="none of the 9 rows"):  # True is not 1
        load_prompts(source(where={"level": True}), [tmp_path])


def test_template_is_not_str_format(tmp_path: Path) -> None:
    hostile = "{answer} {0.__class__} {question} %s \\1 {{x}}"
    write(tmp_path, [{"question": hostile, "answer": "secret", "n": 3}])
    prompts = load_prompts(source(template="Q{n}: {question}\nPut it in \\boxed{}. \n"), [tmp_path])
    assert asked(prompts) == [f"Q3: {hostile}\nPut it in \\boxed{{}}."]


def test_template_shows_choices(tmp_path: Path) -> None:
    write(
        tmp_path,
        [
            {"q": "Which?", "choices": {"text": ["sun", "moon"], "label": ["1", "2"]}, "key": "2"},
            {"q": "What?", "choices": ["sea", "land"], "key": "A"},
        ],
    )
    prompts = load_prompts(source(template="{q}\n{choices}", fields={"answer": "key"}), [tmp_path])
    assert asked(prompts) == ["Which?\n1. sun\n2. moon", "What?\nA. sea\nB. land"]
    assert [(p.choices, p.answer) for p in prompts] == [(("sun", "moon"), "2"), (("sea", "land"), "A")]


def test_ids_come_from_the_content(tmp_path: Path) -> None:
    write(tmp_path, [{"prompt": "A?"}, {"prompt": "B?"}, {"prompt": "A?"}, {"prompt": "A?"}])
    first, second, third, fourth = (prompt.id for prompt in load_prompts(source(), [tmp_path]))
    assert (third, fourth) == (f"{first}-2", f"{first}-3")
    assert second != first
    # The same question has the same id in another file, another form, another place.
    write(tmp_path, [{"text": "B?"}, {"text": [{"role": "user", "content": "A?", "name": "x"}]}])
    assert [p.id for p in load_prompts(source(fields={"prompt": "text"}), [tmp_path])] == [second, first]


# Wrong results that others shipped


def test_sppo_prompts_cut_at_the_word_none(tmp_path: Path) -> None:
    prompt = "None of these? None, null, nan: None\nWhy does Python print None"
    write(tmp_path, [{"prompt": prompt, "response": "None", "answer": "None"}])
    [example] = load_examples(source(), [tmp_path])
    assert (asked([example.prompt]), example.response, example.prompt.answer) == ([prompt], "None", "None")


@pytest.mark.parametrize("count", [1, 7, 64, 103])
def test_online_rlhf_tail_of_the_data_is_not_dropped(tmp_path: Path, count: int) -> None:
    rows = [{"prompt": f"question {i}"} for i in range(count)]
    path = write(tmp_path, rows)
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet", row_group_size=8)
    for name in ("data.jsonl", "data.parquet"):
        assert asked(load_prompts(source(name), [tmp_path])) == [row["prompt"] for row in rows]


# What is refused, and how


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "a"}\n\n{"prompt": \n', r"data\.jsonl, line 3, column \d+: not JSON"),
        (b'{"prompt": "a"}\n{"prompt": "\xff"}\n', "line 2: not JSON in UTF-8"),
        (b'{"prompt": "a"}\n["b"]\n', "line 2: a row must be an object"),
        (b'{"prompt": "a"}\n{"promt": "b"}\n', r"line 2: no column 'prompt'.*found: promt.*mean 'promt'"),
        (b'{"prompt": "a"}\n{"prompt": " \\n"}\n', "line 2: the prompt is empty"),
        (b'{"prompt": "a"}\n{"prompt": null}\n', "line 2: prompt is null"),
        (b'{"prompt": "a"}\n{"prompt": {"x": 1}}\n', "line 2: prompt must be text"),
        (b'{"prompt": "a"}\n{"prompt": [{"from": "human"}]}\n', "line 2: prompt: a turn needs role"),
        (b'{"prompt": "a", "id": 1}\n{"prompt": "b", "id": "1"}\n', "line 2: id '1' is that of .*line 1"),
        (b'{"prompt": "a", "choices": "x"}\n', "line 1: choices must be a list"),
        (b"", "there are no rows"),
        (b"\n \n", "there are no rows"),
    ],
)
def test_malformed_file_says_where(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "data.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_prompts(source(), [tmp_path])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": {"prompt": "quetsion"}}, r"line 1: no column 'quetsion' \(fields.prompt\).*'question'"),
        ({"template": "{qestion}?"}, r"line 1: no column 'qestion' \(template\).*'question'"),
        ({"where": {"levl": 3}}, r"no column 'levl' \(where\); columns found: question, level.*'level'"),
        ({"where": {"level": 4}}, "none of the 1 rows matches where"),
    ],
)
def test_unknown_columns_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write(tmp_path, [{"question": "Q?", "level": 3}])
    with pytest.raises(InputError, match=message):
        load_prompts(source(**options), [tmp_path])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a"}, "no column 'chosen'"),
        ({"prompt": "a", "chosen": "", "rejected": "x"}, "chosen is empty"),
        ({"prompt": "a", "chosen": "x", "rejected": "y", "confidence": 1.5}, "from 0 to 1, found 1.5"),
        ({"prompt": "a", "chosen": "x", "rejected": "y", "confidence": None}, "from 0 to 1, found None"),
        ({"prompt": "a", "chosen": "x", "rejected": "y", "confidence": float("nan")}, "found None"),
        ({"chosen": "x", "rejected": "y"}, "no column 'prompt'"),
    ],
)
def test_malformed_preferences(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    write(tmp_path, [row])
    with pytest.raises(InputError, match=rf"data\.jsonl, line 1: .*{message}"):
        load_preferences(source(), [tmp_path])


def test_examples_need_a_response(tmp_path: Path) -> None:
    for row in ({"prompt": "a", "response": " "}, {"messages": [{"role": "user", "content": "a"}]}):
        write(tmp_path, [row])
        with pytest.raises(InputError, match="line 1"):
            load_examples(source(), [tmp_path])


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError) as missing:
        load_prompts(source("no.jsonl"), [tmp_path, tmp_path / "eval"])
    assert f"{tmp_path}/no.jsonl, {tmp_path}/eval/no.jsonl" in str(missing.value)
    for name, content, message in (
        ("data.xlsx", b"a,b", "use .jsonl, .json, .parquet, .csv"),
        ("data.parquet", b"not parquet", "not a readable parquet file"),
        ("data.json", b'{"prompt": "a"}', "expected a list"),
        ("data.json", b'[\n{"prompt": "a"},\n{]', "line 3, column 2: not JSON"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_prompts(source(name), [tmp_path])


def test_unreachable_hub_data_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)  # else the client tries for 24 seconds
    wanted = DataSource(hub="selfimprove-tests/there-is-no-such-data-set", split="test")
    with pytest.raises(InputError, match=r"(?s)there-is-no-such-data-set.*Without network.*path: data\.parquet"):
        load_prompts(wanted, [tmp_path])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"path": "a.jsonl", "hub": "b/c"},
        {"path": "a.jsonl", "revision": "main"},
        {"path": "a.jsonl", "limit": 0},
        {"path": "a.jsonl", "limit": "10"},
        {"path": "a.jsonl", "where": {"a": [1]}},
        {"path": "a.jsonl", "fields": {"promt": "a"}},
        {"path": "a.jsonl", "templat": "x"},
        {"path": "a.jsonl", "template": "x", "fields": {"prompt": "a"}},
        {"path": "a.jsonl", "fields": {"messages": "m", "response": "r"}},
    ],
)
def test_source_is_strict(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DataSource.model_validate(options)


def test_a_label_of_the_datas_own_wins_over_the_text_of_another_choice(tmp_path: Path) -> None:
    choices = {"text": ["2", "4", "6", "8"], "label": ["1", "2", "3", "4"]}
    rows = [
        {"prompt": "2 + 2?", "choices": choices, "answer": "2"},
        {"prompt": "3 + 3?", "choices": ["B", "A"], "answer": "A"},
        {"prompt": "4 + 4?", "choices": ["B", "A"], "answer": "none"},
    ]
    write(tmp_path, rows)
    assert [p.right_choice for p in load_prompts(source(), [tmp_path])] == [1, 1, None]
