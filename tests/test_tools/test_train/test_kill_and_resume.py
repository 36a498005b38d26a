"""A run that is killed and resumed ends with the weights of one that was not, bit for bit."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from cmp_mm.engine.scalars import read_curve

ROOT = Path(__file__).resolve().parents[3]
TRAIN = ROOT / 'tools' / 'train.py'

# Runs train.py and kills it inside the write of iter_8.pth: while its bytes are on their way ('fsync', which
# leaves a part of them), before it gets its name ('replace'), or after that but before last_checkpoint
# names it ('pointer').
DEADLY = """
import os, runpy, signal, sys

place = sys.argv[1]
fsync, replace = os.fsync, os.replace

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def deadly_fsync(handle):
    if place == 'fsync' and 'iter_8.pth' in os.readlink(f'/proc/self/fd/{handle}'):
        os.ftruncate(handle, 1000)
        die()
    fsync(handle)

def deadly_replace(source, target):
    if place == 'replace' and str(target).endswith('iter_8.pth'):
        die()
    if place == 'pointer' and str(target).endswith('last_checkpoint'):
        if os.path.exists(os.path.join(os.path.dirname(target), 'iter_8.pth')):
            die()
    replace(source, target)

os.fsync, os.replace = deadly_fsync, deadly_replace
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""

# A config whose run sends itself signals in the middle of its sixth step.
STOPPED = """
_base_ = '{base}'
custom_imports = dict(imports=['signals'])
custom_hooks = [dict(type='IterationSeedHook'), dict(type='SignalHook', signals={signals}, rank={rank})]
"""
SIGNALS = """
import os, subprocess, sys, time

from mmengine.dist import get_rank
from mmengine.hooks import Hook

from cmp_mm.registry import HOOKS


@HOOKS.register_module()
class SignalHook(Hook):
    def __init__(self, signals, rank):
        self.signals, self.rank = signals, rank

    def before_train_iter(self, runner, **_):
        if runner.iter == 5 and get_rank() == self.rank:
            for signum in self.signals:
                # To the data workers too, as a terminal and a scheduler do, and from outside: torch's workers
                # look who sent it.
                kill = f'import os; os.killpg({os.getpid()}, {signum})'
                subprocess.run([sys.executable, '-c', kill], start_new_session=True)
                time.sleep(0.1)
"""


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory, config_text, processes):
    """Final checkpoint of a run that nothing stopped, with one data worker."""
    folder = tmp_path_factory.mktemp('whole')
    config, out = folder / 'tiny.py', folder / 'output.txt'
    config.write_text(config_text)
    options = ['--work-dir', folder / 'work', '--cfg-options', 'train_dataloader.num_workers=1']
    assert processes.wait(processes.start(TRAIN, config, *options, out=out)) == 0, out.read_text()
    return torch.load(folder / 'work' / 'iter_12.pth', weights_only=True)


def iteration(name):
    return int(re.search(r'iter_(\d+)\.pth$', name)[1])


def assert_same(first, second):
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second)
    else:
        assert first == second


def resume_and_compare(tool, config, options, work, uninterrupted, last):
    code, output = tool('train.py', config, '--work-dir', work, '--resume', *options)
    assert code == 0, output
    assert f'resumed epoch: 0, iter: {last}\n' in output
    resumed = torch.load(work / 'iter_12.pth', weights_only=True)
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(uninterrupted[part], resumed[part])
    scalars = [checkpoint['message_hub']['log_scalars'] for checkpoint in (uninterrupted, resumed)]
    for key in ('train/loss', 'train/guidance_points', 'train/lr'):
        assert_same(*(part[key] for part in scalars))


@pytest.mark.parametrize('workers', [0, 2])
def test_killed_between_checkpoints(processes, tool, tiny_config, tmp_path, uninterrupted, workers):
    work = tmp_path / 'work'
    options = ['--cfg-options', f'train_dataloader.num_workers={workers}']
    pid = processes.start(TRAIN, tiny_config, '--work-dir', work, *options, out=tmp_path / 'killed.txt')
    deadline = time.monotonic() + 100
    while not (work / 'last_checkpoint').exists():
        assert time.monotonic() < deadline, (tmp_path / 'killed.txt').read_text()
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    assert processes.wait(pid) == -signal.SIGKILL
    # Iteration 4, or on a machine that is busy elsewhere a later one.
    last = iteration((work / 'last_checkpoint').read_text())
    if workers:
        # And whoever cleaned up after it took the pointer along.
        (work / 'last_checkpoint').unlink()
        last = max(iteration(path.name) for path in work.glob('iter_*.pth'))
    resume_and_compare(tool, tiny_config, options, work, uninterrupted, last)


def test_killed_in_a_validation_makes_up_for_it(tool, tiny_config, tmp_path):
    """A checkpoint is saved before the validation of its iteration."""
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    options = ['--cfg-options', 'train_cfg.val_interval=4']
    code, output = tool('train.py', tiny_config, '--work-dir', whole, *options)
    assert code == 0, output
    curve = read_curve(whole, 'cmp/epe')
    assert [step for step, _ in curve] == [4, 8, 12]
    (log,) = whole.glob('*/vis_data/scalars.json')
    left = killed / log.relative_to(whole)
    left.parent.mkdir(parents=True)
    lines = log.read_text().splitlines(keepends=True)
    validated = [number for number, line in enumerate(lines) if 'cmp/epe' in line]
    left.write_text(''.join(lines[: validated[1]]))
    shutil.copy(whole / 'iter_8.pth', killed)
    code, output = tool('train.py', tiny_config, '--work-dir', killed, '--resume', *options)
    assert code == 0 and 'resumed epoch: 0, iter: 8\n' in output, output
    assert read_curve(killed, 'cmp/epe') == curve


@pytest.mark.parametrize('place', ['fsync', 'replace', 'pointer'])
def test_killed_inside_a_checkpoint_write(processes, tool, tiny_config, tmp_path, uninterrupted, place):
    work, deadly, out = tmp_path / 'work', tmp_path / 'deadly.py', tmp_path / 'killed.txt'
    deadly.write_text(DEADLY)
    pid = processes.start(deadly, place, TRAIN, tiny_config, '--work-dir', work, out=out)
    assert processes.wait(pid) == -signal.SIGKILL, out.read_text()
    assert (work / 'iter_8.pth').exists() == (place == 'pointer')
    assert len(list(work.glob('.iter_8.pth.*.tmp'))) == (place != 'pointer')
    resume_and_compare(tool, tiny_config, [], work, uninterrupted, last=4)
    assert not list(work.glob('.*.tmp'))


@pytest.fixture
def stopped_config(tiny_config, tmp_path):
    """Makes a config that is sent some signals, and the environment its run needs."""
    (tmp_path / 'signals.py').write_text(SIGNALS)

    def make(*signals, rank=0):
        path = tmp_path / 'stopped.py'
        path.write_text(STOPPED.format(base=tiny_config, signals=list(map(int, signals)), rank=rank))
        return path, {'PYTHONPATH': f'{tmp_path}:{ROOT}'}

    return make


@pytest.mark.parametrize(('signum', 'workers'), [('SIGINT', 2), ('SIGTERM', 0), ('SIGTERM', 2)])
def test_stopped_after_its_step(tool, tiny_config, stopped_config, tmp_path, uninterrupted, signum, workers):
    work, number = tmp_path / 'work', signal.Signals[signum]
    options = ['--cfg-options', f'train_dataloader.num_workers={workers}']
    config, env = stopped_config(number)
    code, output = tool('train.py', config, '--work-dir', work, *options, env=env)
    assert code == 128 + number and 'Traceback' not in output, output
    assert output.splitlines()[-1] == (
        f'train.py: stopped by {signum}; saved {work}/iter_6.pth; --resume goes on from there'
    )
    resume_and_compare(tool, tiny_config, options, work, uninterrupted, last=6)


def test_told_twice_it_stops_at_once(tool, tiny_config, stopped_config, tmp_path, uninterrupted):
    config, env = stopped_config(signal.SIGTERM, signal.SIGINT)
    code, output = tool('train.py', config, '--work-dir', tmp_path / 'work', env=env)
    assert code == 130 and 'Traceback' not in output, output
    assert output.splitlines()[-1] == 'train.py: interrupted; --resume goes on from the last checkpoint'
    resume_and_compare(tool, tiny_config, [], tmp_path / 'work', uninterrupted, last=4)


def test_processes_stop_after_the_same_step(processes, stopped_config, free_port, tmp_path):
    config, env = stopped_config(signal.SIGTERM, rank=1)
    env.update(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port)
    work, outputs = tmp_path / 'work', [tmp_path / f'rank{rank}.txt' for rank in range(2)]
    options = ['--work-dir', work, '--launcher', 'pytorch', '--cfg-options', 'train_dataloader.batch_size=2']
    pids = [
        processes.start(TRAIN, config, *options, out=out, env=dict(env, RANK=str(rank), LOCAL_RANK=str(rank)))
        for rank, out in enumerate(outputs)
    ]
    assert [processes.wait(pid) for pid in pids] == [128 + signal.SIGTERM] * 2, outputs[0].read_text()
    assert (work / 'last_checkpoint').read_text() == str(work / 'iter_6.pth')
    assert torch.load(work / 'iter_6.pth', weights_only=True)['meta']['iter'] == 6
