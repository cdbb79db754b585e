"""Work that waits for other processes, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
