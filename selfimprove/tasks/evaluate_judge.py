"""No training and no policy: how far a judge can be trusted. `selfimprove eval judge` is this method."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from selfimprove.artefacts import digest_of
from selfimprove.errors import InputError
from selfimprove.judging.asking import Judge, find_judge
from selfimprove.recipe.contract import Needs, task
from selfimprove.steps.kind import step_versions
from selfimprove.suites.judge_quality import measure_judge
from selfimprove.suites.kind import Loaded
from selfimprove.suites.runner import load_chosen
from selfimprove.suites.suite_kinds import JudgeSuite

if TYPE_CHECKING:
    from selfimprove.inference import Inference


def judges_to_measure(loop: Inference, options: None = None) -> list[tuple[Loaded, Judge]]:
    """The recipe's suites, all of kind `judge`, each with its judge. Nothing is asked yet."""
    found = []
    for choice in loop.recipe.evaluate:
        loaded = load_chosen(loop.recipe, choice)
        if not isinstance(loaded.suite, JudgeSuite):
            raise InputError(f"evaluate: suite {loaded.suite.name!r} measures policies; one of kind `judge` is needed")
        found.append((loaded, find_judge(loop, loaded.suite.judge, loaded.suite.rubric)))
    pairs = [[loaded.suite.name, asdict(pair)] for loaded, _ in found for pair in loaded.pairs]
    inputs = {
        "the judge": digest_of([judge.digest for _, judge in found]),
        "the labelled pairs": digest_of(pairs),
        "the program's steps": digest_of(step_versions()),
    }
    for changed in loop.events.adopt_inputs(inputs):
        loop.progress.note(f"{changed} changed since this was last measured; what depends on it is made again")
    return found


@task(needs=Needs(suites=True, model=False), prepare=judges_to_measure)
def evaluate_judge(loop: Inference, options: None, found: list[tuple[Loaded, Judge]]) -> None:
    """Measures every judge on its suite's pairs, in both orders."""
    for loaded, judge in found:
        figures = measure_judge(loop, loaded, judge)
        loop.events.emit("judge_evaluation", f"{figures['data']}|{judge.digest}", **figures)
