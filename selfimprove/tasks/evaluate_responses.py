"""No training and no policy: texts that are there get length scores, and a judge's of their quality.

`selfimprove eval longen --responses FILE --judge J` is this method.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from selfimprove.artefacts import digest_of
from selfimprove.judging.asking import Judge, find_judge
from selfimprove.recipe.contract import Needs, task
from selfimprove.suites.kind import Loaded
from selfimprove.suites.longen import demands_of, measure_responses, written_in
from selfimprove.suites.runner import load_chosen
from selfimprove.suites.suite_kinds import LengthSuite
from selfimprove.tasks.judge_file import adopt, rating_judge

if TYPE_CHECKING:
    from selfimprove.inference import Inference


def responses_and_judges(loop: Inference, options: None = None) -> list[tuple[Loaded, Judge]]:
    """The recipe's suites, all of kind `length` with `response` in their data, each with its judge. Nothing is asked
    yet."""
    found = []
    for choice in loop.recipe.evaluate:
        loaded = load_chosen(loop.recipe, choice)
        written_in(loaded)
        demands_of(loaded)
        assert isinstance(loaded.suite, LengthSuite)  # or `written_in` has raised
        found.append((loaded, rating_judge(find_judge(loop, loaded.suite.judge, loaded.suite.rubric))))
    adopt(
        loop,
        {
            "the judge": digest_of([judge.digest for _, judge in found]),
            "the responses": digest_of([[asdict(item) for item in loaded.items] for loaded, _ in found]),
        },
    )
    return found


@task(needs=Needs(suites=True, model=False), prepare=responses_and_judges)
def evaluate_responses(loop: Inference, options: None, found: list[tuple[Loaded, Judge]]) -> None:
    """Measures every suite's responses."""
    for loaded, judge in found:
        figures = measure_responses(loop, loaded, judge)
        loop.events.emit("evaluation", f"{figures['suite']}|{figures['policy']}|{judge.digest}", round=0, **figures)
