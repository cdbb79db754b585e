"""From finished runs of both studies to runs.json: raw values per seed, item and prompt; other runs' values stay.

python evidence/cream/collect.py [key=value ...]     # of the studies, such as output=... or seeds=[2]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfimprove.artefacts import Artefact, digest_of, read_rows, write_file
from selfimprove.errors import RunFailed
from selfimprove.report.events import FILE_NAME, Event, read_events
from selfimprove.report.summary import dig, of_kind, rounds_of
from selfimprove.study.plan import Planned, load_study, planned

HERE = Path(__file__).parent
FIRST = 102  # items of `words` that were in view when a step size was chosen
ROUNDS = 2  # of the third only how far M3 agrees with M2


def one_run(setting: str, one: Planned, first: int = FIRST, rounds: int = ROUNDS) -> dict[str, Any] | None:
    """One run's values; None where it is not finished. Raises RunFailed where artefacts and events do not agree."""
    file = one.folder / FILE_NAME
    events = read_events(file) if file.is_file() else []
    if not of_kind(events, "done"):
        return None
    started, store = of_kind(events, "run")[-1], Path(str(one.recipe.store))
    folders = {(step["round"], step["label"]): step["folder"] for step in of_kind(events, "step")}
    measured = [_round(event, folders, store) for event in rounds_of(events)]
    policies = {
        event["policy"]: {
            "digest": event["policy_digest"][:16],
            "right": "".join(str(int(value)) for value in event["values"][first:]),
        }
        for event in of_kind(events, "evaluation")
        if event["round"] <= rounds
    }
    later = [event["agreement"] for event in measured if event["round"] == rounds + 1]
    return {
        **{"setting": setting, "arm": one.arm, "seed": one.seed, "git": started["versions"]["git"]},
        **{"device": started["device"], "policies": policies, "last_agreement": later[0] if later else None},
        **{"learning_rate": one.recipe.training.learning_rate, "beta": one.recipe.training.beta},
        "rounds": [event for event in measured if event["round"] <= rounds],
    }


def _round(event: Event, folders: Mapping[tuple[int, str], str], store: Path) -> dict[str, Any]:
    labels, number = event["label_accuracy"] or {"right": 0, "n": 0}, event["round"]
    mean = {
        part: float(np.mean(event["lengths"][part])) if event["lengths"][part] else None
        for part in ("chosen", "rejected")
    }
    found, stated = None, dig(event, "consistency", "mean")
    if stated is not None:
        found = agreement(
            {label: folder for (round_, label), folder in folders.items() if round_ == number}, number, store
        )
        counts = zip(found["order"].split(), found["untied"].split(), strict=True)
        again = np.mean([(int(s) / found["pairs_per_prompt"] + 1) / 2 for s, untied in counts if int(untied)])
        if not np.isclose(again, stated):
            raise RunFailed(f"{store}, round {number}: C from the scores is {again}, in the events {stated}")
    return {
        **{key: event[key] for key in ("round", "policy", "prompts", "pairs", "reward_length_correlation")},
        **{"labels_right": labels["right"], "labels_telling": labels["n"], "mean_length": event["lengths"]["mean"]},
        **{"mean_length_chosen": mean["chosen"], "mean_length_rejected": mean["rejected"]},
        **{"mean_abs_h": event["margins"]["mean_abs"], "agreement": found},
    }


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
        raise RunFailed(f"{damage}. Run the study again; it makes damaged artefacts anew")
    return [row for path in sorted(folder.glob("rows-*.arrow")) for row in read_rows(path)]


if __name__ == "__main__":
    runs = json.loads((HERE / "runs.json").read_text(encoding="utf-8"))["runs"]
    for setting in ("paper-beta", "shipped"):
        for one in planned(load_study(HERE / f"study-{setting}.yaml", sys.argv[1:])):
            if new := one_run(setting, one):
                runs[f"{setting}-{one.arm}-seed{one.seed}"] = new
    write_file(HERE / "runs.json", (json.dumps({"runs": runs}, separators=(",", ":"), sort_keys=True) + "\n").encode())
