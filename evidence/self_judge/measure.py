"""Runs the arms of study.yaml, after `selfimprove run smollm2-135m/sft-lora`; run it again to go on where it stopped:

    python evidence/self_judge/measure.py [ARM ...] [key=value ...]

It leaves answers.json in the study's output: of every seed the judged answers, right or wrong, and all arms' scores.
`figures.py` makes the table of it.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from scipy.stats import spearmanr

from selfimprove import run
from selfimprove.artefacts import write_file
from selfimprove.judging.checkers.exact import exact_match
from selfimprove.methods.self_judge.labels import combined_labels
from selfimprove.study.plan import Planned, load_study, planned
from selfimprove.suites import graded

HERE = Path(__file__).parent
NORMALIZE = ("lower", "strip", "final_period")  # of the suite judged-words
# What measure_judge measures of every policy, in its order.
MEASURED = ("own", "length", "shortness", "likelihood", "likelihood_summed", "random", "oracle")
WEIGHTS = (0, 0.25, 0.5, 0.75, 1)


def round_to(value: float) -> float:
    return float(f"{value:.4g}")


def gold(loop: Any, responses: Any) -> dict[tuple[str, int], float]:
    """In the place of the similarity: 1 for a response that is the reference, 0 for another one or one cut off."""
    return {
        (prompt.id, one.index): float(one.finish != "length" and exact_match(one.text, prompt.answer, NORMALIZE))
        for prompt, its_responses in responses
        for one in its_responses
    }


@contextmanager
def watched(arm: str) -> Iterator[tuple[list[tuple[Any, Any]], dict[str, float]]]:
    """What a run does meanwhile: the (scores, graded answers) that its evaluations measure, and how its labels would
    rank with the truth by the weight of the own grades (Spearman). The arm `gold` has true labels."""
    calls: list[tuple[Any, Any]] = []
    labels: dict[str, float] = {}
    method = importlib.import_module("selfimprove.methods.self_judge.self_judge")
    measure, similarity, labelled = graded.measure_scores, method.similarity, method.labelled_examples

    def measured(scores: Any, answers: Any, *rest: Any) -> Any:
        calls.append((scores, answers))
        return measure(scores, answers, *rest)

    def examples(loop: Any, rubric: Any, responses: Any, own: Any, similar: Any, round: Any) -> Any:
        truth, cosines = gold(loop, responses), similarity(loop, responses)
        for weight in WEIGHTS:
            found = combined_labels([own[one] for one in truth], [cosines[one] for one in truth], weight)
            labels[str(weight)] = round_to(spearmanr(found, list(truth.values())).statistic)
        return labelled(loop, rubric, responses, own, similar, round)

    with (
        patch.object(graded, "measure_scores", measured),
        patch.object(method, "similarity", gold if arm == "gold" else similarity),
        patch.object(method, "labelled_examples", examples),
    ):
        yield calls, labels


def judged(one: Planned) -> dict[str, Any]:
    """What one run's judge says of its seed's answers, beside what needs no training."""
    with watched(one.arm) as (calls, labels):
        run(one.recipe)
    before, after = (dict(zip(MEASURED, calls[at : at + 7], strict=True)) for at in (0, 7))
    answers = before["own"][1]
    assert len(calls) == 14 and list(before["oracle"][0]) == answers.gold.tolist()
    assert (after["own"][1].gold == answers.gold).all()
    scores = {"untrained": before["own"], "likelihood": before["likelihood"], one.arm: after["own"]}
    return {
        "prompts": answers.prompts.tolist(),
        "gold": answers.gold.astype(int).tolist(),
        "scores": {name: [round_to(value) for value in values] for name, (values, _) in scores.items()},
        "labels": labels,
    }


def main(arguments: list[str]) -> None:
    study = load_study(HERE / "study.yaml", [one for one in arguments if "=" in one])
    arms = [one for one in arguments if "=" not in one] or list(study.arms)
    file = Path(study.output) / "answers.json"
    for one in planned(study):
        if one.arm in arms:
            new = judged(one)
            found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            if old := found.get(str(one.seed)):
                assert all(old[key] == new[key] for key in ("prompts", "gold")), f"{one.arm}: other answers than before"
                new["scores"] = old["scores"] | new["scores"]
            found[str(one.seed)] = new
            write_file(file, (json.dumps(found, separators=(",", ":")) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
