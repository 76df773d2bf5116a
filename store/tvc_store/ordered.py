"""Several things at a time, and their results in order.

What is done to one frame does not depend on another, so that one large tensor keeps all cores busy.
Absent on purpose: which results depend on the number of threads. None may.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

__all__ = ["DEPTH", "THREADS", "in_order"]

THREADS: Final = min(len(os.sched_getaffinity(0)), 8)
"""Things done at a time."""

DEPTH: Final = THREADS + 2
"""Things begun at a time: a ring of as many buffers holds them all."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, parallel: bool
) -> Generator[Result]:
    """Yield the result of `work` for each item, in the order of the items.

    Items are drawn by the caller's thread, each only when at most `DEPTH` - 1 others were drawn
    whose results the caller has not finished with.

    Args:
        work: Called from several threads.
        items: What it is called with.
        parallel: Whether there is more than one; otherwise the caller's thread does it.

    Raises:
        Exception: What drawing an item or `work` raised.
    """
    if not parallel:
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) == DEPTH:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
