"""What the report shows of SCoRe's training: lines over the updates, both ends of each stage, probes and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from selfimprove.methods.score.history import (
    END,
    FIGURES,
    SECONDS,
    Stage,
    ends_of,
    running_mean,
    stage_name,
    stages_of,
    thinned,
)
from selfimprove.report.charts import Chart, areas, lines
from selfimprove.report.events import Event
from selfimprove.report.part import Part
from selfimprove.report.summary import dig, fixed, of_kind, text
from selfimprove.report.table import Col, Table, as_dict, as_list, count, duration, interval, mean_of, percent


def training_part(events: Sequence[Event]) -> Part:
    stages = stages_of(events)
    tables = [_stages(stages), *map(_ends, stages), _probes(events), _times(stages), _samples(events)]
    return Part(
        "What did the reinforcement learning do?", _said(stages), _charts(stages), tables, terminal=bool(stages)
    )


# ---- charts

_TURNS = (1, 2)


def _by_turn(key: str, name: str = "turn ") -> dict[str, str]:
    return {f"{key}/turn_{turn}": f"{name}{turn}" for turn in _TURNS}


# Title, note, axis, the figures with their names, and what the axis shows at least, as a training is judged.
_LINES: list[tuple[str, str, str, Mapping[str, str], tuple[float | None, float | None]]] = [
    (
        "Accuracy of each attempt",
        "Dashed: the base's first attempt.",
        "accuracy (%)",
        _by_turn("accuracy", "Acc@t"),
        (None, None),
    ),
    (
        "Delta = Acc@t2 - Acc@t1",
        "Above 0 the second attempt is better.",
        "Delta (points)",
        {"delta": "Delta"},
        (None, None),
    ),
    ("Mean reward", "", "mean reward", _by_turn("reward"), (None, None)),
    (
        "What became of the first attempt",
        "",
        "samples (%)",
        {"incorrect_to_correct": "wrong, then right", "correct_to_incorrect": "right, then wrong"},
        (0, None),
    ),
    (
        "Changed and copied",
        "A second turn that collapses copies more and more.",
        "second attempts (%)",
        {"change_rate": "another answer", "copy_rate": "copied whole"},
        (0, None),
    ),
    ("Edit ratio", "0: a copy; towards 1: nothing in common.", "edit ratio", {"edit_ratio": "edit ratio"}, (0, None)),
    (
        "KL to the base, per turn",
        "Stage I should hold turn 1 near 0.",
        "KL (nats per token)",
        _by_turn("kl"),
        (0, None),
    ),
    ("Truncated answers", "", "truncated (%)", _by_turn("truncated"), (0, None)),
    ("Length of the answers", "", "length (tokens)", _by_turn("tokens"), (0, None)),
    (
        "Reward coverage",
        "Below 100% the checker itself failed.",
        "answers with a reward (%)",
        {"reward_coverage": "reward coverage"},
        (90, 100),
    ),
    ("Gradient norm", "Before it is clipped.", "gradient norm", {"grad_norm": "gradient norm"}, (0, None)),
    (
        "Clipped tokens",
        "The share whose ratio left the clip range.",
        "clipped tokens (%)",
        _by_turn("clip_fraction"),
        (0, None),
    ),
]


def _charts(stages: Sequence[Stage]) -> list[Chart]:
    """A pale line of the updates and a bold one of their running mean for each figure; then what an update's time went
    to. Dashed across: where the next stage begins."""
    names = [f"{one.name}: {one.start + 1} to {one.start + len(one.rows)}" for one in stages]
    axis = "update" + (f" ({', '.join(names)})" if len(stages) > 1 else "")
    begins = [one.start + 0.5 for one in stages[1:]]
    found = []
    for title, note, y, keys, (low, high) in _LINES:
        if all(stage.says_nothing(key) for stage in stages for key in keys):
            continue
        rows = [row for key, name in keys.items() for stage in stages for row in _line(stage, key, name)]
        at = [0.0] if "delta" in keys else []
        if "accuracy/turn_1" in keys:  # both stages start from one base
            at = [100 * stage.base_accuracy for stage in stages if stage.base_accuracy is not None][-1:]
        bounds = (None if low is None else min([low, *(row["y"] for row in rows)]), high)
        found.append(lines(title, rows, axis, y, note, at=at, at_x=begins, values=bounds))
    shares = [row for stage in stages for row in _time_shares(stage)]
    note = "Shares, running means over the updates."
    found.append(areas("Where an update's time went", shares, axis, "time (%)", note, at_x=begins, values=(0, 100)))
    return found


def _line(stage: Stage, key: str, name: str) -> list[dict[str, Any]]:
    points = [(place, FIGURES[key].scale * value) for place, value in stage.values(key)]
    common = {"series": name, "line": str(stage.start), "tip": f"{name}, {stage.name}"}
    pale = [{**common, "x": x, "y": y, "pale": True} for x, y in thinned(points)]
    return [*pale, *({**common, "x": x, "y": y} for x, y in thinned(running_mean(points)))]


def _time_shares(stage: Stage) -> list[dict[str, Any]]:
    taken = {part: dict(stage.values(f"seconds/{part}")) for part in SECONDS}
    places = sorted({place for one in taken.values() for place in one})
    sums = {place: whole for place in places if (whole := sum(one.get(place, 0.0) for one in taken.values())) > 0}
    rows = []
    for part, seconds in taken.items():
        shares = [(place, 100 * seconds.get(place, 0.0) / whole) for place, whole in sums.items()]
        points = thinned(running_mean(shares))
        if len(points) == 1:  # an area of one point has no width
            points = [(points[0][0] + shift, points[0][1]) for shift in (-0.5, 0.5)]
        rows += [{"x": x, "y": y, "series": SECONDS[part]} for x, y in points]
    return rows


# ---- tables


def _stages(stages: Sequence[Stage]) -> Table:
    """A line for each stage, which a terminal of 80 columns has room for."""

    def last(title: str, key: str, *, error: bool = False, digits: int = 1) -> Col:
        how = FIGURES[key]
        show = how.show if error else interval("mean", digits=digits, scale=how.scale)
        return Col(title, lambda stage: mean_of(ends_of(stage)[1], key), show)

    return Table(
        f"The stages: their last updates' samples (at most {END}), means ± one standard error",
        stages,
        [
            Col("stage", attrgetter("name")),
            Col("policy", attrgetter("policy")),
            Col("updates", lambda stage: len(stage.rows)),
            last("Acc@t1, %", "accuracy/turn_1", error=True),
            last("Acc@t2, %", "accuracy/turn_2", error=True),
            last("Delta, points", "delta", error=True),
            last("copied, %", "copy_rate"),
            *(last(f"KL, turn {turn}", f"kl/turn_{turn}", digits=3) for turn in _TURNS),
        ],
    )


def _ends(stage: Stage) -> Table:
    """Where the stage began and where it ended: a row for each figure."""
    ends = ends_of(stage)
    keys = [key for key in FIGURES if not stage.says_nothing(key) and any(mean_of(rows, key) for rows in ends)]

    def at(end: str, rows: list[dict[str, Any]]) -> Col:
        title = f"{end} update" if len(rows) == 1 else f"{end} {_updates(len(rows))}"
        return Col(title, lambda key: mean_of(rows, key), by_row=lambda key: FIGURES[key].show)

    columns = [Col("figure", lambda key: FIGURES[key].title), at("first", ends[0]), at("last", ends[1])]
    return Table(f"{stage.name}: its first and last updates", keys, columns)


def _probes(events: Sequence[Event]) -> Table:
    """The probe prompts under the base and after each stage."""

    def figure(key: str) -> Col:
        how = FIGURES[key]
        show = interval(digits=how.digits, scale=how.scale, sign=how.sign)
        return Col(f"{how.title} [95%]", lambda event: as_dict(dig(event, "figures", key)), show)

    columns = [
        Col("after", lambda event: _after(text(event.get("stage")))),
        Col("policy"),
        *map(figure, FIGURES),
        Col("prompts", show=count),
        Col("samples", show=count),
    ]
    return Table("Probe prompts", of_kind(events, "probe"), columns)


def _after(written: str) -> str:
    return stage_name(written) if written.startswith("stage ") else written


def _times(stages: Sequence[Stage]) -> Table:
    """The seconds of an update by part, and their shares of the stage."""

    def seconds(stage: Stage, *parts: str) -> float:
        return sum(value for part in parts for _, value in stage.values(f"seconds/{part}"))

    def share(part: str, stage: Stage) -> float | None:
        return seconds(stage, part) / seconds(stage, *SECONDS) or None

    timed = [stage for stage in stages if seconds(stage, *SECONDS)]
    columns = [
        Col("stage", attrgetter("name")),
        Col("time of an update", lambda stage: seconds(stage, *SECONDS) / len(stage.rows), duration),
        *(Col(f"{name}, %", partial(share, part), percent) for part, name in SECONDS.items()),
    ]
    return Table("Time of an update", timed, columns)


def _samples(events: Sequence[Event]) -> Table:
    """Some samples of each stage's first and last updates, as they were trained: the attempts with reward and
    advantage."""
    rows = [
        {**one, "stage": stage_name(event.get("stage")), "attempts": list(map(as_dict, as_list(one.get("attempts"))))}
        for event in of_kind(events, "score_samples")
        for one in map(as_dict, as_list(event.get("shown")))
    ]
    for one in rows:
        if one["attempts"] and one.get("first_by_base"):
            one["attempts"][0] = {**one["attempts"][0], "by_base": True}
    columns = [Col("stage"), Col("update", show=count), Col("prompt")]
    for place, name in enumerate(("first attempt", "second attempt")):
        columns.append(Col(name, partial(_nth, place), _attempt))
    return Table("Some samples, as they were trained", rows, columns)


def _nth(place: int, sample: Event) -> Event | None:
    return next(iter(sample["attempts"][place:]), None)


def _attempt(one: Event | None) -> str:
    if one is None:
        return ""
    reward = text(one.get("missing")) or fixed(one.get("reward"), 2)
    advantage = fixed(one.get("advantage"), 2, sign=True) or "none"
    cut = ", truncated" if one.get("truncated") else ""
    whose = " (the base's)" if one.get("by_base") else ""
    return f"{text(one.get('text'))} [reward {reward}, advantage {advantage}{cut}]{whose}"


# ---- text


def _said(stages: Sequence[Stage]) -> str:
    """What was sampled, in a sentence for each stage, and what the figures are of."""
    said = []
    for stage in stages:
        samples = sum(value for _, value in stage.values("samples"))
        lengths = [
            f"{fixed(mean['mean'], 0)} in turn {turn}"
            for turn in _TURNS
            if (mean := mean_of(stage.rows, f"tokens/turn_{turn}"))
        ]
        sentence = f"{stage.name} made {stage.policy}" if stage.policy else f"{stage.name} ran"
        sentence += f" in {_updates(len(stage.rows))}"
        sentence += f" from {samples:,.0f} samples" if samples else ""
        sentence += f" (mean tokens: {', '.join(lengths)})" if lengths else ""
        sentence += f", in {duration(stage.seconds)}" if stage.seconds else ""
        said.append(sentence + ".")
    if not said:
        return ""
    said.append(
        "Every figure is of the samples that an update trained on, drawn by the policy as it was then, at the training "
        "temperature: no evaluation. Truncated answers count as wrong. ± is one standard error, from the spread of "
        "the updates. In the plots a pale line is the updates (in a long stage, means of neighbours) and a bold one "
        "their running mean."
    )
    return " ".join(said)


def _updates(size: int) -> str:
    return "1 update" if size == 1 else f"{size:,} updates"
