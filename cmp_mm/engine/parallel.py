"""Several trainings at once, each a process of its own that a thread here waits for."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any, TypeVar

Result = TypeVar('Result')


def in_parallel(
    function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]], jobs: int
) -> Iterator[Result]:
    """Call a function with each of several argument lists, ``jobs`` at once, and give the results in order.

    After the first failure what runs already is let end, so that nothing of it is lost, and nothing more is
    begun; then the failure is raised.

    Args:
        function: what to call; it should wait for something outside this process, or threads gain nothing.
        arguments: one tuple for each call.
        jobs: calls at once, at least 1.

    Raises:
        Exception: whatever the first of the calls to fail raised.
    """
    stopped = Event()

    def call(*one: Any) -> Result | None:
        # The pool would begin the next call before anyone had looked at this one's failure.
        if stopped.is_set():
            return None
        try:
            return function(*one)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(jobs) as pool:
        futures: list[Future] = [pool.submit(call, *one) for one in arguments]
        try:
            for future in futures:
                result = future.result()
                if stopped.is_set():
                    break
                yield result
        finally:
            stopped.set()
    for future in futures:
        future.result()  # of those that failed the first raises
