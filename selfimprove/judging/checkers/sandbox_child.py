"""What runs inside the sandbox, as a script: shuts itself in, then runs the program it is given. See sandbox.py.

Started for every program, so it imports next to nothing. Until `seccomp` returns nothing untrusted has run. After it,
what the program must not find is in locals of the main thread only: another thread's frame cannot be got at from Python
but through `sys._current_frames`, tracing, signal handlers and `gc`, which `refuse` and the kernel take away.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import builtins
import ctypes
import marshal
import os
import resource
import sys
from _collections import deque  # type: ignore[import-not-found]
from _weakref import ref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_REFUSED = frozenset(
    (
        *("sys._current_frames", "sys._current_exceptions", "sys.settrace", "sys.setprofile", "sys.addaudithook"),
        *("sys.monitoring.register_callback", "gc.get_objects", "gc.get_referrers", "gc.get_referents"),
    )
)
_NO_MODULES = frozenset({"ctypes", "_ctypes", "_ctypes_test", "_testcapi", "_testinternalcapi", "_testlimitedcapi"})
# The tests see the program's names, but never a built-in that it made anew: `def abs(x): return 0` fools nobody.
_BRIDGE = "for name in [*program]:\n    if name not in hidden:\n        tests[name] = program[name]\n"


def _kernel(call: int, *arguments: Any) -> int:
    """A system call; OSError where it fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in (call, *arguments)))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {call}: {os.strerror(ctypes.get_errno())}")
    return result


def _process(option: int, *values: Any) -> None:
    """prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, *(ctypes.c_ulong(v) if isinstance(v, int) else v for v in values)) < 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def _landlock(handled: bytes, rules: list[tuple[str, int]]) -> None:
    rule_set = _kernel(444, handled, len(handled), 0)  # landlock_create_ruleset
    for path, right in rules:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _kernel(445, rule_set, 1, right.to_bytes(8, "little") + beneath.to_bytes(4, "little"), 0)  # landlock_add_rule
        os.close(beneath)
    _kernel(446, rule_set, 0)  # landlock_restrict_self
    os.close(rule_set)


def _seccomp(rules: bytes) -> None:
    class Program(ctypes.Structure):  # struct sock_fprog
        _fields_ = (("length", ctypes.c_ushort), ("rules", ctypes.c_char_p))

    _process(22, 2, ctypes.byref(Program(len(rules) // 8, rules)), 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    if ctypes.CDLL(None).socket(2, 1, 0) >= 0:
        raise OSError("the seccomp filter has no effect")


def _shut_in(job: dict[str, Any]) -> None:
    """Everything that keeps the program in, in the order the kernel needs."""
    _process(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != job["parent"]:
        os._exit(1)
    for name, value in job["limits"].items():
        limit = getattr(resource, name)
        resource.setrlimit(limit, (value, value + (name == "RLIMIT_CPU")))  # SIGXCPU says more than SIGKILL
    _process(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    _process(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if job["landlock"] is not None:
        _landlock(job["landlock"]["handled"], job["landlock"]["rules"])
    _seccomp(job["filter"])


def _refuse(events: frozenset[str], modules: frozenset[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook, which nothing can take away again."""

    def hook(event: str, arguments: tuple[Any, ...], error: type[Exception] = RuntimeError) -> None:
        if event in events or event.startswith("ctypes."):
            raise error(event + " is not to be had in the sandbox")
        if event == "import" and arguments[0].rpartition(".")[2] in modules:
            raise ImportError(arguments[0] + " is not to be had in the sandbox")

    return hook


def _spaces(job: dict[str, Any], report: int) -> deque[dict[str, Any]]:
    """What each step sees: the program, the bridge, the tests, and the end, which alone knows the token."""
    module = type(sys)("program")
    sys.modules["program"] = sys.modules["__main__"] = module
    program, known = vars(module), vars(builtins)
    tests = {"__name__": "tests", "__builtins__": dict(known)}
    bridge = {"__builtins__": {}, "program": program, "tests": tests, "hidden": frozenset(known) | {"__builtins__"}}
    return deque((program, bridge, tests, {"__builtins__": {}, "write": os.write, "of": (report, job["passed"])}))


def _main() -> None:
    with open(0, "rb", closefd=False) as given:
        job = marshal.load(given)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    report = os.dup(2)  # a program may close the one it knows
    _shut_in(job)
    _signal.signal(2, 0)  # SIGINT; `_thread.interrupt_main` would show this thread's frame to `sys.excepthook`
    for name in [name for name in sys.modules if name.partition(".")[0] in _NO_MODULES]:
        del sys.modules[name]
    sys.addaudithook(_refuse(_REFUSED, _NO_MODULES))
    ended: Any = _thread.allocate_lock()
    ended.acquire()
    _thread.stack_size(64 << 20)
    watch, start, leave = ref, _thread.start_new_thread, os._exit
    spaces = [_spaces(job, report)]
    steps = [(job["program"], _BRIDGE, job["tests"], "write(*of)")]
    os.write(report, job["started"])
    del job, report, given
    globals().clear()
    # `map` over `exec` has no frame of its own, and a step that raises ends it. When the thread has ended, however it
    # did, its spaces are gone and the lock is released. No name is left that leads to them, in this frame either.
    _ = (watch(spaces[0], ended.__exit__), start(list, (map(exec, steps.pop(), spaces.pop()),)), ended.acquire())
    leave(0)


if __name__ == "__main__":
    _main()
