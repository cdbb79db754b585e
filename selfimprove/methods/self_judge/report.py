"""What the report shows of a judge's making: its labels, the two signals in them, and how the training went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.part import Part
from selfimprove.report.summary import of_kind, text
from selfimprove.report.table import (
    Col,
    Table,
    as_dict,
    as_list,
    count,
    counts,
    decimals,
    interval,
    mean_of,
    with_error,
)

_LOSSES = {
    "error/reference": "error with the reference, digits",
    "error/plain": "error without, digits",
    "ce_reference": "CE with the reference, nats",
    "ce_plain": "CE without, nats",
    "kl": "KL, nats",
}
_TWO = decimals(2)
_CORRELATION = decimals(2, sign=True)


def judge_part(events: Sequence[Event]) -> Part:
    return Part(
        "What did the judge learn from?",
        "z1 is the model's own grade of a response, the reference before it: the expected value of a digit. z2 "
        "is the cosine of the response's and the reference's sentence embeddings. The label is made of both. Cut: "
        "responses that were too long. Error: how far the expected digit is from the label; KL: from the pass with "
        "the reference to the one without. Held out: examples of prompts that the judge was not trained on, scored "
        "without the reference. A judge whose cross entropy is not below the labels' entropy knows no more than "
        "how frequent they are.",
        tables=[_labels(events), _labelled(events), _training(events), _learnt(events)],
        outcome=_where(events),
    )


def _where(events: Sequence[Event]) -> str:
    """Which judge is where, and what the gate found of it; empty where the run made none."""
    made = next(reversed(of_kind(events, "judge")), None)
    if made is None:
        return ""
    found = [one for one in of_kind(events, "learnt") if one.get("policy_digest") == made.get("policy_digest")]
    return f"Judge {text(made.get('path'))}" + (f": {text(found[-1].get('message'))}." if found else ".")


def _labels(events: Sequence[Event]) -> Table:
    """One row for each round: how many responses got which label, and how the two signals agree."""

    def label(digit: int) -> Col:
        return Col(f"label {digit}", lambda event: dict(enumerate(as_list(event.get("labels")))).get(digit), count)

    columns = [
        Col("round", show=count),
        Col("responses", show=count),
        Col("examples", show=count),
        *map(label, range(10)),
        Col("z1 and z2, Spearman", "agreement", _CORRELATION),
        Col("z1, median [10, 90%]", "self_evaluation", interval("median", digits=2)),
        Col("z2, median [10, 90%]", "similarity", interval("median", digits=2)),
        Col("missing", show=counts),
        Col("cut", show=count),
    ]
    return Table("Labels", of_kind(events, "labels"), columns)


def _labelled(events: Sequence[Event]) -> Table:
    """Some responses with their signals and labels, lowest labels first."""
    rows = [
        {"round": event.get("round"), **as_dict(one)}
        for event in of_kind(events, "labels")
        for one in as_list(event.get("shown"))
    ]
    columns = [
        Col("round", show=count),
        Col("instruction", "prompt"),
        Col("reference"),
        Col("response"),
        Col("z1", "self_evaluation", _TWO),
        Col("z2", "similarity", _TWO),
        Col("label", show=count),
    ]
    return Table("Some labels", rows, columns)


def _training(events: Sequence[Event]) -> Table:
    """The first and the last quarter of every judge's training: means, with their standard errors."""
    rows: list[dict[str, Any]] = []
    for event in of_kind(events, "training"):
        history = [as_dict(row) for row in as_list(event.get("history"))]
        if event.get("stage") != "judge" or not history:
            continue
        size = max(1, len(history) // 4)
        for name, part in (("first quarter", history[:size]), ("last quarter", history[-size:])):
            means = {title: mean_of(part, key) for key, title in _LOSSES.items()}
            rows.append({"judge": event.get("policy"), "steps": name, "of them": len(part), **means})
    columns = [Col("judge"), Col("steps"), Col("of them")]
    return Table(
        "Training of the judge", rows, columns + [Col(one, show=with_error(digits=3)) for one in _LOSSES.values()]
    )


def _learnt(events: Sequence[Event]) -> Table:
    """What every judge's training came to, on examples that were held out and by its last figures."""
    columns = [
        Col("judge", "policy"),
        Col("trained on", "trained", count),
        Col("held out", "held_out", count),
        Col("of prompts", "held_out_prompts", count),
        Col("Spearman of scores and labels there [95%]", "spearman", interval(digits=2, sign=True)),
        Col("last CE with the reference, nats", "ce_reference", _TWO),
        Col("without", "ce_plain", _TWO),
        Col("the labels' entropy", "entropy", _TWO),
        Col("z1 and z2, Spearman", "agreement", _CORRELATION),
    ]
    return Table("What it learnt", of_kind(events, "learnt"), columns)
