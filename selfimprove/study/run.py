"""Running a study: what is wrong is said first, then every run in turn, and the table after each."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from rich.console import Console

from selfimprove.artefacts import Store, write_file, write_json
from selfimprove.errors import InputError, RunFailed
from selfimprove.loop.loop import Loop
from selfimprove.models.policy import pick_device
from selfimprove.quiet import quiet_libraries
from selfimprove.recipe.recipe import Recipe, changed_keys
from selfimprove.report.events import FILE_NAME, Event, EventLog, read_events
from selfimprove.report.summary import dig, duration, number
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run
from selfimprove.runs.folder import Run
from selfimprove.sampling.backends import choose_backend
from selfimprove.study.collect import Measured, Row, as_csv, measured, table
from selfimprove.study.page import outcome_sentences, write_page
from selfimprove.study.plan import Planned, Study, planned


@dataclass(frozen=True)
class Finished:
    """What a study left. `failed`: why, by run."""

    page: Path
    rows: list[Row]
    sentences: list[str]
    failed: dict[str, str]
    runs: int


def run_study(study: Study, progress: Progress | None = None) -> Finished:
    """Runs every arm with every seed, going on where an earlier start stopped.

    A run that fails is recorded with its reason, and the others go on. Raises InputError before the first run for what
    is wrong with the study, a recipe, its data or its suites.
    """
    quiet_libraries()
    progress = progress or Progress()
    runs = _with_one_backend(planned(study))
    inputs = _checked(study, runs)
    folder = Path(study.output)
    if study.claims:
        progress.note("`claims` of the study file are not read yet")
    found: dict[tuple[str, int], Measured] = {}
    failed: dict[str, str] = {}
    seconds: list[float] = []
    with Run(folder).locked():
        for place, one in enumerate(runs, start=1):
            title = f"run {place} of {len(runs)}: {one.arm}, seed {one.seed}"
            done = _done(one)
            known = inputs.get(one.arm) if one.seed == study.seeds[0] else None
            if finished := done is not None and _same_inputs(one, known):
                progress.note(f"{title}: finished before")
                seconds.append(number(dig(done, "seconds")) or 0.0)
            else:
                waiting = sum(_done(later) is None for later in runs[place:]) + 1
                left = f"; about {duration(waiting * sum(seconds) / len(seconds))} left" if seconds else ""
                progress.note(f"{title}{left}")
                started = time.monotonic()
                try:
                    run(one.recipe, progress)
                    seconds.append(time.monotonic() - started)
                except RunFailed as error:
                    failed[f"{one.arm}, seed {one.seed}"] = str(error)
                    progress.note(f"{title}: failed: {error}")
                except InputError as error:
                    raise InputError(f"{study.file}: {one.arm}, seed {one.seed}: {error}") from error
            found[one.arm, one.seed] = measured(one)
            if not finished or place == len(runs):
                rows = _write(study, found, failed, len(runs))
    return Finished(folder / "study.html", rows, outcome_sentences(study, rows), failed, len(runs))


def _write(study: Study, found: dict[tuple[str, int], Measured], failed: dict[str, str], runs: int) -> list[Row]:
    """Everything that the runs so far show."""
    folder = Path(study.output)
    rows = table(study, found)
    write_file(folder / "table.csv", as_csv(rows).encode())
    write_file(folder / "results.json", (json.dumps(rows, indent=1, allow_nan=False) + "\n").encode())
    write_json(folder / "failed.json", failed)
    write_page(study, rows, failed, f"{len(found) - len(failed)} of {runs} runs finished")
    return rows


def inputs_of(recipe: Recipe) -> dict[str, str]:
    """The digests of a run's data, suites and model, as `inputs.json` has them. Raises InputError for what is wrong."""
    events = EventLog(Path(recipe.output), wait=True)  # never opened
    return Loop(recipe, Store(Path(str(recipe.store))), events, Progress(Console(quiet=True))).inputs


def _checked(study: Study, runs: Sequence[Planned]) -> dict[str, dict[str, str]]:
    """The inputs of every arm's run with the first seed, after a look at all that may be wrong."""
    for one in runs:
        if _same_recipe(one):
            measured(one)
    found: dict[str, dict[str, str]] = {}
    for one in runs[: len(study.arms)]:
        try:
            found[one.arm] = inputs_of(one.recipe)
        except InputError as error:
            raise InputError(f"{study.file}: arm {one.arm!r}: {error}") from error
        suites = "the evaluation suites"
        if found[one.arm].get(suites) != found[runs[0].arm].get(suites):
            raise InputError(
                f"{study.file}: arm {one.arm!r} measures other suites, items or judges than arm {runs[0].arm!r}: arms "
                "are compared item by item, so give changes of `evaluate` and `development` under `overrides`"
            )
    return found


def _same_recipe(one: Planned) -> bool:
    """Whether the run was last started with the recipe that it has now."""
    place = Run(one.folder)
    return place.recipe_file.is_file() and not changed_keys(place.read_recipe(), yaml.safe_load(one.recipe.as_yaml()))


def _done(one: Planned) -> Event | None:
    """The event that ends a run, if it is finished with this recipe."""
    file = one.folder / FILE_NAME
    events = read_events(file) if _same_recipe(one) and file.is_file() else []
    return events[-1] if events and events[-1]["event"] == "done" else None


def _same_inputs(one: Planned, inputs: dict[str, str] | None) -> bool:
    """Whether data, suites and model are what the run had; `inputs`: theirs now, if known."""
    inputs = inputs or inputs_of(one.recipe)
    kept = one.folder / "inputs.json"
    had = json.loads(kept.read_text()) if kept.is_file() else {}
    return bool(inputs) and all(had.get(name) == digest for name, digest in inputs.items())


def _with_one_backend(runs: list[Planned]) -> list[Planned]:
    """`sampling.backend: auto` means the same for all runs, also where a study goes on after an installation."""
    auto = [one for one in runs if one.recipe.sampling.backend == "auto"]
    if not auto:
        return runs
    begun = [Run(one.folder).read_recipe() for one in auto if Run(one.folder).recipe_file.is_file()]
    before = next((recipe["sampling"]["backend"] for recipe in begun), None)
    device = pick_device(runs[0].recipe.device)
    backend, _ = choose_backend("auto", device, before if before != "openai" else None)

    def resolved(recipe: Recipe) -> Recipe:
        return recipe.model_copy(update={"sampling": recipe.sampling.model_copy(update={"backend": backend})})

    return [replace(one, recipe=resolved(one.recipe)) if one in auto else one for one in runs]
