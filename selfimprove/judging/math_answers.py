"""Whether a response's mathematical answer equals the reference, by the `math-verify` library.

SymPy may take minutes or gigabytes over one expression, and math-verify's own time-outs (SIGALRM) work in a process's
main thread only. So the comparison runs in processes of its own, started afresh (no fork: torch may be loaded here),
kept between calls, and replaced when one has hung or died. They have no environment, hence no keys.

Equal is what math-verify's defaults take for equal: numbers to 6 decimal places (so 2^-99 equals 2^-98), percentages
with their values, an assignment with its right-hand side.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.functions import Verdict
from selfimprove.judging.pool import in_order

NO_ANSWER = "no answer found"

_START_SECONDS = 120.0  # importing SymPy on a busy machine
_MEMORY_BYTES = 4 << 30
_LONGEST = 2000  # characters, from the end, that are searched for an answer that is not marked
_AFTER_ANSWER = re.compile(r"answer(?:\s+is)?\s*:?", re.IGNORECASE)
_DELIMITED = re.compile(r"(?<!\\)\$|\\\(|\\\[")
_TEXT = re.compile(r"\\(?:text\w*|mathrm|mbox|begin|end)\s*\{[^{}]*\}")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")  # not a command's name
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)")


def math_verdict(response: str, answer: str, seconds: float = 10.0) -> Verdict:
    """(1.0, None) right; (0.0, None) wrong; (0.0, NO_ANSWER) wrong as nothing was found; (None, reason) missing.

    Missing is what the checker failed at: it ran out of `seconds` or memory, raised, or cannot read the reference.

    Args:
        response: its answer is the last \\boxed{}, else what follows the last "####" (a heading is none), else the
            last expression, one after "answer" first.
        answer: GSM8K's solution with its "#### 18", or LaTeX or a number by itself.

    Raises:
        InputError: math-verify is not installed.
        RunFailed: the checking process cannot be started.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise InputError("checking mathematical answers needs math-verify: pip install 'math-verify[antlr4_13_2]'")
    worker = _idle.pop() if _idle else _Worker()  # atomic, so threads need no lock
    verdict = worker.ask(response, answer, seconds)
    if worker.usable:
        _idle.append(worker)
    return verdict


def math_verdicts(
    rows: Sequence[tuple[str, str]],
    seconds: float = 10.0,
    workers: int = 1,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Verdict]:
    """`math_verdict` of each (response, answer), `workers` at a time; `advance(1)` after each. In the order given."""
    return in_order(lambda row: math_verdict(*row, seconds), rows, workers, advance)


def stated_answer(response: str) -> str:
    """The part of a response that holds its answer, in the form math-verify looks for."""
    boxed = last_boxed(response)
    if boxed is not None:
        return _as_answer(boxed)
    _, marked, after = response.rpartition("####")
    line = after.strip().split("\n")[0]
    if marked and not _WORD.search(_TEXT.sub("", line)):  # with words it is a heading
        return _as_answer(line)
    # Formulas without dollars are read where nothing else stands on the line, or after "answer".
    *before, line = response.strip().split("\n")
    after = _AFTER_ANSWER.split(line)[-1].strip().rstrip(".")
    bare = (after != line or not before) and not _DELIMITED.search(after) and not _WORD.search(_TEXT.sub("", after))
    return _as_answer(after) if bare else response[-_LONGEST:]


def reference_answer(answer: str) -> str:
    """The reference, in the same form."""
    return _as_answer(answer.rpartition("####")[2])


def last_boxed(text: str) -> str | None:
    r"""What is inside the last \boxed{...} or \fbox{...}, or after `\boxed `; None where none is, or it is open."""
    starts = list(re.finditer(r"\\(?:boxed|fbox)\s*(\{)?", text))
    if not starts:
        return None
    last = starts[-1]
    if not last[1]:
        return text[last.end() :].split("$")[0].split("\n")[0].strip() or None
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text[last.end() - 1 :], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[last.end() : last.end() - 1 + match.start()]
    return None


def _as_answer(text: str) -> str:
    bare = text.strip().removeprefix("\\$").removeprefix("$").strip().rstrip(".")
    if _NUMBER.fullmatch(bare):  # 1,000 is a number, though LaTeX could read a list
        return f"$\\boxed{{{bare.replace(',', '')}}}$"
    return f"$\\boxed{{{text.strip().strip('$')}}}$" if text.strip() else ""


class _Worker:
    """One checking process, asked one thing at a time."""

    def __init__(self) -> None:
        code = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from selfimprove.judging import math_answers; "
        libraries = os.environ.get("LD_LIBRARY_PATH")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code + "math_answers._serve()", json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"} | ({"LD_LIBRARY_PATH": libraries} if libraries else {}),
            start_new_session=True,
        )
        self.usable = True
        if self._line(_START_SECONDS) != b"ready\n":
            self.stop()
            raise RunFailed(
                "the process that checks mathematical answers did not start; try: python -c 'import math_verify'"
            )

    def ask(self, response: str, answer: str, seconds: float) -> Verdict:
        assert self.process.stdin is not None
        try:
            # A lone surrogate is escaped by JSON, so any text can be sent.
            self.process.stdin.write(json.dumps([response, answer, seconds]).encode() + b"\n")
            self.process.stdin.flush()
            line = self._line(seconds + 5.0)  # its own alarm comes first
        except OSError:
            line = b""
        except BaseException:  # an answer that nobody waited for must not be the next one's
            self.stop()
            raise
        if line.endswith(b"\n"):
            score, reason = json.loads(line)
            return score, reason
        self.stop()
        late = line == b"late" or self.process.returncode == -signal.SIGALRM
        return None, f"the checker took more than {seconds:g} s" if late else "the checker's process died"

    def _line(self, seconds: float) -> bytes:
        """A line of its output; what there is of it where the process has ended; `late` after `seconds`."""
        assert self.process.stdout is not None
        said, deadline = b"", time.monotonic() + seconds
        while not said.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return b"late"
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                self.process.wait()
                return said
            said += chunk
        return said

    def stop(self) -> None:
        self.usable = False
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()


_idle: list[_Worker] = []


@atexit.register
def _stop_all() -> None:
    while _idle:
        _idle.pop().stop()


def _serve() -> None:
    """The checking process: a line of JSON in, a line out. An alarm that nothing handles ends it when it hangs."""
    import resource

    import math_verify  # noqa: F401

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # whatever a library prints is no answer
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        response, answer, seconds = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            verdict = _compare(response, answer)
        except Exception as error:  # SymPy may raise anything
            verdict = None, f"the checker raised {type(error).__name__}"
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(verdict).encode() + b"\n")
        answers.flush()


def _compare(response: str, answer: str) -> Verdict:
    reference = _parsed(reference_answer(answer))
    if not reference:
        return None, "the checker cannot read the reference answer"
    stated = _parsed_uncached(stated_answer(response))
    if not stated:
        return 0.0, NO_ANSWER
    from math_verify import verify

    # The reference goes first: the comparison is not symmetric.
    return float(verify(reference, stated, timeout_seconds=None, raise_on_error=True)), None


def _parsed_uncached(text: str) -> list[Any]:
    from math_verify import parse

    return list(parse(text, parsing_timeout=None, raise_on_error=True)) if text else []


_parsed = functools.lru_cache(maxsize=64)(_parsed_uncached)  # many responses to one question
