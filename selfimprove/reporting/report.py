"""`report.html`: one file with everything about a run, to open anywhere, without network or scripts."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from selfimprove.errors import RunFailed
from selfimprove.reporting.events import FILE_NAME, Event, read_events
from selfimprove.reporting.plots import plots
from selfimprove.reporting.summary import (
    count,
    dig,
    duration,
    evaluations_of,
    fixed,
    of_kind,
    policies_of,
    policy_rows,
    round_number,
    rounds_of,
    text,
    with_interval,
)
from selfimprove.reporting.text import visible


@dataclass
class _Table:
    """Columns that no row has anything for are dropped."""

    columns: list[str]
    rows: list[list[str]]

    def __post_init__(self) -> None:
        used = [index for index, _ in enumerate(self.columns) if any(row[index] for row in self.rows)]
        self.columns = [self.columns[index] for index in used]
        self.rows = [[row[index] for index in used] for row in self.rows]


def write_report(run_dir: Path) -> Path:
    """Writes `<run_dir>/report.html` from the run's events, finished or not, and returns its path."""
    source = run_dir / FILE_NAME
    events = read_events(source)
    if not events:
        raise RunFailed(f"{source} holds no event yet: there is nothing to report")
    page = _render(events, fallback_name=run_dir.resolve().name)
    target = run_dir / "report.html"
    temporary = run_dir / f".report.html.{os.getpid()}"
    try:
        # what `visible` does not reach (text inside a plot, say) must not stop the report from being written
        temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
        temporary.replace(target)
    except OSError as error:
        raise RunFailed(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _render(events: Sequence[Event], fallback_name: str) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    source = resources.files("selfimprove.reporting").joinpath("report.html.j2").read_text(encoding="utf-8")
    run = next(reversed(of_kind(events, "run")), {})
    gates = [_gate(event) for event in of_kind(events, "gate")]
    recipe = run.get("recipe")
    return environment.from_string(source).render(
        name=text(run.get("name")) or fallback_name,
        facts=_facts(run, events),
        warnings=[text(item) for item in _list(run.get("warnings"))],
        rounds=_rounds_table(events),
        suite=next(iter(evaluations_of(events)), ""),
        gates=gates,
        gates_failed=sum(not gate["passed"] for gate in gates),
        plots=plots(events),
        examples=[found for event in rounds_of(events) if (found := _examples(event))["pairs"]],
        evaluations=_evaluations_table(events),
        groups=_groups_table(events),
        details=_details_table(events),
        training=_training_table(events),
        recipe=json.dumps(recipe, indent=2, ensure_ascii=False) if recipe else "",
        versions=_dict(run.get("versions")),
        model_digest=text(run.get("model_digest")),
    )


def _finalize(value: Any) -> Any:
    """Everything the template prints, other than finished SVG, goes through `visible`, then autoescape."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _when(stamp: Any) -> str:
    try:
        moment = datetime.fromisoformat(stamp)
    except (TypeError, ValueError):
        return text(stamp)
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".strip()


def _facts(run: Event, events: Sequence[Event]) -> dict[str, str]:
    done = next(reversed(of_kind(events, "done")), None)
    if done is None:
        state = f"not finished; last event {_when(events[-1].get('time'))}"
    else:
        kept = f"kept {text(done.get('policy'))}" + (f" (the {done['kept']})" if done.get("kept") else "")
        state = ", ".join(part for part in (f"finished in {duration(done.get('seconds'))}", kept) if part)
    facts = {
        "method": text(run.get("method")),
        "model": text(run.get("model")),
        "seed": text(run.get("seed")),
        "device": text(run.get("device")),
        "started": _when(run.get("started") or run.get("time")),
        "state": state,
    }
    return {key: value for key, value in facts.items() if value}


def _rounds_table(events: Sequence[Event]) -> _Table:
    columns = {
        "policy": "policy",
        "round": "round",
        "accuracy": "accuracy, % [95%]",
        "change": "change, points [95%]",
        "against": "change against",
        "consistency": "consistency C",
        "pairs": "pairs",
        "right": "right labels, % [95%]",
        "margin": "mean |h|, nats",
        "length": "mean length, tokens",
        "truncated": "truncated, %",
        "duplicates": "duplicates, %",
        "time": "time of the round",
    }
    return _Table(list(columns.values()), [[getattr(row, name) for name in columns] for row in policy_rows(events)])


def _gate(event: Event) -> dict[str, Any]:
    return {
        "passed": event.get("passed") is True,
        "round": text(event.get("round")),
        "name": text(event.get("gate")),
        "value": _short(event.get("value")),
        "bound": _short(event.get("bound")),
        "message": text(event.get("message")),
    }


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else text(value)


def _counts(value: Any) -> str:
    return ", ".join(f"{text(reason)}: {_short(number)}" for reason, number in _dict(value).items())


def _mark(right: Any) -> str:
    return {True: "right", False: "wrong"}.get(right, "") if isinstance(right, bool) else ""


def _examples(event: Event) -> dict[str, Any]:
    pairs = []
    for example in _list(event.get("examples")):
        sides = [
            {
                "name": side,
                "text": text(dig(example, side)),
                "reward": fixed(dig(example, f"{side}_reward"), 3),
                "mark": _mark(dig(example, f"{side}_right")),
            }
            for side in ("chosen", "rejected")
        ]
        pairs.append(
            {
                "prompt": text(dig(example, "prompt")),
                "confidence": fixed(dig(example, "confidence"), 2),
                "sides": sides,
            }
        )
    return {"round": round_number(event), "policy": text(event.get("policy")), "pairs": pairs}


def _evaluations_table(events: Sequence[Event]) -> _Table:
    rows = []
    for suite, by_policy in evaluations_of(events).items():
        for policy in policies_of(events):
            event = by_policy.get(policy)
            if event is None:
                continue
            # only shares are shown as percentages; what another metric counts is not known here
            scale, digits = (100, 1) if event.get("metric", "accuracy") == "accuracy" else (1, 3)
            metric = text(event.get("metric") or "accuracy") + (", %" if scale == 100 else "")
            value = with_interval(event, "value", scale=scale, digits=digits)
            change = with_interval(event.get("paired"), "difference", scale=scale, digits=digits, sign=True)
            against = text(dig(event, "paired", "against"))
            failures = _counts(event.get("failures"))
            digest = text(event.get("policy_digest"))[:12]
            rows.append([suite, policy, metric, value, change, against, count(event.get("n")), failures, digest])
    columns = ["suite", "policy", "metric", "value [95%]", "change [95%]", "against", "items", "failures"]
    return _Table([*columns, "policy digest"], rows)


def _groups_table(events: Sequence[Event]) -> _Table:
    rows = []
    for suite, by_policy in evaluations_of(events).items():
        evaluated = [policy for policy in policies_of(events) if policy in by_policy]
        names = {name: None for policy in evaluated for name in _dict(by_policy[policy].get("groups"))}
        for name in names:
            cells = []
            for policy in policies_of(events):
                group = dig(by_policy.get(policy), "groups", name)
                value, size = fixed(dig(group, "value"), 1, scale=100), count(dig(group, "n"))
                cells.append(f"{value} (of {size})" if value and size else value)
            rows.append([suite, name, *cells])
    return _Table(["suite", "group", *(f"{policy}, %" for policy in policies_of(events))], rows)


def _details_table(events: Sequence[Event]) -> _Table:
    rows = [
        [
            str(round_number(event)),
            count(event.get("prompts")),
            count(event.get("responses")),
            text(dig(event, "consistency", "measure")),
            text(dig(event, "consistency", "mode")),
            with_interval(event.get("consistency"), "mean", digits=3),
            _short(dig(event, "consistency", "weight")),
            _short(dig(event, "consistency", "undefined")),
            fixed(dig(event, "consistency", "tie_rate"), 1, scale=100),
            fixed(event.get("reward_length_correlation"), 2, sign=True),
            _counts(event.get("skipped")),
            fixed(dig(event, "health", "distinct_2"), 3),
            fixed(dig(event, "health", "truncation_rate"), 1, scale=100),
        ]
        for event in rounds_of(events)
    ]
    columns = ["round", "prompts", "responses", "measure", "mode", "consistency [95%]", "weight", "undefined"]
    columns += ["ties, %", "reward–length correlation", "skipped pairs", "distinct-2", "truncated, %"]
    return _Table(columns, rows)


def _training_table(events: Sequence[Event]) -> _Table:
    rows = []
    for event in of_kind(events, "training"):
        last = next(reversed(_list(event.get("history"))), None)
        rows.append(
            [
                text(event.get("stage")),
                text(event.get("policy")),
                count(event.get("examples")),
                _short(event.get("epochs")),
                count(dig(last, "step")),
                fixed(dig(last, "loss"), 4),
                duration(event.get("seconds")),
            ]
        )
    return _Table(["stage", "policy", "examples", "epochs", "steps", "last loss, nats", "time"], rows)
