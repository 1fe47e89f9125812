"""Batches made ahead of the step that needs them, by threads."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(
    make: Callable[[int], Item], start: int, stop: int, depth: int, num_threads: int = 1
) -> Generator[Item, None, None]:
    """make(start), ..., make(stop - 1) in order, up to `depth` of them made ahead of the one in use.

    An error in `make` is raised when its turn comes. Closing the iterator waits only for the items being made.
    """
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="prefetch")
    ahead: deque[Future[Item]] = deque()
    try:
        for number in range(start, stop):
            ahead.append(pool.submit(make, number))
            if len(ahead) > depth:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
