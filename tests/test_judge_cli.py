"""`selfimprove judge` and `selfimprove answer`: what they write and print, what they refuse, and going on."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import save_tiny_model, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from selfimprove.artefacts import file_digest
from selfimprove.cli import app as cli
from selfimprove.data.rows import Response
from selfimprove.data.sources import Prompt
from selfimprove.errors import InputError
from selfimprove.judging.rubric import RubricOptions, load_rubric, shipped_rubrics
from selfimprove.models.resolve import resolve_policy
from selfimprove.report.events import read_events
from selfimprove.tasks.answer import _best, answer_row
from selfimprove.tasks.judge_file import score_figures, write_json_lines

PLAIN = ("--backend", "transformers")  # vLLM has no attention for heads as small as the tiny model's
LONG = "word " * 200  # about a thousand tokens, one a byte; the tiny model has 512 positions
WORDS = ["cat", "dog", "sun", "map", "pen", "cup"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge as `self_judge` leaves it: the rubric's files and a model."""
    folder = tmp_path_factory.mktemp("run") / "judge"
    shutil.copytree(shipped_rubrics()["self-judge"], folder)
    save_tiny_model(folder / "policy", seed=1)
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """(exit code, standard output, standard error) of a command, run in `tmp_path`."""
    monkeypatch.setenv("SELFIMPROVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)

    def run(*words: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["selfimprove", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        written = capsys.readouterr()
        return int(ended.value.code or 0), written.out, written.err

    return run


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- judge


def test_a_file_is_scored_and_left_as_it_was(command: Run, judge_folder: Path, tmp_path: Path) -> None:
    rows = [{"id": 7, "prompt": f"Say {word}", "response": word * 2, "more": {"é": [1]}} for word in WORDS]
    rows += [{"prompt": "Say nothing", "response": ""}, {"prompt": "Say much", "response": LONG}]
    file = write_jsonl(tmp_path / "responses.jsonl", rows)
    before = file_digest(file)
    code, printed, said = command("judge", file, "--judge", judge_folder, *PLAIN)
    assert code == 0, said
    folder = next((tmp_path / "runs").iterdir())
    scored = read(folder / "scores.jsonl")
    assert [{k: v for k, v in row.items() if k not in ("score", "missing")} for row in scored] == rows
    assert all(0 <= row["score"] <= 9 and row["missing"] is None for row in scored[:-1])
    assert len({row["score"] for row in scored[:-1]}) > 1
    assert (scored[-1]["score"], scored[-1]["missing"]) == (None, "longer than the judge's context")
    assert file_digest(file) == before
    assert "n 7 of 8, mean" in printed and "missing: longer than the judge's context: 1" in printed
    assert f"{folder.relative_to(tmp_path)}/scores.jsonl" in printed and "█" in printed
    assert "Scores" in (folder / "report.html").read_text()

    again = (folder / "scores.jsonl").read_bytes()
    code, repeated, said = command("judge", file, "--judge", judge_folder, *PLAIN)
    assert code == 0 and "already done, reused" in said and repeated == printed
    assert (folder / "scores.jsonl").read_bytes() == again
    assert len([event for event in read_events(folder / "metrics.jsonl") if event["event"] == "scores"]) == 1


def test_figures_as_json_of_other_columns_and_kinds_of_file(
    command: Run, judge_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    rows = [{"instruction": f"Say {word}", "output": word, "reference": word.upper()} for word in WORDS]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text(
        json.dumps(
            [
                {"messages": [{"role": "user", "content": "Say cat"}, {"role": "assistant", "content": word}]}
                for word in WORDS
            ]
        )
    )
    found = {}
    for name, options in {
        "rows.parquet": ["--limit", "4"],
        "rows.json": [],
        "shown": ["--reference"],
    }.items():
        file = "rows.parquet" if name == "shown" else name
        code, printed, said = command(
            "judge", file, "--judge", judge_folder, "--output", f"out-{name}", "--json", *options, *PLAIN
        )
        assert code == 0, said
        found[name] = json.loads(printed)
    assert [found[name]["n"] for name in found] == [4, 6, 6]
    assert sum(found["shown"]["histogram"].values()) == 6 and found["shown"]["reference"]
    plain, shown = (read(tmp_path / f"out-{name}" / "scores.jsonl") for name in ("rows.parquet", "shown"))
    assert plain[0]["score"] != shown[0]["score"]
    # a policy that is no judge reads the shipped rubric
    code, _, said = command("judge", "rows.json", "--judge", tiny_model, "--output", "by-policy", *PLAIN)
    assert code == 0, said


@pytest.mark.parametrize(
    ("text", "options", "parts"),
    [
        ("", (), ["there are no rows in it"]),
        ("nonsense\n", (), ["line 1", "not JSON"]),
        ('{"prompt": "a"}\n', (), ["line 1", "no column 'response'", "columns found: prompt"]),
        ('{"response": "a"}\n', (), ["line 1", "no column 'prompt'"]),
        ('{"prompt": "a", "response": null}\n', (), ["line 1", "response is null"]),
        ('{"prompt": "a", "response": "b", "score": 1}\n', (), ["row 1", "column 'score' already", "rename"]),
        ('{"prompt": "a", "response": "b"}\n', ("--reference",), ["row 1", "no `reference`", "--reference"]),
        ('{"prompt": "a", "response": "b"}\n', ("--rubric", "alpaca-eval"), ["compares two outputs", "self-judge"]),
        ('{"prompt": "a", "response": "b"}\n', ("--rubric", "nonsense"), ["rubric", "nonsense"]),
    ],
)
def test_what_cannot_be_judged_is_refused(
    command: Run, judge_folder: Path, tmp_path: Path, text: str, options: tuple[str, ...], parts: list[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    code, printed, said = command("judge", "rows.jsonl", "--judge", judge_folder, *options, "--output", "out", *PLAIN)
    assert (code, printed) == (2, ""), said
    assert all(part in said for part in parts) and "Traceback" not in said, said
    assert not (tmp_path / "out" / "scores.jsonl").exists()


def test_other_refusals_of_judge(command: Run, judge_folder: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "response": "b"}])
    bare = shutil.copytree(shipped_rubrics()["self-judge"], tmp_path / "bare")
    (tmp_path / "rows.xlsx").write_text("prompt,response\na,b\n")
    (tmp_path / "out").mkdir()
    own = write_jsonl(tmp_path / "out" / "scores.jsonl", [{"prompt": "a", "response": "b"}])
    for words, part in [
        ((file,), "--judge is missing"),
        ((file, "--judge", bare), "nobody reads the rubric"),
        ((file, "--judge", "nonsense"), "nonsense"),
        ((tmp_path / "none.jsonl", "--judge", judge_folder), "not found"),
        ((tmp_path / "rows.xlsx", "--judge", judge_folder), "unknown kind of file '.xlsx'"),
        ((own, "--judge", judge_folder, "--output", tmp_path / "out"), "would be written over"),
    ]:
        code, printed, said = command("judge", *words, *PLAIN)
        assert (code, printed) == (2, "") and part in said, said


def test_a_judge_that_gives_no_score_at_all_failed(command: Run, judge_folder: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "response": LONG}])
    code, printed, said = command("judge", file, "--judge", judge_folder, "--output", "out", *PLAIN)
    assert (code, printed) == (1, "") and "no score at all" in said
    assert read(tmp_path / "out" / "scores.jsonl")[0]["missing"] == "longer than the judge's context"


@given(st.lists(st.one_of(st.none(), st.floats(0, 9)), min_size=1, max_size=30))
def test_figures_of_scores(scores: list[float | None]) -> None:
    rubric = load_rubric("self-judge", ())
    figures = score_figures([(score, None if score is not None else "gone") for score in scores], rubric)
    known = [score for score in scores if score is not None]
    assert (figures["n"], figures["scored"]) == (len(scores), len(known))
    assert sum(figures["histogram"].values()) == len(known) and len(figures["histogram"]) == 10
    assert figures["missing"] == ({"gone": len(scores) - len(known)} if len(known) < len(scores) else {})
    if known:
        assert min(known) <= figures["mean"]["value"] + 1e-9 and figures["mean"]["value"] <= max(known) + 1e-9


def test_histograms_of_other_scales() -> None:
    rubric = load_rubric("self-judge", ())
    for low, high, names in [(1, 10, [str(n) for n in range(1, 11)]), (0, 100, None), (0, 1, None), (0.5, 5.5, None)]:
        options = RubricOptions(parser="rating", low=low, high=high)
        scale = type(rubric)("own", options, rubric.prompts, "")
        histogram = score_figures([(low, None), (high, None)], scale)["histogram"]
        assert list(histogram.values()) == [1, *[0] * 8, 1]
        assert names is None or list(histogram) == names


def test_rows_json_has_no_form_for_are_written_all_the_same(tmp_path: Path) -> None:
    from datetime import date

    rows = [{"a": "half \ud800", "b": math.nan, "c": date(2026, 1, 2), "d": "é\u2028"}]
    write_json_lines(tmp_path / "rows.jsonl", rows)
    written = (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    assert json.loads(written) == {"a": "half \ud800", "b": None, "c": "2026-01-02", "d": "é\u2028"}


# ---- answer


def test_the_best_answer_is_given_and_a_bad_one_declined(
    command: Run, judge_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    rows = [{"id": f"w{i}", "prompt": f"Say {word}"} for i, word in enumerate(WORDS)]
    file = write_jsonl(tmp_path / "prompts.jsonl", [*rows, {"id": "long", "prompt": LONG}])
    held_out = write_jsonl(tmp_path / "held.jsonl", [{"prompt": f"Name {word}", "answer": word} for word in WORDS])
    words = ["answer", file, "--policy", tiny_model, "--judge", judge_folder, "--n", 3, "--max-new-tokens", 6]
    words += ["--held-out", held_out, "--coverage", 0.5, *PLAIN]
    code, printed, said = command(*words)
    assert code == 0, said
    folder = next((tmp_path / "runs").iterdir())
    answers = read(folder / "answers.jsonl")
    assert [row["id"] for row in answers] == [*(row["id"] for row in rows), "long"]
    for row in answers[:-1]:
        scores = [one["score"] for one in row["candidates"]]
        best = row["candidates"][scores.index(max(scores))]
        assert (row["n"], row["score"]) == (3, max(scores)) and row["truncated"] == best["truncated"]
        assert row["declined"] == (row["score"] < row["threshold"]) == (row["answer"] is None)
        assert row["declined"] or row["answer"] == best["answer"]
    assert answers[-1]["declined"] and answers[-1]["reason"] == "the prompt is too long for the policy"
    assert answers[-1]["candidates"] == [] and answers[-1]["score"] is None
    event = [event for event in read_events(folder / "metrics.jsonl") if event["event"] == "answers"][-1]
    held = event["held_out"]
    assert held["n"] == 6 and held["coverage"] >= 0.5 and held["value"] == answers[0]["threshold"]
    assert sum(event["declined"].values()) == sum(row["declined"] for row in answers)
    assert "held-out prompts" in printed and "optimistic" in printed and "declined" in printed
    assert "Answers" in (folder / "report.html").read_text()

    code, _, said = command("check", folder / "recipe.yaml")
    assert code == 2 and "trains nothing" in said
    code, repeated, said = command(*words)
    assert code == 0 and repeated == printed and "done, " not in said.replace("already done, ", "")
    assert read(folder / "answers.jsonl") == answers

    code, printed, said = command(
        *(0.9 if word == 0.5 else "--precision" if word == "--coverage" else word for word in words)
    )
    assert (
        (code, printed) == (1, "")
        and "no threshold reaches a precision (by the lower end of its interval) of 90.0%" in said
        and "best is" in said
    )


def test_one_answer_without_a_judge(command: Run, tiny_model: Path, judge_folder: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"Say {word}"} for word in WORDS])
    code, printed, said = command(
        "answer", file, "--policy", tiny_model, "--max-new-tokens", 6, "--output", "out", "--json", *PLAIN
    )
    assert code == 0, said
    figures, answers = json.loads(printed), read(tmp_path / "out" / "answers.jsonl")
    assert figures["answered"]["value"] == 1 and figures["judge"] is None and figures["threshold"] is None
    assert all(row["n"] == 1 and row["score"] is None and not row["declined"] for row in answers)
    # the model in a judge's folder is a policy too
    assert resolve_policy(str(judge_folder)).digest == resolve_policy(str(judge_folder / "policy")).digest


def test_a_single_prompt_prints_its_answer_or_why_not(
    command: Run, tiny_model: Path, judge_folder: Path, tmp_path: Path
) -> None:
    words = ["answer", "--prompt", "Say cat", "--policy", tiny_model, "--judge", judge_folder, "--n", 2]
    words += ["--max-new-tokens", 6, "--output", "out", *PLAIN]
    code, declined, _ = command(*words, "--threshold", 9)
    assert code == 0 and declined.startswith("declined (score ") and declined.endswith(" below 9.00)\n")
    code, printed, _ = command(*words, "--threshold", 0)
    (row,) = read(tmp_path / "out" / "answers.jsonl")
    assert code == 0 and row["prompt"] == "Say cat" and not row["declined"] and "declined" not in printed
    code, printed, _ = command(*["Say " + LONG if word == "Say cat" else word for word in words])
    assert code == 0 and printed == "declined (the prompt is too long for the policy)\n"


def test_refusals_of_answer(command: Run, tiny_model: Path, judge_folder: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "Say cat"}])
    held_out = write_jsonl(tmp_path / "held.jsonl", [{"prompt": "say  CAT", "answer": "cat"}])
    unlabelled = write_jsonl(tmp_path / "unlabelled.jsonl", [{"prompt": "Say dog"}])
    (tmp_path / "empty.jsonl").write_text("")
    policy, judge = ("--policy", tiny_model), ("--judge", judge_folder)
    for words, part in [
        ((file,), "--policy is missing"),
        (policy, "a file of prompts, or one with --prompt"),
        ((file, "--prompt", "a", *policy), "not both"),
        ((tmp_path / "empty.jsonl", *policy), "no rows"),
        (("--prompt", " ", *policy), "is empty"),
        ((file, *policy, "--threshold", 3), "need --judge"),
        ((file, *policy, "--n", 3), "needs a `judge`"),
        ((file, *policy, *judge, "--temperature", 0), "all `n` answers to a prompt are the same"),
        ((file, *policy, *judge, "--held-out", held_out), "--precision or --coverage"),
        ((file, *policy, *judge, "--coverage", 0.5), "--held-out FILE"),
        ((file, *policy, *judge, "--held-out", held_out, "--coverage", 0.5, "--precision", 0.5), "keep one of"),
        ((file, *policy, *judge, "--held-out", held_out, "--threshold", 1, "--coverage", 0.5), "leave --threshold out"),
        ((file, *policy, *judge, "--held-out", held_out, "--coverage", 1.5), "answer.coverage"),
        ((file, *policy, *judge, "--held-out", held_out, "--coverage", 0.5), "are among those to be answered"),
        ((file, *policy, *judge, "--held-out", unlabelled, "--coverage", 0.5), "row 1 has no `answer`"),
        ((file, *policy, *judge, "--held-out", unlabelled, "--coverage", 0.5, "--checker", "code"), "answer.checker"),
        ((file, *policy, *judge, "--rubric", "alpaca-eval"), "compares two outputs"),
    ]:
        code, printed, said = command("answer", *words, "--output", "out", *PLAIN)
        assert (code, printed) == (2, "") and part in said and "Traceback" not in said, (part, said)
    assert not (tmp_path / "out" / "answers.jsonl").exists()


@given(st.lists(st.one_of(st.none(), st.sampled_from([1.0, 2.0, 2.5])), min_size=1, max_size=8), st.floats(0, 3))
def test_the_first_of_the_best_is_picked_and_never_one_without_a_score(
    scores: list[float | None], threshold: float
) -> None:
    answers = [Response("p", place, (1,), "stop", str(place)) for place in range(len(scores))]
    prompt = Prompt("p", ({"role": "user", "content": "a"},))
    picked = _best(prompt, answers, [(score, None if score is not None else "gone") for score in scores])
    row = answer_row(picked, threshold)
    known = [score for score in scores if score is not None]
    if not known:
        assert picked.best is None and row["declined"] and row["reason"] == "no score: gone" and row["answer"] is None
        return
    assert picked.best == scores.index(max(known)) and picked.score == max(known)
    assert row["declined"] == (max(known) < threshold) and (row["answer"] is None) == row["declined"]


def test_a_judge_folder_without_a_model_is_no_policy(tmp_path: Path) -> None:
    shutil.copytree(shipped_rubrics()["self-judge"], tmp_path / "bare")
    with pytest.raises(InputError, match=r"neither config\.json nor adapter_config\.json"):
        resolve_policy(str(tmp_path / "bare"))
