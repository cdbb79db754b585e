"""What came of a study, to look at: the outcome in sentences, the picture, `study.html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from selfimprove.artefacts import write_file
from selfimprove.report.summary import metric_of
from selfimprove.report.table import Col, Table, count, decimals, interval
from selfimprove.report.text import visible
from selfimprove.study.claims import shown, when
from selfimprove.study.collect import ALL, Row, beats
from selfimprove.study.picture import INK, bars, png, svg
from selfimprove.study.plan import Study


def outcome_sentences(study: Study, rows: Sequence[Row]) -> list[str]:
    """One for each suite and arm that is no control: its last round against the start, the placebo and the oracle."""
    controls = (*study.placebo, study.oracle)
    arms = [arm for arm in study.arms if arm not in controls] or list(study.arms)
    suites = list(dict.fromkeys(row["suite"] for row in rows))
    found = []
    for suite in suites:
        for arm in arms:
            if row := _last(rows, arm, suite):
                where = f", on {suite}" if len(suites) > 1 else ""
                found.append(_sentence(study, rows, row, where))
    return found or ["No arm was measured before and after: there is nothing to compare yet."]


def _sentence(study: Study, rows: Sequence[Row], row: Row, where: str) -> str:
    points = " points" if metric_of(row).scale == 100 else ""
    change = shown(row, "minus_start").replace(" [", f"{points} [")
    seeds = f"{row['minus_start_seeds']} seed{'s' * (row['minus_start_seeds'] != 1)}"
    text = f"{row['arm']}, {_step(row)}{where} against the start ({row['start']}): {change}"
    parts = [f"{text} ({seeds}, {row['minus_start_n']} items){_noise(row, 'minus_start', 'noise')}"]
    for column, name in study.placebo_columns().items() if row["arm"] not in study.placebo else ():
        own = _last(rows, name, row["suite"], row["round"])
        if own is None or row[column] is None:
            parts.append(f"{name}: not measured at this round")
            continue
        says = {"yes": "yes", "no": "no, it is below it", "not told": "not told"}[str(beats(row, column))]
        parts.append(f"beats the placebo {name} ({shown(own, 'minus_start')}): {says}, {shown(row, column)}")
    if not study.placebo:
        parts.append("no placebo arm: this is no evidence of a gain")
    if study.oracle and row["arm"] != study.oracle:
        gap = shown(row, "gap_to_oracle")
        parts.append(f"gap to the oracle {gap}" if gap else f"{study.oracle}: not measured at this round")
    return "; ".join(parts)


def _last(rows: Sequence[Row], arm: str, suite: str, round_: int | None = None) -> Row | None:
    """The last thing that an arm measured over seeds, or the last at a round; None if that is its start."""
    mine = [row for row in rows if (row["arm"], row["suite"], row["seed"]) == (arm, suite, ALL)]
    mine = [row for row in mine if row["minus_start"] is not None and round_ in (None, row["round"])]
    return mine[-1] if mine else None


def _step(row: Row) -> str:
    """How a bar is called: the start, a further policy before round 1, or a round."""
    if row["minus_start"] is None:
        return "start"
    return f"round {row['round']}" if row["round"] else str(row["policy"])


def _noise(row: Row, name: str, what: str) -> str:
    return f", not told from {what}" if row[f"{name}_low"] <= 0 <= row[f"{name}_high"] else ""


def chart(study: Study, rows: Sequence[Row], suite: str) -> Any:
    """Start and rounds of each arm on a suite, over seeds; None where nothing was measured."""
    mine = [row for row in rows if row["suite"] == suite and row["seed"] == ALL and row["value"] is not None]
    arms = [arm for arm in study.arms if any(row["arm"] == arm for row in mine)]
    steps = sorted({_step(row): row["round"] for row in mine}.items(), key=lambda one: (one[0] != "start", one[1]))
    return bars([{**row, "step": _step(row)} for row in mine], arms, [step for step, _ in steps]) if mine else None


def write_page(
    study: Study,
    rows: Sequence[Row],
    failed: Mapping[str, str],
    state: str,
    claims: Sequence[Row] = (),
    known: Sequence[Row] = (),
) -> None:
    """`study.html`, and (once something was measured) `study.svg` and `study.png`, in the study's folder. claims: the
    judged ones; known: all that the folder knows, those too that left the study file."""
    folder, name = Path(study.output), Path(study.output).resolve().name
    suite = next((row["suite"] for row in rows), "")
    title = f"Start and rounds of each arm on {suite}, over seeds, with 95% intervals"
    picture = Markup("")
    if drawn := chart(study, rows, suite):
        text = svg(drawn, title)
        write_file(folder / "study.svg", text.encode("utf-8", "xmlcharrefreplace"))
        write_file(folder / "study.png", png(drawn))
        picture = Markup(text.replace(INK, "currentColor"))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    source = resources.files("selfimprove.study").joinpath("page.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(source).render(
        name=name,
        outcome=outcome_sentences(study, rows),
        about=_about(study, state),
        failed=failed,
        title=title,
        picture=picture,
        claims=_claims(claims),
        dropped=[one["claim"] for one in known if "dropped" in one],
        together=_table([row for row in rows if row["seed"] == ALL]),
        alone=_table([row for row in rows if row["seed"] != ALL]),
    )
    write_file(folder / "study.html", page.encode("utf-8", "xmlcharrefreplace"))


def _claims(claims: Sequence[Row]) -> Table:
    cols = [
        Col("claim"),
        Col("verdict"),
        Col("found [95%]", "found"),
        Col("p, Holm", "p", decimals(3)),
        Col("written", when),
    ]
    return Table("Claims", claims, cols)


def _finalize(value: Any) -> Any:
    """All text but the finished picture goes through `visible`, then autoescape."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _about(study: Study, state: str) -> str:
    roles = dict.fromkeys(study.placebo, "placebo") | ({study.oracle: "oracle, which has the true labels"})
    arms = ", ".join(f"{arm} ({roles[arm]})" if roles.get(arm, arm) != arm else arm for arm in study.arms)
    return f"{state}. Recipe {study.recipe}; arms: {arms}; seeds {', '.join(map(str, study.seeds))}."


def _table(rows: Sequence[Row]) -> Table:
    """The rows, in percent and points where the metric is a share."""
    compared = [key for key in (rows[0] if rows else ()) if f"{key}_p" in rows[0]]
    several = len({row["suite"] for row in rows}) > 1
    measured = "value" if several or not rows else f"{rows[0]['metric']}{metric_of(rows[0]).unit}"
    cols = [*map(Col, ("arm", "seed", "round", "policy")), *(map(Col, ("suite", "metric")) if several else ())]
    cols += [Col(f"{measured} [95%]", partial(_figure, "value")), Col("items", "n", count), Col("seeds", show=count)]
    for key in compared:
        cols.append(Col(f"{key.replace('_', ' ')} [95%]", partial(_figure, key)))
        if "placebo" in key:
            beats = key.replace("minus", "beats", 1)
            cols.append(Col(f"{beats.replace('_', ' ')}?", beats))
        cols.append(Col("p", f"{key}_p", decimals(3)))
    share = ("value", "low", "high"), ("share_of_oracle", "share_of_oracle_low", "share_of_oracle_high")
    oracle = Col(
        "share of oracle, % [95%]",
        lambda row: {name: row[key] for name, key in zip(*share, strict=True)},
        interval(digits=0, scale=100),
    )
    return Table("", rows, [*cols, oracle])


def _figure(key: str, row: Row) -> str:
    """A figure with its interval, and how many items or seeds it is of where these are fewer than the row's."""
    fewer = [
        f"{row[f'{key}_{part}']} {word}"
        for part, word in (("n", "items"), ("seeds", "seeds"))
        if key != "value" and row[key] is not None and row[f"{key}_{part}"] != row[part]
    ]
    return ", ".join(filter(None, [shown(row, key), *fewer]))
