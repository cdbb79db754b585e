"""SCoRe on SmolLM2-135M: raw values from runs' events, and the page's section on them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cream_evidence.intervals import Estimate
from cream_evidence.tables import plain, shown, table

from selfimprove.errors import InputError, RunFailed
from selfimprove.report.events import FILE_NAME, read_events
from selfimprove.report.summary import of_kind

from .lab import FIGURES, of_correction
from .prose import SMOLLM2

_SHOWN = ("t1", "t2", "delta", "i_to_c", "c_to_i", "copy")
_END = 5  # updates at each end of a stage
_PARTS = ("sampling", "rewards", "scoring", "training")

Run = dict[str, Any]


def collect(named: Mapping[str, Path], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The raw values of these runs by name, beside those of an earlier file under other names."""
    runs = dict(before["runs"]) if before else {}
    for name, folder in named.items():
        runs[name] = one_run(folder)
    return {"runs": runs}


def named_folders(texts: list[str]) -> dict[str, Path]:
    """`score=runs/smollm2-score` as name and folder."""
    found = {}
    for text in texts:
        name, sign, folder = text.partition("=")
        if not (name and sign and folder):
            raise InputError(f"{text!r} is not NAME=RUN_FOLDER")
        found[name] = Path(folder)
    return found


def one_run(folder: Path) -> Run:
    """One run's values. Raises `RunFailed` where it was not evaluated with two attempts."""
    events = read_events(folder / FILE_NAME)
    evaluations = [
        {key: one.get(key) for key in ("suite", "policy", "policy_digest", "round")}
        | {"self_correction": {key: value for key, value in one["self_correction"].items() if key != "examples"}}
        for one in of_kind(events, "evaluation")
        if one.get("self_correction")
    ]
    if not evaluations:
        raise RunFailed(f"{folder} has no evaluation with a second attempt: is it finished?")
    started, done = of_kind(events, "run"), of_kind(events, "done")
    recipe = started[-1].get("recipe", {}) if started else {}
    return {
        "git": started[-1]["versions"].get("git") if started else None,
        "device": started[-1].get("device") if started else None,
        "seed": recipe.get("seed"),
        "finished": bool(done),
        "seconds": done[-1].get("seconds") if done else None,
        "evaluations": evaluations,
        "stages": [_stage(one) for one in of_kind(events, "training") if one["stage"] == "score"],
        "probes": [
            {key: one.get(key) for key in ("stage", "policy", "prompts", "samples", "figures")}
            for one in of_kind(events, "probe")
        ],
    }


def _stage(event: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's history, a list of one value per optimizer step for each of its keys."""
    rows = event["history"]
    keys = sorted({key for row in rows for key in row})
    return {
        "stage": event.get("score_stage"),
        "policy": event.get("policy"),
        "seconds": event.get("seconds"),
        "history": {key: [row.get(key) for row in rows] for key in keys},
    }


def write_results(file: Path, results: Mapping[str, Any]) -> None:
    """Indented by one space, a list on one line; the same results give the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_text(results) + "\n", encoding="utf-8")


def _text(value: Any, depth: int = 0) -> str:
    """JSON; of a list of plain values one line."""
    if isinstance(value, Mapping) and value:
        inner = [f"{json.dumps(str(key))}: {_text(value[key], depth + 1)}" for key in value]
        ends = "{}"
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        inner, ends = [_text(one, depth + 1) for one in value], "[]"
    else:
        return json.dumps(value)
    space = "\n" + " " * (depth + 1)
    return ends[0] + space + f",{space}".join(inner) + "\n" + " " * depth + ends[1]


def section(results: Mapping[str, Any]) -> str:
    """The page's section; empty without a run."""
    runs: dict[str, Run] = dict(results.get("runs", {}))
    if not runs:
        return ""
    header = ["suite", "run", "policy", "items"]
    header += [f"{FIGURES[figure][0]}, {'points' if figure == 'delta' else '%'}" for figure in _SHOWN]
    parts = [SMOLLM2, _about(runs), table(header, list(_evaluated(runs)))]
    if trained := list(_trained(runs)):
        columns = ["run", "stage", "updates", "Acc@t1, %", "Acc@t2, %", "copies, %", "KL of turn 1", "KL of turn 2"]
        columns += ["seconds an update", *(f"{part}, %" for part in _PARTS)]
        said = (
            f"What training drew, first to last {_END} updates (means), KL in nats per token, and where its time went:"
        )
        parts += [said, table(columns, trained)]
    return "\n\n".join(parts)


def _about(runs: Mapping[str, Run]) -> str:
    seeds = sorted({str(run["seed"]) for run in runs.values() if run["seed"] is not None})
    codes = sorted({f"{str(run['git'])[:7]} ({run['device']})" for run in runs.values()})
    open_ = [name for name, run in runs.items() if not run["finished"]]
    said = f"Seed {', '.join(seeds)}; code at {', '.join(codes)}."
    return said + (f" Not finished: {', '.join(open_)}." if open_ else "")


def _evaluated(runs: Mapping[str, Run]) -> Iterator[list[str]]:
    """A row for each policy and suite; a policy that several runs share, as their base, once."""
    seen = set()
    for name, run in runs.items():
        for one in run["evaluations"]:
            known = (one["suite"], one["policy_digest"])
            if known in seen:
                continue
            seen.add(known)
            shared = [
                n for n, r in runs.items() if known in {(e["suite"], e["policy_digest"]) for e in r["evaluations"]}
            ]
            whose = name if len(shared) == 1 else f"{len(shared)} runs"
            found = one["self_correction"]
            cells = [_cell(found, figure) for figure in _SHOWN]
            yield [one["suite"], whose, one["policy"], str(found["turns"]["1"]["n"]), *cells]


def _cell(found: dict[str, Any], figure: str) -> str:
    kept = of_correction(found, figure)
    return shown(Estimate(kept["value"], kept["low"], kept["high"], kept["n"]), FIGURES[figure][1]) if kept else ""


def _trained(runs: Mapping[str, Run]) -> Iterator[list[str]]:
    for name, run in runs.items():
        for stage in run["stages"]:
            history = stage["history"]
            ends = [
                _ends(history, key, unit)
                for key, unit in (
                    ("accuracy/turn_1", "accuracy"),
                    ("accuracy/turn_2", "accuracy"),
                    ("copy_rate", "accuracy"),
                    ("kl/turn_1", "h"),
                    ("kl/turn_2", "h"),
                )
            ]
            sums = [sum(_known(history, f"seconds/{part}")) for part in _PARTS]
            steps = len(history.get("loss", history.get("accuracy/turn_1", [])))
            times = [f"{sum(sums) / steps:.1f}", *(f"{100 * one / sum(sums):.0f}" for one in sums)] if sum(sums) else []
            yield [name, {1: "I", 2: "II"}.get(stage["stage"], ""), str(steps), *ends, *(times or [""] * 5)]


def _known(history: Mapping[str, list[Any]], key: str) -> list[float]:
    return [one for one in history.get(key, []) if one is not None]


def _ends(history: Mapping[str, list[Any]], key: str, unit: str) -> str:
    values = _known(history, key)
    if not values:
        return ""
    return " to ".join(plain(float(np.mean(part)), unit) for part in (values[:_END], values[-_END:]))
