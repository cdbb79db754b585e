"""`selfimprove judge` and `selfimprove answer`: scores for a file of responses; answers, and what to decline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from selfimprove.cli.evaluate import (
    BackendOption,
    JsonOption,
    JudgeOption,
    OutputOption,
    RubricOption,
    default_output,
    judge_name,
    judge_of,
)
from selfimprove.errors import InputError
from selfimprove.quiet import stoppable
from selfimprove.report.text import visible

out = Console()
_JUDGES = "a judge's folder (runs/x/judge) or YAML file, a policy, or http://host:port/v1#model"


def judge(
    file: Annotated[str, typer.Argument(help="Responses: .jsonl, .json or .parquet; `prompt` and `response` a row.")],
    judge: JudgeOption = None,
    rubric: RubricOption = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Show the judge the rows' `reference` or `answer`.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    output: OutputOption = None,
    backend: BackendOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score a file of responses with a judge; an interrupted command goes on. Writes scores.jsonl in its folder."""
    if judge is None:
        raise InputError(f"judge: --judge is missing: {_JUDGES}")
    names = ["judge", Path(file).stem, "by", judge_name(judge), *(["with", rubric] if rubric else [])]
    values: dict[str, Any] = {
        "method": "judge_file",
        "output": str(output or default_output(*names)),
        "data": {"prompts": {"path": file, "limit": limit, "fields": {"id": ""}}},  # several responses may share an id
        "judge_file": {"judge": judge_of(judge, rubric), "reference": reference},
        "sampling": {"backend": backend},
    }
    event, report = _run(values, "judge", "scores")
    if as_json:
        print(json.dumps(_figures(event)))
        return
    from selfimprove.tasks.answers_report import scores_view

    out.print(scores_view(event))
    out.print(f"\nscores: {event['file']}", soft_wrap=True, highlight=False)
    out.print(f"report: {report}", soft_wrap=True, highlight=False)


def answer(
    file: Annotated[
        str | None, typer.Argument(help="Prompts: .jsonl, .json or .parquet; `prompt` in each row.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Who answers: a model, an adapter, runs/x, or runs/x@M1.")] = None,
    prompt: Annotated[str | None, typer.Option(help="One prompt, instead of a file; prints its answer.")] = None,
    judge: JudgeOption = None,
    rubric: RubricOption = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Answers drawn for a prompt; with a judge 8.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="By default 0.8; 0 (greedy) where one answer is drawn.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    threshold: Annotated[float | None, typer.Option(help="Decline where the best answer scores below it.")] = None,
    held_out: Annotated[Path | None, typer.Option(help="Prompts with an `answer`, to choose the threshold on.")] = None,
    precision: Annotated[
        float | None, typer.Option(help="Share of kept held-out answers to be good, by its 95% interval.")
    ] = None,
    coverage: Annotated[float | None, typer.Option(help="Share of held-out answers that is to be kept.")] = None,
    checker: Annotated[
        str, typer.Option(help="What is good on held-out prompts: exact_match or math.")
    ] = "exact_match",
    output: OutputOption = None,
    backend: BackendOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Answer prompts with the best of n by a judge's score, and decline below a threshold. Writes answers.jsonl."""
    if policy is None:
        raise InputError("answer: --policy is missing: who answers, a model, an adapter, runs/x or runs/x@M1")
    if (file is None) == (prompt is None):
        raise InputError("answer: give a file of prompts, or one with --prompt TEXT; not both")
    if (rubric or threshold is not None or held_out) and judge is None:
        raise InputError(f"answer: --rubric, --threshold and --held-out need --judge: {_JUDGES}")
    if held_out and threshold is not None:
        raise InputError("answer: --held-out chooses the threshold; leave --threshold out")
    if bool(held_out) != (precision is not None or coverage is not None):
        raise InputError("answer: --held-out FILE goes with --precision or --coverage, which the threshold is to have")
    own = {"prompt": prompt, "n": n, "temperature": temperature, "max_new_tokens": max_new_tokens}
    own |= {"threshold": threshold, "precision": precision, "coverage": coverage, "checker": checker}
    names = ["answer", Path(file).stem if file else "prompt", "with", policy]
    names += ["by", judge_name(judge)] if judge else []
    values: dict[str, Any] = {
        "method": "answer",
        "model": policy,
        "output": str(output or default_output(*names)),
        "data": {"prompts": file, "held_out": str(held_out) if held_out else None},
        "answer": {**own, "judge": judge_of(judge, rubric) if judge else None},
        "sampling": {"backend": backend},
    }
    values["data"] = {name: found for name, found in values["data"].items() if found}
    event, report = _run(values, "answer", "answers")
    if as_json:
        print(json.dumps(_figures(event)))
        return
    from selfimprove.tasks.answers_report import answer_lines, answers_view

    if prompt is not None:
        one = event["examples"][0]
        out.print(Text(visible(_declined(one) if one["declined"] else one["answer"])), soft_wrap=True)
        for line in answer_lines(event)[1:] if held_out else []:
            Console(stderr=True).print(Text(line), soft_wrap=True)
        return
    out.print(answers_view(event))
    out.print(f"answers: {event['file']}", soft_wrap=True, highlight=False)
    out.print(f"report: {report}", soft_wrap=True, highlight=False)


def _declined(row: dict[str, Any]) -> str:
    if row["score"] is None:
        return f"declined ({row['reason']})"
    return f"declined (score {row['score']:.2f} below {row['threshold']:.2f})"


def _figures(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in ("event", "id", "time")}


def _run(values: dict[str, Any], where: str, kind: str) -> tuple[dict[str, Any], Path]:
    """(the run's event of that kind, its report)."""
    from selfimprove.recipe.recipe import make_recipe

    recipe = make_recipe(values, where=where)
    from selfimprove.runs.execute import run as execute
    from selfimprove.tasks.answers_report import last_of

    with stoppable():
        result = execute(recipe)
    event = last_of(result.events, kind)
    assert event is not None  # the method emits it, or has raised
    return event, result.report
