"""Runs a program that a model wrote, with its tests, in a sandboxed subprocess (Linux on x86-64 and ARM64, no root).

One fresh interpreter per program, in its own session and temporary folder, with no environment, no input and its output
thrown away. A seccomp filter lets through the system calls that a program working by itself needs; all others fail
with EPERM: no network, no new process, no signal to or look into another process, no change of owner or mode. Landlock
lets it read Python's and the system's libraries and write inside its folder alone. Time, memory, size of files,
number of open files and of bytes written are bounded. It dies with its parent (whose SIGKILL leaves the folder behind).
Signal handlers, ctypes, tracing, and `gc`'s lists of objects are not to be had, and the hash seed is 0, so that a set
has the same order again.

Without Landlock (Linux before 5.13, or switched off) no file can be made, changed or removed anywhere, the folder
included; but what the user may read can be read, other processes' environment included. It cannot get out: there is
no network, and all that is shown of such a program is the name of a built-in exception.

What passes: the tests ran to their end without an exception. A program that ends early, by `os._exit(0)` or otherwise,
has not passed, as the parent waits for a random token that is written after the tests. The token is in the process,
but in no frame, module or object that Python code can get at: the program runs in a thread whose lowest frame is its
own. The tests see the built-ins as they were, whatever the program did to them. What is NOT defended:

- a result that lies about itself (an object whose `__eq__` is always true), a library module that the program patched
  and the tests use (`math.isclose = ...`), and the tests' frame, which a tested function can read and change
  (`sys._getframe(1)`): a program can find out what is expected of it once the tests call it;
- a program written against this very sandbox: made-up bytecode, for one, can read and write any memory of its process.
  It can claim to have passed, but not leave the sandbox, short of a fault in the kernel;
- what a program can see: which files exist and how large they are (not what is in them), the clock, its user's id.
"""

from __future__ import annotations

import builtins
import functools
import marshal
import os
import platform
import re
import secrets
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfimprove.errors import RunFailed
from selfimprove.judging.checkers.pool import in_order
from selfimprove.judging.checkers.sandbox_rules import MACHINES, landlock_rules, landlock_version, seccomp_filter

Outcome = Literal["passed", "failed", "timed out", "out of memory", "crashed", "too much output", "too much written"]

_CHILD = str(Path(__file__).with_name("sandbox_child.py"))
_START_SECONDS = 60.0  # a machine may be busy; this is not the program's time
_LOOK_SECONDS = 0.05  # between two looks at the folder's size
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Limits:
    """What a program may use. `seconds` are of the clock, and of the processor for all its threads together (+ 1).

    `memory_bytes` are of address space (of which the interpreter and the program's stack take about 100 MiB).
    `file_bytes` bounds one file and `folder_bytes` all, the latter looked at every 50 ms. `output_bytes` bounds what it
    writes to standard error; standard output is not read at all.
    """

    seconds: float = 10.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 8 << 20
    folder_bytes: int = 64 << 20
    open_files: int = 32
    output_bytes: int = 1 << 20


@dataclass(frozen=True)
class Ran:
    """How a program ended. `detail`: its error's last line (printable, 200 characters at most; not to be trusted)."""

    outcome: Outcome
    detail: str = ""


def why_failed(ran: Ran) -> str | None:
    """What a program came to, in words that can be counted; None where it passed. The sandbox has Python's standard
    library and no other, so a program that imports numpy fails for that, which is said by name."""
    if ran.outcome == "passed":
        return None
    lacking = re.search(r"No module named '(\w+)", ran.detail)
    library = f" ({lacking[1]} is not in the sandbox, which has the standard library alone)" if lacking else ""
    return f"program {ran.outcome}{library}"


def run_program(program: str, tests: str = "", limits: Limits = Limits()) -> Ran:
    """Runs the program, then the tests, which see its names (but for those of built-ins).

    Raises `RunFailed` where the sandbox cannot be set up: that is the checker's failure, not the program's.
    """
    started, passed = secrets.token_bytes(16), secrets.token_bytes(16)
    folder = tempfile.mkdtemp(prefix="selfimprove-")
    try:
        with tempfile.TemporaryFile() as job:
            marshal.dump(_job(program, tests, limits, folder, started, passed), job)
            job.seek(0)
            child = subprocess.Popen(
                [os.path.realpath(sys.executable), "-s", "-S", "-P", "-B", _CHILD],
                stdin=job,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=folder,
                env=_environment(folder),
                start_new_session=True,
            )
        try:
            return _watch(child, limits, folder, started, passed)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            assert child.stderr is not None
            child.stderr.close()
    except OSError as error:
        raise RunFailed(f"the sandbox for programs could not be started: {error}") from error
    finally:
        _remove(folder)


def run_programs(
    jobs: Sequence[tuple[str, str]],
    limits: Limits = Limits(),
    workers: int = 1,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Ran]:
    """`run_program` of each (program, tests), `workers` at a time; `advance(1)` after each. In the order given."""
    return in_order(lambda job: run_program(*job, limits), jobs, workers, advance)


@functools.cache
def sandbox_problem() -> str | None:
    """Why this machine cannot run programs safely, and what to do; None where it can (tried once, about 50 ms)."""
    if sys.platform != "linux" or platform.machine() not in MACHINES or sys.maxsize < 2**32:
        return (
            "programs that a model wrote are run on 64-bit Linux (x86-64 or ARM64) only, and this is "
            f"{sys.platform} on {platform.machine()}: use such a machine, or leave out the steps that run programs"
        )
    try:
        ran = run_program("", "")
    except RunFailed as error:
        return f"{error}. It needs seccomp (CONFIG_SECCOMP_FILTER; a container must not forbid prctl)"
    return None if ran.outcome == "passed" else f"an empty program {ran.outcome} in the sandbox ({ran.detail})"


def _environment(folder: str) -> dict[str, str]:
    libraries = os.environ.get("LD_LIBRARY_PATH")  # the interpreter itself may need it to start
    kept = {"LD_LIBRARY_PATH": libraries} if libraries else {}
    return {"HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", **kept}


def _job(program: str, tests: str, limits: Limits, folder: str, started: bytes, passed: bytes) -> dict[str, object]:
    """What the child is told, in types that `marshal` writes."""
    version = landlock_version()
    libraries = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), sysconfig.get_config_var("LIBDIR")]
    libraries += os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    seconds = int(limits.seconds) + 2
    return {
        "program": program,
        "tests": tests,
        "started": started,
        "passed": passed,
        "parent": os.getpid(),
        "filter": seccomp_filter(platform.machine(), can_write=version > 0),
        "landlock": landlock_rules(version, [p for p in libraries if p], folder),
        "limits": {
            "RLIMIT_CPU": seconds,
            "RLIMIT_AS": limits.memory_bytes,
            "RLIMIT_FSIZE": limits.file_bytes,
            "RLIMIT_NOFILE": limits.open_files,
            "RLIMIT_CORE": 0,
        },
    }


def _watch(child: subprocess.Popen[bytes], limits: Limits, folder: str, started: bytes, passed: bytes) -> Ran:
    """Reads what the child says until it has passed, has ended, or has used up a limit."""
    assert child.stderr is not None
    descriptor = child.stderr.fileno()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    said, total, running = b"", 0, False
    looked, deadline = time.monotonic(), time.monotonic() + _START_SECONDS
    while True:
        wait = min(_LOOK_SECONDS, deadline - time.monotonic())
        chunk = os.read(descriptor, 65536) if poll.poll(max(0.0, wait * 1000)) else None
        now = time.monotonic()
        if chunk == b"":
            break
        said, total = said + (chunk or b""), total + len(chunk or b"")
        if not running and started in said:
            running, deadline = True, now + limits.seconds
            said = said.partition(started)[2]
        if running and passed in said:
            return Ran("passed")
        said = said[-_TAIL_BYTES:]
        if total > limits.output_bytes:
            return Ran("too much output", f"more than {limits.output_bytes} bytes on standard error")
        if now >= deadline and not running:
            raise RunFailed(f"the sandbox for programs did not start within {_START_SECONDS:g} s")
        if now >= deadline:
            return Ran("timed out", f"not done within {limits.seconds:g} s")
        if now - looked >= _LOOK_SECONDS:
            if _too_large(folder, limits.folder_bytes):
                return Ran("too much written", f"more than {limits.folder_bytes} bytes or 1000 files in its folder")
            looked = time.monotonic()
    with suppress(subprocess.TimeoutExpired):  # a program that closed all its files may still be running
        child.wait(timeout=1.0)
    line = _last_line(said)
    if not running:
        raise RunFailed(f"the sandbox for programs could not be set up: {line or f'exit code {child.returncode}'}")
    return _ended(child.returncode, line, limits)


def _ended(code: int | None, line: str, limits: Limits) -> Ran:
    """What the end of a program that did not pass means."""
    if landlock_version() == 0:  # it may have read what is not to be shown
        name = line.partition(":")[0]
        kind = getattr(builtins, name, None)
        line = name if isinstance(kind, type) and issubclass(kind, BaseException) else ""
    if line.startswith("MemoryError"):
        return Ran("out of memory", line)
    if code == -signal.SIGKILL:  # not by us: the machine's own memory was full
        return Ran("out of memory", "ended by the system")
    if code == -signal.SIGXCPU:
        return Ran("timed out", f"more than {limits.seconds:g} s of processor time")
    if code is not None and code < 0:
        return Ran("crashed", f"ended by {signal.Signals(-code).name}")
    return Ran("failed", line or f"it ended before its tests did (exit code {code})")


def _last_line(said: bytes) -> str:
    lines = said.decode(errors="replace").split("\n")
    text = next((line for line in reversed(lines) if line.strip()), "").strip()
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def _too_large(folder: str, most: int) -> bool:
    """Whether a folder takes more than `most` bytes of disk, or holds more than 1000 entries. Never follows a link."""
    total = entries = 0
    waiting = [folder]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as found:  # what goes away meanwhile is not counted
            for entry in found:
                entries += 1
                total += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                if total > most or entries > 1000:
                    return True
    return False


def _remove(folder: str) -> None:
    """Removes what a program left, unreadable folders too. Nothing runs in it any more, and no link is followed."""
    for place, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(place, name)
            with suppress(OSError):
                if not path.is_symlink():
                    path.chmod(0o700)
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        subprocess.run(["rm", "-rf", "--", folder], check=False, stderr=subprocess.DEVNULL)
