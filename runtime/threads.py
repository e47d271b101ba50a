"""Map a function over items in threads: in order, with few in flight, and ended by the first interrupt or error."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4


def map_in_threads(
    call: Callable[[Item], Result], items: Iterable[Item], workers: int, together: int = 1
) -> Iterator[Result]:
    """Results of ``call`` for each of ``items``, in their order.

    ``Executor.map`` submits everything before it gives the first result, and an interrupt in that time, or an error,
    waits for all of it. Here at most a few items a worker are ahead of the caller, and what has not begun when the
    caller stops, fails or is interrupted never begins.

    Args:
        call: must be safe in several threads; only what releases the interpreter lock gains by them.
        items: taken as they are needed.
        workers: threads, at least 1.
        together: items that one thread takes at a time; more than 1 where an item takes a millisecond or less, of which
            waking another thread would be a third.
    """
    pool, stopped = ThreadPoolExecutor(workers), Event()
    waiting: deque[Future[list[Result]]] = deque()
    if isinstance(items, Sized):  # every thread gets some
        together = max(1, min(together, len(items) // (2 * workers)))

    def each(group: list[Item]) -> list[Result]:
        return [call(item) for item in group if not stopped.is_set()]

    left = iter(items)
    try:
        while group := list(islice(left, together)):
            waiting.append(pool.submit(each, group))
            if len(waiting) > max(workers, _AHEAD * workers // together):
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
