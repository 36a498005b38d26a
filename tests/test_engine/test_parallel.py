import threading
import time

import pytest

from cmp_mm.engine import in_parallel


def test_results_come_in_order_of_the_arguments():
    def wait(seconds, name):
        time.sleep(seconds)
        return name

    assert list(in_parallel(wait, [(0.1, 'a'), (0, 'b'), (0.05, 'c')], 3)) == ['a', 'b', 'c']


@pytest.mark.parametrize('jobs', [1, 3])
def test_as_many_run_at_once_as_asked(jobs):
    running, most = set(), []
    lock = threading.Lock()

    def call(number):
        with lock:
            running.add(number)
            most.append(len(running))
        time.sleep(0.05)
        with lock:
            running.remove(number)

    list(in_parallel(call, [(number,) for number in range(6)], jobs))
    assert max(most) == jobs


def test_after_a_failure_nothing_is_begun_and_what_runs_ends():
    begun, ended = [], []
    second_runs = threading.Event()

    def call(number):
        begun.append(number)
        if number == 0:
            second_runs.wait(10)
            raise ValueError('the first failed')
        second_runs.set()
        time.sleep(0.1)
        ended.append(number)

    with pytest.raises(ValueError, match='the first failed'):
        list(in_parallel(call, [(number,) for number in range(5)], 2))
    assert sorted(begun) == [0, 1]
    assert ended == [1]


def test_results_before_a_failure_are_given():
    def call(number):
        if number == 2:
            raise ValueError('the third failed')
        return number

    found = []
    with pytest.raises(ValueError, match='the third failed'):
        for result in in_parallel(call, [(0,), (1,), (2,), (3,)], 1):
            found.append(result)
    assert found[0] == 0 and set(found) <= {0, 1}


def test_no_longer_wanted_results_are_not_begun():
    begun = []

    def call(number):
        begun.append(number)
        time.sleep(0.05)

    results = in_parallel(call, [(number,) for number in range(50)], 1)
    next(results)
    results.close()
    assert len(begun) < 5
