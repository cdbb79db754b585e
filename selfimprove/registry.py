"""The user's own things, by name: `module:thing` on the import path, or `file.py:thing` beside the recipe."""

from __future__ import annotations

import hashlib
import importlib
import sys
import traceback
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfimprove.errors import InputError


@dataclass(frozen=True)
class Code:
    """A name that was found. `file` and its `digest` (SHA-256 of its bytes) are None for a module's thing."""

    name: str
    file: str | None = None
    digest: str | None = None


def is_code_file(name: str) -> bool:
    """Whether a name means a thing in a Python file.

    >>> is_code_file("mine.py:check"), is_code_file("mine:check"), is_code_file("mine.py")
    (True, False, False)
    """
    path, colon, thing = name.rpartition(":")
    return bool(colon) and path.endswith(".py") and thing.isidentifier()


def find_code(name: str, search: Sequence[Path], where: str) -> Code:
    """Where the code is; a relative file is looked for in each folder of `search`. Runs nothing.

    Raises InputError, which begins with `where`, for a file that is not there or cannot be read.
    """
    if not is_code_file(name):
        return Code(name)
    given = Path(name.rpartition(":")[0]).expanduser()
    path = next((found for folder in search if (found := folder / given).is_file()), None)
    if path is None:
        raise InputError(f"{where}: no file {str(given)!r} for {name!r}; looked in {', '.join(map(str, search))}")
    return code_at(name, path, where)


def code_at(name: str, path: Path, where: str) -> Code:
    """The code of that name in the file at `path`, as it is now."""
    try:
        return Code(name, str(path.resolve()), hashlib.sha256(path.read_bytes()).hexdigest())
    except OSError as error:
        raise InputError(f"{where}: {path} cannot be read: {error.strerror or error}") from error


def load_code(code: Code, where: str) -> Any:
    """The thing itself; its module is imported, once for one content of a file.

    Raises InputError, which begins with `where`, for whatever goes wrong in the user's file or module.
    """
    module, colon, thing = code.name.rpartition(":")
    try:
        if not colon:
            raise ImportError("expected module:thing, or file.py:thing")
        loaded = _load_file(code) if code.file else importlib.import_module(module)
        return getattr(loaded, thing)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == code.file]
        line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
        at = f" ({code.file}, line {line})" if code.file and line else ""
        kind = (
            ""
            if isinstance(error, ImportError) or (not frames and isinstance(error, AttributeError))
            else f"{type(error).__name__}: "
        )
        raise InputError(f"{where}: {code.name!r} cannot be imported{at}: {kind}{error}") from error


def _load_file(code: Code) -> Any:
    """The module of a file, from the very bytes that its digest is of. Its folder stays on the import path, so that
    what its functions import beside it is found; a module beside it is imported once in a process."""
    assert code.file is not None
    path = Path(code.file)
    name = f"_selfimprove_{path.stem}_{hashlib.sha256(f'{code.file}|{code.digest}'.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != code.digest:
        raise ImportError("the file changed while it was being read; run the same command again")
    module = types.ModuleType(name)
    module.__file__ = code.file
    sys.modules[name] = module  # dataclasses and pickle look their module up
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        exec(compile(content, code.file, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module
