"""What a model's program tries in the sandbox, one attack a test; none must get out, and none must pass falsely."""

from __future__ import annotations

import os
import platform
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from selfimprove.errors import RunFailed
from selfimprove.judging.checkers import sandbox
from selfimprove.judging.checkers.sandbox import Limits, Ran, run_program, run_programs, sandbox_problem, why_failed
from selfimprove.judging.checkers.sandbox_rules import landlock_version, seccomp_filter

if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
    pytest.skip("programs are run on 64-bit Linux only", allow_module_level=True)

needs_landlock = pytest.mark.skipif(landlock_version() == 0, reason="this kernel has no Landlock")
SHORT = Limits(seconds=0.7)


@pytest.fixture
def without_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "landlock_version", lambda: 0)


def attempt(statement: str) -> str:
    """The name of the exception that a statement raises inside; "done" where it raises none."""
    lines = "\n".join("    " + line for line in statement.split("\n"))
    ran = run_program(f"try:\n{lines}\nexcept BaseException as e:\n    raise NameError(type(e).__name__)")
    return "done" if ran.outcome == "passed" else ran.detail.removeprefix("NameError: ")


# What must work


def test_this_machine_can_run_programs() -> None:
    assert sandbox_problem() is None


def test_right_passes_and_wrong_fails_with_its_reason() -> None:
    program = "def double(x):\n    return 2 * x\n"
    assert run_program(program, "assert double(4) == 8") == Ran("passed")
    assert run_program(program, "assert double(4) == 9, 'not nine'") == Ran("failed", "AssertionError: not nine")
    assert run_program("def double(x:", "").detail.startswith("SyntaxError")
    assert run_program("raise ValueError('a\\x1b[31m' + 'b' * 999)", "").detail[:30] == "ValueError: a?[31mbbbbbbbbbbbb"
    assert len(run_program("raise ValueError('b' * 999)", "").detail) == 200


@pytest.mark.parametrize("text", ["\0", "\udc80", "'" * 3, "(" * 10_000, "-" * 100_000 + "1", "\t\n \n"])
def test_text_that_is_no_program_is_the_programs_failure(text: str) -> None:
    assert run_program(text, "assert False").outcome in ("failed", "out of memory", "crashed")


def test_the_standard_library_works() -> None:
    program = """
import asyncio, bisect, collections, copy, dataclasses, datetime, decimal, enum, fractions, functools, hashlib, heapq
import itertools, json, logging, math, pickle, random, re, sqlite3, statistics, string, tempfile, threading, typing
import unicodedata, uuid, zlib, zoneinfo
from concurrent.futures import ThreadPoolExecutor

@dataclasses.dataclass
class Point:
    x: int

async def later():
    await asyncio.sleep(0.001)
    return 3

def all_of_it():
    with tempfile.TemporaryFile("w+") as file:
        print("kept", file=file)
        file.seek(0)
        line = file.read()
    with ThreadPoolExecutor(3) as pool:
        squares = list(pool.map(lambda x: x * x, range(4)))
    return [asyncio.run(later()), line, squares, pickle.loads(pickle.dumps(Point(2))).x]
"""
    assert run_program(program, "assert all_of_it() == [3, 'kept\\n', [0, 1, 4, 9], 2]") == Ran("passed")


def test_a_set_of_words_has_the_same_order_in_every_run() -> None:
    program = "order = ''.join(set('abcdefghijklmnopqrstuvwxyz'))"
    first = run_program(program, "raise ValueError(order)").detail
    assert len(first) > 30 and first == run_program(program, "raise ValueError(order)").detail


def test_many_at_a_time_keep_their_order() -> None:
    seen: list[int] = []
    ran = run_programs([(f"x = {i}", f"assert {i} % 3") for i in range(9)], SHORT, 3, seen.append)
    assert [one.outcome == "passed" for one in ran] == [i % 3 > 0 for i in range(9)]
    assert seen == [1] * 9


def test_the_main_block_does_not_run_and_input_is_empty() -> None:
    assert run_program("if __name__ == '__main__':\n    input()", "") == Ran("passed")
    assert attempt("input()") == "EOFError"


# Faking a pass

FAKES = {
    "os._exit": "import os\nos._exit(0)",
    "sys.exit": "import sys\nsys.exit(0)",
    "SystemExit": "raise SystemExit",
    "exit when called": "import os\ndef f():\n    os._exit(0)",
    "raise when called": "def f():\n    raise SystemExit(0)",
    "all files closed": "import os\nos.closerange(0, 64)",
    "files closed, running on": "import os, time\nos.closerange(0, 64)\ntime.sleep(9)",
    "built-ins patched": "import builtins\nbuiltins.abs = lambda x: 0\nf = lambda: 1",
    "built-ins shadowed": "def abs(x):\n    return 0\nf = lambda: 1",
    "built-ins of the globals": "__builtins__ = {'abs': lambda x: 0}\nf = lambda: 1",
    "exec patched": "import builtins\nbuiltins.exec = builtins.compile = builtins.map = lambda *a: None\nf = lambda: 1",
    "assertions patched": "import builtins\nclass E(Exception): pass\nbuiltins.AssertionError = E\nf = lambda: 1",
    "hooks": "import sys\nsys.excepthook = sys.unraisablehook = lambda *a: None\nf = lambda: 1",
    "standard streams": "import sys, io\nsys.stdout = sys.stderr = sys.__stderr__ = io.StringIO()\nf = lambda: 1",
    "os.write patched": "import os\nos.write = os._exit = lambda *a: None\nf = lambda: 1",
    "a thread that exits": "import os, threading\nthreading.Timer(0.1, os._exit, [0]).start()\ndef f():\n    f()",
    "at exit": "import atexit, os\natexit.register(os._exit, 0)\nf = lambda: 1",
    "another f": "def f():\n    return 1\nimport sys\nsys.modules['tests'] = sys.modules['__main__']",
    "killing itself": "import os\nos.kill(os.getpid(), 9)",
    "aborting": "import os\nos.abort()",
}


@pytest.mark.parametrize("name", FAKES)
def test_no_fake_passes(name: str) -> None:
    assert run_program(FAKES[name], "assert abs(f() - 3) < 1e-6", SHORT).outcome != "passed"


def test_a_program_without_tests_passes_only_at_its_end() -> None:
    assert run_program("x = 1") == Ran("passed")
    assert run_program("import sys\nsys.exit()").detail == "it ended before its tests did (exit code 0)"


# Finding the token: everything of its length that can be seen is written to every file, again and again.
HUNT = """
import gc, os, sys, threading, _thread

found = set()

def look(thing, depth=0):
    if isinstance(thing, (bytes, bytearray)):
        found.add(bytes(thing))
    elif depth < 6 and isinstance(thing, dict):
        for value in list(thing.values()):
            look(value, depth + 1)
    elif depth < 6 and isinstance(thing, (list, tuple, set, frozenset)):
        for value in list(thing):
            look(value, depth + 1)
    elif depth < 6 and type(thing).__name__ in ("module", "function", "Thread", "_MainThread", "deque"):
        look(list(thing) if type(thing).__name__ == "deque" else vars(thing), depth + 1)

def frames(frame):
    while frame is not None:
        for part in (frame.f_locals, frame.f_globals, frame.f_builtins, frame.f_code.co_consts):
            look(dict(part) if hasattr(part, "keys") else part)
        frame = frame.f_back

def claim():
    for token in found:
        for file in range(64):
            try:
                os.write(file, token)
            except OSError:
                pass
"""
HUNTS = {
    "frames": "frames(sys._getframe())",
    "frames from an exception": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    frames(e.__traceback__.tb_frame)",
    "other threads' frames": "for frame in sys._current_frames().values():\n    frames(frame)",
    "other threads' exceptions": "sys._current_exceptions()",
    "every object": "for thing in gc.get_objects():\n    look(thing)",
    "referrers": "for thing in gc.get_referrers(os.write):\n    look(thing)",
    "referents": "for thing in gc.get_referents(*sys.modules.values()):\n    look(thing)",
    "modules": "for module in list(sys.modules.values()):\n    look(vars(module))",
    "main module": "import __main__\nlook(vars(__main__))",
    "tracing": "threading.settrace(lambda f, e, a: frames(f))\nsys.settrace(lambda f, e, a: frames(f))",
    "profiling": "sys.setprofile(lambda f, e, a: frames(f))",
    "audit hook": "sys.addaudithook(lambda e, a: frames(sys._getframe()))\nlen(open('/dev/null').read())",
    "interrupting": "sys.excepthook = lambda t, v, tb: (frames(tb.tb_frame), claim())\n_thread.interrupt_main()",
    "signal handler": "import signal\nsignal.signal(signal.SIGALRM, lambda n, f: frames(f))\nsignal.raise_signal(14)",
    "hook's object": "sys.unraisablehook = lambda u: (look(list(u.object.args)), claim())\nraise ValueError",
    "finaliser": """
class Loop:
    def __init__(self): self.me = self
    def __del__(self): frames(sys._getframe()); claim()
gc.enable(); gc.set_threshold(1)
for _ in range(20): Loop()
""",
    "own memory": "found.update(open('/proc/self/mem', 'rb').read())",
    "own environment": "look(open('/proc/self/environ', 'rb').read().split(b'\\0'))",
    "command line": "look(open('/proc/self/cmdline', 'rb').read().split(b'\\0'))",
    "reading every file": """
for file in range(64):
    try:
        os.set_blocking(file, False)
        data = os.read(file, 1 << 20)
        found.update(data[i : i + 16] for i in range(len(data)))
    except OSError:
        pass
""",
    "ctypes": "import ctypes\nfound.add(ctypes.string_at(id(found), 100))",
    "ctypes again": "import importlib\nimportlib.import_module('_ctypes')",
    "ctypes by hand": """
import importlib.machinery, importlib.util, glob
path = [p for f in sys.path for p in glob.glob(f + '/_ctypes.*.so')][0]
spec = importlib.util.spec_from_file_location('x._ctypes', path)
importlib.util.module_from_spec(spec)
""",
    "left-over types of ctypes": """
types = [c for c in object.__subclasses__() if c.__module__ == '_ctypes']
kinds = {c.__name__: c for t in types for c in t.__subclasses__()}
class Bytes(kinds['Structure']): _fields_ = []
Bytes.from_address(id(found))
""",
    "subinterpreter": "import _xxsubinterpreters as s\ns.run_string(s.create(), 'import ctypes')",
}


def hunting(body: str) -> str:
    return f"{HUNT}\ndef f():\n    try:\n{textwrap.indent(body, ' ' * 8)}\n    finally:\n        claim()\n"


@pytest.mark.parametrize("name", HUNTS)
@pytest.mark.parametrize("when", ["loading", "called"])
def test_no_token_is_found(name: str, when: str) -> None:
    program = hunting(HUNTS[name]) + ("f()\n" if when == "loading" else "")
    ran = run_program(program, "f()\nassert False")
    assert ran.outcome != "passed"
    assert not ran.detail.startswith(("SyntaxError", "IndentationError"))


def test_a_token_that_can_be_found_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else the hunts above would show nothing.
    tokens = iter([b"a" * 16, b"b" * 16] * 4)
    monkeypatch.setattr(sandbox.secrets, "token_bytes", lambda n: next(tokens))
    for name in ("frames", "frames from an exception", "modules", "finaliser"):
        program = "secret = b'b' * 16\n" + hunting(HUNTS[name]) + "f()"
        assert run_program(program, "assert False") == Ran("passed"), name


# Getting out

REFUSED = {
    "network": "import socket\nsocket.socket()",
    "name look-up": "import socket\nsocket.getaddrinfo('example.org', 80)",
    "datagrams to a path": "import socket\na, b = socket.socketpair(type=socket.SOCK_DGRAM)\na.sendto(b'x', '/run/x')",
    "connecting a pair": "import socket\na, b = socket.socketpair(type=socket.SOCK_DGRAM)\na.connect('/run/x')",
    "fork": "import os\nos.fork()",
    "forkpty": "import os\nos.forkpty()",
    "subprocess": "import subprocess\nsubprocess.run(['/bin/true'])",
    "posix_spawn": "import os\nos.posix_spawn('/bin/true', ['true'], {})",
    "os.system": "import os\nif os.system('true') != 0: raise PermissionError",
    "exec": "import os\nos.execv('/bin/true', ['true'])",
    "multiprocessing": "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
    "killing the parent": "import os\nos.kill(os.getppid(), 9)",
    "killing a group": "import os\nos.killpg(os.getpgrp(), 9)",
    "killing all": "import os\nos.kill(-1, 9)",
    "a signal by pidfd": "import os, signal\nsignal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
    "a signal by ownership": "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())",
    "the parent's limits": "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    "the parent's scheduling": "import os\nos.sched_setaffinity(os.getppid(), {0})",
    "priority": "import os\nos.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "a session of its own": "import os\nos.setsid()",
    "another user": "import os\nos.setuid(65534)",
    "another root": "import os\nos.chroot('.')",
    "a device": "import os\nos.mknod('x', 0o20666, os.makedev(1, 1))",
    "memory as a file": "import os\nos.memfd_create('x')",
    "mode": "import os\nos.chmod('{target}', 0o777)",
    "owner": "import os\nos.chown('{target}', 0, 0)",
    "file time": "import os\nos.utime('{target}', (0, 0))",
    "cutting short": "import os\nos.truncate('{target}', 0)",
    "attributes": "import os\nos.setxattr('{target}', 'user.x', b'x')",
    "cutting short a library": "import os\nos.open(os.__file__, os.O_RDONLY | os.O_TRUNC)",
    "writing outside": "open('{target}', 'w')",
    "appending outside": "open('{target}', 'a')",
    "making outside": "open('{target}2', 'x')",
    "a folder outside": "import os\nos.mkdir('{target}3')",
    "removing outside": "import os\nos.unlink('{target}')",
    "renaming over": "import os\nopen('x', 'w').close()\nos.rename('x', '{target}')",
    "through a link": "import os\nos.symlink('{target}', 'link')\nopen('link', 'w')",
    "reading through a link": "import os\nos.symlink('{target}', 'link')\nopen('link')",
    "a hard link": "import os\nos.link('{target}', 'link')",
    "reading outside": "open('{target}')",
    "listing outside": "import os\nos.listdir('{folder}')",
    "by the parent folder": "import os\nopen('../' * 20 + '{target}'.lstrip('/'))",
    "users": "open('/etc/passwd')",
    "the parent's environment": "import os\nopen(f'/proc/{os.getppid()}/environ')",
    "the parent's memory": "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')",
    "the parent's files": "import os\nos.listdir(f'/proc/{os.getppid()}/fd')",
}
REFUSALS = ("PermissionError", "BlockingIOError", "gaierror", "OSError")


def facts(path: Path) -> tuple[float, ...]:
    found = path.stat()
    return found.st_mode, found.st_mtime, found.st_uid, found.st_nlink


@needs_landlock
@pytest.mark.parametrize("name", REFUSED)
def test_it_stays_inside(name: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    before = facts(target)
    said = attempt(REFUSED[name].replace("{target}", str(target)).replace("{folder}", str(tmp_path)))
    assert said in REFUSALS
    assert target.read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["target"]
    assert facts(target) == before


def test_keys_are_not_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    names = run_program("import os", "raise ValueError(' '.join(sorted(os.environ)))").detail.split()[1:]
    assert set(names) <= {"HOME", "TMPDIR", "LANG", "LC_CTYPE", "PYTHONHASHSEED", "LD_LIBRARY_PATH"}


def test_no_file_of_the_parent_is_open(tmp_path: Path) -> None:
    with (tmp_path / "held").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        program = "import os\nopen_files = []\nfor i in range(64):\n    try:\n        os.fstat(i)\n"
        program += "        open_files.append(i)\n    except OSError:\n        pass\n"
        assert run_program(program, "assert open_files == [0, 1, 2, 3], open_files") == Ran("passed")


# Using everything up


def test_an_endless_loop_times_out() -> None:
    started = time.monotonic()
    assert run_program("while True: pass", "", SHORT) == Ran("timed out", "not done within 0.7 s")
    assert run_program("import time\ntime.sleep(99)", "", SHORT).outcome == "timed out"
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "program",
    ["x = bytearray(10**10)", "x = []\nwhile True: x.append(' ' * 10**6)", "x = [0] * 10**12", "x = 'a' * 2**40"],
)
def test_memory_is_bounded(program: str) -> None:
    assert run_program(program, "").outcome == "out of memory"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_printing_fills_nothing(stream: str) -> None:
    ran = run_program(f"import sys\nwhile True: print('x' * 10_000, file=sys.{stream})", "", SHORT)
    assert ran.outcome == {"stdout": "timed out", "stderr": "too much output"}[stream]


def test_a_huge_file_is_cut() -> None:
    assert attempt("with open('x', 'wb') as f:\n    while True: f.write(bytes(10**6))") == "OSError"


@needs_landlock
def test_many_files_do_not_fill_the_disk() -> None:
    small = Limits(seconds=20, folder_bytes=2 << 20)
    program = "import time\nfor i in range(10**6):\n    open(str(i), 'wb').write(bytes({}))\n    time.sleep(0.001)"
    assert run_program(program.format(100_000), "", small).outcome == "too much written"
    assert run_program(program.format(0), "", small).outcome == "too much written"


def test_open_files_are_bounded() -> None:
    assert attempt("kept = [open('/dev/null') for _ in range(99)]") == "OSError"


def test_threads_do_not_outlive_it_or_keep_it_waiting() -> None:
    program = "import threading\ndef spin():\n    while True: pass\n"
    program += "for _ in range(4): threading.Thread(target=spin).start()\n"
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    assert run_program(program, "assert True") == Ran("passed")
    assert {p.pid for p in psutil.Process().children(recursive=True)} <= before


def test_a_thread_bomb_ends() -> None:
    program = "import threading\nwhile True: threading.Thread(target=threading.Event().wait).start()"
    assert run_program(program, "", Limits(seconds=3)).outcome in ("failed", "out of memory", "timed out", "crashed")


@pytest.mark.parametrize("limit", [1000, 10**9])
@pytest.mark.parametrize(
    "call", ["def f(n): return f(n + 1)", "class A:\n    __repr__ = lambda s: repr(s)\nf = lambda n: repr(A())"]
)
def test_deep_recursion_is_the_programs_failure(limit: int, call: str) -> None:
    ran = run_program(f"import sys\nsys.setrecursionlimit({limit})\n{call}", "f(0)", SHORT)
    assert ran.outcome in ("failed", "crashed", "out of memory", "timed out")


def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = """
import os
os.makedirs('a/b/c')
open('a/b/c/file', 'w').write('x')
os.mkdir('a/closed', 0o000)
os.mkdir('a/read-only', 0o500)
os.symlink('/', 'root')
os.symlink('nowhere', 'a/dangling')
for _ in range(300):
    os.mkdir('deep')
    os.chdir('deep')
"""
    assert run_program(program, "").outcome in ("passed", "failed")
    assert list(tmp_path.iterdir()) == []


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    code = "from selfimprove.judging.checkers.sandbox import *\n"
    code += "run_program('import time; time.sleep(60)', '', Limits(seconds=60))"
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)})
    try:
        deadline = time.monotonic() + 60
        while not (children := psutil.Process(parent.pid).children()) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
    finally:
        parent.kill()
        parent.wait()
    assert children
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_it_runs_from_any_thread() -> None:
    ran: list[Ran] = []
    thread = threading.Thread(target=lambda: ran.append(run_program("x = 1", "assert x == 1")))
    thread.start()
    thread.join()
    assert ran == [Ran("passed")]


# The checker's own failures


def test_a_sandbox_that_cannot_be_set_up_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "seccomp_filter", lambda machine, can_write: bytes(8))
    with pytest.raises(RunFailed, match=r"could not be set up.*Invalid argument"):
        run_program("x = 1")


def test_a_filter_without_effect_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "seccomp_filter", lambda machine, can_write: struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000))
    with pytest.raises(RunFailed, match="no effect"):
        run_program("x = 1")


def test_an_interpreter_that_does_not_start_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RunFailed, match="could not be started"):
        run_program("x = 1")


def test_another_machine_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox_problem.cache_clear()
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "64-bit Linux" in str(sandbox_problem())
    sandbox_problem.cache_clear()


# Without Landlock


@pytest.mark.usefixtures("without_landlock")
def test_without_landlock_programs_still_run_and_write_nothing(tmp_path: Path) -> None:
    assert run_program("import json, asyncio\nx = 1", "assert x == 1") == Ran("passed")
    target = tmp_path / "target"
    target.write_text("mine")
    for statement in ("open('x', 'w')", "open({!r}, 'w')", "import os\nos.unlink({!r})", "import os\nos.mkdir('x')"):
        assert run_program(statement.format(str(target)), "").detail == "PermissionError"
    assert target.read_text() == "mine"


@pytest.mark.usefixtures("without_landlock")
def test_without_landlock_what_it_read_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-secret")
    read = f"key = open({str(tmp_path / 'key')!r}).read()\n"
    assert run_program(read + "raise ValueError(key)", "") == Ran("failed", "ValueError")
    ran = run_program(read + "raise type(key, (Exception,), {})", "")
    assert ran == Ran("failed", "it ended before its tests did (exit code 0)")


# The filter, by a small interpreter of classic BPF: what no test on this machine can run

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def decide(machine: str, number: int, *arguments: int, can_write: bool = True, architecture: int | None = None) -> int:
    data = struct.pack(
        "=IIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *arguments, *[0] * (6 - len(arguments))
    )
    rules = list(struct.iter_unpack("=HBBI", seccomp_filter(machine, can_write)))
    assert len(rules) <= 4096
    at, value = 0, 0
    while True:
        code, yes, no, k = rules[at]
        at += 1
        if code == 0x06:
            return int(k)
        if code == 0x20:
            value = struct.unpack_from("=I", data, k)[0]
        elif code == 0x54:
            value &= k
        else:
            at += yes if {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code] else no


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_of_each_machine(machine: str) -> None:
    arm = machine == "aarch64"
    read, clone, openat, execve, ioctl, sendto = (63, 220, 56, 221, 29, 206) if arm else (0, 56, 257, 59, 16, 44)
    assert decide(machine, read) == ALLOW
    assert decide(machine, read, architecture=0x40000003) == KILL  # 32-bit x86
    assert decide(machine, execve) == EPERM
    assert decide(machine, 435) == ENOSYS  # clone3
    assert decide(machine, clone, 0x01200011) == EPERM  # fork
    assert decide(machine, clone, 0x003D0F00) == ALLOW  # a thread
    assert decide(machine, 9999) == EPERM
    assert decide(machine, ioctl, 0, 0x5412) == EPERM  # TIOCSTI
    assert decide(machine, ioctl, 0, 0x5401) == ALLOW
    assert decide(machine, sendto, 3, 0, 0, 0, 0) == ALLOW
    assert decide(machine, sendto, 3, 0, 0, 0, 0x7F00 << 32) == EPERM
    for flags, written, not_written in (
        (0, ALLOW, ALLOW),
        (0o1, ALLOW, EPERM),
        (0o102, ALLOW, EPERM),
        (0o1000, EPERM, EPERM),
    ):
        assert decide(machine, openat, 0, 0, flags) == written
        assert decide(machine, openat, 0, 0, flags, can_write=False) == not_written


def test_the_second_numbers_of_x86_are_not_a_way_round() -> None:
    assert decide("x86_64", 0x40000000 | 59) == KILL


@pytest.mark.parametrize(
    ("machine", "numbers"),
    [
        ("x86_64", (101, 62, 200, 234, 90, 91, 92, 76, 132, 188, 319, 321, 425)),
        ("aarch64", (117, 129, 130, 131, 52, 53, 54, 45, 88, 5, 279, 280, 425)),
    ],
)
def test_the_filter_lists_none_of_these(machine: str, numbers: tuple[int, ...]) -> None:
    # ptrace, kill, tkill, tgkill, chmod and chown by their names, truncate, utime, setxattr, memfd, bpf, io_uring
    assert {decide(machine, number) for number in numbers} == {EPERM}


def test_a_library_that_is_not_in_the_sandbox_is_said_by_name() -> None:
    ran = run_program("import numpy as np\n")
    assert ran.outcome == "failed"
    assert why_failed(ran) == "program failed (numpy is not in the sandbox, which has the standard library alone)"
    assert why_failed(run_program("x = 1", "assert x == 2")) == "program failed"
    assert why_failed(run_program("x = 1", "assert x == 1")) is None
