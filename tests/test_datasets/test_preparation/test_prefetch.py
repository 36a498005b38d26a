"""Reading ahead, and not too far."""

import itertools
import threading
import time

from cmp_mm.datasets.preparation.prefetch import prefetch


def test_it_reads_little_ahead_and_stops_when_closed():
    read = []

    def endless():
        for number in itertools.count():
            read.append(number)
            yield number

    items = prefetch(endless(), 2)
    assert [next(items), next(items)] == [0, 1]
    time.sleep(0.5)
    assert len(read) <= 2 + 2 + 1
    closer = threading.Thread(target=items.close, daemon=True)
    closer.start()
    closer.join(30)
    assert not closer.is_alive()
    known = len(read)
    time.sleep(0.3)
    assert len(read) == known
