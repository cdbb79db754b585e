"""SCoRe's training in the report and in the terminal: every stage, every figure, and what is missing."""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from test_reporting import EVIL, Page, full_run, write
from typer.testing import CliRunner

from selfimprove.cli.app import app
from selfimprove.methods.score.history import ends_of, running_mean, stages_of, thinned
from selfimprove.methods.score.report import training_part
from selfimprove.methods.star import traces_part
from selfimprove.report import general
from selfimprove.report.events import read_events
from selfimprove.report.page import write_report
from selfimprove.report.summary import stage_of
from selfimprove.report.table import Table
from selfimprove.report.terminal import part_tables
from selfimprove.statistics import mean_and_error

Logged = tuple[str, str, dict[str, Any]]


def history(stage: int, updates: int, turns: int = 2, seed: int = 0) -> list[dict[str, Any]]:
    """A training that learns to correct itself: Stage I holds the first attempt, Stage II moves both."""
    dice = np.random.default_rng(seed + stage)
    rows = []
    for step in range(1, updates + 1):
        done = step / updates
        first = 0.45 + (0.12 * done if stage == 2 else 0.0) + dice.normal(0, 0.03)
        up, down = (value + dice.normal(0, 0.01) for value in ((0.06, 0.11), (0.16, 0.05))[stage - 1])
        up, down = (0.06 + 0.1 * done, 0.11 - 0.06 * done) if stage == 1 else (up, down)
        row = {
            "step": step, "loss": dice.normal(0, 3), "grad_norm": abs(dice.normal(2, 0.6)), "learning_rate": 1e-4,
            "samples": 64, "accuracy/turn_1": first, "reward/turn_1": first,
            "kl/turn_1": abs(dice.normal(0.002, 0.001)) + 0.03 * (stage - 1),
            "truncated/turn_1": abs(dice.normal(0.02, 0.01)), "reward_coverage": 1 - abs(dice.normal(0, 0.002)),
            "clip_fraction/turn_1": 0.0, "tokens/turn_1": 18 + dice.normal(0, 1),
            "seconds/sampling": 1.9 + dice.normal(0, 0.2), "seconds/rewards": 0.1, "seconds/scoring": 0.3,
            "seconds/training": 0.9 + dice.normal(0, 0.1),
        }  # fmt: skip
        if turns == 2:
            row |= {
                "accuracy/turn_2": first + up - down, "reward/turn_2": first + up - down,
                "delta": up - down, "incorrect_to_correct": up,
                "correct_to_incorrect": down, "change_rate": 0.3 + 0.2 * done, "copy_rate": 0.6 - 0.3 * done,
                "edit_ratio": 0.1 + 0.1 * done, "kl/turn_2": 0.02 + 0.2 * done, "tokens/turn_2": 21 + 4 * done,
                "truncated/turn_2": abs(dice.normal(0.04, 0.02)), "clip_fraction/turn_2": 0.0,
            }  # fmt: skip
        rows.append(row)
    return rows


def trained(stage: int, rows: list[dict[str, Any]], **more: Any) -> Logged:
    fields = {
        "stage": "score", "score_stage": stage, "round": 0, "policy": f"M{stage}", "examples": 512, "epochs": None,
        "seconds": 190.0, "base_accuracy": 0.452, "history": rows, **more,
    }  # fmt: skip
    return ("training", f"score {stage}", fields)


def interval(value: float, by: float = 0.06, n: int = 64) -> dict[str, float]:
    return {"value": value, "low": value - by, "high": value + by, "n": n}


def probe(stage: str, policy: str, first: float, second: float) -> Logged:
    figures = {
        "accuracy/turn_1": interval(first), "accuracy/turn_2": interval(second), "delta": interval(second - first),
    }  # fmt: skip
    return ("probe", stage, {"stage": stage, "policy": policy, "prompts": 64, "samples": 128, "figures": figures})


def traces(round_: int, **more: Any) -> Logged:
    transitions = {
        "incorrect_to_correct": 31, "correct_to_correct": 402, "incorrect_to_incorrect": 377,
        "correct_to_incorrect": 44,
    }  # fmt: skip
    fields = {
        "round": round_, "policy": f"M{round_ - 1}", "transitions": transitions, "missing": {"the checker crashed": 3},
        "corrections": 29, "right_to_right": 0, "kept": 29, **more,
    }  # fmt: skip
    return ("traces", f"{round_}", fields)


def run_of(method: str) -> Logged:
    return ("run", "run", {"method": method})


def table_of(title: str, *events: Logged) -> Table:
    """A table of the part that a method of these events has."""
    make = traces_part if title == "Traces" else training_part
    part = make([{"event": name, **fields} for name, _, fields in events])
    return next((one for one in part.tables if one.title == title), Table())


def score_run(updates: int = 120) -> list[Logged]:
    kept = [run_of("score"), *(one for one in full_run() if one[0] == "done")]
    steps = [
        ("step", f"score {n}", {"step": "score", "label": f"SCORE {n}", "seconds": 190.0, "floor_seconds": 60.0})
        for n in (1, 2)
    ]
    steps.append(("step", "rewards", {"step": "rewards", "label": "check", "seconds": 12.0}))
    return [
        *kept[:1],
        probe("base", "M0", 0.45, 0.40),
        trained(1, history(1, updates)),
        probe("stage 1", "M1", 0.46, 0.52),
        trained(2, history(2, updates)),
        probe("stage 2", "M2", 0.57, 0.68),
        *steps,
        *kept[1:],
    ]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("score"), score_run())


@pytest.fixture(scope="module")
def page(run_dir: Path) -> str:
    return write_report(run_dir).read_text(encoding="utf-8")


# ---- the page


def page_of(folder: Path, *events: Logged) -> str:
    return write_report(write(folder, list(events))).read_text(encoding="utf-8")


def test_the_page_has_every_plot_of_the_training_with_both_stages(page: str) -> None:
    shown = " ".join(Page(page).text.split())
    assert "Clipped tokens" not in shown and "Mean reward" not in shown
    svgs = [svg for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL) if "Stage II: 121 to 240" in svg]
    assert len(svgs) == 11
    for svg in svgs:
        ET.fromstring(svg.replace("xlink:href", "href"))
        assert ">update (Stage I: 1 to 120, Stage II: 121 to 240)</text>" in svg
    for label in (
        "accuracy (%)", "Acc@t2", "Delta (points)", "wrong, then right", "copied whole", "edit ratio",
        "KL (nats per token)", "answers with a reward (%)", "truncated (%)", "length (tokens)", "scoring by the base",
    ):  # fmt: skip
        assert any(f">{label}</text>" in svg for svg in svgs), label
    for expected in (
        "Stage I made M1 in 120 updates from 7,680 samples (mean tokens: 18 in turn 1, 23 in turn 2), in 3 min 10 s.",
        "Stage II: its first and last updates figure first 10 updates last 10 updates Acc@t1, % 44.8 ± 1.0 56.3 ± 1.1",
        "base M0 45.0 [39.0, 51.0] 40.0 [34.0, 46.0] -5.0 [-11.0, +1.0] 64 128",
        "Stage I 3.2 s",
        "Stage II M2 512 120 3 min 10 s",
    ):
        assert expected in shown, expected
    assert "nan" not in shown and "None" not in shown


def test_a_turn_that_is_not_there_has_no_line_and_no_row(tmp_path: Path) -> None:
    page = page_of(tmp_path, run_of("score"), trained(2, history(2, 12, turns=1)))
    shown = " ".join(Page(page).text.split())
    for absent in ("turn 2", "Acc@t2", "Delta", "copied", "Edit ratio", "What became", "Stage I:"):
        assert absent not in shown, absent
    assert "Accuracy of each attempt" in shown and "KL to the base" in shown and "last 6 updates" in shown


def test_one_update_and_none_are_a_page_too(tmp_path: Path) -> None:
    one = page_of(tmp_path / "one", run_of("score"), trained(1, history(1, 1)))
    assert "M1 in 1 update from 64 samples" in one and "last update" in one and "±" not in one.split("<table")[-2]
    for name, rows in (("none", []), ("null", None), ("text", "x"), ("nothing in it", [None, 3])):
        page = page_of(tmp_path / name, run_of("score"), trained(1, rows))  # type: ignore[arg-type]
        assert "What did the reinforcement learning do?" not in page and "Stage I" in page
    rows = [{"step": 1}, {"loss": None, "delta": float("nan")}]
    assert "<svg" not in page_of(tmp_path / "bare", run_of("score"), trained(1, rows))


def test_a_graded_reward_and_clipping_are_drawn_where_they_say_something(tmp_path: Path) -> None:
    rows = history(2, 30)
    for row in rows:
        row |= {"reward/turn_2": 0.37, "clip_fraction/turn_1": 0.1}
    page = page_of(tmp_path, run_of("score"), trained(2, rows))
    shown = " ".join(Page(page).text.split())
    assert ">Mean reward<" in page and ">Clipped tokens<" in page
    assert "reward, turn 2, mean 0.370 ± 0.000" in shown and "clipped, turn 1, % of tokens 10.0" in shown
    assert "reward, turn 1" not in shown and "clipped, turn 2" not in shown


def test_several_steps_on_one_batch_of_samples_are_one_update() -> None:
    rows = []
    for row in history(2, 4):
        again = {key: row[key] for key in ("step", "loss", "grad_norm", "kl/turn_1", "seconds/training")}
        rows += [row, {**again, "kl/turn_1": row["kl/turn_1"] + 0.2}]
    (stage,) = stages_of([{"event": "training", **trained(2, rows)[2]}])
    assert [place for place, _ in stage.values("accuracy/turn_1")] == [1, 2, 3, 4]
    assert stage.values("accuracy/turn_1") == [(i, row["accuracy/turn_1"]) for i, row in enumerate(rows[::2], 1)]
    assert stage.rows[1]["kl/turn_1"] == pytest.approx(rows[2]["kl/turn_1"] + 0.1)
    assert stage.rows[1]["seconds/training"] == pytest.approx(2 * rows[2]["seconds/training"])
    assert stage.rows[1]["samples"] == 64


def test_hostile_stages_and_reasons_are_escaped(tmp_path: Path) -> None:
    evil = f"<img src=x onerror=alert(1)> $x^$ {EVIL}"
    events = [
        run_of("score"),
        ("run", "another", {"method": "star"}),
        trained(2, history(2, 5), score_stage=evil, policy=evil),
        trained(3, history(2, 5), score_stage=evil, policy=evil),
        probe(evil, evil, 0.5, 0.6),
        traces(1, policy=evil, missing={evil: 2}),
    ]
    page = page_of(tmp_path, *events)
    assert not {"img", "script"} & set(Page(page).tags) and not re.search("[\x00-\x08\x0b-\x1f\u202e]", page)
    assert not any(name.startswith("on") for name, _ in Page(page).attributes)
    printed(read_events(tmp_path / "metrics.jsonl"))


def test_a_long_training_keeps_the_page_small(tmp_path: Path) -> None:
    page = write_report(write(tmp_path, score_run(1500)))
    assert page.stat().st_size < 1_000_000


def test_traces_say_what_was_kept(tmp_path: Path) -> None:
    page = page_of(tmp_path, run_of("star"), traces(1), traces(2))
    shown = " ".join(Page(page).text.split())
    assert "Which traces were kept?" in shown and "2 M1 31 402 377 44 the checker crashed: 3 29 0 29" in shown
    assert not table_of("Traces", ("traces", "", {"transitions": None, "missing": [1], "kept": "x"}))
    assert table_of("Traces", traces(1)).values()[0]["missing rewards"] == {"the checker crashed": 3}


# ---- tables


def test_ends_of_a_short_stage_share_no_update() -> None:
    for updates, size in ((1, 0), (2, 1), (3, 1), (13, 6), (20, 10), (500, 10)):
        first, last = ends_of(stages_of([{"event": "training", **trained(1, history(1, updates))[2]}])[0])
        assert len(first) == size and len(last) == max(size, 1)
        assert not {row["step"] for row in first} & {row["step"] for row in last}


def test_mean_and_its_standard_error() -> None:
    assert mean_and_error([1.0, 2.0, 3.0]) == (2.0, pytest.approx(1 / math.sqrt(3)))
    assert mean_and_error([4.0]) == (4.0, None)


def test_shares_of_the_time_add_up() -> None:
    rows = [{"samples": 4, "seconds/sampling": 6.0, "seconds/rewards": 1.0, "seconds/training": 3.0}] * 3
    table = table_of("Time of an update", trained(1, rows))
    assert table.columns == ["stage", "time of an update", "sampling, %", "rewards, %", "training, %"]
    assert table.cells == [["Stage I", "10.0 s", "60.0", "10.0", "30.0"]]
    assert table.values()[0]["sampling, %"] == 0.6


def test_a_probe_names_its_stage_and_may_lack_figures() -> None:
    found = table_of("Probe prompts", *(probe(stage, "M", 0.4, 0.5) for stage in ("base", "stage 1", "stage 2")))
    assert [row[0] for row in found.cells] == ["base", "Stage I", "Stage II"]
    assert table_of("Probe prompts", ("probe", "", {"stage": "base", "figures": None})).cells == [["base"]]


def test_the_table_of_trainings_shows_no_loss_of_a_policy_gradient() -> None:
    sft = {"event": "training", "stage": "sft", "policy": "M1", "history": [{"step": 3, "loss": 0.5}]}
    (table,) = general.training_part([sft, {"event": "training", **trained(1, history(1, 3))[2]}]).tables
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.cells]
    assert [(row["stage"], row["last loss, nats"]) for row in rows] == [("sft", "0.5000"), ("Stage I", "")]


def test_score_steps_have_names() -> None:
    found = [
        stage_of({"event": "step", "step": step, "label": label})
        for step, label in (("score", "SCoRe Stage I"), ("rewards", "check"), ("sample", "second attempts of M0"))
    ]
    assert found == ["SCoRe", "checking", "sampling"]


def test_nothing_is_said_of_a_run_without_score() -> None:
    events = [{"event": name, **fields} for name, _, fields in full_run()]
    part = training_part(events)
    assert not part and part.text == "" and part_tables(events) == []


# ---- lines


def test_running_mean_is_a_mean_of_neighbours() -> None:
    points = [(float(x), float(x % 2)) for x in range(200)]
    smooth = running_mean(points)
    assert [x for x, _ in smooth] == [x for x, _ in points]
    assert all(0.4 < y < 0.6 for _, y in smooth)
    assert smooth[100][1] == pytest.approx(np.mean([y for _, y in points[90:111]]))
    assert running_mean([(1.0, 5.0)]) == [(1.0, 5.0)] and running_mean([]) == []


def test_thinned_points_keep_ends_and_means() -> None:
    points = [(float(x), 2.0 * x) for x in range(1000)]
    thin = thinned(points, most=100)
    assert len(thin) == 100 and all(y == pytest.approx(2 * x) for x, y in thin)
    assert thinned(points[:50], most=100) == points[:50] and thinned([]) == []


# ---- the terminal


def printed(events: list[dict[str, Any]], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(*part_tables(events))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_line_for_each_stage_fits_a_terminal(run_dir: Path) -> None:
    shown = printed(read_events(run_dir / "metrics.jsonl"))
    lines = [line.split() for line in shown.splitlines()]
    assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
    (one,) = [line for line in lines if line[:2] == ["Stage", "I"]]
    (two,) = [line for line in lines if line[:2] == ["Stage", "II"]]
    assert one[2:4] == ["M1", "120"] and two[2:7] == ["M2", "120", "56.3", "±", "1.1"] and "31.1" in two
    assert two[-2:] == ["0.032", "0.212"]


def test_report_and_status_print_the_stages(run_dir: Path) -> None:
    found = CliRunner().invoke(app, ["report", str(run_dir)])
    assert found.exit_code == 0 and "Stage II" in found.output
    assert "".join(found.output.split()).endswith("report.html"), "the path stays the last line"
    (run_dir / "recipe.yaml").write_text("method: score\nmodel: tiny\n")
    found = CliRunner().invoke(app, ["status", str(run_dir)])
    assert found.exit_code == 0 and "no process is working on it" in found.output and "Stage II" in found.output
