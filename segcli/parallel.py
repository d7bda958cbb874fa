"""Work done ahead of its use, in threads, in order, with a bound on what is in flight.

Decoding, resizing and compressing pictures release Python's lock, so that threads do for
them what processes would, without copies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from segcli.environment import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_threads() -> int:
    """Threads for reading or writing beside the one that predicts: few, as cv2 has its own."""
    return max(1, min(8, usable_cores() // 2))


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int | None = None,
    ahead: int | None = None,
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` in the order of `items`, which are drawn in this thread.

    Args:
        threads: that run `function`; None takes `default_threads()`.
        ahead: results at most that wait or are being made, 2 per thread by default.

    Raises:
        Whatever `function` raised, when its result is due; what was not begun is dropped.
    """
    threads = threads or default_threads()
    limit = ahead or 2 * threads
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= limit:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
