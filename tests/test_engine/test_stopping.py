"""Stopping after a step: all processes after the same one, soon enough, and at a step that can be resumed."""

import signal
from types import SimpleNamespace

import pytest
from mmengine.runner import Runner

from cmp_mm.engine import AtomicCheckpointHook, checkpoint_hook, launch, stopping
from cmp_mm.engine.checkpoint_hook import TrainingStopped


@pytest.fixture
def make_hook(monkeypatch):
    """A hook that notes what it saves, as rank 0 of some processes whose other ranks are told nothing."""
    monkeypatch.setattr(AtomicCheckpointHook, '_save_checkpoint', lambda self, runner: None)
    monkeypatch.setattr(checkpoint_hook, 'all_reduce', lambda answers, op: None)

    def make(processes, interval=-1):
        monkeypatch.setattr(checkpoint_hook, 'get_world_size', lambda: processes)
        hook = AtomicCheckpointHook(by_epoch=False, interval=interval)
        hook.last_ckpt = None
        return hook

    return make


def runner_at(step, counts=1):
    return SimpleNamespace(
        iter=step, max_iters=1000, optim_wrapper=SimpleNamespace(_accumulative_counts=counts)
    )


def steps_until_stopped(hook, told_in, counts=1, after=lambda: None):
    """Steps done when the training ends that a signal comes to in the step ``told_in``, from 0."""
    runner = runner_at(0, counts)
    for runner.iter in range(100):
        if runner.iter == told_in:
            hook.stop_after_step(signal.SIGTERM)
        after()
        try:
            hook.after_train_iter(runner, runner.iter)
        except TrainingStopped:
            return runner.iter + 1
    return None


@pytest.mark.parametrize('told_in', [3, 10, 57])
def test_on_cpus_processes_stop_after_the_step_they_are_in(make_hook, told_in):
    assert steps_until_stopped(make_hook(2), told_in) == told_in + 1


@pytest.mark.parametrize(('seconds', 'most'), [(0.01, 10), (1.0, 5), (4.0, 1), (60.0, 1)])
def test_on_an_accelerator_processes_stop_within_seconds_or_a_step(make_hook, monkeypatch, seconds, most):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(checkpoint_hook, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(checkpoint_hook, 'time', SimpleNamespace(monotonic=lambda: clock.now))

    def after():
        clock.now += seconds

    needed = {steps_until_stopped(make_hook(2), told_in, after=after) - told_in for told_in in range(20, 40)}
    assert max(needed) == most


def test_processes_ask_after_the_same_steps_whatever_their_own_clock_says(make_hook, monkeypatch):
    """The slowest of them counts for all; a process that was told goes on until all know."""
    asked = []
    monkeypatch.setattr(checkpoint_hook, 'get_device', lambda: 'cuda')

    def of_the_slowest(answers, op):
        assert op == 'max'
        asked.append(runner.iter)
        answers[1] = 2.0

    hook, runner = make_hook(2), runner_at(0)
    monkeypatch.setattr(checkpoint_hook, 'all_reduce', of_the_slowest)
    for runner.iter in range(6):
        hook.after_train_iter(runner, runner.iter)
    assert asked == [0, 2, 4]
    hook.stop_after_step(signal.SIGINT)
    with pytest.raises(TrainingStopped):
        for runner.iter in range(6, 9):
            hook.after_train_iter(runner, runner.iter)
    assert asked == [0, 2, 4, 6]


def test_all_are_told_by_which_signal_and_none_leaves_before_the_checkpoint_is_there(make_hook, monkeypatch):
    events = []

    def another_was_told(answers, op):
        answers[0] = signal.SIGTERM

    hook = make_hook(2)
    monkeypatch.setattr(checkpoint_hook, 'all_reduce', another_was_told)
    monkeypatch.setattr(checkpoint_hook, 'barrier', lambda: events.append('barrier'))
    monkeypatch.setattr(AtomicCheckpointHook, '_save_checkpoint', lambda self, runner: events.append('saved'))
    with pytest.raises(TrainingStopped) as stop:
        hook.after_train_iter(runner_at(2), 2)
    assert stop.value.signum == signal.SIGTERM and events == ['saved', 'barrier']


@pytest.mark.parametrize('processes', [1, 2])
def test_accumulated_gradients_are_not_left_behind(make_hook, processes):
    found = [steps_until_stopped(make_hook(processes), told_in, counts=4) for told_in in (3, 4, 6, 7)]
    assert found == [4, 8, 8, 8]


@pytest.mark.parametrize(('counts', 'warned'), [(1, 0), (2, 0), (3, 1)])
def test_an_interval_that_splits_an_optimizer_step_is_told(toy_config, monkeypatch, counts, warned):
    config = toy_config(max_iters=1, experiment_name=f'accumulates_{counts}')
    config.optim_wrapper.accumulative_counts = counts
    runner, told = Runner.from_cfg(config), []
    monkeypatch.setattr(runner.logger, 'warning', lambda message, *_: told.append(message))
    runner.train()
    told = [message for message in told if 'interval 4 is no multiple of accumulative_counts 3' in message]
    assert len(told) == warned


@pytest.fixture
def asked(monkeypatch):
    """Signals that reach the hook of a training."""
    asked = []
    hook = SimpleNamespace(by_epoch=False, stop_after_step=asked.append)
    monkeypatch.setattr(stopping, 'checkpoint_hook_of', lambda runner: hook)
    monkeypatch.delenv('TORCHELASTIC_RUN_ID', raising=False)
    # As in a terminal: a shell's background ignores Ctrl-C.
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield asked
    for number, handler in before.items():
        signal.signal(number, handler)


def test_what_torchrun_passes_on_is_no_second_signal(asked, monkeypatch, tmp_path):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(stopping, 'time', SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'none')
    with (
        pytest.raises(KeyboardInterrupt, match='nothing was saved yet'),
        stopping.saving_when_stopped(SimpleNamespace(work_dir=tmp_path)),
    ):
        signal.raise_signal(signal.SIGTERM)
        clock.now += 0.3
        signal.raise_signal(signal.SIGTERM)
        assert asked == [signal.SIGTERM]
        clock.now += 10
        signal.raise_signal(signal.SIGINT)
        pytest.fail('a later one stops at once')
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ('saved', 'left'),
    [(False, 'nothing was saved yet'), (True, '--resume goes on from the last checkpoint')],
)
def test_a_second_one_stops_at_once_and_says_what_is_left(asked, tmp_path, capsys, saved, left):
    if saved:
        (tmp_path / 'last_checkpoint').write_text('iter_4.pth')
    with pytest.raises(SystemExit) as stop, launch.one_line_errors('train.py'):  # noqa: SIM117
        with stopping.saving_when_stopped(SimpleNamespace(work_dir=tmp_path)):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    assert stop.value.code == 130 and asked == [signal.SIGINT]
    assert capsys.readouterr().err.splitlines()[-1] == f'train.py: interrupted; {left}'


def test_an_interrupt_before_the_training_promises_nothing(capsys):
    with pytest.raises(SystemExit), launch.one_line_errors('test.py'):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == 'test.py: interrupted\n'


def test_every_process_resumes_what_the_main_one_found(monkeypatch, tmp_path):
    def from_the_main_one(found):
        found[:] = ['/shared/iter_8.pth']

    monkeypatch.setattr(checkpoint_hook, 'is_main_process', lambda: False)
    monkeypatch.setattr(checkpoint_hook, 'broadcast_object_list', from_the_main_one)
    runner = SimpleNamespace(_resume=True, _load_from=None, work_dir=str(tmp_path))
    AtomicCheckpointHook(by_epoch=False).before_run(runner)
    assert runner._resume and runner._load_from == '/shared/iter_8.pth'


def test_ctrl_c_that_is_ignored_stays_ignored(asked, tmp_path):
    """As of a run that a script has put into the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stopping.saving_when_stopped(SimpleNamespace(work_dir=tmp_path)):
        signal.raise_signal(signal.SIGINT)
    assert asked == [] and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
