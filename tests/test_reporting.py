"""The event log survives kills, the report survives models, the terminal survives both."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfimprove.errors import InputError, RunFailed
from selfimprove.report import page as report_module
from selfimprove.report.events import EventLog, read_events
from selfimprove.report.page import write_report
from selfimprove.report.policies import all_figures_table, policies_table
from selfimprove.report.summary import duration, fixed, policies_of
from selfimprove.report.terminal import Progress, printable, rounds_table
from selfimprove.report.text import visible

EVIL = "<script>alert('x')</script> & \x1b[2J\x00\x07 \u202egnp.exe \ud83d \\[1 + 2\\]"


def evaluation(policy: str, round_: int, value: float, suite: str = "gsm8k") -> dict[str, Any]:
    paired = {"against": "M0", "difference": value - 0.3, "low": value - 0.35, "high": value - 0.25}
    return {
        "round": round_,
        "policy": policy,
        "policy_digest": "ab" * 32,
        "suite": suite,
        "metric": "accuracy",
        "value": value,
        "low": value - 0.05,
        "high": value + 0.05,
        "n": 330,
        "failures": {"no_answer": 4},
        "groups": {"short": {"value": value, "n": 100}},
        "paired": None if policy == "M0" else paired,
        "paired_previous": None if policy == "M0" else {**paired, "against": "M1", "difference": 0.02},
    }


def round_(number: int, policy: str) -> dict[str, Any]:
    return {
        "round": number,
        "policy": policy,
        "prompts": 330,
        "responses": 1650,
        "judge": "implicit reward",
        "consistency": {
            "measure": "spearman",
            "mode": "avg",
            "mean": 0.65,
            "low": 0.62,
            "high": 0.68,
            "values": [0.4, 0.5, 0.6, 0.9, 1.0],
            "undefined": 2,
        },
        "rankings": {
            "current": f"M{number}",
            "previous": f"M{number - 1}",
            "tau": {"mean": 0.42, "low": 0.36, "high": 0.48, "values": [-0.2, 0.4, 0.4, 1.0], "undefined": 3},
        },
        "tie_rate": 0.02,
        "rewards": {"mean": 2.0, "chosen": [3.0, 4.0, 5.0], "rejected": [0.5, 1.0, -2.0], "unit": "nats"},
        "lengths": {
            "mean": 181.25,
            "chosen": [190, 180, 200],
            "rejected": [170, 181, 150],
            "truncated_share": 0.03,
            "unit": "tokens",
        },
        "reward_length_correlation": 0.3,
        "reward_by_length": {
            "value": 0.3,
            "low": 0.21,
            "high": 0.39,
            "bins": [{"n": 800, "length": 90.0 + 90 * i, "reward": 1.5 + i, "low": 1.2, "high": 2.9} for i in (0, 1)],
        },
        "pairs": 318,
        "skipped": {"tie": 12},
        "label_accuracy": {"right": 201, "n": 318, "value": 0.632, "low": 0.578, "high": 0.683},
        "margins": {"mean_abs": 0.057, "values": [0.1, -0.02, 0.05]},
        "health": {"duplicate_rate": 0.04, "truncation_rate": 0.03, "distinct_2": 0.7, "mean_length": 181.25},
        "examples": [
            {
                "prompt": f"What is 1 + 2? {EVIL}",
                "picked": "least agreement",
                "chosen": "3",
                "rejected": EVIL,
                "confidence": 0.65,
                "consistency": 0.8,
                "tau": 0.6,
                "chosen_reward": 3.0,
                "rejected_reward": 0.5,
                "chosen_right": True,
                "rejected_right": False,
                "responses": [
                    answer("chosen", None, 3.0, 1.5, right=True),
                    answer("rejected", None, 0.5, 2.0),
                    answer(None, f"between {EVIL}", 1.0, 0.1, truncated=True),
                ],
            }
        ],
    }


def answer(role: str | None, text: str | None, reward: float, previous: float, **more: bool) -> dict[str, Any]:
    marks = {"right": False, "truncated": False, **more}
    return {"role": role, "text": text, "tokens": 7, "reward": reward, "previous": previous, **marks}


NEW = {
    "run": ("backend", "backend_version"),
    "step": ("floor_seconds",),
    "evaluation": ("paired_previous",),
    "round": ("judge", "rankings", "reward_by_length"),
}


def old_format(events: list[tuple[str, str, dict[str, Any]]]) -> list[tuple[str, str, dict[str, Any]]]:
    """A run as it was written down before the report knew of both rankings."""
    old = []
    for event, id_, fields in events:
        kept = {key: value for key, value in fields.items() if key not in NEW.get(event, ())}
        if event == "round":
            kept["consistency"] = {**fields["consistency"], "measure": "kendall"}
            kept["examples"] = [
                {k: v for k, v in one.items() if k not in ("responses", "picked", "tau", "consistency")}
                for one in fields["examples"]
            ]
        if event != "engine":
            old.append((event, id_, kept))
    return old


def full_run() -> list[tuple[str, str, dict[str, Any]]]:
    """(event, id, fields) of a run with two rounds and every field."""
    history = [{"step": i, "loss": 0.7 - i / 10, "learning_rate": 1e-6, "grad_norm": 1.0} for i in range(1, 4)]
    sft = {"stage": "sft", "round": 0, "policy": "M1", "examples": 100, "epochs": 2, "seconds": 30.0}
    dpo = {"stage": "dpo", "examples": 318, "epochs": 1, "seconds": 20.0, "history": history}
    events: list[tuple[str, str, dict[str, Any]]] = [
        (
            "run",
            "run",
            {
                "name": "first run",
                "method": "cream",
                "model": "tiny/model",
                "model_digest": "sha256:00ff",
                "seed": 17,
                "versions": {"torch": "2.9.1"},
                "device": "cpu",
                "backend": "vllm",
                "backend_version": "0.31.0",
                "started": "2025-11-23T20:11:05+00:00",
                "recipe": {"method": "cream", "rounds": 2},
                "warnings": ["mind the gap"],
            },
        ),
        ("engine", "start", {"backend": "vllm", "version": "0.31.0", "what": "start", "seconds": 41.2}),
        ("evaluation", "M0", evaluation("M0", 0, 0.3)),
        ("evaluation", "M0/arc", evaluation("M0", 0, 0.5, "arc")),
        ("training", "sft", {**sft, "history": history}),
        ("step", "sft", {"step": "sft", "round": 0, "seconds": 30.0, "tokens": 900, "reused": False}),
        ("evaluation", "M1", evaluation("M1", 0, 0.33)),
    ]
    for number in (1, 2):
        policy = f"M{number + 1}"
        step = {"step": "sample", "round": number, "seconds": 100.0, "tokens": 9000, "reused": False}
        step |= {"label": f"sample M{number}", "floor_seconds": 25.0}
        gate = {
            "gate": "collapse",
            "passed": number == 1,
            "value": 0.04,
            "bound": 0.2,
            "message": "4% doubled",
        }
        events += [
            ("step", f"sample/{number}", step),
            ("step", f"dpo/{number}", {**step, "step": "dpo", "reused": number == 2}),
            ("round", f"round/{number}", round_(number, policy)),
            ("training", f"dpo/{number}", {**dpo, "round": number, "policy": policy}),
            ("evaluation", policy, evaluation(policy, number, 0.33 + number / 50)),
            ("gate", f"gate/{number}", {"round": number, **gate}),
        ]
    done = {"policy": "M3", "path": "/runs/x/M3", "seconds": 4210.0, "kept": "last"}
    return [*events, ("done", "done", done)]


def write(run_dir: Path, events: list[tuple[str, str, dict[str, Any]]]) -> Path:
    with EventLog(run_dir) as log:
        for event, id_, fields in events:
            log.emit(event, id_, **fields)
    return run_dir


# --- the event log ---


def test_event_log_round_trip_with_arrays_and_non_finite_numbers(tmp_path: Path) -> None:
    with EventLog(tmp_path / "new" / "run") as log:
        log.emit(
            "round",
            "round/1",
            values=np.array([[1.0, np.nan], [np.inf, 2.0]]),
            one=np.float32(0.5),
            whole=np.int64(3),
            nested={"loss": float("nan"), "pair": (1, -float("inf"))},
            path=tmp_path,
            text=EVIL,
        )
        assert len(read_events(log.path)) == 1, "a line is on disk as soon as it is emitted"
    (event,) = read_events(log.path)
    assert event["values"] == [[1.0, None], [None, 2.0]]
    assert (event["one"], event["whole"], event["path"]) == (0.5, 3, str(tmp_path))
    assert event["nested"] == {"loss": None, "pair": [1, None]}
    assert event["text"] == EVIL
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", event["time"])
    assert log.path.read_bytes().count(b"\n") == 1, "a model's line separators do not split a line"


def test_spin_rerun_doubles_no_rows(tmp_path: Path) -> None:
    before = (write(tmp_path, full_run()) / "metrics.jsonl").read_bytes()
    write(tmp_path, full_run())
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    with EventLog(tmp_path) as log:
        log.emit("step", "new", step="sample")
        log.emit("step", "new", step="sample", seconds=2)
    assert len(read_events(log.path)) == len(full_run()) + 1


def test_same_id_for_another_kind_is_another_event(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.emit("step", "dpo/1", step="dpo")
        log.emit("training", "dpo/1", stage="dpo")
    assert [event["event"] for event in read_events(log.path)] == ["step", "training"]


def test_kill_at_any_byte_loses_and_doubles_nothing(tmp_path: Path) -> None:
    events = [("step", f"{i}", {"step": "sample", "text": "é[\n{}"}) for i in range(3)]
    path = write(tmp_path, events) / "metrics.jsonl"
    content = path.read_bytes()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        # the object itself is whole once only its newline is missing
        whole = content[: cut + 1].count(b"\n")
        assert len(read_events(path)) == whole
        write(tmp_path, events)
        assert [event["id"] for event in read_events(path)] == ["0", "1", "2"]
        assert all(json.loads(line) for line in path.read_text().splitlines())


def test_cut_inside_a_multibyte_character(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"event": "step", "id": "1"}\n' + '{"event": "st€'.encode()[:-1])
    assert len(read_events(path)) == 1
    EventLog(tmp_path).close()
    assert path.read_bytes() == b'{"event": "step", "id": "1"}\n'


@pytest.mark.parametrize("line", [b'{"event": "st', b"[1]", b'{"id": "x"}', b"\xff\xfe", b"[" * 100_000])
def test_malformed_line_in_the_middle_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"event": "step", "id": "1"}\n' + line + b'\n{"event": "step", "id": "2"}\n')
    for read in (lambda: read_events(path), lambda: EventLog(tmp_path), lambda: write_report(tmp_path)):
        with pytest.raises(RunFailed, match=re.escape(f"{path}, line 2:")):
            read()
    assert path.read_bytes().count(b"\n") == 3, "nothing was cut off"


def test_full_disk_is_a_run_failure(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log._file.close()
    log._file = Path("/dev/full").open("ab")  # noqa: SIM115
    with pytest.raises(RunFailed, match=r"the disk is full .*No space left"), log:
        log.emit("step", "1")


def test_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_report(tmp_path)


# --- the report ---


class Page(HTMLParser):
    """What a browser would make of the page: elements, addresses, and the text it shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_endtag(self, tag: str) -> None:
        self.text += " "


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(write(tmp_path_factory.mktemp("run"), full_run())).read_text(encoding="utf-8")


def test_report_shows_the_run(page: str) -> None:
    shown = " ".join(Page(page).text.split())
    for expected in (
        "first run",
        "tiny/model",
        "2025-11-23 20:11 UTC",
        "finished in 1 h 10 min, kept M3, the last",
        "mind the gap",
        "sampler vllm 0.31.0, started in 41.2 s",
        "35.0 [30.0, 40.0] +5.0 [+0.0, +10.0]",
        "M0 +2.0 [+0.0, +10.0] 0.65 +0.42 [+0.36, +0.48] 318 63.2 [57.8, 68.3] 0.057",
        "Gates: 1 passed, 1 failed",
        "FAILED",
        "✓ right",
        "✗ wrong",
        "no_answer: 4",
        "2 M2 M1 +0.42 [+0.36, +0.48] spearman 0.650 [0.620, 0.680] avg 2 2.0",
        "implicit reward 1650 318 4.000 -0.167",
        "66.7 [20.8, 93.9] 63.2 [57.8, 68.3] tie: 12",
        "181.2 190.0 167.0 +0.30 [+0.21, +0.39] 67 [21, 94] 33 [6, 79]",
        "1 sampling 1 1 min 40 s 30.3 9,000 90 25.0 s 25",
        "vllm 0.31.0 start 1 41.2 s",
        "picked for least agreement · label trusted, c 0.65 · C_j (spearman) 0.80 · Kendall's tau +0.60",
        "Chosen: highest implicit reward of 3 (previous ranking: 2nd). Rejected: lowest implicit reward of 3 (previous "
        "ranking: 1st). The two rankings agree with tau +0.60, and the label is softened to c = 0.65, the round's mean "
        "consistency.",
        "All 3 responses in both rankings",
        "Rewards are M2's, in nats. Previous ranking: M1.",
        '"rounds": 2',
    ):
        assert expected in shown, expected


def test_report_has_every_plot_with_units(page: str) -> None:
    svgs = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(svgs) == page.count("<figure>") == 12
    labels = ["accuracy (%)", "prompts", "reward (nats)", "length (tokens)", "trained margin h (nats)"]
    labels += ["SFT loss (nats per token)", "DPO loss (nats per pair)", "optimizer step", "time (minutes)"]
    labels += ["Kendall's tau", "mean reward (nats)", "share of the floor (%)", "to M0", "to the previous policy"]
    labels += ["change (points)", "consistency of a prompt (spearman)"]
    for label in labels:
        assert any(f">{label}</text>" in svg for svg in svgs), label
    for svg in svgs:
        ET.fromstring(svg.replace("xlink:href", "href"))
        assert "currentColor" in svg and "#ffffff" not in svg and "#000000" not in svg
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', page)) <= set(ids)


def test_report_escapes_what_a_model_wrote(page: str) -> None:
    parsed = Page(page)
    assert "script" not in parsed.tags
    assert visible(EVIL) in parsed.text, "shown as written, control characters spelt out"
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", page)


def test_report_needs_nothing_from_outside(page: str) -> None:
    parsed = Page(page)
    assert not {"link", "img", "iframe", "object", "base"} & set(parsed.tags)
    for name, value in parsed.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href"):
            assert value == "policies/final" or (value or "").startswith("#")
    assert "@import" not in page and "default-src 'none'" in page
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page


def test_hostile_names_reach_no_element(tmp_path: Path) -> None:
    evil = f'"><img src=x onerror=alert(1)> $x^$ {EVIL}'
    run = {
        "name": evil,
        "model": evil,
        "backend": evil,
        "backend_version": evil,
        "versions": {evil: evil},
        "recipe": {evil: evil},
        "warnings": [evil],
    }
    fields = {**evaluation(evil, 1, 0.4, evil), "failures": {evil: 1}, "groups": {evil: {"value": 1, "n": 1}}}
    fields |= {name: {"against": evil, "difference": 0.1} for name in ("paired", "paired_previous")}
    hostile = {**round_(1, evil), "skipped": {evil: 1}, "judge": evil}
    hostile["rankings"] = {**hostile["rankings"], "current": evil, "previous": evil}
    hostile["consistency"] = {**hostile["consistency"], "measure": evil, "mode": evil}
    hostile["rewards"] = {**hostile["rewards"], "unit": evil}
    responses = [answer("chosen", None, 1.0, 2.0), answer("rejected", None, 0.0, 1.0), answer(evil, evil, 0.5, 0.5)]
    hostile["examples"] = [{"prompt": evil, "picked": evil, "chosen": evil, "rejected": evil, "responses": responses}]
    events = [
        ("run", "run", run),
        ("evaluation", "e", fields),
        ("gate", "g", {"gate": evil, "message": evil, "passed": False}),
        ("training", "t", {"stage": evil, "policy": evil, "history": [{"loss": 1.0}]}),
        ("training", "u", {"stage": "sft", "policy": evil, "history": [{"loss": 1.0}]}),
        ("step", "s", {"step": evil, "seconds": 1.0, "floor_seconds": 0.5}),
        ("step", "t", {"step": "sample", "label": evil, "seconds": 1.0}),
        ("engine", "e", {"backend": evil, "version": evil, "what": evil, "seconds": 1.0}),
        ("round", "r", hostile),
    ]
    page = write_report(write(tmp_path, events)).read_text(encoding="utf-8")
    assert not {"img", "script"} & set(Page(page).tags)
    assert not any(name.startswith("on") for name, _ in Page(page).attributes)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", page)


def test_report_is_the_same_every_time_and_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = write_report(write(tmp_path, full_run()))
    before = target.read_bytes()
    assert write_report(tmp_path) == target and target.read_bytes() == before

    def full_disk(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(RunFailed, match="No space left"):
        write_report(tmp_path)
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "report.html"]


def test_report_of_bare_and_of_null_events(tmp_path: Path) -> None:
    for name, keep in (("bare", ("round", "policy", "suite", "stage", "step")), ("null", ())):
        events = [
            (event, id_, {key: value if key in keep else None for key, value in fields.items()})
            if name == "null"
            else (event, id_, {key: value for key, value in fields.items() if key in keep})
            for event, id_, fields in full_run()
        ]
        run_dir = write(tmp_path / name, events)
        page = write_report(run_dir).read_text(encoding="utf-8")
        assert "<svg" not in page and "Example pairs" not in page and "None" not in page
        assert "Do two successive models rank alike?" not in page
        rounds_table(read_events(run_dir / "metrics.jsonl"))


def test_report_with_nulls_inside(tmp_path: Path) -> None:
    event = round_(1, "M2")
    for key, value in event.items():
        if isinstance(value, dict):
            nothing = {k: [None, float("nan")] if isinstance(v, list) else None for k, v in value.items()}
            event[key] = nothing
    event["examples"] = [{"prompt": "p"}, None]
    event["rewards"]["chosen"] = [1.0]
    training = {"stage": "sft", "policy": "M1", "history": [None, {"step": None, "loss": 1.0}, {"step": 2}]}
    single = {"suite": "s", "policy": "M2", "value": 0.5, "low": None}
    run = ("run", "run", {"method": "cream"})
    events = [run, ("round", "r", event), ("training", "t", training), ("evaluation", "e", single)]
    event["examples"] += [{"responses": [None, {"role": "chosen", "reward": None}]}, {"responses": "x", "tau": "y"}]
    page = write_report(write(tmp_path, events)).read_text(encoding="utf-8")
    assert page.count("<svg") == 3, "accuracy, rewards and loss have a value each"


def test_report_of_an_older_run(tmp_path: Path) -> None:
    page = write_report(write(tmp_path, old_format(full_run()))).read_text(encoding="utf-8")
    shown = " ".join(Page(page).text.split())
    assert page.count("<svg") == 10, "all but the reward by length and the share of the floor"
    assert "+0.30 [+0.24, +0.36] kendall 0.650" in shown, "tau is 2 C - 1"
    assert "c 0.65" in shown and "reward 3.000 ✓ right" in shown and "All 3 responses" not in shown
    assert "sampler" not in shown and "None" not in page


def test_sections_without_data_are_left_out(tmp_path: Path) -> None:
    page = write_report(write(tmp_path, full_run()[0:3:2])).read_text(encoding="utf-8")
    assert "Accuracy by policy" in page and "not finished" in page
    for absent in (
        "Gates",
        "Example pairs",
        "Trained margin",
        "Where did the time go?",
        "consistency C",
        "Loss of the SFT",
        "Do two successive models rank alike?",
        "Is length rewarded?",
    ):
        assert absent not in page


def test_report_of_an_unfinished_last_line(tmp_path: Path) -> None:
    write(tmp_path, full_run()[:4])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"event": "round", "id": "ro')
    assert "first run" in write_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b"\n\n", b'{"event": "r'])
def test_empty_metrics_is_a_clear_failure(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(RunFailed, match=r"metrics\.jsonl holds no event yet"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


# --- rows and numbers ---


def test_rows_join_a_policy_with_the_round_that_made_it(tmp_path: Path) -> None:
    events = read_events(write(tmp_path, full_run()) / "metrics.jsonl")
    figures = all_figures_table(events)
    assert [(row["policy"], row["round"], row["pairs"]) for row in figures.rows] == [
        ("M0", 0, None),
        ("M1", 0, None),
        ("M2", 1, 318),
        ("M3", 2, 318),
    ]
    assert policies_table(events).columns == ["policy", "accuracy, % [95%]", "change, points [95%]"]
    assert policies_table(events).cells[0][1] == "30.0 [25.0, 35.0]", "of the first suite, not of the last"
    times = [row[figures.columns.index("time of the round")] for row in figures.cells]
    assert times == ["", "30.0 s", "3 min 20 s", "1 min 40 s"], "a reused step is free"


def test_policies_are_in_the_order_they_were_made() -> None:
    events = [{"event": "evaluation", "policy": f"M{i}", "round": max(i - 1, 0)} for i in (10, 2, 1, 0)]
    assert list(policies_of(events)) == ["M0", "M1", "M2", "M10"]


def test_numbers_are_shown_as_people_write_them() -> None:
    assert [duration(s) for s in (0, 4.06, 59.96, 200, 3599.7, 7500, None, float("nan"))] == [
        "0.0 s",
        "4.1 s",
        "1 min 00 s",
        "3 min 20 s",
        "1 h 00 min",
        "2 h 05 min",
        "",
        "",
    ]
    assert [fixed(-0.01), fixed(True), fixed("x"), fixed(0.5, sign=True)] == ["0.0", "", "", "+0.5"]


# --- the terminal ---


@given(st.text(alphabet=st.sampled_from("\\[]/abold #@:=smile'\n\x1b\x9b")) | st.text())
@example("\\[1 + 2\\] \\\\[x] [/] [bold]")
@example(":smile: [:one:] back\\")
def test_printable_shows_any_text_unchanged_and_obeys_none(text: str) -> None:
    shown = Text.from_markup(f"[b]{printable(text)}[/b]!")
    assert shown.plain == visible(text) + "!"
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", shown.plain)
    # only the caller's style, and the empty one that keeps things apart
    assert {str(span.style) for span in shown.spans} <= {"bold", "none"}


def render(table: Table, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue().splitlines()


def test_rounds_table_fits_80_columns_with_wide_values(tmp_path: Path) -> None:
    wide = {**evaluation("M3", 2, 0.95), "suite": "gsm8k", "low": 0.9, "high": 1.0}
    wide["paired"] = {"against": "M1", "difference": -0.512, "low": -0.614, "high": -0.413}
    long_round = {**round_(2, "M3"), "pairs": 123456, "lengths": {"mean": 12345.6}}
    events = [*full_run()[:7], ("evaluation", "wide", wide), ("round", "wide", long_round)]
    lines = render(rounds_table(read_events(write(tmp_path, events) / "metrics.jsonl")))
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if line.startswith("M3"))
    expected = ["M3", "95.0", "[90.0,", "100.0]", "-51.2", "[-61.4,", "-41.3]"]
    assert row.split() == [*expected, "0.65", "123456", "63.2", "0.057", "12345.6"]


def test_rounds_table_of_nothing_and_of_hostile_names() -> None:
    assert render(rounds_table([]))
    evil = [{"event": "evaluation", "policy": "[red]\x1b[31m", "suite": "[/]", "value": 0.5}]
    assert "\x1b" not in "".join(render(rounds_table(evil)))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain_progress() -> tuple[Progress, Clock, io.StringIO]:
    clock, output = Clock(), io.StringIO()
    return Progress(Console(file=output, width=40), clock=clock), clock, output


def test_progress_in_a_log_file_is_a_few_plain_lines() -> None:
    progress, clock, output = plain_progress()
    progress.step_reused("SFT, M1")
    with progress.task("sampling M1, round 1", total=330, unit="responses") as advance:
        for _ in range(33):
            clock.now += 4
            advance(10)
    assert output.getvalue().splitlines() == [
        "SFT, M1: already done, reused",
        "sampling M1, round 1: 330 responses",
        *(
            f"sampling M1, round 1: {share}% ({done} of 330 responses), {left} left"
            for share, done, left in [
                (9, 30, "2 min 00 s"),
                (18, 60, "1 min 48 s"),
                (27, 90, "1 min 36 s"),
                (36, 120, "1 min 24 s"),
                (45, 150, "1 min 12 s"),
                (55, 180, "1 min 00 s"),
                (64, 210, "48 s"),
                (73, 240, "36 s"),
                (82, 270, "24 s"),
                (91, 300, "12 s"),
            ]
        ),
        "sampling M1, round 1: done, 330 responses in 2 min 12 s",
    ]


def test_progress_says_where_a_failed_step_stopped() -> None:
    progress, clock, output = plain_progress()
    with (
        pytest.raises(KeyboardInterrupt),
        progress.task("dpo M2, round 1", total=60, unit="steps") as advance,
    ):
        clock.now = 5
        advance(7)
        raise KeyboardInterrupt
    assert output.getvalue().splitlines()[-1] == "dpo M2, round 1: stopped, 7 of 60 steps in 5.0 s"


def test_progress_without_a_total_or_with_nothing_to_do() -> None:
    progress, clock, output = plain_progress()
    with progress.task("reading", total=None, unit="lines") as advance:
        clock.now = 11
        advance(5)
    with progress.task("nothing", total=0):
        pass
    assert output.getvalue().splitlines() == [
        "reading",
        "reading: 5 lines, 11.0 s so far",
        "reading: done, 5 lines in 11.0 s",
        "nothing: 0 items",
        "nothing: done, 0 items in 0.0 s",
    ]


def test_notes_obey_nothing() -> None:
    progress, _, output = plain_progress()
    progress.note("[red]" + EVIL + " :smile:")
    assert output.getvalue() == "[red]" + visible(EVIL) + " :smile:\n"


def test_progress_bar_on_a_terminal_leaves_one_line() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80)
    progress = Progress(console, live=True)
    with progress.task("outer [red]", total=3, unit="epochs") as outer:
        with progress.task("inner", total=10, unit="steps") as inner:
            inner(10)
            progress.note("a note")
        outer(3)
        assert progress._bars is not None
        progress._bars.refresh()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.getvalue())
    assert "3/3 epochs" in text and "a note" in text and "━" in text
    assert re.search(r"outer \[red\]: done, 3 epochs in 0\.\d s\n$", text)
    assert progress._bars is None
    with pytest.raises(ValueError, match="x"), progress.task("again", total=1):
        raise ValueError("x")
    assert output.getvalue().rstrip().endswith("0.0 s") and progress._bars is None


def test_forced_colour_in_a_log_file_gives_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    output = io.StringIO()
    with Progress(Console(file=output)).task("sampling", total=1, unit="responses") as advance:
        advance(1)
    assert "\x1b[?25l" not in output.getvalue() and "━" not in output.getvalue()


def test_template_is_read_as_package_data() -> None:
    from importlib import resources

    assert resources.files(report_module.__package__ or "").joinpath("report.html.j2").is_file()
