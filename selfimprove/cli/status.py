"""`status` and `ls runs`: what runs have finished, and what came of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from selfimprove.artefacts import Store
from selfimprove.report.events import FILE_NAME, Event, read_events
from selfimprove.report.outcome import outcome_sentences
from selfimprove.report.summary import of_kind
from selfimprove.report.table import Col, Table, decimals
from selfimprove.runs.folder import Run


def status_of(folder: Path, verify: bool) -> dict[str, Any]:
    """A run's recipe, state, steps (finished ones, those under way) and outcome; with `verify` every file is read."""
    run = Run(folder)
    recipe, holder, events = run.read_recipe(), run.holder(), events_of(folder)
    store = Store(Path(recipe["store"]) if recipe.get("store") else folder / "steps")
    own = {event.get("folder") for event in of_kind(events, "step")} if recipe.get("store") else set()
    steps = []
    for artefact in store.all():
        if own and artefact.folder.name not in own:
            continue  # another run's, in the store that they share
        # New times alone (a copied run) are no damage: what looks changed is read.
        problem = artefact.damage() if verify or not artefact.looks_whole() else None
        label = str(artefact.manifest.get("label", artefact.folder.name))
        files = problem or ("whole (verified)" if verify else "whole")
        figures = {key: artefact.figures.get(key) for key in ("seconds", "tokens")}
        steps.append(
            {"step": label, **figures, "files": files, "damaged": bool(problem), "folder": artefact.folder.name}
        )
    return {
        "run": str(folder),
        "method": recipe.get("method"),
        "model": recipe.get("model"),
        "state": state_of(holder, events),
        "process": holder,
        "engine": _engine_of(holder),
        "outcome": outcome_sentences(events),
        "store": str(store.folder),
        "steps": steps,
        "under way": list(_under_way(store.folder)),
    }


def events_of(folder: Path) -> list[Event]:
    """What a run wrote so far; nothing where it wrote nothing yet."""
    file = folder / FILE_NAME
    return read_events(file) if file.is_file() else []


def state_of(holder: int | None, events: list[Event]) -> str:
    """`running`, `finished` or `stopped`: as a person would say it of a run."""
    if holder:
        return "running"
    return "finished" if events and events[-1]["event"] == "done" else "stopped"


def steps_table(found: dict[str, Any]) -> Table:
    tokens = Col("tokens", show=lambda value: f"{value:,}" if isinstance(value, int) else "")
    return Table(
        "Steps", found["steps"], [Col("step"), Col("files"), Col("seconds", show=decimals(1)), tokens, Col("folder")]
    )


def _under_way(store: Path) -> Iterator[dict[str, Any]]:
    for partial in sorted(store.glob(".partial-*")):
        if (partial / "step.json").is_file():
            task = json.loads((partial / "step.json").read_text())
            done = len(list(partial.glob("rows-*.arrow")))
            yield {"step": task["label"], "shards": done, "of": task["shards"], "folder": partial.name}


def _engine_of(holder: int | None) -> int | None:
    """Process id of the living vLLM engine that a process has started."""
    try:
        children = psutil.Process(holder).children() if holder else []
        return next((child.pid for child in children if "selfimprove.sampling.vllm_engine" in child.cmdline()), None)
    except psutil.Error:
        return None
