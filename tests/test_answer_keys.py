"""Which options of `answer` and `judge_file` make which steps anew; `test_steps.py` counts them with the others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import save_tiny_model, write_jsonl

from selfimprove.errors import RunFailed
from selfimprove.judging.rubric import shipped_rubrics
from selfimprove.recipe.recipe import make_recipe
from selfimprove.runs.execute import run

_DRAWN = {"sample", "log_probs"}
# option: (a change of it, the steps that are made anew; where others are picked, their rewards too)
CHANGES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "answer.n": ({"n": 3}, _DRAWN),
    "answer.temperature": ({"temperature": 0.5}, _DRAWN),
    "answer.top_p": ({"top_p": 0.5}, _DRAWN),
    "answer.max_new_tokens": ({"max_new_tokens": 3}, _DRAWN),
    "answer.judge.model": ({"judge": {"model": "judge/policy", "rubric": "judge"}}, set()),  # the same one
    "answer.judge.rubric": ({"judge": {"model": "judge", "rubric": "other"}}, {"log_probs"}),
    "answer.judge.version": ({"judge": {"rubric": "judge", "version": 2}}, set()),  # a server's
    "answer.judge.log_probs": ({"judge": {"rubric": "judge", "log_probs": 5}}, set()),
    "answer.checker": ({"checker": "math"}, {"rewards"}),
    "answer.precision": ({"precision": 0.01, "coverage": None}, set()),
    "answer.coverage": ({"coverage": 0.2}, set()),
    "answer.threshold": ({"threshold": 3.0, "coverage": None, "held_out": None}, set()),
    "answer.prompt": ({"prompt": "Say no", "prompts": None}, {"sample", "log_probs"}),
    "data.held_out": ({"held_out": "others.jsonl"}, _DRAWN),
}
_SERVER = ("base_url", "model", "api_key_env", "timeout_s", "retries", "concurrency")
_READER = ["model", "rubric", "version", "log_probs", *(f"prices.{name}" for name in ("input", "output", "currency"))]
_READER += [f"server.{name}" for name in _SERVER]  # `test_steps.py` has what of these is in the key of `ask_server`
OPTIONS = {*CHANGES, "judge_file.reference"} | {f"{s}.judge.{o}" for s in ("answer", "judge_file") for o in _READER}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, held-out prompts, a policy, two judges, and a run of `answer`."""
    folder = tmp_path_factory.mktemp("answer")
    save_tiny_model(folder / "policy")
    shutil.copytree(shipped_rubrics()["self-judge"], folder / "judge")
    shutil.copytree(shipped_rubrics()["self-judge"], folder / "other")
    (folder / "other" / "prompt.txt").write_text("{instruction} {response}")
    save_tiny_model(folder / "judge" / "policy", seed=1)
    for name, start in {"prompts": "Say", "held": "Name", "others": "Spell"}.items():
        write_jsonl(folder / f"{name}.jsonl", [{"prompt": f"{start} {n}", "answer": str(n)} for n in range(4)])
    return folder


@pytest.fixture
def made_by(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[str]]:
    """The names of the steps that a run with changes makes anew."""
    monkeypatch.chdir(folder)

    def make(**changes: Any) -> set[str]:
        given = {"judge": "judge", "n": 2, "max_new_tokens": 4, "coverage": 0.5} | changes
        data = {name: given.pop(name, f"{file}.jsonl") for name, file in (("prompts", "prompts"), ("held_out", "held"))}
        values = {
            "method": "answer",
            "model": "policy",
            "output": "run",
            "data": {name: path for name, path in data.items() if path},
            "answer": {name: value for name, value in given.items() if value is not None},
            "sampling": {"backend": "transformers"},
        }
        before = {path.name for path in (folder / "run" / "steps").glob("[!.]*")}
        with suppress(RunFailed):  # a precision that cannot be had; the steps are made all the same
            run(make_recipe(values))
        return {
            path.name.rpartition("-")[0] for path in (folder / "run" / "steps").glob("[!.]*") if path.name not in before
        }

    return make


def test_showing_the_reference_asks_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    rows = [{"prompt": "Say 1", "response": "1", "answer": "1"}]
    values = {
        "method": "judge_file",
        "output": "scored",
        "data": {"prompts": str(write_jsonl(folder / "r.jsonl", rows))},
    }
    for shown in (False, True):
        run(make_recipe({**values, "judge_file": {"judge": "judge", "reference": shown}}))
    assert len(list((folder / "scored" / "steps").glob("log_probs-*"))) == 2


@pytest.mark.parametrize("option", CHANGES)
def test_an_option_makes_anew_what_it_changes_and_nothing_else(made_by: Callable[..., set[str]], option: str) -> None:
    made_by()
    changes, expected = CHANGES[option]
    assert expected <= made_by(**changes) <= expected | {"rewards"}
