"""From finished runs to results.json: raw values per seed, per item and per prompt; nothing is averaged over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfimprove.artefacts import Artefact, digest_of, read_rows
from selfimprove.data.sources import Prompt
from selfimprove.errors import RunFailed
from selfimprove.judging.checkers.exact import exact_match
from selfimprove.recipe.recipe import Recipe, changed_keys
from selfimprove.report.events import Event, read_events
from selfimprove.report.summary import dig, of_kind, rounds_of
from selfimprove.suites.suite_kinds import ExactMatch
from selfimprove.suites.suites import load_suite

from .matrix import Cell

# What decides a run's results; where it is kept and how fast it runs is left out.
_DECIDES = (
    "method",
    "model",
    "seed",
    "rounds",
    "data",
    "sampling",
    "sft",
    "training",
    "cream",
    "iterative_dpo",
    "evaluate_limit",
)


def collect(folder: Path, cells: Sequence[Cell], collected: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The raw values of every finished run of `cells` below `folder`, and why the others are missing.

    A run of which `folder` has nothing keeps its values of `collected`, an earlier results.json: the matrix can be run
    in parts, on several machines.
    """
    runs: dict[str, Any] = {}
    before = collected["runs"] if collected else {}
    missing: dict[str, str] = {}
    for cell in cells:
        metrics = folder / cell.name / "metrics.jsonl"
        events = read_events(metrics) if metrics.is_file() else []
        if of_kind(events, "done"):
            runs[cell.name] = one_run(cell, cell.load(folder), events, folder / "store")
            runs[cell.name]["last_agreement"] = _last_agreement(cell, folder, runs[cell.name]["rounds"][-1]["round"])
        elif not events and cell.name in before:
            runs[cell.name] = before[cell.name]
        else:
            missing[cell.name] = _why_missing(events)
    return {"runs": runs, "missing": missing}


def _why_missing(events: Sequence[Event]) -> str:
    if not events:
        return "not started"
    disabled = of_kind(events, "run")[-1]["recipe"]["gates"]["disabled"] if of_kind(events, "run") else []
    for gate in of_kind(events, "gate"):
        if not gate["passed"] and gate["gate"] not in disabled:
            return f"stopped in round {gate['round']} by gate {gate['gate']}: {gate['message']}"
    return "not finished"


def one_run(cell: Cell, recipe: Recipe, events: Sequence[Event], store: Path) -> dict[str, Any]:
    """One run's values. Raises `RunFailed` where run and matrix, or artefacts and events, do not agree."""
    started = of_kind(events, "run")[-1]
    expected, recorded = (_decisive(values) for values in (recipe.model_dump(mode="json"), started["recipe"]))
    if changes := changed_keys(_known_to(recorded, expected), recorded):
        raise RunFailed(f"{cell.name}: this run is not the matrix's: {'; '.join(changes)}")
    loaded = load_suite(started["recipe"]["evaluate"][0], recipe.search_folders())
    suite, items = loaded.suite, loaded.items[: recipe.evaluate_limit]
    assert isinstance(suite, ExactMatch)
    folders = {(step["round"], step["label"]): step["folder"] for step in of_kind(events, "step")}
    policies = {}
    for evaluation in of_kind(events, "evaluation"):
        place = folders[evaluation["round"], f"{suite.name} with {evaluation['policy']}"]
        right = right_items(suite, items, _rows(store / place))
        if not np.isclose(sum(right) / len(right), evaluation["value"]):
            raise RunFailed(f"{cell.name}: {place} does not give the accuracy of {evaluation['policy']} in the events")
        policies[evaluation["policy"]] = {
            "digest": evaluation["policy_digest"][:16],
            "right": "".join(str(int(one)) for one in right),
        }
    return {
        "setting": cell.setting,
        "arm": cell.arm,
        "seed": cell.seed,
        "learning_rate": recipe.training.learning_rate,
        "beta": recipe.training.beta,
        "git": started["versions"]["git"],
        "device": started["device"],
        "items": digest_of([[item.id, item.answer] for item in items])[:16],
        "policies": policies,
        "rounds": [_round(cell, event, folders, store) for event in rounds_of(events)],
    }


def _decisive(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What of a resolved recipe decides its results; of the suites only their names, as they may lie anywhere."""
    return {key: recipe.get(key) for key in _DECIDES} | {"suites": [Path(one).stem for one in recipe["evaluate"]]}


def _known_to(recorded: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """`expected` without the keys that the program did not have yet when the run was made."""
    return {
        key: _known_to(recorded[key], value) if isinstance(value, dict) and isinstance(recorded[key], dict) else value
        for key, value in expected.items()
        if key in recorded
    }


def right_items(suite: ExactMatch, items: Sequence[Prompt], rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Whether each item's greedy answer is right, by the suite's own rule; a truncated or missing answer is wrong."""
    answers = {row["prompt_id"]: row for row in rows}
    right = []
    for item in items:
        answer = answers.get(item.id)
        ended = answer is not None and answer["finish"] == "stop"
        right.append(ended and exact_match(answer["text"], str(item.answer), suite.normalize))  # type: ignore[index]
    return right


def _round(cell: Cell, event: Event, folders: Mapping[tuple[int, str], str], store: Path) -> dict[str, Any]:
    labels = event["label_accuracy"] or {"right": 0, "n": 0}
    return {
        "round": event["round"],
        "policy": event["policy"],
        "prompts": event["prompts"],
        "pairs": event["pairs"],
        "labels_right": labels["right"],
        "labels_telling": labels["n"],
        "mean_length": event["lengths"]["mean"],
        "mean_length_chosen": _mean(event["lengths"]["chosen"]),
        "mean_length_rejected": _mean(event["lengths"]["rejected"]),
        "reward_length_correlation": event["reward_length_correlation"],
        "mean_abs_h": event["margins"]["mean_abs"],
        "agreement": _agreement(cell, event, folders, store),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _agreement(cell: Cell, event: Event, folders: Mapping[tuple[int, str], str], store: Path) -> dict[str, Any] | None:
    """The agreement a round measured, made again from the scores; its C must be the one in the events."""
    stated = dig(event, "consistency", "mean")
    if stated is None:
        return None
    number = event["round"]
    labels = {label: folder for (round_, label), folder in folders.items() if round_ == number}
    found = agreement(labels, number, store)
    counts = zip(found["order"].split(), found["untied"].split(), strict=True)
    mean = float(np.mean([(int(s) / found["pairs_per_prompt"] + 1) / 2 for s, untied in counts if int(untied)]))
    if not np.isclose(mean, stated):
        raise RunFailed(f"{cell.name}, round {number}: C from the scores is {mean}, in the events {stated}")
    return found


def _last_agreement(cell: Cell, folder: Path, last_round: int) -> dict[str, Any] | None:
    """What `compare` found for the last two models; None where it was not asked."""
    metrics = folder / cell.name / "compared" / "metrics.jsonl"
    if not metrics.is_file():
        return None
    labels = {step["label"]: step["folder"] for step in of_kind(read_events(metrics), "step")}
    needed = [f"log-probs under M{number}" for number in (last_round + 1, 0, last_round)]
    return agreement(labels, last_round + 1, folder / "store") if labels.keys() >= set(needed) else None


def agreement(labels: Mapping[str, str], number: int, store: Path) -> dict[str, Any]:
    """Order and number of untied response pairs of every prompt, by model `number` and the one before it.

    labels: artefact by the step's label. Model 1 is M1, whose predecessor is the middle of its SFT.
    """
    before = f"M{number - 1}" if number > 1 else "M1 half-way"
    now, initial, previous = (
        {(row["prompt_id"], row["index"]): row["log_prob"] for row in _rows(store / labels[f"log-probs under {model}"])}
        for model in (f"M{number}", "M0", before)
    )
    prompts = sorted({prompt for prompt, _ in now})
    counts = []
    for prompt in prompts:
        keys = sorted(key for key in now if key[0] == prompt)
        counts.append(pair_counts([now[k] - initial[k] for k in keys], [previous[k] - initial[k] for k in keys]))
    responses = sum(1 for key in now if key[0] == prompts[0])
    return {
        "models": f"M{number}, {before}",
        "pairs_per_prompt": responses * (responses - 1) // 2,
        "prompts": digest_of(prompts)[:16],
        "order": " ".join(str(order) for order, _ in counts),
        "untied": " ".join(str(untied) for _, untied in counts),
    }


def pair_counts(first: Sequence[float], second: Sequence[float]) -> tuple[int, int]:
    """(pairs ordered alike minus pairs ordered oppositely, pairs tied in neither ranking) of two score lists.

    The first divided by the number of all pairs is tau-a; divided by the second it is tau with tied pairs left out.
    """
    i, j = np.triu_indices(len(first), k=1)
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    signs = np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])
    return int(signs.sum()), int(np.abs(signs).sum())


def _rows(folder: Path) -> list[dict[str, Any]]:
    """An artefact's rows. A damaged one is reported and left where it is: collecting changes nothing."""
    artefact = Artefact.read(folder)
    if damage := artefact.damage():
        raise RunFailed(f"{damage}. Run the matrix again; it makes damaged artefacts anew")
    return [row for path in sorted(folder.glob("rows-*.arrow")) for row in read_rows(path)]


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """results.json, indented by one space; the same results give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
