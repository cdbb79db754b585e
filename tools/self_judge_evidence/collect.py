"""From the runs' events to benchmarks/results/self-judge.json: raw values by kind of judge and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfimprove.errors import InputError, RunFailed
from selfimprove.recipe.recipe import changed_keys
from selfimprove.report.events import FILE_NAME, Event, read_events
from selfimprove.report.summary import dig, of_kind

from .runs import KINDS, SUITE, recipe_of

UNTRAINED, TRAINED = "M0", "M1"
# What decides a run's results; where it is kept and how fast it runs is left out.
_DECIDES = ("method", "model", "seed", "rounds", "data", "self_judge", "evaluate", "evaluate_limit")
_OF_SAMPLING = ("backend", "n", "temperature", "top_p", "max_new_tokens")
_OF_TRAINING = ("lora", "learning_rate", "epochs", "batch_size", "scheduler", "warmup_ratio", "max_length")

Run = dict[str, Any]


def named_runs(texts: Sequence[str]) -> dict[tuple[str, int], Path]:
    """`self-j-0=runs/self-judge/self-j-0` as (kind, seed) and folder. InputError for anything else."""
    found = {}
    for text in texts:
        name, _, folder = text.partition("=")
        kind, _, seed = name.rpartition("-")
        if kind not in KINDS or not seed.isdecimal() or not folder:
            raise InputError(
                f"{text!r} is not KIND-SEED=RUN_FOLDER, such as self-j-0=runs/x; kinds: {', '.join(KINDS)}"
            )
        found[kind, int(seed)] = Path(folder)
    return found


def collect(named: Mapping[tuple[str, int], Path], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The raw values of these runs, beside the others of an earlier file and its `used`, which is written by hand.

    RunFailed where a run is not finished, is not the one that its name says, or judges other answers than its seed's.
    """
    runs: dict[str, dict[str, Run]] = {kind: dict(dig(dict(before or {}), "runs", kind) or {}) for kind in KINDS}
    for (kind, seed), folder in named.items():
        runs[kind][str(seed)] = one_run(kind, seed, folder)
    for one in sorted({one for seeds in runs.values() for one in seeds}):
        _require_same_answers(one, {kind: seeds[one] for kind, seeds in runs.items() if one in seeds})
    ordered = {kind: dict(sorted(seeds.items(), key=lambda one: int(one[0]))) for kind, seeds in runs.items() if seeds}
    return {"runs": ordered, "used": list((before or {}).get("used", []))}


def one_run(kind: str, seed: int, folder: Path) -> Run:
    """One run's values; of one that a gate stopped, why (`stopped`)."""
    events = read_events(folder / FILE_NAME)
    started, done = of_kind(events, "run"), of_kind(events, "done")
    if not started:
        raise RunFailed(f"{folder} was never started; run it, or leave it out")
    recipe = started[-1]["recipe"]
    expected = recipe_of(kind, seed, folder.parent).model_dump(mode="json")
    if changes := changed_keys(_decisive(expected), _decisive(recipe)):
        raise RunFailed(f"{folder} is not {kind}-{seed}: {'; '.join(changes)}")
    about = {"git": started[-1]["versions"].get("git"), "device": started[-1]["device"]}
    if not done:
        return about | {"stopped": _why_stopped(events, recipe, folder)}
    evaluations = {
        one["policy"]: {
            "policy_digest": one["policy_digest"],
            "items": one["n"],
            "paired": one["paired"],
            "graded": {key: value for key, value in one["graded"].items() if key != "cost"},
        }
        for one in of_kind(events, "evaluation")
        if one["suite"] == SUITE
    }
    if missing := {UNTRAINED, TRAINED} - {*evaluations}:
        raise RunFailed(f"{folder} has no evaluation of {', '.join(sorted(missing))} on {SUITE}")
    labels = of_kind(events, "labels")[-1]
    trained = [one for one in of_kind(events, "training") if one["stage"] == "judge"][-1]
    keys = sorted({key for row in trained["history"] for key in row})
    return about | {
        "seconds": done[-1]["seconds"],
        "model": started[-1]["model"],
        "warnings": started[-1]["warnings"],
        "evaluations": evaluations,
        "labels": {key: value for key, value in labels.items() if key not in ("event", "id", "time", "shown")},
        "training": {
            "seconds": trained["seconds"],
            "history": {key: [row.get(key) for row in trained["history"]] for key in keys},
        },
    }


def _decisive(recipe: Mapping[str, Any]) -> dict[str, Any]:
    training = {key: recipe["training"].get(key) for key in _OF_TRAINING}
    sampling = {key: value for key, value in recipe["sampling"].items() if key in _OF_SAMPLING}
    return {key: recipe.get(key) for key in _DECIDES} | {"training": training, "sampling": sampling}


def _why_stopped(events: Sequence[Event], recipe: Mapping[str, Any], folder: Path) -> str:
    for gate in of_kind(events, "gate"):
        if not gate["passed"] and gate["gate"] not in recipe["gates"]["disabled"]:
            return f"gate {gate['gate']}: {gate['message']}"
    raise RunFailed(f"{folder} is not finished; `runs` goes on with it")


def _require_same_answers(seed: str, runs: Mapping[str, Run]) -> None:
    """A seed's judges are compared by what they say of the same answers."""
    found = {kind: run["evaluations"][UNTRAINED]["graded"] for kind, run in runs.items() if "stopped" not in run}
    first = next(iter(found), "")
    if other := next((kind for kind, graded in found.items() if graded != found[first]), None):
        raise RunFailed(
            f"seed {seed}: {other} and {first} do not judge the same answers with the same untrained judge, so they "
            "cannot be compared; give a seed's runs one `store`, as `runs` does, and the same model"
        )
