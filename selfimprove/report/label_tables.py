"""Tables of what `self_judge` learned from: labels, the two signals in them, and how the training went."""

from __future__ import annotations

from collections.abc import Sequence

from selfimprove.report.events import Event
from selfimprove.report.score_stages import mean_and_error
from selfimprove.report.summary import count, dig, fixed, numbers, of_kind, round_number, text, with_interval
from selfimprove.report.tables import Table, as_dict, as_list

_FIGURES = {
    "error/reference": "error with the reference, digits",
    "error/plain": "error without, digits",
    "ce_reference": "CE with the reference, nats",
    "ce_plain": "CE without, nats",
    "kl": "KL, nats",
}


def labels_table(events: Sequence[Event]) -> Table:
    """One row for each round: how many responses got which label, and how the two signals agree."""
    rows = []
    for event in of_kind(events, "labels"):
        missing = as_dict(event.get("missing"))
        rows.append(
            [
                str(round_number(event)),
                count(event.get("responses")),
                count(event.get("examples")),
                *(count(one) for one in as_list(event.get("labels"))),
                fixed(event.get("agreement"), 2, sign=True),
                *(_spread(event, name) for name in ("self_evaluation", "similarity")),
                ", ".join(f"{why}: {count(n)}" for why, n in missing.items()),
                count(event.get("cut")),
            ]
        )
    columns = ["round", "responses", "examples", *(f"label {digit}" for digit in range(10))]
    columns += ["z1 and z2, Spearman", "z1, median [10, 90%]", "z2, median [10, 90%]", "missing", "cut"]
    return Table(columns, rows)


def _spread(event: Event, name: str) -> str:
    low, middle, high = (fixed(dig(event, name, key), 2) for key in ("low", "median", "high"))
    return f"{middle} [{low}, {high}]" if middle else ""


def labelled_table(events: Sequence[Event]) -> Table:
    """Some responses with their signals and labels, lowest labels first."""
    rows = [
        [
            str(round_number(event)),
            text(one.get("prompt")),
            text(one.get("reference")),
            text(one.get("response")),
            fixed(one.get("self_evaluation"), 2),
            fixed(one.get("similarity"), 2),
            count(one.get("label")),
        ]
        for event in of_kind(events, "labels")
        for one in map(as_dict, as_list(event.get("shown")))
    ]
    return Table(["round", "instruction", "reference", "response", "z1", "z2", "label"], rows)


def learnt_table(events: Sequence[Event]) -> Table:
    """What every judge's training came to, on examples that were held out and by its last figures."""
    rows = []
    for event in of_kind(events, "learnt"):
        rows.append(
            [
                text(event.get("policy")),
                *(count(event.get(name)) for name in ("trained", "held_out", "held_out_prompts")),
                with_interval(event.get("spearman"), "value", digits=2, sign=True),
                *(fixed(event.get(name), 2) for name in ("ce_reference", "ce_plain", "entropy")),
                fixed(event.get("agreement"), 2, sign=True),
            ]
        )
    columns = ["judge", "trained on", "held out", "of prompts", "Spearman of scores and labels there [95%]"]
    columns += ["last CE with the reference, nats", "without", "the labels' entropy", "z1 and z2, Spearman"]
    return Table(columns, rows)


def judge_sentence(events: Sequence[Event]) -> str:
    """Which judge is where, and what the gate found of it; empty where the run made none."""
    made = next(reversed(of_kind(events, "judge")), None)
    if made is None:
        return ""
    found = [one for one in of_kind(events, "learnt") if one.get("policy_digest") == made.get("policy_digest")]
    return f"Judge {text(made.get('path'))}" + (f": {text(found[-1].get('message'))}." if found else ".")


def judge_training_table(events: Sequence[Event]) -> Table:
    """The first and the last quarter of every judge's training: means, with their standard errors."""
    rows = []
    for event in of_kind(events, "training"):
        history = [as_dict(row) for row in as_list(event.get("history"))]
        if event.get("stage") != "judge" or not history:
            continue
        size = max(1, len(history) // 4)
        for name, part in (("first quarter", history[:size]), ("last quarter", history[-size:])):
            cells = []
            for key in _FIGURES:
                values = numbers([row.get(key) for row in part])
                mean, error = mean_and_error(values) if values else (None, None)
                cells.append(fixed(mean, 3) + (f" ± {fixed(error, 3)}" if error is not None else ""))
            rows.append([text(event.get("policy")), name, str(len(part)), *cells])
    return Table(["judge", "steps", "of them", *_FIGURES.values()], rows)
