"""`metrics.jsonl`: everything that happened in a run, one JSON object a line, written as it happens."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from selfimprove.artefacts import explained_write, write_json
from selfimprove.errors import InputError, RunFailed

Event = dict[str, Any]

FILE_NAME = "metrics.jsonl"


class EventLog:
    """Appends events to `<run_dir>/metrics.jsonl`; an event whose kind and id are there already is skipped.

    A run that is continued after a kill goes through its finished steps once more, so emitting the same
    events must leave the file as it is. What a kill left of a last line is cut off on opening.

    With `wait` nothing is touched until `open`: events before it are kept, so that a run that is refused leaves the
    folder as it was.
    """

    def __init__(self, run_dir: Path, wait: bool = False) -> None:
        self.path = run_dir / FILE_NAME
        self._waiting: list[tuple[str, str, dict[str, Any]]] | None = []
        self._inputs: dict[str, str] | None = None
        if not wait:
            self.open()

    @property
    def is_open(self) -> bool:
        return self._waiting is None

    def open(self) -> None:
        """Opens the file and writes what waited for it."""
        waited, self._waiting = self._waiting or [], None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _mend_last_line(self.path)
        events = read_events(self.path) if self.path.exists() else []
        self._written = {(event["event"], event.get("id")) for event in events}
        self._file = self.path.open("ab")
        if self._inputs is not None:
            self.adopt_inputs(self._inputs)
        for event, id, fields in waited:
            self.emit(event, id, **fields)

    def emit(self, event: str, id: str, **fields: Any) -> None:
        """Writes one line and flushes it. Non-finite floats become null, arrays become lists."""
        if self._waiting is not None:
            self._waiting.append((event, id, fields))
            return
        if (event, id) in self._written:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = plain({"event": event, "id": id, "time": now, **fields})
        # ASCII only: a model can write half a surrogate pair, which cannot be stored as UTF-8
        line = json.dumps(record, allow_nan=False) + "\n"
        with explained_write(self.path):
            self._file.write(line.encode("ascii"))
            self._file.flush()
        self._written.add((event, id))

    def adopt_inputs(self, inputs: dict[str, str]) -> list[str]:
        """Keeps the digests of a run's inputs beside its events; names those that changed since the last start.

        On a change the old events are set aside, so that a report never mixes results of two sets of inputs.
        """
        kept = self.path.with_name("inputs.json")
        old = json.loads(kept.read_text()) if kept.is_file() else inputs
        changed = [name for name in inputs if old.get(name) != inputs[name]]
        if not self.is_open:
            self._inputs = inputs
            return changed
        if changed:
            self._file.close()
            self.path.rename(self.path.with_name(f"metrics-until-{time.time_ns()}.jsonl"))
            self._file, self._written = self.path.open("ab"), set()
        if changed or not kept.is_file():
            write_json(kept, inputs)
        return changed

    def close(self) -> None:
        """Closes the file; every emitted line is there already."""
        if not self.is_open:
            return
        # only a line whose `emit` has failed is still to be written, and that failure is what should be seen
        with suppress(OSError):
            self._file.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_events(path: Path) -> list[Event]:
    """The events in the file, in order, without a last line that was cut off by a kill.

    An empty file gives an empty list; a malformed line anywhere else is a `RunFailed` that names it.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: is {path.parent} the folder of a run?") from None
    unfinished = lines.pop()
    events = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        event = _parse(line)
        if event is None:
            raise RunFailed(
                f"{path}, line {number}: not an event (one JSON object with a text field 'event'). "
                "The file was changed or damaged; delete that line to go on without it."
            )
        events.append(event)
    last = _parse(unfinished)
    return events if last is None else [*events, last]


def _mend_last_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    kept, _, tail = content.rpartition(b"\n")
    if not tail:
        return
    with path.open("r+b") as file:
        if _parse(tail) is None:
            file.truncate(len(kept) + 1 if content.count(b"\n") else 0)
        else:  # only the newline is missing
            file.seek(0, 2)
            file.write(b"\n")


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: non-finite floats become None, arrays and tuples lists, keys text."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        return plain(value.tolist())
    return value
