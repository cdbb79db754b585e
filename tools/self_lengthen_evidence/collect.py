"""The runs, and from their events to benchmarks/results/self-lengthen.json: raw values by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfimprove import Recipe, load_recipe, run
from selfimprove.errors import InputError, RunFailed, SelfImproveError
from selfimprove.recipe.recipe import changed_keys
from selfimprove.report.events import FILE_NAME, Event, read_events
from selfimprove.report.summary import of_kind

RECIPE, SUITE = "smollm2-135m/self-lengthen", "longen-short"
SEEDS = (0, 1, 2)
# What decides a run's results; where it is kept and how fast it runs is left out.
_DECIDES = ("method", "model", "seed", "rounds", "data", "self_lengthen", "sft", "evaluate", "evaluate_limit")
_OF_SAMPLING = ("temperature", "top_p", "max_new_tokens")
_OF_TRAINING = ("lora", "batch_size", "scheduler", "warmup_ratio", "max_length")

Run = dict[str, Any]


def recipe_of(seed: int, folder: Path) -> Recipe:
    """The resolved recipe, with its output in `folder`."""
    return load_recipe(RECIPE, [f"seed={seed}", f"output={folder}"])


def run_all(folder: Path) -> list[int]:
    """Runs the seeds one after another, going on where an earlier start stopped; those that failed."""
    failed = []
    for number, seed in enumerate(SEEDS, start=1):
        print(f"{number} of {len(SEEDS)}: seed {seed}", flush=True)
        try:
            run(recipe_of(seed, folder / str(seed)))
        except SelfImproveError as error:
            print(f"seed {seed} stopped: {error}", flush=True)
            failed.append(seed)
    return failed


def named_runs(texts: Sequence[str]) -> dict[int, Path]:
    """`0=runs/self-lengthen/0` as seed and folder. InputError for anything else."""
    found = {}
    for text in texts:
        seed, _, folder = text.partition("=")
        if not seed.isdecimal() or not folder:
            raise InputError(f"{text!r} is not SEED=RUN_FOLDER, such as 0=runs/self-lengthen/0")
        found[int(seed)] = Path(folder)
    return found


def collect(named: Mapping[int, Path], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The raw values of these runs, beside the others of an earlier file. RunFailed where a run is not finished, or is
    not the one that its seed says."""
    runs: dict[str, Run] = dict((before or {}).get("runs", {}))
    runs |= {str(seed): one_run(seed, folder) for seed, folder in named.items()}
    return {"runs": dict(sorted(runs.items(), key=lambda one: int(one[0])))}


def one_run(seed: int, folder: Path) -> Run:
    """One run's values: of each round the texts and what the filters did, of each policy the suite's items."""
    events = read_events(folder / FILE_NAME)
    started, done = of_kind(events, "run"), of_kind(events, "done")
    if not started or not done:
        raise RunFailed(f"{folder} is not finished; `runs` goes on with it")
    recipe = started[-1]["recipe"]
    expected = recipe_of(seed, folder).model_dump(mode="json")
    if changes := changed_keys(_decisive(expected), _decisive(recipe)):
        raise RunFailed(f"{folder} is not seed {seed} of {RECIPE}: {'; '.join(changes)}")
    lengths = _latest(of_kind(events, "lengths"), "round")
    filters = _latest(of_kind(events, "filter"), "round", "what")
    evaluations = _latest([one for one in of_kind(events, "evaluation") if one["suite"] == SUITE], "policy")
    roles = roles_of(int(recipe["rounds"]))
    if missing := {*roles} - {one["policy"] for one in evaluations}:
        raise RunFailed(f"{folder} has no evaluation of {', '.join(sorted(missing))} on {SUITE}")
    return {
        "git": started[-1]["versions"].get("git"),
        "device": started[-1]["device"],
        "backend": started[-1]["backend"],
        "warnings": started[-1]["warnings"],
        "growth": recipe["self_lengthen"]["growth"],
        "rounds": {
            str(one["round"]): {
                "texts": one["texts"],
                "pairs": one["pairs"],
                "filters": {
                    filter["what"]: {key: filter[key] for key in ("wanted", "kept", "rejected")}
                    for filter in filters
                    if filter["round"] == one["round"]
                },
            }
            for one in lengths
        },
        "training_seconds": {one["policy"]: one["seconds"] for one in of_kind(events, "training")},
        "suite": {
            roles[one["policy"]]: one["length_following"]["items"] for one in evaluations if one["policy"] in roles
        },
    }


def roles_of(rounds: int) -> dict[str, str]:
    """Policy -> its role, of those that are evaluated: the untrained model, the Generators, the final model."""
    generators = {f"M{2 * number - 1}": f"generator {number}" for number in range(1, rounds + 1)}
    return {"M0": "untrained", **generators, f"M{2 * rounds}": "final"}


def _latest(events: Sequence[Event], *keys: str) -> list[Event]:
    """The last event of each value of the keys: a run that went on writes some of them again."""
    return list({tuple(one[key] for key in keys): one for one in events}.values())


def _decisive(recipe: Mapping[str, Any]) -> dict[str, Any]:
    training = {key: recipe["training"].get(key) for key in _OF_TRAINING}
    sampling = {key: value for key, value in recipe["sampling"].items() if key in _OF_SAMPLING}
    return {key: recipe.get(key) for key in _DECIDES} | {"training": training, "sampling": sampling}
