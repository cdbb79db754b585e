"""No training: the responses of a file get a judge's scores. `selfimprove judge` is this method."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfimprove.artefacts import digest_of, write_file
from selfimprove.data.sources import DataSource, Example, content, load_examples
from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.asking import Judge, as_event, ask_judge, find_judge
from selfimprove.judging.outcomes import Verdict
from selfimprove.judging.rubric import Rubric
from selfimprove.recipe.contract import Needs, Options, task
from selfimprove.recipe.judges import Reader
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.events import plain
from selfimprove.statistics import bounded_interval
from selfimprove.steps.kind import step_versions
from selfimprove.tasks.answers_report import answers_part

if TYPE_CHECKING:
    from selfimprove.inference import Inference

RUBRIC = "self-judge"  # where neither the judge nor the user names one
FILE_NAME = "scores.jsonl"
_OWN = ("score", "missing")


class JudgeFile(Options):
    """Section `judge_file`, of what `selfimprove judge` does."""

    judge: Reader = Reader()
    """Who scores the responses of `data.prompts`."""
    reference: bool = False
    """The judge sees the row's reference."""


def responses_to_judge(recipe: Recipe, options: JudgeFile) -> list[Example]:
    """The rows of `data.prompts` with their responses, checked; nothing is written yet."""
    sources = recipe.data.prompts or ()
    refuse_own_file(sources, recipe, FILE_NAME)
    examples = [one for source in sources for one in load_examples(source, recipe.search_folders(), may_be_empty=True)]
    for number, one in enumerate(examples, start=1):
        if taken := [name for name in _OWN if name in one.prompt.row]:
            raise InputError(
                f"{_names(sources)}, row {number}: has a column {taken[0]!r} already, which the judge's would replace; "
                "rename it"
            )
        if options.reference and _reference(one) is None:
            raise InputError(
                f"{_names(sources)}, row {number}: has no `reference` and no `answer` for the judge to see; give one, "
                "or leave --reference out"
            )
    return examples


def file_to_judge(loop: Inference, options: JudgeFile) -> tuple[list[Example], Judge]:
    """The responses and their judge. Nothing is asked yet."""
    examples = responses_to_judge(loop.recipe, options)
    judge = rating_judge(find_judge(loop, options.judge, RUBRIC))
    if options.reference and not judge.rubric.has("reference"):
        raise InputError(f"judge: the rubric {judge.rubric.name} has no prompt-reference.txt; leave --reference out")
    adopt(
        loop,
        {
            "the judge": judge.digest,
            "the responses": digest_of(
                [[list(one.prompt.messages), one.response, *_seen(loop.recipe, one)] for one in examples]
            ),
        },
    )
    return examples, judge


def _seen(recipe: Recipe, one: Example) -> list[str | None]:
    """The reference, where the judge sees it."""
    return [_reference(one)] if recipe.options.reference else []


@task(
    options=JudgeFile,
    needs=Needs(prompts=True, model=False),
    check=responses_to_judge,
    prepare=file_to_judge,
    report=(answers_part,),
)
def judge_file(loop: Inference, options: JudgeFile, found: tuple[list[Example], Judge]) -> None:
    """Scores every response, and writes `scores.jsonl`: the file's rows with `score` and `missing`.

    Raises RunFailed where no response has a score; the file is there all the same.
    """
    examples, judge = found
    if earlier := sum(len(one.prompt.messages) > 1 for one in examples):
        loop.note(f"{earlier} of {len(examples)} rows are conversations; the judge sees the last question of each")
    questions = {str(number): _question(loop, judge.rubric, one) for number, one in enumerate(examples)}
    asked = ask_judge(loop, judge, questions, "scores")
    verdicts = [asked.verdicts[id] for id in questions]
    target = Path(loop.recipe.output) / FILE_NAME
    rows = zip(examples, verdicts, strict=True)
    write_json_lines(target, [one.prompt.row | dict(zip(_OWN, verdict, strict=True)) for one, verdict in rows])
    loop.events.emit(
        "scores",
        f"{judge.digest}|{digest_of([list(verdict) for verdict in verdicts])}",
        data=_names(loop.recipe.data.prompts or ()),
        judge=judge.name,
        reference=loop.recipe.options.reference,
        file=str(target),
        **score_figures(verdicts, judge.rubric),
        cost=as_event(asked.cost),
    )
    if all(score is None for score, _ in verdicts):
        reasons = ", ".join(f"{why}: {count}" for why, count in Counter(why for _, why in verdicts).items())
        raise RunFailed(f"the judge gave no score at all ({reasons}); {target} has the reason of each row")


def score_figures(verdicts: Sequence[Verdict], rubric: Rubric) -> dict[str, Any]:
    """What a `scores` event says of them. Pure. `mean`: with its 95% interval, over the responses;
    `histogram`: how many scores lie at each whole number (rounded), or, of a scale over 12 or under 3 long, in each
    tenth of it."""
    scores = np.array([score for score, _ in verdicts if score is not None])
    low, high = float(rubric.options.low or 0), float(rubric.options.high or 1)
    found = bounded_interval(scores, (low, high)) if scores.size else None
    mean = dict(zip(("value", "low", "high"), found, strict=True)) if found else None
    if 3 <= high - low <= 12 and low == int(low):
        names = [f"{whole}" for whole in range(int(low), int(high) + 1)]
        places = np.floor(scores + 0.5).astype(int) - int(low)
    else:
        edges = np.linspace(low, high, 11)
        names = [f"{start:g} to {end:g}" for start, end in pairwise(edges)]
        places = np.minimum(((scores - low) / (high - low) * 10).astype(int), 9)
    counts = np.bincount(places, minlength=len(names))
    return {
        "n": len(verdicts),
        "scored": len(scores),
        "mean": mean,
        "quartiles": [float(q) for q in np.quantile(scores, (0.25, 0.5, 0.75))] if scores.size else None,
        "histogram": {name: int(count) for name, count in zip(names, counts, strict=True)},
        "missing": dict(Counter(why for score, why in verdicts if score is None)),
    }


def rating_judge(judge: Judge) -> Judge:
    """The judge itself. InputError where it compares two outputs."""
    if judge.rubric.options.of != "one":
        raise InputError(
            f"judge: the rubric {judge.rubric.name} compares two outputs; take one that rates one response, for "
            f"example `--rubric {RUBRIC}`"
        )
    return judge


def adopt(loop: Inference, inputs: Mapping[str, str]) -> None:
    """Keeps digests of what the run works on, and says what changed since its last start."""
    for changed in loop.events.adopt_inputs({**inputs, "the program's steps": digest_of(step_versions())}):
        loop.progress.note(f"{changed} changed since this run was last started; what depends on it is made again")


def refuse_own_file(sources: Sequence[DataSource], recipe: Recipe, name: str) -> None:
    """InputError where the run would write over a file that it reads."""
    target = Path(recipe.output, name).resolve()
    for source in sources:
        if source.path and any((folder / source.path).resolve() == target for folder in recipe.search_folders()):
            raise InputError(f"{source.path}: would be written over by this run; give another `output` (--output)")


def write_json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One object a line, whole or not at all. Half a surrogate pair, which UTF-8 cannot hold, is written as JSON's
    escape of it; what JSON has no form for (a date of a parquet file) as text."""
    lines = [json.dumps(plain(dict(row)), ensure_ascii=False, default=str) + "\n" for row in rows]
    write_file(path, "".join(lines).encode("utf-8", "backslashreplace"))


def _question(loop: Inference, rubric: Rubric, one: Example) -> list[Any]:
    values = {"instruction": content(one.prompt), "response": one.response}
    if loop.recipe.options.reference:
        return rubric.messages(values | {"reference": str(_reference(one))}, "reference")
    return rubric.messages(values)


def _reference(one: Example) -> str | None:
    return one.prompt.references[0] if one.prompt.references else one.prompt.answer


def _names(sources: Sequence[DataSource]) -> str:
    return ", ".join(str(source.path or source.hub) for source in sources)
