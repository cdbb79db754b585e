"""Things by name: ours, those of installed packages (entry points), and the user's own: `module:thing` on the import
path, or `file.py:thing` beside the recipe. Nothing is imported before it is asked for."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import sys
import traceback
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from selfimprove.errors import InputError, RunFailed, SelfImproveError

# What comes with the package, as `module:thing` of it. An installed package adds its own by entry points of the group
# `selfimprove.<kind>s`.
OURS: dict[str, dict[str, str]] = {
    "method": {
        "sft": "methods.sft:sft",
        "dpo": "methods.dpo:dpo",
        "expert_iteration": "methods.expert_iteration.expert_iteration:expert_iteration",
        "iterative_dpo": "methods.iterative_dpo:iterative_dpo",
        "srlm": "methods.srlm:srlm",
        "cream": "methods.cream:cream",
        "sharpening": "methods.sharpening:sharpening",
        "score": "methods.score.score:score",
        "star": "methods.star:star",
        "self_judge": "methods.self_judge.self_judge:self_judge",
        "self_lengthen": "methods.self_lengthen.self_lengthen:self_lengthen",
        "evaluate": "tasks.evaluate:evaluate",
        "evaluate_judge": "tasks.evaluate_judge:evaluate_judge",
        "evaluate_responses": "tasks.evaluate_responses:evaluate_responses",
        "judge_file": "tasks.judge_file:judge_file",
        "answer": "tasks.answer:answer",
    },
    "suite": {
        "exact_match": "suites.kinds:exact_match",
        "multiple_choice": "suites.kinds:multiple_choice",
        "math": "suites.kinds:math",
        "code": "suites.kinds:code",
        "checked": "suites.kinds:checked",
        "self_correction": "suites.kinds:self_correction",
        "graded": "suites.kinds:graded",
        "preference": "suites.kinds:preference",
        "rating": "suites.kinds:rating",
        "length": "suites.kinds:length",
        "judge": "suites.kinds:judge",
    },
    "judge": {
        "implicit_reward": "judging.likelihoods:IMPLICIT_REWARD",
        "likelihood": "judging.likelihoods:LIKELIHOOD",
        "exact_match": "judging.answers:EXACT_MATCH",
        "math": "judging.answers:MATH",
        "code": "judging.answers:CODE",
        "constraints": "judging.answers:CONSTRAINTS",
        "majority": "judging.answers:MAJORITY",
        "reward_model": "judging.reward_readers:REWARD_MODEL",
        "rubric": "judging.rubric_judge:RUBRIC",
        "function": "judging.functions:FUNCTION",
        "random": "judging.controls:RANDOM",
        "incorrect": "judging.controls:INCORRECT",
        "format": "judging.controls:FORMAT",
        "oracle": "judging.controls:ORACLE",
    },
    "sampler": {
        "transformers": "sampling.backends:transformers",
        "vllm": "sampling.backends:vllm",
        "openai": "sampling.backends:openai",
    },
    "step": {
        "sample": "sampling.step:SAMPLE",
        "log_probs": "scoring.step:LOG_PROBS",
        "reward_model": "judging.steps:REWARD_MODEL",
        "function": "judging.steps:FUNCTION",
        "ask_server": "judging.steps:ASK_SERVER",
        "verify_math": "judging.steps:VERIFY_MATH",
        "verify_code": "judging.steps:VERIFY_CODE",
        "rewards": "judging.steps:REWARDS",
        "sft": "training.step:SFT",
        "dpo": "training.step:DPO",
        "score": "methods.score.step:SCORE",
        "similarity": "methods.self_judge.steps:SIMILARITY",
        "judge": "methods.self_judge.steps:JUDGE",
    },
}


# What was found, by kind and name.
FOUND: dict[tuple[str, str], Any] = {}


@lru_cache
def _installed(kind: str) -> dict[str, EntryPoint]:
    """The entry points of other packages; InputError where two go by one name, or one by a name of ours."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"selfimprove.{kind}s"):
        other = found.get(point.name)
        if point.name in OURS[kind] or (other and other.value != point.value):
            theirs = f"{other.value!r}" if other else "selfimprove's own"
            raise InputError(
                f"two {kind}s go by the name {point.name!r}: {theirs} and {point.value!r} of an installed package; "
                "uninstall or rename one"
            )
        found[point.name] = point
    return found


def names(kind: str) -> list[str]:
    """What goes by a plain name: ours in their order, then those of installed packages."""
    return [*OURS[kind], *sorted(_installed(kind))]


def find(kind: str, name: str, search: Sequence[Path] = (), where: str = "") -> Any:
    """The thing of that name (see the module), imported once.

    Raises InputError, which begins with `where`, where there is none; with the nearest name.
    """
    if ":" in name:
        return load_code(find_code(name, search, where), where)
    if (kind, name) not in FOUND:
        if name in OURS[kind]:
            module, _, thing = OURS[kind][name].partition(":")
            FOUND[kind, name] = getattr(importlib.import_module(f"selfimprove.{module}"), thing)
        elif code := installed(kind, name):
            FOUND[kind, name] = load_code(Code(code), f"{where or kind}: {name!r} of an installed package")
        else:
            raise InputError(f"{where or kind}: {unknown(kind, name)}")
    return FOUND[kind, name]


def unknown(kind: str, name: str, known: Sequence[str] = ()) -> str:
    """What to say where nothing goes by that name, with the nearest one. `known`: if not all of the kind."""
    known = known or names(kind)
    near = difflib.get_close_matches(name, known, 1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"no {kind} {name!r}; {meant}There are {', '.join(known)}, and your own: module:thing, or file.py:thing beside "
        "the recipe"
    )


def installed(kind: str, name: str) -> str | None:
    """`module:thing` that an installed package registered under a name; None where the name is ours, or nobody's."""
    point = _installed(kind).get(name)
    return point.value.replace(" ", "") if point else None


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
        at = place_of(error, code.file)
        kind = (
            ""
            if isinstance(error, ImportError) or (not at and isinstance(error, AttributeError))
            else f"{type(error).__name__}: "
        )
        raise InputError(f"{where}: {code.name!r} cannot be imported{at}: {kind}{error}") from error


def place_of(error: BaseException, file: str | None) -> str:
    """Where in the user's file an error arose, for messages: ` (mine.py, line 3)`, or nothing."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    return f" ({file}, line {line})" if file and line else ""


@contextmanager
def said_with_place(what: str, thing: Any) -> Iterator[None]:
    """RunFailed, with the line of its file, for what a stranger's thing raises. What it hands on of ours is not its."""
    try:
        yield
    except SelfImproveError:
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # of torch: the run says what to do
            raise
        file = getattr(sys.modules.get(getattr(thing, "__module__", "")), "__file__", None)
        raise RunFailed(f"{what} raised {type(error).__name__}{place_of(error, file)}: {error}") from error


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
