"""Two processes on CPUs do what one does with the joint batch."""

import json
import socket
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]

# One step of plain gradient descent at rate 1: the weights move by the gradient. Batch normalisation over a
# part of the batch differs from that over all of it (the method does not synchronise it), so its statistics
# are kept still here; nothing else looks beyond one image, and all pixels are valid, so that the mean over
# the processes of the means over their parts is the mean over the joint batch.
ONE_STEP = """
_base_ = '{base}'
custom_imports = dict(imports=['still_norms'])
train_dataloader = dict(batch_size={batch})
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=1.0))
param_scheduler = None
train_cfg = dict(max_iters=1)
default_hooks = dict(visualization=dict(interval=0), logger=dict(interval=1))
custom_hooks = [dict(type='IterationSeedHook'), dict(type='StillNormsHook')]
"""
STILL_NORMS = """
from mmengine.hooks import Hook
from torch.nn.modules.batchnorm import _BatchNorm

from cmp_mm.registry import HOOKS


@HOOKS.register_module()
class StillNormsHook(Hook):
    def before_train_iter(self, runner, **_):
        for module in runner.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
"""


@pytest.fixture
def one_step(tiny_config, tmp_path):
    """Makes a config of one step with some batch size per process."""
    (tmp_path / 'still_norms.py').write_text(STILL_NORMS)

    def make(batch):
        path = tmp_path / f'batch{batch}.py'
        path.write_text(ONE_STEP.format(base=tiny_config, batch=batch))
        return path

    return make


def test_two_processes_have_the_gradients_of_the_joint_batch(
    one_step, tool, environment, free_port, tmp_path
):
    path = {'PYTHONPATH': f'{tmp_path}:{ROOT}'}
    single = tmp_path / 'single'
    code, output = tool('train.py', one_step(4), '--work-dir', single, '--no-validate', env=path)
    assert code == 0, output
    joint = tmp_path / 'joint'
    command = [
        'bash',
        ROOT / 'tools' / 'dist_train.sh',
        one_step(2),
        '2',
        '--work-dir',
        joint,
        '--no-validate',
    ]
    port = dict(PORT=free_port)
    result = subprocess.run(command, env={**environment, **path, **port}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert 'Grad strides do not match' not in result.stderr
    one, two = (torch.load(work / 'iter_1.pth', weights_only=True)['state_dict'] for work in (single, joint))
    start = initial_weights(one_step, tool, tmp_path, path)
    moved = 0
    for key, value in one.items():
        gradient = (start[key] - value).double() if value.is_floating_point() else torch.zeros(1)
        difference = (value - two[key]).abs().max().double()
        assert difference <= 1e-5 * gradient.abs().max() + 1e-7, key
        moved += bool(gradient.abs().max() > 0)
    assert moved > 20, 'there must be gradients to compare'


def initial_weights(one_step, tool, tmp_path, path):
    """The same run with a rate of zero."""
    options = [
        '--cfg-options',
        'optim_wrapper.optimizer.lr=0.0',
        '--no-validate',
        '--work-dir',
        tmp_path / 'still',
    ]
    code, output = tool('train.py', one_step(4), *options, env=path)
    assert code == 0, output
    return torch.load(tmp_path / 'still' / 'iter_1.pth', weights_only=True)['state_dict']


def test_evaluation_by_two_processes(tiny_config, processes, tool, free_port, tmp_path):
    options = ['--work-dir', tmp_path / 'work', '--no-validate', '--cfg-options', 'train_cfg.max_iters=1']
    code, output = tool('train.py', tiny_config, *options)
    assert code == 0, output
    test, checkpoint = ROOT / 'tools' / 'test.py', tmp_path / 'work' / 'iter_1.pth'
    code, output = tool(
        'test.py', tiny_config, checkpoint, '--work-dir', tmp_path, '--out', tmp_path / 'one.json'
    )
    assert code == 0, output
    env = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port)
    options = ['--work-dir', tmp_path, '--out', tmp_path / 'two.json', '--launcher', 'pytorch']
    pids = [
        processes.start(
            test,
            tiny_config,
            checkpoint,
            *options,
            out=tmp_path / f'rank{rank}.txt',
            env=dict(env, RANK=str(rank), LOCAL_RANK=str(rank)),
        )
        for rank in range(2)
    ]
    codes = [processes.wait(pid) for pid in pids]
    assert codes == [0, 0], (tmp_path / 'rank0.txt').read_text()
    one, two = (json.loads((tmp_path / name).read_text()) for name in ('one.json', 'two.json'))
    for key in ('cmp/epe', 'idw/epe', 'cmp/bin_acc'):
        assert two[key] == pytest.approx(one[key], rel=1e-6)


TWO_PROCESSES = """
_base_ = '{base}'
custom_imports = dict(imports=['told_buffers'])
model = dict(backbone=dict(frozen_stages=1))
train_cfg = dict(max_iters=3, val_interval=3)
default_hooks = dict(
    visualization=dict(interval=0), checkpoint=dict(interval=3), told=dict(type='ToldBuffersHook')
)
"""
TOLD_BUFFERS = """
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from cmp_mm.registry import HOOKS


@HOOKS.register_module()
class ToldBuffersHook(Hook):
    priority = 'LOWEST'  # what the validation sees

    def tell(self, runner, when):
        buffers = {key: value.clone() for key, value in runner.model.named_buffers()}
        torch.save(buffers, Path(runner.work_dir) / f'{when}{get_rank()}.pt')

    def before_val(self, runner):
        self.tell(runner, 'trained')

    def before_val_epoch(self, runner):
        self.tell(runner, 'validated')
"""


def test_two_processes_validate_what_is_saved_and_may_freeze_stages(
    tiny_config, environment, free_port, tmp_path
):
    (tmp_path / 'told_buffers.py').write_text(TOLD_BUFFERS)
    config, work = tmp_path / 'two.py', tmp_path / 'work'
    config.write_text(TWO_PROCESSES.format(base=tiny_config))
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', config, '2', '--work-dir', work]
    env = {**environment, 'PYTHONPATH': f'{tmp_path}:{ROOT}', 'PORT': free_port}
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    told = {
        name: torch.load(work / f'{name}.pt') for name in ('trained0', 'trained1', 'validated0', 'validated1')
    }
    variances = [key for key in told['trained0'] if key.endswith('running_var')]
    apart = [key for key in variances if not torch.equal(told['trained0'][key], told['trained1'][key])]
    assert apart and all(
        'layer1' not in key for key in apart
    )  # the frozen stage has no statistics of its own
    for key, value in told['trained0'].items():
        assert torch.equal(told['validated0'][key], value) and torch.equal(told['validated1'][key], value)


@pytest.fixture
def dist(environment, tmp_path):
    """Runs a dist_*.sh that shows what it would start."""
    python = tmp_path / 'python'
    python.write_text(f'#!/bin/sh\n[ "$1" != -c ] || exec {environment["PYTHON"]} "$@"\necho "$@"\n')
    python.chmod(0o755)

    def run(name, *args, **variables):
        env = {**environment, 'PYTHON': str(python), **variables}
        command = ['bash', ROOT / 'tools' / f'dist_{name}.sh', 'config.py', *args]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    return run


@pytest.mark.parametrize(('name', 'args'), [('train', []), ('test', ['last.pth'])])
def test_dist_scripts_count_processes_and_find_a_port(dist, name, args):
    for wrong in ('0', '-1', 'two', '--amp', ''):
        result = dist(name, *args, wrong)
        assert result.returncode == 2 and result.stderr.startswith('usage: ') and not result.stdout
    port = dist(name, *args, '2').stdout.partition('--master_port=')[2].split()[0]
    with socket.create_server(('127.0.0.1', int(port))):
        assert port != '29500'
    given = dist(name, *args, '2', '--work-dir', 'a b', PORT='29511').stdout
    assert '--master_port=29511 ' in given and given.strip().endswith('--launcher pytorch --work-dir a b')
    assert '--master_port=29500 ' in dist(name, *args, '2', NNODES='2').stdout


@pytest.mark.parametrize(('name', 'arguments'), [('train', []), ('test', ['last.pth'])])
def test_slurm_scripts(environment, tmp_path, name, arguments):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    clean = {key: value for key, value in environment.items() if not key.startswith(('GPUS', 'CPUS_PER'))}
    env = {**clean, 'PATH': f'{tmp_path}:{environment["PATH"]}', 'GPUS': '4'}
    env['SRUN_ARGS'] = '--qos=low --time=1'
    script = ROOT / 'tools' / f'slurm_{name}.sh'
    command = ['bash', script, 'gpu', 'job', 'c.py', *arguments]
    done = subprocess.run([*command, '--work-dir', 'a b'], env=env, capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert {
        *('--partition=gpu', '--job-name=job', '--gres=gpu:4', '--ntasks=4', '--ntasks-per-node=4'),
        *('--kill-on-bad-exit=1', '--qos=low', '--time=1'),
    } <= set(said)
    end = ['c.py', *arguments, '--launcher', 'slurm', '--work-dir', 'a b']
    assert said[-len(end) :] == end and said[-len(end) - 1].endswith(f'tools/{name}.py')
    assert subprocess.run(command[:-1], env=env, capture_output=True).returncode == 2
