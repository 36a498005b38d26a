"""Reading ahead in a thread."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar('T')
_POLL_SECONDS = 0.1


def prefetch(items: Iterable[T], depth: int) -> Iterator[T]:
    """Iterate over ``items`` in another thread, up to ``depth`` items ahead.

    An exception of the iteration is raised here, after the items before it. When this generator is closed
    early, the thread stops.
    """
    waiting: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(entry, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
        except BaseException as error:
            put((None, error))
        else:
            put(())

    thread = threading.Thread(target=read, name='prefetch', daemon=True)
    thread.start()
    try:
        while entry := waiting.get():
            item, error = entry
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
        thread.join()
