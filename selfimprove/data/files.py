"""Rows out of files as people have them: what a file is, is seen by its ending, and of `.json` by its content."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selfimprove.errors import InputError
from selfimprove.shipped import made_by

KINDS = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt")
_CELL = 2**27  # characters; Python's csv stops at 131,072
_SPLIT = re.compile(r"(train|test|validation|valid|val|dev|eval)(?![a-z])")
_WHOLE = re.compile(r"-?\d+\.0")


def locate(path: str, search: Sequence[Path]) -> list[Path]:
    """The files that a path means, found in the first folder of `search` that has it: one file, the data files of a
    folder (parts of one data set, in order of name), or what a pattern (`parts/*.parquet`) matches.

    Raises InputError where there is none.
    """
    tried = [folder / Path(path).expanduser() for folder in search] or [Path(path).expanduser()]
    for candidate in tried:
        if candidate.is_file():
            return [candidate]
        if candidate.is_dir():
            return _parts(candidate)
        if any(sign in path for sign in "*?["):
            place = candidate.absolute()
            pattern = str(place.relative_to(place.anchor))
            if found := sorted(one for one in Path(place.anchor).glob(pattern) if one.is_file()):
                return found
    looked = dict.fromkeys(str(candidate) for candidate in tried)
    raise InputError(f"data file {path!r} not found{made_by(path)}; looked for {', '.join(looked)}")


def _parts(folder: Path) -> list[Path]:
    if (state := folder / "state.json").is_file():  # `save_to_disk`; its list, for `map` leaves caches beside the data
        parts = _of(_object(state).get("_data_files"), list)
        found = [folder / str(part["filename"]) for part in parts if isinstance(part, dict) and "filename" in part]
        if missing := [part.name for part in found if not part.is_file()]:
            raise InputError(f"data folder {folder}: {missing[0]}, which its state.json names, is not there")
        if found:
            return found
    if (splits_file := folder / "dataset_dict.json").is_file():
        splits = ", ".join(map(str, _of(_object(splits_file).get("splits"), list)))
        raise InputError(f"data folder {folder} holds several splits ({splits}): give the folder of one")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in KINDS and not path.name.startswith("."))
    if len({path.suffix.lower() for path in found}) > 1:
        raise InputError(f"data folder {folder} holds files of several kinds; give a pattern, {folder.name}/*.parquet")
    several = sorted({named[1] for path in found if (named := _SPLIT.match(path.name.lower()))})
    if len(several) > 1:
        raise InputError(
            f"data folder {folder} holds several splits ({', '.join(several)}), which would become one data set; give "
            f"a pattern, {folder.name}/{several[-1]}*{found[0].suffix}"
        )
    if not found:
        raise InputError(f"data folder {folder} holds no file that ends with {', '.join(KINDS)}")
    return found


def _object(path: Path) -> dict[str, Any]:
    return dict(_of(_parsed(path, path.read_bytes()), dict))


def _of(value: Any, kind: type) -> Any:
    """The value, where it is what it should be, else an empty one."""
    return value if isinstance(value, kind) else kind()


def file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, row) of every row; the place is `line 3` or `row 3`. Raises InputError for a file that is not what its
    name says, with the place."""
    kind = path.suffix.lower()
    if kind == ".jsonl":
        yield from _json_lines(path)
    elif kind == ".json":
        yield from _json(path)
    elif kind in (".csv", ".tsv"):
        yield from _table(path, "\t" if kind == ".tsv" else ",")
    elif kind == ".txt":  # a prompt a line
        lines = _text(path).split("\n")
        yield from ((f"line {n}", {"prompt": line.strip()}) for n, line in enumerate(lines, 1) if line.strip())
    elif kind in (".parquet", ".arrow"):
        yield from ((f"row {n}", row) for n, row in enumerate(_columns(path), 1))
    else:
        hint = f"; a list in it is `{path.name}:NAME`" if kind == ".py" else ""
        raise InputError(f"{path}: unknown kind of file {path.suffix!r}; use {', '.join(KINDS)}{hint}")


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as lines:  # bytes split at \n only; text would also split at U+2028 in a value
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"line {number}", _parsed(path, line, number)


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    """A list of objects, or (many are called so) an object a line."""
    data = path.read_bytes()
    try:
        rows = json.loads(data.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and data.lstrip()[:1] == b"{":
            yield from _json_lines(path)
            return
        rows = _parsed(path, data)
    except (ValueError, RecursionError):
        rows = _parsed(path, data)
    if isinstance(rows, dict):
        lists = [name for name, value in rows.items() if isinstance(value, list)]
        hint = f"; if the rows are the list under {lists[0]!r}, make that a file of its own" if lists else ""
        raise InputError(
            f"{path}: expected a list of objects, or one object per line; a single row goes between [ and ], or into a "
            f"file called .jsonl{hint}"
        )
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a list of objects; one object per line is called .jsonl")
    yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _table(path: Path, separator: str) -> Iterator[tuple[str, Any]]:
    """The first line names the columns; a blank cell is missing. A column of nothing but `72.0` and the like was one of
    whole numbers, until a gap made them floats."""
    csv.field_size_limit(_CELL)
    _text(path)  # not UTF-8 is said before anything else
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=separator, strict=True)
        rows: list[tuple[str, dict[str, str | None]]] = []
        try:
            names = list(reader.fieldnames or ())
            if twice := [name for name, times in Counter(names).items() if times > 1]:
                raise InputError(f"{path}: the header has the column {twice[0]!r} twice; rename or remove one")
            for row in reader:
                place = f"line {reader.line_num}"
                if None in row or None in row.values():
                    raise InputError(f"{path}, {place}: has {'more' if None in row else 'fewer'} cells than the header")
                rows.append((place, {name: value if value.strip() else None for name, value in row.items()}))
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: not a readable table ({error})") from error
    for name in names:
        cells = [row[name] for _, row in rows]
        if all(cell is None or _WHOLE.fullmatch(cell.strip()) for cell in cells):
            for _, row in rows:
                if (cell := row[name]) is not None:
                    row[name] = cell.strip().removesuffix(".0")
    yield from rows


def _columns(path: Path) -> list[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if path.suffix.lower() == ".arrow":
            with pa.memory_map(str(path)) as file:
                return list(pa.ipc.open_stream(file).read_all().to_pylist())
        return list(parquet.read_table(path).to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable {path.suffix.lower()[1:]} file ({error})") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text in UTF-8 ({error})") from error


def _parsed(path: Path, data: bytes, line: int | None = None) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        where = f"{path}, line {line or error.lineno}, column {error.colno}"
        raise InputError(f"{where}: not JSON ({error.msg}); correct or remove it") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, endless digits, endless nesting
        raise InputError(f"{path}, line {line or 1}: not JSON in UTF-8 ({error})") from error
