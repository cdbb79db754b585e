"""The steps of judges and checkers: each does its work from its folder alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfimprove.artefacts import read_rows, write_rows
from selfimprove.steps.cost import Dry
from selfimprove.steps.kind import Advance, StepKind
from selfimprove.steps.request import StepRequest
from selfimprove.steps.shards import by_prompt, shard_of


def _reward_model(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.judging.reward_model import RewardModel
    from selfimprove.models.policy import Policy, pick_device

    groups = by_prompt(read_rows(folder / "inputs" / "texts.arrow"))
    rows = [row for group in shard_of(groups, shard, task["shard_groups"]) for row in group]
    device = pick_device(task["execution"]["device"])
    model = RewardModel(Policy(**task["policies"]["reward_model"]), task["options"]["dtype"], device, "judge.model")
    rendered = [model.rendered(row["messages"], row["text"]) for row in rows]
    verdicts = model.verdicts(rendered, task["execution"]["batch_tokens"], advance)
    write_rows(
        folder / f"rows-{shard:05d}.arrow",
        [
            {"prompt_id": row["prompt_id"], "index": row["index"], "score": score, "missing": missing}
            for row, (score, missing) in zip(rows, verdicts, strict=True)
        ],
    )


def _function(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.judging.functions import Judged, function_of_step, function_verdict

    function, seconds = function_of_step(task["options"], task["execution"]), task["options"]["seconds"]
    groups = by_prompt(read_rows(folder / "inputs" / "texts.arrow"))
    rows = []
    for row in [row for group in shard_of(groups, shard, task["shard_groups"]) for row in group]:
        columns = json.loads(row["row"]) if row.get("row") else None
        judged = Judged(row["prompt"], row["text"], row["answer"], columns)
        score, missing = function_verdict(function, judged, seconds)
        rows.append({"prompt_id": row["prompt_id"], "index": row["index"], "score": score, "missing": missing})
        advance(1)
    write_rows(folder / f"rows-{shard:05d}.arrow", rows)


def _ask_server(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.judging.chat_server import ChatServer
    from selfimprove.models.journal import Journal, SharedJournal
    from selfimprove.models.server import Server

    options, journal, shared = task["options"], folder / "journal.jsonl", task["execution"].get("paid")
    paid = SharedJournal(Path(shared)) if shared else None
    rows = read_rows(folder / "inputs" / "questions.arrow")
    server = Server(**task["execution"]["server"], where="judge.server")
    judge = ChatServer(server, options["max_new_tokens"], options["log_probs"], Journal(journal), paid)
    answers = judge.ask([json.loads(row["messages"]) for row in rows], advance)
    answered = [{"prompt_id": row["prompt_id"], **answer} for row, answer in zip(rows, answers, strict=True)]
    write_rows(folder / f"rows-{shard:05d}.arrow", answered)
    journal.unlink(missing_ok=True)


def _verify_math(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.judging.checkers.math_answers import math_verdicts
    from selfimprove.judging.checkers.pool import usable_cores

    rows = shard_of(read_rows(folder / "inputs" / "rows.arrow"), shard, task["shard_groups"])
    asked = [(row["text"], row["answer"]) for row in rows]
    verdicts = math_verdicts(asked, workers=usable_cores(), advance=advance)
    _write_verdicts(folder, shard, rows, [(value, None if value is None else why, why) for value, why in verdicts])


def _verify_code(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.judging.checkers.pool import usable_cores
    from selfimprove.judging.checkers.sandbox import Limits, run_programs, why_failed

    rows = shard_of(read_rows(folder / "inputs" / "rows.arrow"), shard, task["shard_groups"])
    jobs = [(row["program"], row["tests"]) for row in rows]
    ran = run_programs(jobs, Limits(seconds=task["options"]["seconds"]), usable_cores(), advance)
    reasons = [why_failed(one) for one in ran]
    _write_verdicts(folder, shard, rows, [(float(why is None), why, None) for why in reasons])


def _write_verdicts(
    folder: Path,
    shard: int,
    rows: list[dict[str, Any]],
    verdicts: list[tuple[float | None, str | None, str | None]],
) -> None:
    """A checker's (value, why it is wrong, why it is missing) of each row."""
    found = [
        {
            "prompt_id": row["prompt_id"],
            "value": value,
            "failure": failure,
            "missing": missing if value is None else None,
        }
        for row, (value, failure, missing) in zip(rows, verdicts, strict=True)
    ]
    write_rows(folder / f"rows-{shard:05d}.arrow", found)


def _rewards(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.judging.outcomes import Answered
    from selfimprove.judging.rewarding import make_checker
    from selfimprove.models.policy import Policy

    groups = by_prompt(read_rows(folder / "inputs" / "texts.arrow"))
    rows = [row for group in shard_of(groups, shard, task["shard_groups"]) for row in group]
    judge, journal = task["policies"].get("judge"), folder / "journal.jsonl"
    checker = make_checker(task["options"], Policy(**judge) if judge else None, task["execution"], journal)
    answered = [Answered(row["prompt"], row["text"], row["answer"], row["truncated"]) for row in rows]
    found = [
        {"prompt_id": row["prompt_id"], "index": row["index"], **one._asdict()}
        for row, one in zip(rows, checker.check(answered, advance), strict=True)
    ]
    write_rows(folder / f"rows-{shard:05d}.arrow", found)
    journal.unlink(missing_ok=True)


def _dry_scores(request: StepRequest) -> Dry:
    """A prompt's later responses are the better ones. Nothing of a reward model's or a function's time is known."""
    rows = request.inputs["texts"]
    return Dry(rows=[{**_place(row), "score": float(row["index"]), "missing": None} for row in rows])


def _dry_values(request: StepRequest) -> Dry:
    """The first half of a prompt's answers is wrong, the second right: of two attempts, those that come first."""
    groups = by_prompt([dict(row) for row in next(iter(request.inputs.values()))])
    found = [(row, float(2 * place >= len(group))) for group in groups for place, row in enumerate(group)]
    return Dry(rows=[{**_place(row), "value": value, "failure": None, "missing": None} for row, value in found])


def _dry_answers(request: StepRequest) -> Dry:
    """A server's answers take nothing here."""
    nothing = {"model": "", "text": "", "missing": None, "log_probs": None, "cut": False}
    rows = request.inputs["questions"]
    return Dry(rows=[{**_place(row), **nothing, "input_tokens": 0, "output_tokens": 0} for row in rows])


def _place(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("prompt_id", "index") if name in row}


REWARD_MODEL = StepKind(1, _reward_model, "texts", 64, "responses", "reward model", _dry_scores)
FUNCTION = StepKind(1, _function, "texts", 8, "responses", "judge function", _dry_scores)
ASK_SERVER = StepKind(1, _ask_server, "questions", None, "answers", "judging", _dry_answers)
VERIFY_MATH = StepKind(2, _verify_math, "rows", 64, "answers", "checking", _dry_values)
VERIFY_CODE = StepKind(2, _verify_code, "rows", 64, "programs", "running programs", _dry_values)
REWARDS = StepKind(2, _rewards, "texts", 64, "answers", "checking", _dry_values)
