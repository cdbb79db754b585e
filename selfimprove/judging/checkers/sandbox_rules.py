"""The rules a sandboxed program runs under, as the Linux kernel takes them: a seccomp filter and Landlock rules.

The filter lists what is allowed, since a kernel's new system calls must not be (`man 2 seccomp`,
Documentation/userspace-api/seccomp_filter.rst). It is a classic BPF program over `struct seccomp_data`: the call's
number, the machine's AUDIT_ARCH, and six 64-bit arguments, of which only the values can be looked at, not what they
point to. Landlock (Documentation/userspace-api/landlock.rst) names the paths that may be read and written.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from pathlib import Path

# AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64 (linux/audit.h), and the column of the tables below.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# name, number on x86-64, number on ARM64 (asm/unistd_64.h; asm-generic/unistd.h): always allowed
_PLAIN = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69, pwritev 296 70,
close 3 57, close_range 436 436, stat 4 -, lstat 6 -, fstat 5 80, newfstatat 262 79, statx 332 291, lseek 8 62,
mmap 9 222, mprotect 10 226, munmap 11 215, mremap 25 216, madvise 28 233, brk 12 214, rt_sigaction 13 134,
rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132, dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -,
pipe2 293 59, select 23 -, pselect6 270 72, poll 7 -, ppoll 271 73, epoll_create 213 -, epoll_create1 291 20,
epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, eventfd2 290 19, recvfrom 45 207, shutdown 48 210,
getsockopt 55 209, getsockname 51 204, getpeername 52 205, nanosleep 35 101, clock_nanosleep 230 115,
clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169, time 201 -, times 100 153, getitimer 36 102,
setitimer 38 103, alarm 37 -, pause 34 -, getpid 39 172, getppid 110 173, gettid 186 178, getuid 102 174,
geteuid 107 175, getgid 104 176, getegid 108 177, getgroups 115 158, getresuid 118 148, getresgid 120 150,
getpgrp 111 -, getpgid 121 155, getsid 124 156, uname 63 160, sysinfo 99 179, getrusage 98 165, getrlimit 97 163,
getcpu 309 168, futex 202 98, set_robust_list 273 99, rseq 334 293, membarrier 324 283, set_tid_address 218 96,
sched_yield 24 124, sched_getaffinity 204 123, exit 60 93, exit_group 231 94, restart_syscall 219 128,
getrandom 318 278, getcwd 79 17, chdir 80 49, fchdir 81 50, access 21 -, faccessat 269 48, faccessat2 439 439,
readlink 89 -, readlinkat 267 78, getdents64 217 61, umask 95 166, statfs 137 43, fstatfs 138 44, fsync 74 82,
fdatasync 75 83, sendfile 40 71, copy_file_range 326 285, fadvise64 221 223
"""
# allowed where Landlock keeps them to the folder (which it does not do for chmod, chown, truncate, utime and xattr)
_CHANGES = """
mkdir 83 -, mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38,
renameat2 316 276, symlink 88 -, symlinkat 266 36, link 86 -, linkat 265 37, ftruncate 77 46, fallocate 285 47
"""
_ARGUMENTS = """
open 2 -, openat 257 56, clone 56 220, clone3 435 435, ioctl 16 29, fcntl 72 25, prlimit64 302 261, sendto 44 206,
socketpair 53 199, prctl 157 167
"""

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_X32 = 0x40000000  # x86-64's second set of numbers
_CLONE_THREAD = 0x00010000
_WRITES, _TRUNCATES = 0o3 | 0o100 | 0o1000, 0o3 | 0o1000  # O_ACCMODE, O_CREAT, O_TRUNC
# isatty, the window's size, non-blocking, close-on-exec, bytes waiting: none reaches another process
_IOCTLS = (0x5401, 0x5413, 0x5421, 0x5450, 0x5451, 0x541B)
_FCNTLS = (0, 1, 2, 3, 4, 1030)  # dup, get and set flags; not F_SETOWN, which would let the kernel send signals

_Rows = list[tuple[int, int, int, int]]


def seccomp_filter(machine: str, can_write: bool) -> bytes:
    """The filter, as an array of `struct sock_filter` (8 bytes each).

    Args:
        machine: one of `MACHINES`.
        can_write: whether files may be opened for writing, made, renamed and removed at all.
    """
    architecture, column = MACHINES[machine]
    rows: _Rows = [_load(4), (_EQUAL, 1, 0, architecture), _return(_KILL), _load(0)]
    if machine == "x86_64":
        rows += [(_AT_LEAST, 0, 1, _X32), _return(_KILL)]
    for number in _numbers(_PLAIN + "," + _CHANGES if can_write else _PLAIN, column).values():
        rows += [(_EQUAL, 0, 1, number), _return(_ALLOW)]
    for name, number in _numbers(_ARGUMENTS, column).items():
        checks = _checks(name, can_write)
        rows += [(_EQUAL, 0, len(checks), number), *checks]
    return b"".join(struct.pack("=HBBI", *row) for row in [*rows, _return(_ERRNO | _EPERM)])


def _checks(name: str, can_write: bool) -> _Rows:
    """What decides on a call that is allowed with some arguments only; every path returns."""
    allow, refuse = _return(_ALLOW), _return(_ERRNO | _EPERM)
    if name in ("open", "openat"):
        flags = _argument(1 if name == "open" else 2)
        if not can_write:
            return [flags, (_ANY_BIT, 0, 1, _WRITES), refuse, allow]
        # Landlock lets a file that may be read be emptied by O_RDONLY | O_TRUNC before its third version.
        return [flags, (_AND, 0, 0, _TRUNCATES), (_EQUAL, 0, 1, 0o1000), refuse, allow]
    if name == "clone":
        return [_argument(0), (_ANY_BIT, 0, 1, _CLONE_THREAD), allow, refuse]
    if name == "clone3":  # its flags are behind a pointer; told that it does not exist, the C library uses clone
        return [_return(_ERRNO | _ENOSYS)]
    if name == "prlimit64":  # of itself
        return [_argument(0), (_EQUAL, 0, 1, 0), allow, refuse]
    if name == "sendto":  # to the other end, not to an address; both halves of the pointer
        return [_argument(4), (_EQUAL, 0, 3, 0), _argument(4, 4), (_EQUAL, 0, 1, 0), allow, refuse]
    allowed = {"ioctl": _IOCTLS, "fcntl": _FCNTLS, "socketpair": (1,), "prctl": (15,)}[name]  # AF_UNIX; PR_SET_NAME
    listed = [row for value in allowed for row in ((_EQUAL, 0, 1, value), allow)]
    return [_argument(1 if name in ("ioctl", "fcntl") else 0), *listed, refuse]


def _load(offset: int) -> tuple[int, int, int, int]:
    return _LOAD, 0, 0, offset


def _argument(index: int, half: int = 0) -> tuple[int, int, int, int]:
    return _load(16 + 8 * index + half)  # little-endian: the lower half first


def _return(value: int) -> tuple[int, int, int, int]:
    return _RETURN, 0, 0, value


def _numbers(table: str, column: int) -> dict[str, int]:
    rows = [row.split() for row in table.split(",")]
    return {row[0]: int(row[1 + column]) for row in rows if row[1 + column] != "-"}


# LANDLOCK_ACCESS_FS_*: the rights each version of Landlock knows, and those that a file has
_KNOWN = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}
_WRITE_FILE, _READ_FILE, _READ_FOLDER, _EXECUTE, _DEVICE = 0x2, 0x4, 0x8, 0x1, 0x8000


@functools.cache
def landlock_version() -> int:
    """The kernel's version of Landlock, 0 where it has none or it is switched off."""
    import ctypes

    version = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1)  # landlock_create_ruleset, VERSION
    return max(0, int(version))


def landlock_rules(version: int, libraries: Sequence[str], folder: str) -> dict[str, object] | None:
    """What is handled (files, network, signals), and what is allowed below which path; None without Landlock."""
    if version == 0:
        return None
    everything = _KNOWN[min(version, 5)]
    read = _READ_FILE | _READ_FOLDER
    readable = [*libraries, "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"]
    files = {"/etc/ld.so.cache": _READ_FILE, "/etc/localtime": _READ_FILE, "/dev/urandom": _READ_FILE}
    rules = {path: read for path in readable if Path(path).is_dir()}
    rules |= {path: right for path, right in files.items() if Path(path).is_file() or path.startswith("/dev")}
    rules |= {"/dev/null": _READ_FILE | _WRITE_FILE, folder: everything & ~(_EXECUTE | _DEVICE)}
    network, scope = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    return {"handled": struct.pack("=QQQ", everything, network, scope), "rules": list(rules.items())}
