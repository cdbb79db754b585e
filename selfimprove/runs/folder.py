"""A run is a folder anyone can read: recipe.yaml, steps/, metrics.jsonl, report.html. One process at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from selfimprove.artefacts import explained_write, write_file
from selfimprove.errors import InputError, RunFailed, SelfImproveError
from selfimprove.recipe.recipe import Recipe, changed_keys, make_recipe
from selfimprove.report.events import read_events
from selfimprove.report.summary import number, of_kind

_LOOKED_AT = 50  # runs beside a run


def _without_places(recipe: str) -> list[str]:
    """The lines of a resolved recipe that decide what is done."""
    return [line for line in recipe.splitlines() if not line.startswith(("seed:", "output:", "store:"))]


class Run:
    """The folder of one recipe's run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def recipe_file(self) -> Path:
        return self.folder / "recipe.yaml"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run for this process; a second process is refused with the first one's id.

        The lock is the operating system's, so it goes with the process however that ends. Folders that are made for it
        go again where nothing else was written.
        """
        made = [one for one in (self.folder, *self.folder.parents) if not one.exists()]
        with explained_write(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(handle, 32).decode().strip() or "unknown"
                raise InputError(
                    f"{self.folder}: another process (id {holder}) is working on this run; wait for it, stop it, or "
                    "give another `output`"
                ) from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            if made and self.folder.is_dir() and [one.name for one in self.folder.iterdir()] == ["lock"]:
                (self.folder / "lock").unlink()
                for one in made:
                    with suppress(OSError):  # another run is in it
                        one.rmdir()
            os.close(handle)

    def holder(self) -> int | None:
        """Process id of whoever works on the run now, None if nobody."""
        try:
            handle = os.open(self.folder / "lock", os.O_RDWR)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.read(handle, 32).decode().strip()
            return int(text) if text.isdigit() else -1
        finally:
            os.close(handle)
        return None

    def worker(self) -> int | None:
        """Process id of whoever works on the run, as far as can be said without touching its lock; None if nobody.

        A run that starts in just this moment must not be refused, as it might be while `holder` looks.
        """
        import psutil

        lock = self.folder / "lock"
        try:
            began, id = lock.stat().st_mtime, int(lock.read_text().strip() or 0)
            # a process that is younger than the lock has only got the other one's number
            return id if id and psutil.Process(id).create_time() <= began + 1 else None
        except (OSError, ValueError, psutil.Error):
            return None

    def before(self, recipe: Recipe) -> list[tuple[str, float]]:
        """(label, seconds) of each step of the newest finished run beside this one, or of this one, whose recipe
        differs in seed and places alone: what this one has to do. Nothing where there is none."""
        own = _without_places(recipe.as_yaml())
        files = [(path.stat().st_mtime, path) for path in self.folder.parent.glob("*/recipe.yaml") if path.is_file()]
        for _, path in sorted(files, reverse=True)[:_LOOKED_AT]:
            try:
                if _without_places(path.read_text()) != own:
                    continue
                events = read_events(path.with_name("metrics.jsonl"))
            except (OSError, ValueError, SelfImproveError):
                continue
            if of_kind(events, "done"):
                return [(str(one.get("label")), number(one.get("seconds")) or 0.0) for one in of_kind(events, "step")]
        return []

    def adopt(self, recipe: Recipe) -> list[str]:
        """Writes the resolved recipe; returns what changed since the run was last started.

        On a change the old metrics are set aside, so that the report shows one recipe; finished steps that still
        fit are found by their keys.
        """
        new = recipe.as_yaml()
        changes: list[str] = []
        if self.recipe_file.is_file():
            changes = self.changes(recipe)
            metrics = self.folder / "metrics.jsonl"
            if changes and metrics.is_file():
                metrics.rename(self.folder / f"metrics-until-{time.time_ns()}.jsonl")
        write_file(self.recipe_file, new.encode())
        return changes

    def changes(self, recipe: Recipe) -> list[str]:
        """What is not as the run was last started. A key that came since then had its default."""
        old = self.read_recipe()
        with suppress(InputError):  # of another version, which says by itself what has changed
            old = yaml.safe_load(make_recipe(old, folder=Path(recipe.folder)).as_yaml())
        return changed_keys(old, yaml.safe_load(recipe.as_yaml()))

    def read_recipe(self) -> dict[str, Any]:
        """The recipe this run was started with."""
        if not self.recipe_file.is_file():
            raise InputError(f"{self.folder}: no recipe.yaml there, so it is not a run's folder")
        try:
            return dict(yaml.safe_load(self.recipe_file.read_text()))
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise RunFailed(f"{self.recipe_file}: cannot be read: {error}") from error
