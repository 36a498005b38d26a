"""Sixteen small pairs on disk, a config of a small but whole CMP for them, and the tools as processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmp_mm.flow import write_flow

ROOT = Path(__file__).resolve().parents[3]

CONFIG = """
_base_ = '{root}/configs/_base_/default_runtime.py'
model = dict(
    type='CMP',
    data_preprocessor=dict(type='FlowDataPreprocessor', channels_last=True),
    backbone=dict(type='ResNet', depth=18, num_stages=2, out_indices=(1,)),
    neck=dict(type='ConvNeck', in_channels=128, out_channels=16),
    guidance_encoder=dict(type='GuidanceEncoder', stride=8),
    decoder=dict(type='PlainDecoder', in_channels=32, combo=(1, 2), out_channels=22),
    codec=dict(type='QuantizedFlowCodec', num_bins=11, max_flow=8.0),
    loss=dict(type='QuantizedFlowLoss'),
)
data_root = '{data}'
pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadFlow'),
    dict(type='FlowRandomCrop', size=(32, 32)),
    dict(type='FlowRandomFlip', prob=0.5),
    dict(
        type='SampleGuidance',
        strategies=[dict(type='watershed', kernel_size=9), dict(type='grid', stride=16)],
    ),
    dict(type='PackFlowInputs'),
]
val_pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadFlow'),
    dict(type='FlowCenterCrop', size=(32, 32)),
    dict(type='SampleGuidance', strategies=[dict(type='grid', stride=16)]),
    dict(type='PackFlowInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='ResumableSampler', shuffle=True),
    dataset=dict(type='ImageFlowDataset', ann_file='train.json', data_root=data_root, pipeline=pipeline),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='ImageFlowDataset', ann_file='val.json', data_root=data_root, pipeline=val_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='FlowMetric', codec=model['codec'])
test_evaluator = val_evaluator
train_cfg = dict(type='ResumableTrainLoop', max_iters=12, val_interval=12)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, T_max=12, end=12)]
default_hooks = dict(
    logger=dict(interval=2),
    checkpoint=dict(interval=4),
    visualization=dict(interval=6, num_train=1, num_val=1),
)
log_processor = dict(window_size=2)
auto_scale_lr = dict(base_batch_size=8)
"""


def write_pairs(folder, splits):
    """Random images with a smooth flow; ``splits``: number of pairs of each."""
    rng = np.random.default_rng(0)
    (folder / 'frames').mkdir(parents=True)
    (folder / 'flow').mkdir()
    number = 0
    for split, count in splits.items():
        entries = []
        for _ in range(count):
            name = f'{number:03d}'
            number += 1
            image = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (48, 40))
            flow = cv2.resize(rng.uniform(-6, 6, (3, 4, 2)).astype(np.float32), (48, 40))
            cv2.imwrite(str(folder / 'frames' / f'{name}.png'), image)
            write_flow(flow, folder / 'flow' / f'{name}.flo')
            entries.append(
                dict(
                    img_path=f'frames/{name}.png',
                    img2_path=f'frames/{name}.png',
                    flow_path=f'flow/{name}.flo',
                    video=name,
                    height=40,
                    width=48,
                )
            )
        meta = dict(dataset_type='ImageFlowDataset', flow_format='flo', estimator='none')
        (folder / f'{split}.json').write_text(json.dumps(dict(metainfo=meta, data_list=entries)))
    return folder


@pytest.fixture(scope='session')
def pairs_root(tmp_path_factory):
    """Folder of 12 training and 4 validation pairs of 48 x 40 pixels."""
    return write_pairs(tmp_path_factory.mktemp('pairs'), dict(train=12, val=4))


@pytest.fixture(scope='session')
def config_text(pairs_root):
    """A config that trains a tiny CMP for 12 iterations, with a checkpoint every 4."""
    return CONFIG.format(root=ROOT, data=pairs_root)


@pytest.fixture
def tiny_config(config_text, tmp_path):
    """Path of a file with that config."""
    path = tmp_path / 'tiny.py'
    path.write_text(config_text)
    return path


# Imports once what every run of a tool imports, which takes longer than the runs themselves, and then forks a
# process for each: one JSON command per line in, one answer per line out.
FORK_SERVER = """
import contextlib, gc, json, os, sys, traceback

import matplotlib.pyplot, torch, torch._dynamo, torch.utils.tensorboard
import mmengine.config.config, mmengine.runner
import cmp_mm.datasets, cmp_mm.engine.launch, cmp_mm.evaluation, cmp_mm.models, cmp_mm.visualization

with contextlib.suppress(Exception):  # the runner logs its version; some builds do not go with their torch
    import torchvision

format_code, formatted = mmengine.config.config.FormatCode, {}

def format_once(text, *args, **options):
    # mmengine formats the config's text for every checkpoint, which takes longer than all else these runs do.
    if text not in formatted:
        formatted[text] = format_code(text, *args, **options)
    return formatted[text]

mmengine.config.config.FormatCode = format_once
gc.freeze()

def run(script, args, out, env):
    os.setsid()
    handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ.update(env)
    sys.path[:0] = env.get('PYTHONPATH', '').split(os.pathsep)
    sys.argv = [script, *args]
    try:
        exec(compile(open(script).read(), script, 'exec'), {'__name__': '__main__', '__file__': script})
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    command = json.loads(line)
    if 'wait' in command:
        answer = os.waitstatus_to_exitcode(os.waitpid(command['wait'], 0)[1])
    else:
        answer = os.fork()
        if answer == 0:
            run(**command)
    print(answer, flush=True)
"""


class Processes:
    """Tools as processes of their own, forked from a server that has done the imports."""

    def __init__(self, environment):
        self.server = subprocess.Popen(
            [sys.executable, '-c', FORK_SERVER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Shells start background jobs with SIGINT ignored, and children inherit that: as at a prompt.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def _ask(self, **command):
        self.server.stdin.write(json.dumps(command) + '\n')
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, script, *args, out, env=None):
        """Start ``script``, its output going to the file ``out``; returns the process id."""
        return self._ask(script=str(script), args=[str(arg) for arg in args], out=str(out), env=env or {})

    def wait(self, pid):
        """Exit code, negative for a signal."""
        return self._ask(wait=pid)

    def close(self):
        """Stop the server."""
        self.server.stdin.close()
        self.server.wait()


@pytest.fixture
def free_port():
    """A port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return str(listener.getsockname()[1])


@pytest.fixture(scope='session')
def environment():
    """Environment variables for running the tools as commands."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable}
    environment.pop('LOCAL_RANK', None)
    return environment


@pytest.fixture(scope='session')
def processes(environment):
    """Starts tools quickly."""
    processes = Processes(environment)
    yield processes
    processes.close()


@pytest.fixture
def tool(processes, tmp_path):
    """Runs a tool to its end: ``tool('train.py', CONFIG, ...)`` gives (exit code, output)."""

    def run(name, *args, env=None):
        out = tmp_path / 'output.txt'
        code = processes.wait(processes.start(ROOT / 'tools' / name, *args, out=out, env=env))
        return code, out.read_text()

    return run


@pytest.fixture
def fails(tool):
    """Runs a tool that must fail with one line; gives the line."""

    def run(name, *args):
        code, output = tool(name, *args)
        beginning = f'{Path(name).name}: error: '
        lines = [line for line in output.splitlines() if line.startswith(beginning)]
        assert code == 1 and len(lines) == 1 and 'Traceback' not in output, output
        return lines[0]

    return run
