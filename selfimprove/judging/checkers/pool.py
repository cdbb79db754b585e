"""Work that waits for other processes, several at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, advance: Callable[[int], None]
) -> list[Result]:
    """`function` of each job, `workers` at a time, in the order given; `advance(1)` after each. The first error, or
    Ctrl-C, ends it without starting what is left."""
    found: list[Result] = []
    with ThreadPoolExecutor(workers) as pool:
        under_way = [pool.submit(function, job) for job in jobs]
        try:
            for one in under_way:
                found.append(one.result())
                advance(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def usable_cores() -> int:
    """Cores this process may use: a container may have fewer than the machine, and programs timed out for it. Several
    ranks of one training share them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
