"""From a finished run to its figures: accuracies, and of every round what its labels were worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.lab.tasks import grade
from selfimprove.artefacts import Artefact, read_rows
from selfimprove.judging.agreement import consistency
from selfimprove.report.events import Event
from selfimprove.report.summary import of_kind, rounds_of


def run_figures(events: Sequence[Event], store: Path, answers: Mapping[str, str]) -> dict[str, Any]:
    """One run's raw values. `answers`: the truth by prompt id, for the labels."""
    started, done = of_kind(events, "run")[-1], of_kind(events, "done")[-1]
    evaluations: dict[str, Any] = {}
    for one in of_kind(events, "evaluation"):
        found = {"value": one["value"], "n": one["n"]}
        found |= {"groups": {name: group["value"] for name, group in one["groups"].items()}}
        if turns := one.get("self_correction"):
            found |= {"self_correction": {key: value for key, value in turns.items() if key != "examples"}}
        evaluations.setdefault(one["suite"], {})[one["policy"]] = found
    return {
        "git": started["versions"].get("git"),
        "seconds": done["seconds"],
        "evaluations": evaluations,
        "rounds": [_round(one, events, store, answers) for one in rounds_of(events) if "pairs" in one],
        "stages": [_stage(one) for one in of_kind(events, "training") if one["stage"] == "score"],
    }


def _stage(event: Event) -> dict[str, Any]:
    """A stage of SCoRe: what it sampled in its last 10 updates (means), and its seconds by part."""
    last = event["history"][-10:]
    names = [name for name in last[-1] if "/" in name or name in _SAMPLED]
    seconds = {part: sum(row[part] for row in event["history"]) for part in last[-1] if part.startswith("seconds/")}
    means = {name: float(np.mean([row[name] for row in last])) for name in names if name not in seconds}
    return {"stage": event["score_stage"], "updates": len(event["history"]), "last": means, "seconds": seconds}


_SAMPLED = ("delta", "incorrect_to_correct", "correct_to_incorrect", "change_rate", "copy_rate", "edit_ratio")


def _round(event: Event, events: Sequence[Event], store: Path, answers: Mapping[str, str]) -> dict[str, Any]:
    number = event["round"]
    steps = {one["label"]: store / one["folder"] for one in of_kind(events, "step") if one["round"] == number}
    figures = {
        "round": number,
        "policy": event["policy"],
        "prompts": event["prompts"],
        "pairs": event["pairs"],
        "consistency": event["consistency"] and event["consistency"]["mean"],  # in the run's own measure
        "tau": event["rankings"] and event["rankings"]["tau"]["mean"],  # tau-a with the previous model
        "mean_abs_h": event["margins"]["mean_abs"],
        "mean_length": event["lengths"]["mean"],
        "reward_length_correlation": event["reward_length_correlation"],
        "duplicate_share": event["health"]["duplicate_rate"],
        "truncated_share": event["lengths"]["truncated_share"],
    }
    training = next((folder for label, folder in steps.items() if label.startswith("DPO")), None)
    if training is None:
        return figures
    pairs = read_rows(training / "inputs" / "pairs.arrow")
    gains = {
        pair["prompt_id"]: grade(answers[pair["prompt_id"]], pair["chosen"])
        - grade(answers[pair["prompt_id"]], pair["rejected"])
        for pair in pairs
    }
    figures |= {
        "labels": {
            "right": sum(gain > 0 for gain in gains.values()),
            "wrong": sum(gain < 0 for gain in gains.values()),
            "equal": sum(gain == 0 for gain in gains.values()),  # both as good as each other
        },
        "labels_exact": event["label_accuracy"] and {key: event["label_accuracy"][key] for key in ("right", "n")},
        "confidence": float(np.mean([pair["confidence"] for pair in pairs])),
    }
    if event["rankings"]:
        first = of_kind(events, "run")[-1]["recipe"].get("cream", {}).get("first_round", "")
        rankings = _rankings(steps, number, first)
        agreement = {prompt: consistency(*pair) for prompt, pair in rankings.items()}
        figures["tau_untied"] = _tau_untied(list(rankings.values()))
        figures["prediction"] = _prediction(agreement, gains)
    return figures


def _rankings(steps: Mapping[str, Path], number: int, first_round: str) -> dict[str, tuple[list[float], list[float]]]:
    """A round's two score lists by prompt id: the policy's implicit rewards, and its predecessor's."""
    previous = f"M{number - 1}" if number > 1 else ("M1 half-way" if first_round == "sft_middle" else "M0")
    names = (f"M{number}", "M0", previous)
    now, initial, before = (_by_prompt(steps[f"log-probs under {name}"]) for name in names)
    found = {}
    for prompt, rows in now.items():
        ranking = [a["log_prob"] - b["log_prob"] for a, b in zip(rows, initial[prompt], strict=True)]
        if previous == "M0":  # whose implicit reward is zero: its likelihood per token stands in
            other = [row["log_prob"] / row["tokens"] for row in initial[prompt]]
        else:
            other = [a["log_prob"] - b["log_prob"] for a, b in zip(before[prompt], initial[prompt], strict=True)]
        found[prompt] = ranking, other
    return found


def _tau_untied(rankings: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float | None:
    """Kendall's tau with tied pairs left out, mean over the prompts that have an untied pair: equal responses, which
    are frequent here and not in the paper, say nothing about two models."""
    taus = []
    for now, before in rankings:
        i, j = np.triu_indices(len(now), k=1)
        a, b = np.asarray(now), np.asarray(before)
        signs = np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])
        if np.any(signs):
            taus.append(float(signs.sum() / np.abs(signs).sum()))
    return float(np.mean(taus)) if taus else None


def _by_prompt(folder: Path) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(Artefact.read(folder).folder.glob("rows-*.arrow")):
        for row in read_rows(path):
            rows.setdefault(row["prompt_id"], []).append(row)
    return {prompt: sorted(group, key=lambda row: row["index"]) for prompt, group in rows.items()}


def _prediction(agreement: Mapping[str, float | None], gains: Mapping[str, float]) -> dict[str, Any]:
    """Does a prompt's C_j tell whether its pair's label is right? Pairs as good as each other are left out."""
    known = [(c, gain > 0) for prompt, gain in gains.items() if gain and (c := agreement[prompt]) is not None]
    right, wrong = ([c for c, is_right in known if is_right is side] for side in (True, False))
    return {
        "auroc": auroc(right, wrong),
        "mean_right": float(np.mean(right)) if right else None,
        "mean_wrong": float(np.mean(wrong)) if wrong else None,
        "n_right": len(right),
        "n_wrong": len(wrong),
    }


def auroc(right: Sequence[float], wrong: Sequence[float]) -> float | None:
    """Probability that a value of `right` is above one of `wrong`, ties half; None where one of them is empty."""
    if not right or not wrong:
        return None
    ranks = stats.rankdata([*right, *wrong])[: len(right)]
    return float((ranks.sum() - len(right) * (len(right) + 1) / 2) / (len(right) * len(wrong)))
