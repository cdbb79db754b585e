"""`report.html`: one file with everything about a run, to open anywhere, without network or scripts."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from selfimprove.errors import RunFailed
from selfimprove.report.charts import Chart
from selfimprove.report.events import FILE_NAME, Event, read_events
from selfimprove.report.general import GENERAL
from selfimprove.report.outcome import NO_ARMS, outcome_sentences
from selfimprove.report.part import Part, parts_of
from selfimprove.report.policies import all_figures_table, policies_table
from selfimprove.report.samples import write_samples_page
from selfimprove.report.summary import (
    dig,
    duration,
    evaluations_of,
    first_metric,
    fixed,
    number,
    of_kind,
    rounds_of,
    text,
)
from selfimprove.report.svg import svg
from selfimprove.report.table import Table, as_dict, as_list, short
from selfimprove.report.text import visible


def write_report(run_dir: Path) -> Path:
    """Writes `<run_dir>/report.html` from the run's events, finished or not, and returns its path."""
    source = run_dir / FILE_NAME
    events = read_events(source)
    if not events:
        raise RunFailed(f"{source} holds no event yet: there is nothing to report")
    name = text(next(reversed(of_kind(events, "run")), {}).get("name")) or run_dir.resolve().name
    samples = write_samples_page(run_dir, name, events)
    return write_page(run_dir / "report.html", _run_page(events, name, samples=samples is not None))


def write_page(target: Path, page: str) -> Path:
    """Writes a page at once: a reader finds the old or the new one. Raises RunFailed where it cannot be written."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        # what `visible` does not reach (text inside a plot, say) must not stop the page from being written
        temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
        temporary.replace(target)
    except OSError as error:
        raise RunFailed(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def page_of(name: str, outcome: Sequence[str], parts: Sequence[Part], **run: Any) -> str:
    """A page: what came of it, one picture, then the parts. `run`: what only the page of one run shows."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    source = resources.files("selfimprove.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    picture = next((chart for part in parts for chart in part.charts if part.place == "quality"), None)
    return environment.from_string(source).render(
        name=name,
        outcome=outcome,
        picture=picture and (picture.title, picture.note, svg(picture, "outcome")),
        parts=[_shown(part, place, picture) for place, part in enumerate(parts)],
        **{"policies": Table(), "all_figures": Table(), **_NOTHING, **run},
    )


_NOTHING: dict[str, Any] = {"facts": {}, "kept": {}, "versions": {}, "warnings": [], "gates": [], "gates_failed": []}
_NOTHING |= {
    "samples": False,
    "arms": "",
    "has_rounds": False,
    "suite": "",
    "metric": "",
    "recipe": "",
    "model_digest": "",
}


def _run_page(events: Sequence[Event], name: str, samples: bool) -> str:
    run = next(reversed(of_kind(events, "run")), {})
    gates = [_gate(event) for event in of_kind(events, "gate")]
    recipe = run.get("recipe")
    return page_of(
        name,
        outcome_sentences(events),
        parts_of(events, GENERAL),
        arms=NO_ARMS if of_kind(events, "evaluation") and of_kind(events, "training") else "",
        facts=_facts(run, events),
        samples=samples,
        policies=policies_table(events),
        all_figures=all_figures_table(events),
        kept=_kept(events),
        has_rounds=bool(rounds_of(events)),
        warnings=[*(text(item) for item in as_list(run.get("warnings"))), *_judges_by_order(events)],
        suite=next(iter(evaluations_of(events)), ""),
        metric=first_metric(events).name,
        gates=gates,
        gates_failed=[gate for gate in gates if not gate["passed"]],
        recipe=json.dumps(recipe, indent=2, ensure_ascii=False) if recipe else "",
        versions=as_dict(run.get("versions")),
        model_digest=text(run.get("model_digest")),
    )


def _kept(events: Sequence[Event]) -> dict[str, str]:
    """The policy that a finished run kept: its name, and whether it is an adapter, a model, or none."""
    done = next(reversed(of_kind(events, "done")), {})
    if not done.get("policy"):
        return {}
    return {"name": text(done["policy"]), "suite": next(iter(evaluations_of(events)), "")}


def _shown(part: Part, place: int, picture: Chart | None) -> dict[str, Any]:
    """A part as the template takes it, without the chart that stands at the top."""
    drawn = [chart for chart in part.charts if chart is not picture]
    charts = [(one.title, one.note, svg(one, f"chart{place}-{number}")) for number, one in enumerate(drawn)]
    shown = {name: getattr(part, name) for name in ("title", "text", "notes", "tables", "examples")}
    return shown | {"charts": charts}


def _judges_by_order(events: Sequence[Event]) -> list[str]:
    """Judges whose verdicts mostly followed the order of the outputs: a reader must see that before the win rates."""
    found = {}
    for event in [*of_kind(events, "evaluation"), *of_kind(events, "judge_evaluation")]:
        figures = as_dict(event.get("preference")) or event
        if (number(dig(figures, "flip_rate", "low")) or 0) > 0.5:
            share = fixed(dig(figures, "flip_rate", "value"), 0, scale=100)
            found[text(figures.get("judge"))] = share
    return [
        f"{judge}: the winner changed with the order of the two outputs in {share}% of the cases, so it goes by "
        "the order more than by the outputs, and its win rates say little"
        for judge, share in found.items()
    ]


def _finalize(value: Any) -> Any:
    """Everything the template prints, other than finished SVG, goes through `visible`, then autoescape."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


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
        why = text(done.get("why")) or (f"the {done['kept']}" if done.get("kept") else "")
        kept = f"kept {text(done.get('policy'))}" + (f", {why}" if why else "")
        state = ", ".join(part for part in (f"finished in {duration(done.get('seconds'))}", kept) if part)
    backend = text(run.get("backend"))
    started = next((e for e in of_kind(events, "engine") if e.get("what") == "start"), {})
    own = run.get("backend_version") or started.get("version") or as_dict(run.get("versions")).get(backend)
    taken = duration(started.get("seconds"))
    sampler = f"{backend} {text(own)}".strip() + (f", started in {taken}" if taken else "")
    facts = {
        "method": text(run.get("method")),
        "model": text(run.get("model")),
        "seed": text(run.get("seed")),
        "device": text(run.get("device")),
        "sampler": sampler,
        "started": _when(run.get("started") or run.get("time")),
        "state": state,
    }
    return {key: value for key, value in facts.items() if value}


def _gate(event: Event) -> dict[str, Any]:
    return {
        "passed": event.get("passed") is True,
        "round": text(event.get("round")),
        "name": text(event.get("gate")),
        "value": short(event.get("value")),
        "bound": short(event.get("bound")),
        "message": text(event.get("message")),
    }
