"""The one entry for heavy work: `worker(step_dir, shard)` does a piece of a step from its folder alone.

The loop calls it in this process; `accelerate launch -m selfimprove.worker STEP_DIR SHARD` calls it on every
rank. A shard's output appears whole under its final name or not at all.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfimprove.artefacts import read_rows, write_json, write_rows
from selfimprove.errors import RunFailed, SelfImproveError
from selfimprove.quiet import quiet_libraries

Advance = Callable[[int], None]


@dataclass(frozen=True)
class StepKind:
    """What a step does. `version` goes up when its result can change; `input_name` is the input that is cut into
    equal shards of at most `shard_groups` prompts (None: one piece)."""

    version: int
    work: Callable[[Path, dict[str, Any], int, Advance], None]
    input_name: str
    shard_groups: int | None
    unit: str


def _sample(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.policy import Policy, load_tokenizer
    from selfimprove.sampling import Decoding, Request, make_sampler, response_seed
    from selfimprove.sampling.shaping import cut_at

    options, policy = task["options"], Policy(**task["policies"]["policy"])
    prompts = shard_of(read_rows(folder / "inputs" / "prompts.arrow"), shard, task["shard_groups"])
    sampler = make_sampler(options, task["execution"], folder)
    sampler.set_weights(policy)
    requests = [
        Request(tuple(p["prompt_ids"]), options["n"], response_seed(task["seed"], task["key"], 0, p["prompt_id"]))
        for p in prompts
    ]
    decoding = Decoding.of(options)
    tokenizer = load_tokenizer(policy)
    sampled = sampler.sample(requests, decoding, advance)
    rows = [
        {
            "prompt_id": prompt["prompt_id"],
            "index": index,
            "ids": response.ids,
            "finish": response.finish,
            "log_prob": response.log_prob,
            "text": cut_at(tokenizer.decode(response.ids, skip_special_tokens=True), decoding.stop),
        }
        for prompt, responses in zip(prompts, sampled, strict=True)
        for index, response in enumerate(responses)
    ]
    _refuse_non_finite(rows, folder)
    write_rows(folder / f"rows-{shard:05d}.arrow", rows)
    (folder / "journal.jsonl").unlink(missing_ok=True)  # a server's answers, until their shard is whole


def _log_probs(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.policy import MODELS, Policy, pick_device, pick_dtype
    from selfimprove.scoring import Group, summed_log_probs

    device = pick_device(task["execution"]["device"])
    groups = _by_prompt(read_rows(folder / "inputs" / "responses.arrow"))
    mine = shard_of(groups, shard, task["shard_groups"])
    # Equal responses of a prompt are scored once: they must tie exactly, whatever batch they would have been in.
    distinct = [list(dict.fromkeys(tuple(row["ids"]) for row in group)) for group in mine]
    model, as_policy = MODELS.get(
        Policy(**task["policies"]["policy"]), pick_dtype(task["options"]["dtype"], device), device
    )
    with as_policy:
        scored = summed_log_probs(
            model,
            [Group(tuple(g[0]["prompt_ids"]), tuple(ids)) for g, ids in zip(mine, distinct, strict=True)],
            task["execution"]["batch_tokens"],
            advance,
        )
    rows = []
    for group, ids, values in zip(mine, distinct, scored, strict=True):
        value_of = dict(zip(ids, values, strict=True))
        rows += [
            {
                "prompt_id": row["prompt_id"],
                "index": row["index"],
                "log_prob": value_of[tuple(row["ids"])],
                "tokens": len(row["ids"]),
            }
            for row in group
        ]
    _refuse_non_finite(rows, folder)
    advance(len(rows) - sum(map(len, distinct)))
    write_rows(folder / f"rows-{shard:05d}.arrow", rows)


def _refuse_non_finite(rows: list[dict[str, Any]], folder: Path) -> None:
    bad = [row for row in rows if row["log_prob"] is not None and not math.isfinite(row["log_prob"])]
    if bad:
        raise RunFailed(
            f"{len(bad)} of {len(rows)} log-probs are not finite (first: prompt {bad[0]['prompt_id']!r}, response "
            f"{bad[0]['index']}): the model's weights or its type overflow; try training.dtype=float32. Step: {folder}"
        )


def _reward_model(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.judging.reward_model import RewardModel
    from selfimprove.policy import Policy, pick_device

    groups = _by_prompt(read_rows(folder / "inputs" / "texts.arrow"))
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
    groups = _by_prompt(read_rows(folder / "inputs" / "texts.arrow"))
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
    from selfimprove.sampling.journal import Journal, SharedJournal
    from selfimprove.sampling.server import Server

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
    from selfimprove.judging.math_answers import math_verdicts
    from selfimprove.judging.pool import usable_cores

    rows = shard_of(read_rows(folder / "inputs" / "rows.arrow"), shard, task["shard_groups"])
    asked = [(row["text"], row["answer"]) for row in rows]
    verdicts = math_verdicts(asked, workers=usable_cores(), advance=advance)
    _write_verdicts(folder, shard, rows, [(value, None if value is None else why, why) for value, why in verdicts])


def _verify_code(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.judging.pool import usable_cores
    from selfimprove.judging.sandbox import Limits, run_programs, why_failed

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
    from selfimprove.judging.rewarding import Answered, make_checker
    from selfimprove.policy import Policy

    groups = _by_prompt(read_rows(folder / "inputs" / "texts.arrow"))
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


def _by_prompt(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["prompt_id"], []).append(row)
    return list(groups.values())


def _sft(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.training.stages import already_trained, train_sft

    if not already_trained(folder):
        train_sft(folder, task, advance)


def _dpo(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.training.stages import already_trained, train_preference

    if not already_trained(folder):
        train_preference(folder, task, advance)


def _similarity(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.judging.similarity import cosines
    from selfimprove.policy import pick_device

    groups = shard_of(_by_prompt(read_rows(folder / "inputs" / "pairs.arrow")), shard, task["shard_groups"])
    rows, execution = [row for group in groups for row in group], task["execution"]
    pairs = [(row["text"], row["reference"]) for row in rows]
    found = cosines(execution["folder"], pairs, pick_device(execution["device"]), advance)
    write_rows(
        folder / f"rows-{shard:05d}.arrow",
        [
            {"prompt_id": row["prompt_id"], "index": row["index"], **one._asdict()}
            for row, one in zip(rows, found, strict=True)
        ],
    )


def _judge(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.training.judge_trainer import train_judge
    from selfimprove.training.stages import already_trained

    if not already_trained(folder):
        train_judge(folder, task, advance)


def _score(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.training.score_stage import clear_leftovers, train_score
    from selfimprove.training.stages import already_trained

    if not already_trained(folder):
        train_score(folder, task, advance)
    clear_leftovers(folder)


STEPS = {
    "sample": StepKind(1, _sample, "prompts", 64, "responses"),
    "log_probs": StepKind(1, _log_probs, "responses", 64, "responses"),
    "reward_model": StepKind(1, _reward_model, "texts", 64, "responses"),
    "function": StepKind(1, _function, "texts", 8, "responses"),
    "ask_server": StepKind(1, _ask_server, "questions", None, "answers"),
    "verify_math": StepKind(2, _verify_math, "rows", 64, "answers"),
    "verify_code": StepKind(2, _verify_code, "rows", 64, "programs"),
    "rewards": StepKind(2, _rewards, "texts", 64, "answers"),
    "sft": StepKind(1, _sft, "examples", None, "steps"),
    "dpo": StepKind(1, _dpo, "pairs", None, "steps"),
    "score": StepKind(2, _score, "prompts", None, "steps"),
    "similarity": StepKind(2, _similarity, "pairs", 2048, "pairs"),
    "judge": StepKind(1, _judge, "examples", None, "steps"),
}


def shard_of(items: list[Any], shard: int, size: int) -> list[Any]:
    """The items of one shard: fixed composition, so a resumed run repeats an undisturbed one."""
    return items[shard * size : (shard + 1) * size]


def worker(step_dir: str | Path, shard: int, advance: Advance = lambda n: None) -> None:
    """Does one shard of the step whose folder is `step_dir`; `advance` is told of finished units."""
    folder = Path(step_dir)
    task = json.loads((folder / "step.json").read_text())
    STEPS[task["step"]].work(folder, task, shard, advance)


class _Report:
    """Progress for a parent that polls `progress.json`."""

    def __init__(self, folder: Path) -> None:
        self.path, self.done, self.last = folder / "progress.json", 0, 0.0

    def __call__(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self.last > 0.5:
            write_json(self.path, {"done": self.done})
            self.last = time.monotonic()


def die_with_parent() -> None:
    """Linux: a SIGKILL of the loop takes the training processes along (PR_SET_PDEATHSIG), so that none goes on
    writing into a folder that a restarted run works in."""
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() == 1 and "RANK" in os.environ:  # it died before this was said
            sys.exit(1)


def main() -> None:
    """`python -m selfimprove.worker STEP_DIR SHARD`, also under `accelerate launch`."""
    if "RANK" in os.environ:
        die_with_parent()
    quiet_libraries()
    folder, shard = Path(sys.argv[1]), int(sys.argv[2])
    first = os.environ.get("RANK", "0") == "0"
    try:
        worker(folder, shard, _Report(folder) if first else lambda n: None)
    except SelfImproveError as error:
        if not (folder / "error.json").exists():
            said = {"kind": type(error).__name__, "message": str(error), "history": getattr(error, "history", [])}
            write_json(folder / "error.json", said)
        sys.exit(1)


if __name__ == "__main__":
    main()
