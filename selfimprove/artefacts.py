"""Finished work on disk: an artefact is a folder with a `manifest.json`, written whole or not at all.

Everything is written under a temporary name, fsynced and renamed; a folder without its manifest does not
exist. Steps are looked up by a key made from everything that can change their result.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from selfimprove.errors import RunFailed, SelfImproveError

Row = Mapping[str, Any]
# Artefacts up to this size are read and checked whenever they are found (0.1 s); larger ones by size and time first.
_READ_AT_ONCE = 2**27
# Less than this free (bytes) and something failed while it was written: that is why.
_NO_ROOM = 2**16
# A training's last figures, while it goes on.
LATEST = "latest.json"


class DamagedArtefact(SelfImproveError):
    """A file of an artefact is not what its manifest says; the artefact has been set aside."""


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, floats as Python's shortest repr; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def explained_write(path: Path) -> Iterator[None]:
    """Turns a refusal to write into a message that says what to do, whichever library met it."""
    with explained_disk(path):
        try:
            yield
        except OSError as error:
            refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
            if not refused or not _concerns(error, path):
                raise
            message = f"{path}: cannot be written ({error}). Choose another `output`, or mend the rights."
            raise RunFailed(message) from error


@contextlib.contextmanager
def explained_disk(path: Path) -> Iterator[None]:
    """Turns whatever a full disk does to a library into a message that says what to do.

    Looks along the chain of exceptions (what a library raises while it tidies up hides why), and at the room left where
    `path` is: torch and safetensors say it in words of their own, or not at all.
    """
    try:
        yield
    except SelfImproveError:
        raise
    except Exception as error:
        chain = list(_chain(error))
        numbers = {one.errno for one in chain if isinstance(one, OSError)}
        said = any("No space left" in str(one) or "PytorchStreamWriter failed" in str(one) for one in chain)
        if said or numbers & {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} or _room(path) < _NO_ROOM:
            raise RunFailed(
                f"{path}: the disk is full ({error}). Finished steps are kept: make room, run again."
            ) from error
        raise


def _concerns(error: OSError, path: Path) -> bool:
    """Whether it is about `path`, what is beside or in it, or a folder above it: not about one that was only read."""
    if error.filename is None:
        return True
    place, own = Path(os.fsdecode(error.filename)).absolute(), path.absolute()
    return place.is_relative_to(own.parent) or own.is_relative_to(place)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _room(path: Path) -> int:
    """Bytes that are free where `path` is, or will be."""
    place = next(one for one in (path, *path.absolute().parents) if one.exists())
    return shutil.disk_usage(place).free


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all (temporary name, fsync, rename)."""
    with explained_write(path):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_file` of indented JSON."""
    write_file(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows as an Arrow stream, which `datasets.Dataset.from_file` opens. Whole or not at all."""
    # Lists of token ids are the bulk; Arrow infers int64 for them, which compresses to nothing worth caring for.
    table = pa.Table.from_pylist([dict(row) for row in rows])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    write_file(path, sink.getvalue().to_pybytes())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of `write_rows`."""
    with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as reader:
        return reader.read_all().to_pylist()


def rows_digest(rows: Sequence[Row]) -> str:
    """SHA-256 over the canonical JSON of the rows in order: independent of files, shards and times."""
    total = hashlib.sha256()
    for row in rows:
        total.update(canonical_json(dict(row)).encode())
        total.update(b"\n")
    return total.hexdigest()


def folder_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file below `folder` but the manifest, with its digest, size (bytes) and modification time (ns)."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / "manifest.json":
            stat = path.stat()
            files[str(path.relative_to(folder))] = {
                "sha256": file_digest(path),
                "bytes": stat.st_size,
                "mtime_ns": stat.st_mtime_ns,
            }
    return files


def sync_tree(folder: Path) -> None:
    """Makes every file and folder below `folder` durable, its files with the modes that the umask gives (safetensors
    writes for its user alone)."""
    umask = os.umask(0o077)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_uid == os.getuid():
            path.chmod((0o777 if path.stat().st_mode & 0o100 else 0o666) & ~umask)
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    sync_folder(folder)


def set_aside(folder: Path) -> Path:
    """Takes a folder that is not a whole artefact out of the way, without deleting it."""
    aside = folder.with_name(f".damaged-{folder.name}-{time.time_ns()}")
    folder.rename(aside)
    return aside


@dataclass
class Artefact:
    """A finished step's folder. `digest` is the content digest that later steps' keys use."""

    folder: Path
    manifest: dict[str, Any] = field(repr=False)

    @property
    def digest(self) -> str:
        return str(self.manifest["digest"])

    @property
    def bytes(self) -> int:
        return sum(int(recorded["bytes"]) for recorded in self.manifest.get("files", {}).values())

    @property
    def figures(self) -> dict[str, Any]:
        return dict(self.manifest.get("figures", {}))

    def rows(self) -> list[dict[str, Any]]:
        """All rows of a step that makes rows, in shard order, after checking the files' digests."""
        self.verify()
        return [row for path in sorted(self.folder.glob("rows-*.arrow")) for row in read_rows(path)]

    @classmethod
    def read(cls, folder: Path) -> Artefact:
        """The artefact in `folder`. A manifest that cannot be read is itself damage, which `damage` reports."""
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            readable = {"key", "digest", "files"} <= manifest.keys()
        except (ValueError, AttributeError):
            readable = False
        return cls(folder, manifest if readable else {})

    @property
    def readable(self) -> bool:
        """Whether the manifest is one of ours."""
        return "files" in self.manifest

    def looks_whole(self) -> bool:
        """Sizes and file times are the manifest's (fast: reads no content)."""
        if not self.readable:
            return False
        for name, recorded in self.manifest["files"].items():
            try:
                stat = (self.folder / name).stat()
            except FileNotFoundError:
                return False
            if (stat.st_size, stat.st_mtime_ns) != (recorded["bytes"], recorded["mtime_ns"]):
                return False
        return True

    def damage(self) -> str | None:
        """The first file whose content is not the manifest's, in words; None if all are (reads everything)."""
        if not self.readable:
            return f"{self.folder / 'manifest.json'} cannot be read"
        for name, recorded in self.manifest["files"].items():
            path = self.folder / name
            if not path.is_file():
                return f"{path} is missing"
            if (found := file_digest(path)) != recorded["sha256"]:
                return f"{path}: SHA-256 is {found[:16]}..., expected {recorded['sha256'][:16]}..."
        return None

    def verify(self) -> None:
        """Full check on first use in this process; a damaged artefact is set aside and raises `DamagedArtefact`."""
        if self.manifest.get("_verified"):
            return
        if reason := self.damage():
            aside = set_aside(self.folder)
            raise DamagedArtefact(f"{reason}. The artefact is set aside as {aside.name}; it is made again.")
        self.manifest["_verified"] = True


class Store:
    """The artefacts below one folder, found by step name and key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()  # steps' folders name the policies in it, whatever the current folder
        self._known: dict[Path, Artefact] = {}

    def path(self, name: str, key: str) -> Path:
        return self.folder / f"{name}-{key[:16]}"

    def find(self, name: str, key: str) -> Artefact | None:
        """The finished artefact of this key, or None. Changed sizes or times lead to a full check at once."""
        folder = self.path(name, key)
        if folder in self._known and folder.is_dir():
            return self._known[folder]
        try:
            artefact = Artefact.read(folder)
        except FileNotFoundError:
            return None
        if artefact.bytes <= _READ_AT_ONCE or not artefact.looks_whole():
            artefact.verify()
        self._known[folder] = artefact
        return artefact

    def begin(self, name: str, key: str) -> Path:
        """The folder to work in: new, or what an interrupted run left (its whole shards are reused)."""
        partial = self.folder / f".partial-{name}-{key[:16]}"
        with explained_write(partial):
            partial.mkdir(parents=True, exist_ok=True)
        return partial

    def finish(self, partial: Path, name: str, key: str, manifest: dict[str, Any]) -> Artefact:
        """Seals the work: digests of the files, the manifest, and the rename that makes it exist."""
        final = self.path(name, key)
        with explained_write(final):
            for leftover in partial.rglob(".*.tmp"):
                leftover.unlink()
            shutil.rmtree(partial / "checkpoints", ignore_errors=True)
            for passing in ("progress.json", LATEST):
                (partial / passing).unlink(missing_ok=True)
            sync_tree(partial)
            write_json(partial / "manifest.json", {**manifest, "key": key, "files": folder_files(partial)})
            if final.is_dir():  # without a manifest, or `find` had given it
                set_aside(final)
            partial.rename(final)
            sync_folder(self.folder)
        artefact = Artefact.read(final)
        artefact.manifest["_verified"] = True
        self._known[final] = artefact
        return artefact

    def all(self) -> list[Artefact]:
        """Every finished artefact, oldest first; damaged ones too, first of all where the manifest is damaged."""
        found = [Artefact.read(path.parent) for path in self.folder.glob("[!.]*/manifest.json")]
        return sorted(found, key=lambda artefact: artefact.manifest.get("finished", ""))
