"""The tables of the report on SCoRe's training, and what is said above them."""

from __future__ import annotations

from collections.abc import Sequence

from selfimprove.report.events import Event
from selfimprove.report.score_stages import (
    FIGURES,
    SECONDS,
    Stage,
    ends_of,
    mean_and_error,
    shown_mean,
    stage_name,
    stages_of,
)
from selfimprove.report.summary import count, dig, duration, fixed, of_kind, text, with_interval
from selfimprove.report.tables import Table, as_dict, as_list, counts


def stage_table(stage: Stage) -> Table:
    """Where the stage began and where it ended: a row for each figure."""
    first, last = ends_of(stage)
    rows = []
    for key, how in FIGURES.items():
        if stage.says_nothing(key):
            continue
        cells = [shown_mean(part, key) for part in (first, last)]
        if any(cells):
            rows.append([how.name + (f", {how.unit}" if how.unit else ""), *cells])
    return Table(["figure", f"first {_updates(len(first))}", f"last {_updates(len(last))}"], rows)


def stage_tables(events: Sequence[Event]) -> list[tuple[str, Table]]:
    return [(f"{stage.name}: its first and last updates", stage_table(stage)) for stage in stages_of(events)]


def times_table(events: Sequence[Event]) -> Table:
    """The seconds of an update by part, and their shares of the stage."""
    rows = []
    for stage in stages_of(events):
        sums = {part: sum(value for _, value in stage.values(f"seconds/{part}")) for part in SECONDS}
        whole = sum(sums.values())
        if whole:
            shares = [_share(taken, whole) if taken else "" for taken in sums.values()]
            rows.append([stage.name, duration(whole / len(stage.rows)), *shares])
    return Table(["stage", "time of an update", *(f"{name}, %" for name in SECONDS.values())], rows)


def _share(part: float, whole: float) -> str:
    return fixed(part / whole, 1, scale=100)


def probes_table(events: Sequence[Event]) -> Table:
    """The probe prompts under the base and after each stage."""
    probes = of_kind(events, "probe")
    names = [key for key in FIGURES if any(isinstance(dig(event, "figures", key), dict) for event in probes)]
    rows = []
    for event in probes:
        cells = []
        for key in names:
            how = FIGURES[key]
            found = dig(event, "figures", key)
            cells.append(with_interval(found, "value", digits=how.digits, scale=how.scale, sign=how.sign))
        sizes = [count(event.get(key)) for key in ("prompts", "samples")]
        rows.append([_after(event), text(event.get("policy")), *cells, *sizes])
    headers = [FIGURES[key].name + (f", {unit}" if (unit := FIGURES[key].unit) else "") + " [95%]" for key in names]
    return Table(["after", "policy", *headers, "prompts", "samples"], rows)


def _after(probe: Event) -> str:
    written = text(probe.get("stage"))
    number = written.removeprefix("stage ")
    return written if number == written else stage_name({"score_stage": number})


def samples_table(events: Sequence[Event]) -> Table:
    """Some samples of each stage's first and last updates, as they were trained: the attempts with reward and
    advantage."""
    rows = []
    for event in of_kind(events, "score_samples"):
        for one in map(as_dict, as_list(event.get("shown"))):
            attempts = [_attempt(as_dict(attempt)) for attempt in as_list(one.get("attempts"))]
            if one.get("first_by_base") and attempts:
                attempts[0] += " (the base's)"
            stage = stage_name({"score_stage": event.get("stage")})
            rows.append([stage, count(one.get("update")), text(one.get("prompt")), *[*attempts, ""][:2]])
    return Table(["stage", "update", "prompt", "first attempt", "second attempt"], rows)


def _attempt(one: Event) -> str:
    reward = text(one.get("missing")) or fixed(one.get("reward"), 2)
    advantage = fixed(one.get("advantage"), 2, sign=True) or "none"
    cut = ", truncated" if one.get("truncated") else ""
    return f"{text(one.get('text'))} [reward {reward}, advantage {advantage}{cut}]"


_TRANSITIONS = {
    "incorrect_to_correct": "wrong, then right",
    "correct_to_correct": "right twice",
    "incorrect_to_incorrect": "wrong twice",
    "correct_to_incorrect": "right, then wrong",
}


def traces_table(events: Sequence[Event]) -> Table:
    """What the traces were that STaR or Pair-SFT chose from, by round: counts of samples."""
    rows = []
    for event in of_kind(events, "traces"):
        rows.append(
            [
                text(event.get("round")),
                text(event.get("policy")),
                *(count(dig(event, "transitions", name)) for name in _TRANSITIONS),
                counts(event.get("missing")),
                *(count(event.get(key)) for key in ("corrections", "right_to_right", "kept")),
            ]
        )
    columns = ["round", "traces of", *_TRANSITIONS.values(), "missing rewards"]
    return Table([*columns, "kept: first wrong", "kept: first right", "kept"], rows)


def sampled_note(events: Sequence[Event]) -> str:
    """What was sampled, in a sentence for each stage, and what the figures are of."""
    said = []
    for stage in stages_of(events):
        samples = sum(value for _, value in stage.values("samples"))
        lengths = [
            f"{fixed(mean_and_error([value for _, value in found])[0], 0)} in turn {turn}"
            for turn in (1, 2)
            if (found := stage.values(f"tokens/turn_{turn}"))
        ]
        sentence = f"{stage.name} made {stage.policy}" if stage.policy else f"{stage.name} ran"
        sentence += f" in {_counted(len(stage.rows))}"
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
    return "update" if size == 1 else _counted(size)


def _counted(size: int) -> str:
    return "1 update" if size == 1 else f"{size:,} updates"
