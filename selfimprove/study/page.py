"""What came of a study, to look at: the outcome in sentences, the picture, `study.html`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from selfimprove.artefacts import write_file
from selfimprove.report.figures import BLUE, GREY, INK, STYLE, add_legend, label, new_figure, policy_axis, to_svg
from selfimprove.report.summary import between, count, fixed, metric_of
from selfimprove.report.tables import Table
from selfimprove.report.text import visible
from selfimprove.study.collect import ALL, Row
from selfimprove.study.plan import Study

# A file by itself has no page whose colour it takes.
_STANDALONE = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="720" ',
    "<style>svg { color: #1b1f24; } @media (prefers-color-scheme: dark) { svg { color: #e4e8ec; } }</style>",
)


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
    change = _shown(row, "minus_start", sign=True).replace(" [", f"{points} [")
    seeds = f"{row['minus_start_seeds']} seed{'s' * (row['minus_start_seeds'] != 1)}"
    text = f"{row['arm']}, {_step(row)}{where} against the start ({row['start']}): {change}"
    parts = [f"{text} ({seeds}, {row['minus_start_n']} items){_noise(row, 'minus_start', 'noise')}"]
    for name in study.placebo if row["arm"] not in study.placebo else ():
        column = "minus_placebo" if len(study.placebo) == 1 else f"minus_placebo_{name}"
        own = _last(rows, name, row["suite"], row["round"])
        if own is None or row[column] is None:
            parts.append(f"{name}: not measured at this round")
            continue
        above = _shown(row, column, sign=True)
        parts.append(f"{name} {_shown(own, 'minus_start', sign=True)}, so {above} above it{_noise(row, column, name)}")
    if not study.placebo:
        parts.append("no placebo arm: this is no evidence of a gain")
    if study.oracle and row["arm"] != study.oracle:
        gap = _shown(row, "gap_to_oracle")
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


def _shown(row: Row, name: str, *, sign: bool = False) -> str:
    """`+1.2 [0.3, 2.0]` in the metric's unit; empty without a value."""
    if row[name] is None:
        return ""
    metric = metric_of(row)
    low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    return between((row[name], row[low], row[high]), digits=metric.digits, scale=metric.scale, sign=sign)


def bars(study: Study, rows: Sequence[Row], suite: str) -> Figure | None:
    """Start and rounds of each arm on a suite, over seeds, with 95% intervals; later rounds stand out more."""
    mine = [row for row in rows if row["suite"] == suite and row["seed"] == ALL and row["value"] is not None]
    arms = [arm for arm in study.arms if any(row["arm"] == arm for row in mine)]
    steps = sorted({_step(row): row["round"] for row in mine}.items(), key=lambda one: (one[0] != "start", one[1]))
    if not mine:
        return None
    metric, width = metric_of(mine[0]), 0.82 / len(steps)
    figure, (ax,) = new_figure(3.0)
    for index, (step, _) in enumerate(steps):
        shift = width * (index - (len(steps) - 1) / 2)
        drawn = [row for row in mine if _step(row) == step]
        values, lows, highs = ([metric.scale * row[key] for row in drawn] for key in ("value", "low", "high"))
        ax.bar(
            [arms.index(row["arm"]) + shift for row in drawn],
            values,
            width * 0.9,
            color=GREY if step == "start" else BLUE,
            alpha=0.55 if step == "start" else 0.4 + 0.6 * index / max(len(steps) - 1, 1),
            yerr=[[v - low for v, low in zip(values, lows, strict=True)],
                  [high - v for v, high in zip(values, highs, strict=True)]],
            error_kw={"ecolor": INK, "elinewidth": 1.2, "capsize": 2.5},
            label=label(step) if len(steps) < 5 or index in (0, 1, len(steps) - 1) else None,
        )  # fmt: skip
    policy_axis(ax, arms)
    ax.set_xlabel("")
    ax.grid(False, axis="x")
    ax.set_ylabel(f"{label(suite)}: {label(metric.name)}{' (%)' if metric.unit else ''}")
    add_legend(ax)
    return figure


def write_page(study: Study, rows: Sequence[Row], failed: Mapping[str, str], state: str) -> None:
    """`study.html`, and (once something was measured) `study.svg` and `study.png`, in the study's folder."""
    folder, name = Path(study.output), Path(study.output).resolve().name
    suite = next((row["suite"] for row in rows), "")
    title = f"Start and rounds of each arm on {suite}, over seeds, with 95% intervals"
    picture = Markup("")
    with rc_context(STYLE):
        if figure := bars(study, rows, suite):
            picture = to_svg(figure, "study", str(Markup.escape(visible(title))))
            opened, style = _STANDALONE
            alone = str(picture).replace("<svg ", opened, 1).replace(">", f">{style}", 1)
            write_file(folder / "study.svg", alone.encode("utf-8", "xmlcharrefreplace"))
            image = io.BytesIO()
            figure.savefig(image, format="png", dpi=160, facecolor="white", metadata={"Software": None})
            write_file(folder / "study.png", image.getvalue())
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
        together=_table([row for row in rows if row["seed"] == ALL]),
        alone=_table([row for row in rows if row["seed"] != ALL]),
    )
    write_file(folder / "study.html", page.encode("utf-8", "xmlcharrefreplace"))


def _finalize(value: Any) -> Any:
    """All text but the finished picture goes through `visible`, then autoescape."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _about(study: Study, state: str) -> str:
    roles = dict.fromkeys(study.placebo, "placebo") | ({study.oracle: "oracle, which has the true labels"})
    arms = ", ".join(f"{arm} ({roles[arm]})" if roles.get(arm, arm) != arm else arm for arm in study.arms)
    return f"{state}. Recipe {study.recipe}; arms: {arms}; seeds {', '.join(map(str, study.seeds))}."


def _table(rows: Sequence[Row]) -> Table:
    """The rows as text, in percent and points where the metric is a share."""
    compared = {key: key.replace("_", " ") for key in (rows[0] if rows else ()) if f"{key}_p" in rows[0]}
    several = len({row["suite"] for row in rows}) > 1
    measured = "value" if several or not rows else f"{rows[0]['metric']}{metric_of(rows[0]).unit}"
    columns = ["arm", "seed", "round", "policy", "suite", "metric", f"{measured} [95%]", "items", "seeds"]
    cells = []
    for row in rows:
        line = [str(row[key]) for key in ("arm", "seed", "round", "policy")]
        line += [row["suite"], row["metric"]] if several else ["", ""]
        line += [_shown(row, "value"), count(row["n"]), count(row["seeds"])]
        for name in compared:
            fewer = [f"{row[f'{name}_{key}']} {word}" for key, word in (("n", "items"), ("seeds", "seeds"))
                     if row[name] is not None and row[f"{name}_{key}"] != row[key]]  # fmt: skip
            line.append(", ".join([_shown(row, name, sign=name != "gap_to_oracle"), *fewer]))
            line.append(fixed(row[f"{name}_p"], 3))
        share = tuple(row[f"share_of_oracle{part}"] for part in ("", "_low", "_high"))
        cells.append([*line, between(share if share[0] is not None else None, digits=0, scale=100)])
    columns += [column for name in compared.values() for column in (f"{name} [95%]", "p")]
    return Table([*columns, "share of oracle, % [95%]"], cells)
