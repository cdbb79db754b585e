"""Running a recipe: what `selfimprove run` and `selfimprove.run` do."""

from __future__ import annotations

import os
import time
from pathlib import Path

from selfimprove.artefacts import DamagedArtefact, Store, explained_disk, write_json
from selfimprove.errors import RunFailed, SelfImproveError
from selfimprove.inference import Inference
from selfimprove.loop.loop import Loop
from selfimprove.models.loading import MODELS
from selfimprove.models.policy import Policy, pick_device
from selfimprove.models.resolve import resolve_policy
from selfimprove.quiet import quiet_libraries
from selfimprove.recipe.recipe import Recipe
from selfimprove.registry import names
from selfimprove.report.events import EventLog, read_events
from selfimprove.report.outcome import ORACLE
from selfimprove.report.overall import Overall
from selfimprove.report.page import write_report
from selfimprove.report.terminal import Progress
from selfimprove.runs.folder import Run
from selfimprove.runs.results import Result
from selfimprove.sampling.backends import choose_backend, close_engine
from selfimprove.steps.run import environment
from selfimprove.suites.runner import load_chosen
from selfimprove.training.accelerate_file import require_here
from selfimprove.training.trackers import check_trackers, tracking


def run(recipe: Recipe, progress: Progress | None = None) -> Result:
    """Runs a recipe to its end, going on where an earlier start of it stopped.

    Idempotent: finished steps are found by their keys and not made again, and a finished run only walks through
    them. Raises `InputError` (nothing started) or `RunFailed` (finished steps are kept).
    """
    quiet_libraries()
    check_trackers(recipe.training.report_to)
    if recipe.training.accelerate:
        require_here(recipe, pick_device(recipe.device))
    development = [recipe.development] if recipe.development else []
    for choice in [*recipe.evaluate, *development]:
        load_chosen(recipe, choice)  # what is wrong with a suite is said before anything is written
    if recipe.contract.check:
        recipe.contract.check(recipe, recipe.options)
    progress = progress or Progress()
    folder = Path(recipe.output)
    place = Run(folder)
    with place.locked(), tracking(recipe.training.report_to, folder):
        recipe = _with_backend(recipe, place, progress)
        progress.overall = Overall(place.before(recipe))
        started = time.monotonic()
        with EventLog(folder, wait=True) as events:
            try:
                if recipe.oracle:
                    progress.note(ORACLE)
                with explained_disk(folder):
                    policy, why = _walk(recipe, place, events, progress)
            except BaseException:
                if events.is_open:
                    _report_quietly(folder)
                raise
            seconds = round(time.monotonic() - started, 1)
            if policy is None:
                events.emit("done", "judge", seconds=seconds)
            else:
                events.emit(
                    "done",
                    policy.digest,
                    policy=policy.name,
                    path=str(policy.adapter or policy.base),
                    digest=policy.digest,
                    seconds=seconds,
                    kept=recipe.keep,
                    why=why,
                    oracle=recipe.oracle,
                )
        report = write_report(folder)
    return Result(policy, folder, report, read_events(folder / "metrics.jsonl"))


def _with_backend(recipe: Recipe, place: Run, progress: Progress) -> Recipe:
    """The recipe with `sampling.backend: auto` resolved, so that `recipe.yaml` says what a continued run must keep."""
    before = place.read_recipe().get("sampling", {}).get("backend") if place.recipe_file.is_file() else None
    known = isinstance(before, str) and (before in names("sampler") or ":" in before)
    if not known or (before == "openai" and recipe.sampling.server is None):
        before = None
    backend, note = choose_backend(recipe.sampling.backend, pick_device(recipe.device), before, _base(recipe))
    if recipe.sampling.backend == "auto":
        note = note or f"sampling with {backend}" + (", as this run began" if before else "")
    if note:
        progress.note(note)
    return recipe.model_copy(update={"sampling": recipe.sampling.model_copy(update={"backend": backend})})


def _base(recipe: Recipe) -> Path | None:
    """The folder of the base model that samples; None where the run has no model of its own."""
    if recipe.sampling.backend != "auto" or not recipe.contract.needs.model:
        return None
    return Path(resolve_policy(recipe.model, opening=recipe.opening).base)


def _adopt(loop: Inference, place: Run) -> None:
    """Writes the recipe and opens the events: all that can be wrong with what the user gave was said before."""
    if not loop.events.is_open:
        for change in place.adopt(loop.recipe):
            loop.progress.note(f"the recipe changed since this run was last started: {change}")
        loop.events.open()


def _walk(recipe: Recipe, place: Run, events: EventLog, progress: Progress) -> tuple[Policy | None, str]:
    """The policy, and why it was kept: the method over the durable steps; started over where an artefact turns out to
    be damaged."""
    import torch

    folder = Path(recipe.output)
    store = Store(Path(recipe.store) if recipe.store else folder / "steps")
    while True:
        try:
            if recipe.contract.over == "inference":
                inference = Inference(recipe, store, events, progress)
                found = recipe.contract.prepare(inference, recipe.options) if recipe.contract.prepare else None
                _adopt(inference, place)
                _begun(inference, folder)
                recipe.contract(inference, found)
                return inference.base_policy, ""
            loop = Loop(recipe, store, events, progress)
            loop.check_leaks()
            loop.check_sampler()
            _adopt(loop, place)
            _begun(loop, folder)
            policy = recipe.contract(loop)
            link_policies(folder, loop.made, policy)
            if loop.made:
                write_json(folder / "policies" / "M0.json", {"model": recipe.model, "digest": loop.base_policy.digest})
            return policy, loop.why_kept if loop.made else ""
        except DamagedArtefact as damage:
            progress.note(f"damaged: {damage} Steps that depend on it are made again only if its content changes.")
            MODELS.free()
        except torch.OutOfMemoryError as error:
            raise RunFailed(
                "the GPU's memory is full; lower training.micro_batch_size or sampling.batch_tokens, use "
                f"training.lora, or gradient_checkpointing=true ({str(error).splitlines()[0]})"
            ) from error
        finally:
            MODELS.free()
            close_engine()


def _begun(loop: Inference, folder: Path) -> None:
    """The event that says what is run, and with what."""
    recipe, model = loop.recipe, loop.base_policy
    loop.events.emit(
        "run",
        model.digest if model else "judge",
        name=folder.name,
        method=recipe.method,
        model=recipe.model if model else None,
        model_digest=model.digest if model else None,
        seed=recipe.seed,
        versions=environment(),
        device=loop.device,
        backend=loop.backend,
        recipe=recipe.model_dump(mode="json"),
        beside=str(Path(recipe.folder).resolve()),
        warnings=model_notes(model) if model else [],
    )


def model_notes(policy: Policy) -> list[str]:
    """What every table made with this model must say, also of an adapter on it."""
    from selfimprove.models.builtin import BUILTINS

    return [b.note for b in BUILTINS.values() if Path(policy.base).name == f"{b.name}-{b.wheel_sha256[:12]}"]


def link_policies(folder: Path, made: list[Policy], final: Policy) -> None:
    """`policies/M1`, ..., `policies/final`: links into the steps, so that people find what a run made."""
    for old in (folder / "policies").glob("*"):
        if old.is_symlink():
            old.unlink()
    for name, policy in {**{policy.name: policy for policy in made}, "final": final}.items():
        link = folder / "policies" / name
        link.parent.mkdir(exist_ok=True)
        target = Path(policy.adapter or policy.base)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()))


def _report_quietly(folder: Path) -> None:
    """A report of what there is, for a run that is ending with an error; that error is the one to show."""
    try:
        write_report(folder)
    except (SelfImproveError, OSError):
        return
