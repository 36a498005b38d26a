"""What a program says in the end, in one line."""

import multiprocessing
import signal
import sys

import pytest

from cmp_mm.engine import launch

WORKER = 'DataLoader worker (pid 7) is killed by signal: Killed. '


@pytest.fixture
def tell_later():
    """What torch does as a worker dies: an error from a signal handler, a moment after the connection."""

    def tell(*_args):
        raise RuntimeError(WORKER)

    before = signal.signal(signal.SIGALRM, tell)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize('error', [ConnectionResetError(104, 'reset'), EOFError(), FileNotFoundError('sock')])
def test_a_worker_that_dies_is_named_though_its_connection_breaks_first(tell_later, error):
    with (
        pytest.raises(SystemExit, match=r'^train\.py: error: DataLoader worker \(pid 7\).*num_workers=1$'),
        launch.one_line_errors('train.py'),
    ):
        raise error


def test_a_broken_connection_of_its_own_is_one_line():
    with (
        pytest.raises(SystemExit, match=r'^train\.py: error: .*refused$'),
        launch.one_line_errors('train.py'),
    ):
        raise ConnectionRefusedError(111, 'refused')


@pytest.mark.parametrize('error', [RuntimeError('shape'), EOFError('short')])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error), match=str(error)), launch.one_line_errors('train.py'):
        raise error


def show(error):
    sys.excepthook(type(error), error, None)


@pytest.mark.parametrize(
    ('error', 'told'),
    [(ConnectionResetError(104, 'reset'), False), (EOFError(), False), (KeyError('bug'), True)],
)
def test_a_forked_worker_that_loses_the_main_process_adds_no_traceback(capfd, error, told):
    before = sys.excepthook
    with launch.one_line_errors('train.py'):
        worker = multiprocessing.get_context('fork').Process(target=show, args=(error,))
        worker.start()
        worker.join()
        assert (type(error).__name__ in capfd.readouterr().err) == told
        show(error)  # in the main process every error shows
        assert type(error).__name__ in capfd.readouterr().err
    assert worker.exitcode == 0 and sys.excepthook is before
