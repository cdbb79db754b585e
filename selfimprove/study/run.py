"""Running a study: what is wrong is said first, then every run in turn, and the table after each."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from selfimprove.artefacts import Store, write_file, write_json
from selfimprove.errors import InputError, RunFailed
from selfimprove.loop.loop import Loop
from selfimprove.models.policy import pick_device
from selfimprove.quiet import quiet_libraries
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.events import FILE_NAME, Event, EventLog, read_events
from selfimprove.report.summary import dig, duration, number
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run
from selfimprove.runs.folder import Run
from selfimprove.sampling.backends import choose_backend
from selfimprove.study.claims import seen, sentences, write_claims
from selfimprove.study.collect import (
    Measured,
    Row,
    as_csv,
    as_json,
    check_items,
    included,
    made_from,
    measured,
    read_results,
    table,
)
from selfimprove.study.page import outcome_sentences, write_page
from selfimprove.study.plan import Planned, Study, beside, nearest, planned


@dataclass(frozen=True)
class Finished:
    """What a study left. `failed`: why, by run."""

    page: Path
    rows: list[Row]
    sentences: list[str]
    failed: dict[str, str]
    runs: int


def run_study(study: Study, progress: Progress | None = None, page_only: bool = False) -> Finished:
    """Runs every arm with every seed, going on where an earlier start stopped; with `page_only` none, and the table and
    the page are made of what there is.

    A run that fails is recorded with its reason, and the others go on. Raises InputError before the first run for what
    is wrong with the study, a recipe, its data or its suites.
    """
    quiet_libraries()
    progress = progress or Progress()
    runs = _with_one_backend(planned(study))
    inputs = {} if page_only else _checked(study, runs)
    folder = Path(study.output)
    given = _given(study, runs, progress, page_only)
    found: dict[tuple[str, int], Measured] = {}
    failed: dict[str, str] = _failed_before(folder) if page_only else {}
    seconds: list[float] = []
    if page_only and not (given or any(map(_has_result, runs))):
        raise InputError(f"{folder}: no run of this study has measured anything yet; leave --page-only out")
    with Run(folder).locked():
        arms = {arm for arm, _ in given} | {one.arm for one in runs if _has_result(one)}
        claims = seen(folder, study.claims, [arm for arm in study.arms if arm in arms])
        write_claims(folder, claims, _rows_before(folder))
        for place, one in enumerate(runs, start=1):
            title = f"run {place} of {len(runs)}: {one.arm}, seed {one.seed}"
            done = _done(one)
            if page_only or (done is None and (one.arm, one.seed) in given):
                own = measured(one) if done or (page_only and _same_recipe(one)) else {}
                if measured_ := own or given.get((one.arm, one.seed), {}):
                    found[one.arm, one.seed] = measured_
                if not page_only:
                    progress.note(f"{title}: taken from the files of `include`")
                continue
            known = inputs.get(one.arm) if one.seed == study.seeds[0] else None
            if finished := done is not None and _same_inputs(one, known):
                progress.note(f"{title}: finished before")
                seconds.append(number(dig(done, "seconds")) or 0.0)
            else:
                waiting = sum(_done(later) is None and (later.arm, later.seed) not in given for later in runs[place:])
                left = f"; about {duration((waiting + 1) * sum(seconds) / len(seconds))} left" if seconds else ""
                progress.note(f"{title}{left}")
                _run(study, one, progress, failed, seconds, title)
            found[one.arm, one.seed] = measured(one)
            if not finished:
                _write(study, found, failed, claims, len(runs))
        rows = _write(study, found, failed, claims, len(runs))
    said = outcome_sentences(study, rows) + sentences(write_claims(folder, claims, rows))
    return Finished(folder / "study.html", rows, said, failed, len(runs))


def _run(
    study: Study, one: Planned, progress: Progress, failed: dict[str, str], seconds: list[float], title: str
) -> None:
    started = time.monotonic()
    try:
        run(one.recipe, progress)
        seconds.append(time.monotonic() - started)
    except RunFailed as error:
        failed[f"{one.arm}, seed {one.seed}"] = str(error)
        progress.note(f"{title}: failed: {error}")
    except InputError as error:
        raise InputError(f"{study.file}: {one.arm}, seed {one.seed}: {error}") from error


def _write(
    study: Study, found: dict[tuple[str, int], Measured], failed: dict[str, str], claims: Sequence[Row], runs: int
) -> list[Row]:
    """Everything that the runs so far show."""
    folder = Path(study.output)
    check_items(found)
    rows = table(study, found)
    write_file(folder / "table.csv", as_csv(rows).encode())
    write_file(folder / "results.json", as_json(rows).encode())
    write_json(folder / "failed.json", failed)
    judged = write_claims(folder, claims, rows)
    whole = sum(any(event["made"]["finished"] for one in suites.values() for event in one.values())
                for suites in found.values())  # fmt: skip
    write_page(study, rows, failed, f"{whole} of {runs} runs finished", judged, claims)
    return rows


def _given(
    study: Study, runs: Sequence[Planned], progress: Progress, unchecked: bool
) -> dict[tuple[str, int], Measured]:
    """What the files of `include` have of the runs that are not finished here. Raises InputError where one was made
    from another model, data, judge or suites; a recipe that is not the same is said."""
    found = included(study, [beside(study, name) for name in study.include])
    for one in runs:
        if (one.arm, one.seed) not in found or _done(one):
            found.pop((one.arm, one.seed), None)
            continue
        made = next(event["made"] for places in found[one.arm, one.seed].values() for event in places.values())
        here = made_from(one) if unchecked else made_from(one, inputs_of(one.recipe))
        if not unchecked and made.get("inputs") != here["inputs"]:
            raise InputError(
                f"{study.file}: key `include`: {one.arm}, seed {one.seed} was made there from another model, data, "
                "judge or suites than this study has here, so their items cannot be paired; leave that file out"
            )
        if made.get("recipe") != here["recipe"]:
            progress.note(f"{one.arm}, seed {one.seed}: made there with another recipe, or by another version")
    return found


def looked_at(recipe: Recipe) -> Loop:
    """A run's loop before its first step, for what it reads. Raises InputError for what is wrong."""
    events = EventLog(Path(recipe.output), wait=True)  # never opened
    return Loop(recipe, Store(Path(str(recipe.store))), events, Progress(Console(quiet=True)))


def inputs_of(recipe: Recipe) -> dict[str, str]:
    """The digests of a run's data, suites and model, as `inputs.json` has them."""
    return looked_at(recipe).inputs


def _checked(study: Study, runs: Sequence[Planned]) -> dict[str, dict[str, str]]:
    """The inputs of every arm's run with the first seed, after a look at all that may be wrong."""
    for one in runs:
        if _same_recipe(one):
            measured(one)
    found: dict[str, dict[str, str]] = {}
    for one in runs[: len(study.arms)]:
        try:
            loop = looked_at(one.recipe)
        except InputError as error:
            raise InputError(f"{study.file}: arm {one.arm!r}: {error}") from error
        found[one.arm] = loop.inputs
        suites = "the evaluation suites"
        if found[one.arm].get(suites) != found[runs[0].arm].get(suites):
            raise InputError(
                f"{study.file}: arm {one.arm!r} measures other suites, items or judges than arm {runs[0].arm!r}: arms "
                "are compared item by item, so give changes of `evaluate` and `development` under `overrides`"
            )
        _check_claims(study, one, [loaded.suite.name for loaded in loop.evaluator.suites])
    return found


def _check_claims(study: Study, one: Planned, suites: Sequence[str]) -> None:
    """That an arm's claims name a suite that it is measured with, and a round that it has."""
    last = one.recipe.rounds if one.recipe.contract.needs.rounds else None
    for place, claim in enumerate(study.claims):
        where = f"{study.file}: `claims[{place}]` ({claim.claim!r})"
        if claim.arm == one.arm and claim.suite not in suites:
            hint = nearest(claim.suite, suites, "suites")
            raise InputError(f"{where}: no suite {claim.suite!r} measures arm {one.arm!r}; {hint}")
        if claim.arm == one.arm and last is not None and claim.round > last:
            raise InputError(f"{where}: arm {one.arm!r} has {last} rounds; found round {claim.round}")


def _failed_before(folder: Path) -> dict[str, str]:
    file = folder / "failed.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _rows_before(folder: Path) -> list[Row]:
    """The table of an earlier start; empty where there is none that can be read: it is made again."""
    try:
        return read_results(folder / "results.json")
    except InputError:
        return []


def _has_result(one: Planned) -> bool:
    """Whether the run's folder has an evaluation, of whatever recipe."""
    file = one.folder / FILE_NAME
    return file.is_file() and any(event["event"] == "evaluation" for event in read_events(file))


def _same_recipe(one: Planned) -> bool:
    """Whether the run was last started with the recipe that it has now."""
    place = Run(one.folder)
    return place.recipe_file.is_file() and not place.changes(one.recipe)


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
