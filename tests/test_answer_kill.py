"""SIGKILL of `selfimprove judge` and `selfimprove answer`: their files are whole or absent, and a new start goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import WORDS, save_tiny_model, write_jsonl
from kill_and_resume import kill_when, reached, whole_work
from typer.testing import CliRunner

from selfimprove.cli.app import app
from selfimprove.judging.rubric import shipped_rubrics

ROWS = 150  # three shards of scores, or of drawn answers


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge as `self_judge` leaves it: the rubric's files and a model."""
    folder = tmp_path_factory.mktemp("run") / "judge"
    shutil.copytree(shipped_rubrics()["self-judge"], folder)
    save_tiny_model(folder / "policy", seed=1)
    return folder


def begins(file: Path) -> Callable[[], bool]:
    """Whether the file, or a part of it under another name, is there."""
    return lambda: any(file.name in found.name for found in file.parent.glob("*"))


def kill_and_compare(words: list[str], folder: Path, name: str, moments: list[tuple[str, str]]) -> None:
    """Kills the command at each moment, and when it begins to write its file; then it runs to its end, as does another
    one that nobody kills."""
    killed, undisturbed, log = folder / "killed", folder / "undisturbed", folder / "log"
    steps, file = killed / "steps", killed / name
    waits = [lambda label=label, what=what: reached(steps, label, what) for label, what in moments]
    for moment in [*waits, begins(file)]:
        before = whole_work(steps)
        kill_when(moment, [*words, "--output", str(killed)], log)
        after = whole_work(steps)
        assert all(after.get(one) == written for one, written in before.items()), "made again although whole"
        assert set(before) < set(after), log.read_text()[-3000:]
        if moment in waits:
            assert not file.exists()
        elif file.exists():
            assert len([json.loads(line) for line in file.read_text().splitlines()]) == ROWS
    before = whole_work(steps)
    for output in (killed, undisturbed):
        ended = CliRunner().invoke(app, [*words, "--output", str(output)], catch_exceptions=False)
        assert ended.exit_code == 0, ended.output
    assert whole_work(steps) == before  # all was made before the last kill
    assert file.read_bytes() == (undisturbed / name).read_bytes()


def test_a_killed_judge_goes_on(judge_folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {WORDS[n % 12]} {n}", "response": WORDS[n % 7]} for n in range(ROWS)]
    responses = write_jsonl(tmp_path / "responses.jsonl", rows)
    words = ["judge", str(responses), "--judge", str(judge_folder), "--backend", "transformers"]
    kill_and_compare(words, tmp_path, "scores.jsonl", [("scores", "shard")])


def test_a_killed_answer_goes_on(judge_folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"Say {WORDS[n % 12]} {n}"} for n in range(ROWS)])
    held_out = write_jsonl(tmp_path / "held.jsonl", [{"prompt": f"Name {word}", "answer": word} for word in WORDS])
    words = ["answer", str(prompts), "--policy", str(tiny_model), "--judge", str(judge_folder), "--n", "2"]
    words += ["--max-new-tokens", "6", "--held-out", str(held_out), "--coverage", "0.5", "--backend", "transformers"]
    kill_and_compare(words, tmp_path, "answers.jsonl", [("answers of", "shard"), ("answers judged", "shard")])
