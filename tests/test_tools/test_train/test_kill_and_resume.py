"""A run that is killed and resumed ends with the weights of one that was not, bit for bit."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

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


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory, config_text, processes):
    """Final checkpoint of a run that nothing stopped, with one data worker."""
    folder = tmp_path_factory.mktemp('whole')
    config, out = folder / 'tiny.py', folder / 'output.txt'
    config.write_text(config_text)
    options = ['--work-dir', folder / 'work', '--cfg-options', 'train_dataloader.num_workers=1']
    assert processes.wait(processes.start(TRAIN, config, *options, out=out)) == 0, out.read_text()
    return torch.load(folder / 'work' / 'iter_12.pth', weights_only=True)


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
    if workers:
        # And whoever cleaned up after it took the pointer along.
        (work / 'last_checkpoint').unlink()
    resume_and_compare(tool, tiny_config, options, work, uninterrupted, last=4)


@pytest.mark.parametrize('place', ['fsync', 'replace', 'pointer'])
def test_killed_inside_a_checkpoint_write(processes, tool, tiny_config, tmp_path, uninterrupted, place):
    work, deadly, out = tmp_path / 'work', tmp_path / 'deadly.py', tmp_path / 'killed.txt'
    deadly.write_text(DEADLY)
    pid = processes.start(deadly, place, TRAIN, tiny_config, '--work-dir', work, out=out)
    assert processes.wait(pid) == -signal.SIGKILL, out.read_text()
    assert (work / 'iter_8.pth').exists() == (place == 'pointer')
    assert len(list(work.glob('.iter_8.pth.*.part'))) == (place != 'pointer')
    resume_and_compare(tool, tiny_config, [], work, uninterrupted, last=4)
    assert not list(work.glob('.*.part'))
