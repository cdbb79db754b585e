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
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.checkers.pool import in_order
from selfimprove.judging.checkers.stated_answers import last_boxed, reference_answer, stated_answer
from selfimprove.judging.outcomes import Verdict

NO_ANSWER = "no answer found"

_START_SECONDS = 120.0  # importing SymPy on a busy machine
_MEMORY_BYTES = 4 << 30


def math_verdict(response: str, answer: str, seconds: float = 10.0) -> Verdict:
    """(1.0, None) right; (0.0, None) wrong; (0.0, NO_ANSWER) wrong as nothing was found; (None, reason) missing.

    Missing is what the checker failed at: it ran out of `seconds` or memory, raised, or cannot read the reference.

    Args:
        response: `stated_answers` says where its answer is looked for.
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


class _Worker:
    """One checking process, asked one thing at a time."""

    def __init__(self) -> None:
        code = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
        code += "from selfimprove.judging.checkers import math_answers; "
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
    if stated_answer(response) == reference_answer(answer) != "":  # SymPy cannot read all that can be equal: 12:00
        return 1.0, None
    reference = _parsed(reference_answer(answer))
    if not reference:
        return None, "the checker cannot read the reference answer"
    stated = _stated(response)
    if not stated:
        return 0.0, NO_ANSWER
    from math_verify import verify

    # The reference goes first: the comparison is not symmetric.
    return float(verify(reference, stated, timeout_seconds=None, raise_on_error=True)), None


def _stated(response: str) -> list[Any]:
    """What the response states, parsed. What is read as text only, and stands in no box, may be prose around a formula,
    so the whole response is searched too."""
    stated = _parsed_uncached(stated_answer(response))
    if stated and all(isinstance(one, str) for one in stated) and last_boxed(response) is None:
        return _parsed_uncached(response) or stated
    return stated


def _parsed_uncached(text: str) -> list[Any]:
    from math_verify import parse

    return list(parse(text, parsing_timeout=None, raise_on_error=True)) if text else []


_parsed = functools.lru_cache(maxsize=64)(_parsed_uncached)  # many responses to one question
