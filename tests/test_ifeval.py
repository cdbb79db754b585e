"""IFEval's checkers: verdicts as lm-eval's own, no download, nothing left to chance, rows refused."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from selfimprove.errors import InputError
from selfimprove.judging.checkers import ifeval
from selfimprove.judging.checkers.ifeval import check_row, tokenizers, verdict

PACKAGES = ("lm_eval", "langdetect", "immutabledict", "punkt")
pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in PACKAGES), reason="needs lm-eval's checkers (pip install -e '.[ifeval]')"
)
ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "eval/ifeval/prompts.jsonl").read_text("utf-8").splitlines()
]
REPEAT = "\nFirst repeat the request word for word without change, then give your answer"
SEA = "The sea is deep and it was never calm. Ships go out at night. They come back with fish in the morning."
CAPITALS = "THE SEA IS DEEP AND IT WAS NEVER CALM"
GERMAN = "Das Meer ist tief und war niemals ruhig. Die Schiffe fahren in der Nacht hinaus."
LIST = "* one thing\n* another thing\n- a third"
SECTIONS = "SECTION 1\nA cat.\nSECTION 2\nA dog."
ABBREVIATED = "Dr. J. F. Smith of Acme Corp. said so at 5 p.m. in the U.S. Senate. Was he right? Mr. X... no! E.g. not"

# (instruction, its arguments, responses): some follow it, some do not
CASES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("keywords:existence", {"keywords": ["sea", "ships"]}, [SEA, CAPITALS]),
    ("keywords:frequency", {"keyword": "the", "frequency": 3, "relation": "at least"}, [SEA, CAPITALS]),
    ("keywords:frequency", {"keyword": "fish", "frequency": 1, "relation": "less than"}, [SEA, CAPITALS]),
    ("keywords:forbidden_words", {"forbidden_words": ["ship", "calm"]}, [SEA, "A calmer boat."]),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 8, "let_relation": "at least"}, [SEA, LIST]),
    ("language:response_language", {"language": "de"}, [GERMAN, SEA, "123 456"]),
    ("length_constraints:number_sentences", {"num_sentences": 4, "relation": "less than"}, [SEA, ABBREVIATED]),
    ("length_constraints:number_sentences", {"num_sentences": 5, "relation": "at least"}, [SEA * 2, ABBREVIATED]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["One.\n***\nTwo.", "One. *** *** Two.", SEA]),
    ("length_constraints:number_words", {"num_words": 12, "relation": "at least"}, [SEA, CAPITALS, LIST]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        ["First.\n\n'Then, more.", "First.\n\n\n\nThen, more.", "Then."],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["To [name], [street].", "To [name]."]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Yes.\nP.S. No.", "Yes. p. s. No.", SEA]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["Yes.\nP.P.S. No.", "Yes.\nP.S. No."]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}, [LIST, LIST + "\n* four", "** no **\n" + LIST]),
    ("detectable_format:constrained_response", {}, ["Well: My answer is no.", "My answer is: no."]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* and **b**", "*a*", "** ** *a* *"]),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2}, [SECTIONS, SEA]),
    ("detectable_format:json_format", {}, ['```json\n{"a": [1, 2]}\n```', '{"a": 1}', "{'a': 1}"]),
    ("detectable_format:title", {}, ["<<The Sea>>\nDeep.", "<< >>\nDeep.", "<The Sea>"]),
    ("combination:two_responses", {}, ["Yes.\n******\nNo.", "Yes.******Yes.", "******\nYes."]),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write of the sea."},
        ["write of the sea. It is.", "Of the sea."],
    ),
    ("startend:end_checker", {"end_phrase": "That is all."}, ['It is deep. That is all."', "That is all. Bye."]),
    ("startend:quotation", {}, [f'"{SEA}"', f"“{SEA}”", '"']),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, ["THE SEA", SEA]),
    ("change_case:capital_word_frequency", {"capital_frequency": 4, "capital_relation": "less than"}, [ABBREVIATED]),
    ("change_case:english_capital", {}, [CAPITALS, SEA, GERMAN.upper()]),
    ("change_case:english_lowercase", {}, [SEA.lower(), SEA, GERMAN.lower()]),
    ("punctuation:no_comma", {}, [SEA, "Yes, no."]),
]


def _row(
    *instructions: tuple[str, dict[str, Any] | None], prompt: str = "Write of the sea." + REPEAT
) -> dict[str, Any]:
    names, arguments = zip(*instructions, strict=True)
    return {"key": 1, "prompt": prompt, "instruction_id_list": list(names), "kwargs": list(arguments)}


def _variants(text: str) -> list[str]:
    lines = [
        text,
        f"Sure, here it is:\n{text}",
        f"{text}\nShall I go on?",
        f"Sure:\n\n{text}\n\nShall I?",
        f"**{text}**",
    ]
    return [*lines, f"\n {text} \n"]


PAIRS = [
    (_row((name, arguments)), response)
    for name, arguments, texts in CASES
    for response in ["", " \n ", "*", *(one for text in texts for one in _variants(text))]
] + [
    (row, response)
    for row in ROWS[::40]
    if "combination:repeat_prompt" not in row["instruction_id_list"]
    for response in (f'"{row["prompt"]}"', f"Sure!\n\n* {SEA}\n* <<{GERMAN}>> [x]\n\nP.S. Bye.", SECTIONS)
]

# The verdicts of a process that can reach nothing
ALONE = """
import json, socket, sys
import nltk
def refuse(*args, **kwargs):
    raise AssertionError("something is downloaded")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = nltk.download = refuse
find = nltk.data.find
from selfimprove.judging.checkers.ifeval import tokenizers, verdict
name = tokenizers()
assert nltk.data.find is find
print(json.dumps([name, [verdict(response, row) for row, response in json.load(open(sys.argv[1]))]]))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    pairs = tmp_path_factory.mktemp("pairs") / "pairs.json"
    pairs.write_text(json.dumps(PAIRS))
    process = subprocess.Popen(
        [sys.executable, "-c", ALONE, str(pairs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": "7", "NLTK_DATA": "/nowhere"},
    )
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def lm_eval(alone: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """lm-eval's module, imported anew and as it is, with `punkt_tab` where nltk looks for it."""
    tokenizers()
    nltk = importlib.import_module("nltk")
    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk, "download", None)
    nltk.tokenize.punkt.save_punkt_params(ifeval._splitter()[0].__self__._params, dir=str(folder))
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ifeval")]:
        monkeypatch.delitem(sys.modules, name)
    utils = importlib.import_module("lm_eval.tasks.ifeval.utils")
    assert utils is not ifeval._code()[0]
    assert utils.instructions_registry.instructions.instructions_util.nltk is nltk
    return utils


def test_verdicts_are_those_of_lm_eval(lm_eval: Any) -> None:
    ours = [verdict(response, row) for row, response in PAIRS]
    for (row, response), one in zip(PAIRS, ours, strict=True):
        example = lm_eval.InputExample(1, row["instruction_id_list"], row["prompt"], row["kwargs"])
        assert one.strict == lm_eval.test_instruction_following_strict(example, response).follow_instruction_list
        assert one.loose == lm_eval.test_instruction_following_loose(example, response).follow_instruction_list
    assert len(PAIRS) > 500
    for name in {name for name, _, _ in CASES}:  # neither always nor never
        found = [one for one, (row, _) in zip(ours, PAIRS, strict=True) if row["instruction_id_list"] == [name]]
        assert {one.strict[0] for one in found} == {True, False}, name
    assert any(one.loose != one.strict for one in ours)


def test_another_process_without_network_finds_the_same(alone: subprocess.Popen[str]) -> None:
    printed, errors = alone.communicate(timeout=120)
    assert alone.returncode == 0, errors
    name, theirs = json.loads(printed)
    assert name == tokenizers() == "punkt"
    assert [[one.strict, one.loose] for one in (verdict(response, row) for row, response in PAIRS)] == theirs


def test_the_model_of_sentences_is_that_of_punkt_tab() -> None:
    """The digest is that of `punkt_tab`'s files for English, as llama-index-core 0.14.25 ships them."""
    from punkt.data import english

    numbers = [
        *map(sorted, (english.ABBREV_TYPES, english.COLLOCATIONS, english.SENT_STARTERS)),
        sorted(english.ORTHO_CONTEXT.items()),
    ]
    assert (
        hashlib.sha256(json.dumps(numbers).encode()).hexdigest()
        == "05d1b12e48957bd1e1d458276076802cde540d5f3c0785efbd5c522ad2703023"
    )


def test_without_a_model_nltk_splits_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.data.path", [])
    split, name = ifeval._splitter()
    assert (len(split("It is in the U.S. Senate. Yes.")), name) == (2, "punkt")
    monkeypatch.setitem(sys.modules, "punkt.data", None)
    split, name = ifeval._splitter()
    assert (len(split("Yes. No.")), name) == (2, "punkt-untrained")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ifeval, "find_spec", lambda name: None if name == "langdetect" else find_spec(name))
    with pytest.raises(InputError, match=r"needs langdetect: pip install 'selfimprove\[ifeval\]'"):
        ifeval._code.__wrapped__()


def test_all_prompts_pass() -> None:
    assert (len(ROWS), sum(len(row["instruction_id_list"]) for row in ROWS)) == (541, 747)
    for row in ROWS:
        check_row(row, "here")


def test_a_request_to_repeat_that_the_row_lacks_is_that_of_the_prompt() -> None:
    bare, given = (
        _row(("combination:repeat_prompt", {})),
        _row(("combination:repeat_prompt", {"prompt_to_repeat": "X"})),
    )
    assert verdict("Write of the sea. It is deep.", bare) == ([True], [True])
    assert verdict("Write of the sea. It is deep.", given) == ([False], [False])
    assert bare["kwargs"] == [{}]


def test_nulls_are_left_out() -> None:
    """As where rows of many instructions were made a table: google/IFEval."""
    nulls = {"num_words": None, "keyword": None, "num_bullets": 3, "relation": None}
    row = _row(("detectable_format:number_bullet_lists", nulls), ("punctuation:no_comma", None))
    check_row(row, "here")
    assert verdict(LIST, row) == ([True, True], [True, True])


def test_a_letter_that_is_none_is_drawn_alike() -> None:
    row = _row(("keywords:letter_frequency", {"letter": "#", "let_frequency": 4, "let_relation": "at least"}))
    check_row(row, "here")
    assert len({str(verdict(SEA, row)) for _ in range(30)}) == 1


def test_what_python_cannot_parse_is_not_followed() -> None:
    assert verdict("[" * 5000, _row(("detectable_format:json_format", {}))) == ([False], [False])


BULLETS, FREQUENCY = "detectable_format:number_bullet_lists", "keywords:frequency"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction_id_list": ["keywords:frequencies"]}, "here: unknown instruction 'keywords:frequencies'; the "),
        ({"instruction_id_list": ["keywords:frequencies"]}, f"nearest is '{FREQUENCY}'"),
        ({"instruction_id_list": ["x"]}, "here: unknown instruction 'x'"),
        ({"instruction_id_list": [BULLETS, BULLETS]}, "an object for each of `instruction_id_list`"),
        ({"instruction_id_list": [], "kwargs": []}, "an object for each of `instruction_id_list`"),
        ({"kwargs": [3]}, "an object for each of `instruction_id_list`"),
        ({"kwargs": "[{}]"}, "here: IFEval needs a column `kwargs`, a list; found '\\[{}\\]'"),
        ({"prompt": None}, "needs a column `prompt`, a text; found None"),
        ({"kwargs": [{}]}, f"here: {BULLETS} needs `num_bullets`, and not 0 or empty; found {{}}"),
        ({"kwargs": [{"num_bullets": 0}]}, "needs `num_bullets`"),
        ({"kwargs": [{"num_bullets": -1}]}, "needs `num_bullets`"),
        ({"kwargs": [{"num_bullets": "3"}]}, f"here: {BULLETS} cannot be checked with .*TypeError"),
        ({"kwargs": [{"num_bullets": 3, "bullets": 3}]}, "unexpected keyword argument 'bullets'"),
        ({"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["f(x"]}]}, "missing \\)"),
        (
            {
                "instruction_id_list": [FREQUENCY],
                "kwargs": [{"keyword": "sea", "frequency": 1, "relation": "at most"}],
            },
            "but at most is given",
        ),
        ({"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "xx"}]}, "KeyError"),
        ({"instruction_id_list": ["combination:repeat_prompt"], "prompt": "Hi."}, "needs `prompt_to_repeat`"),
    ],
)
def test_rows_that_cannot_be_checked(change: dict[str, Any], message: str) -> None:
    row = _row((BULLETS, {"num_bullets": 3})) | change
    with pytest.raises(InputError, match=message):
        check_row(row, "here")


@pytest.mark.parametrize("name", ["prompt", "instruction_id_list", "kwargs"])
def test_a_column_that_is_missing(name: str) -> None:
    row = _row((BULLETS, {"num_bullets": 3}))
    del row[name]
    with pytest.raises(InputError, match=f"here: IFEval needs a column `{name}`, a (text|list); there is none"):
        check_row(row, "here")
