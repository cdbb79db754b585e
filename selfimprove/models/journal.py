"""What a server was paid for, on disk the moment it came: a request found here is not asked again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from selfimprove.artefacts import canonical_json, digest_of, explained_write, sync_folder
from selfimprove.errors import RunFailed


@dataclass(frozen=True)
class Answer:
    """The responses of one request as plain values, and the name that the server gave its model."""

    model: str
    responses: list[dict[str, Any]]


class Journal:
    """One JSON line per finished request, each with its own digest. Without a path nothing is kept. One writer."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @property
    def kept(self) -> str:
        """Where the answers are, for a message."""
        return f" and kept in {self._path}" if self._path else ""

    def read(self) -> dict[str, Answer]:
        """Answers by key. A half-written last line (a kill, a full disk) is cut off, so that the next starts anew."""
        if self._path is None or not self._path.is_file():
            return {}
        data = self._path.read_bytes()
        whole, _, torn = data.rpartition(b"\n")
        if torn:
            with explained_write(self._path):
                os.truncate(self._path, len(data) - len(torn))
        return dict(self._parse(number, line) for number, line in enumerate(whole.splitlines(), 1))

    def _parse(self, number: int, line: bytes) -> tuple[str, Answer]:
        try:
            entry: dict[str, Any] = json.loads(line)
            if entry.pop("sha256") != digest_of(entry):
                raise ValueError
            return entry["key"], Answer(entry["model"], [dict(response) for response in entry["responses"]])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RunFailed(
                f"{self._path}: line {number} is damaged (it does not match its own digest); delete that line, and "
                "its request alone is asked again"
            ) from None

    def add(self, key: str, model: str, responses: Sequence[Mapping[str, Any]]) -> None:
        """On disk when this returns."""
        if self._path is None:
            return
        entry = {"key": key, "model": model, "responses": [dict(response) for response in responses]}
        line = canonical_json({**entry, "sha256": digest_of(entry)}) + "\n"
        with explained_write(self._path):
            new = not self._path.exists()
            with self._path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync_folder(self._path.parent)


class SharedJournal(Journal):
    """A journal that runs share and add to at the same time: a lock beside the file is held for each read and line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock = FileLock(path.with_suffix(".lock"))

    def read(self) -> dict[str, Answer]:
        with self._held():
            return super().read()

    def add(self, key: str, model: str, responses: Sequence[Mapping[str, Any]]) -> None:
        with self._held():
            super().add(key, model, responses)

    @contextmanager
    def _held(self) -> Iterator[None]:
        folder = Path(self._lock.lock_file).parent
        with explained_write(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()
