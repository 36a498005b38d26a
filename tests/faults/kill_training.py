"""Kill a small training by SIGKILL at random points, resume it, compare it bit by bit with an unkilled one.

    python -m tests.faults.kill_training --count 100

A third of the kills come at a random time, the others at a random operation on the checkpoint files (open,
flush, rename, remove), that is inside a checkpoint write; where it is the flush, only a random part of the
bytes is on the disk. Each run has 0 to 3 data workers. Up to three kills fall on one folder. Then the run is
resumed to its end. Compared are the weights, the optimizer, the schedulers and the logged losses in the last
checkpoint; and after every iteration of every run the weights and the states of the random generators.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.test_tools.test_train.conftest import CONFIG, Processes, write_pairs
from tests.test_tools.test_train.test_kill_and_resume import assert_same

from .common import ROOT, Campaign, build_parser, finish, sleep_while_alive, temporary_folder

ITERATIONS, EVERY = 12, 2  # and a checkpoint every so many
PLACES = ('time', 'write', 'write')
# Runs train.py, writes down what each iteration left, and dies at the wanted operation on checkpoints.
TRAIN = """
import hashlib, json, os, random, runpy, signal, sys

import numpy as np
import torch

from cmp_mm.engine.loops import ResumableTrainLoop

work, step, kept = os.environ['FAULT_WORK'], int(os.environ['FAULT_STEP']), float(os.environ['FAULT_KEPT'])
log = os.open(os.environ['FAULT_LOG'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
trace = os.open(os.environ['FAULT_TRACE'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
parent, fsync, run_iter = os.getpid(), os.fsync, ResumableTrainLoop.run_iter

def count(kind, path):
    ours = path.startswith(work) and ('.pth' in path or 'last_checkpoint' in path)
    if os.getpid() != parent or not ours:
        return False
    os.write(log, b'.')
    return os.fstat(log).st_size == step

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def hook(event, arguments):
    if event == 'open':
        path, _, flags = arguments
        if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR):
            return
    elif event in ('os.rename', 'os.remove'):
        path = arguments[0]
    else:
        return
    if isinstance(path, (str, os.PathLike)) and count(event, os.fspath(path)):
        die()

def deadly_fsync(handle):
    if count('fsync', os.readlink(f'/proc/self/fd/{handle}')):
        if os.readlink(f'/proc/self/fd/{handle}').endswith('.tmp'):
            os.ftruncate(handle, int(kept * os.fstat(handle).st_size))
        die()
    fsync(handle)

def digest(*parts):
    result = hashlib.sha256()
    for part in parts:
        result.update(part)
    return result.hexdigest()

def traced(self, batch):
    run_iter(self, batch)
    weights = [value.numpy().tobytes() for value in self.runner.model.state_dict().values()]
    states = [repr(random.getstate()).encode(), repr(np.random.get_state()[1:]).encode()]
    states = digest(*states, torch.get_rng_state().numpy().tobytes())
    os.write(trace, (json.dumps([self._iter, digest(*weights), states]) + '\\n').encode())

ResumableTrainLoop.run_iter = traced
os.fsync = deadly_fsync
sys.addaudithook(hook)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


class Training:
    """Runs of one training, each in a process of its own, started from one that has the libraries.

    Args:
        folder: an empty one.
        processes: what starts them; None makes one.
    """

    def __init__(self, folder: Path, processes: Processes | None = None) -> None:
        self.folder = folder
        self.config, self.script, self.log = (folder / name for name in ('tiny.py', 'train.py', 'operations'))
        data = write_pairs(folder / 'data', dict(train=12, val=4))
        self.config.write_text(CONFIG.format(root=ROOT, data=data))
        self.script.write_text(TRAIN)
        self._own = processes is None
        environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
        self.processes = Processes(environment) if processes is None else processes

    def start(self, work: Path, workers: int = 0, step: int = 0, kept: float = 0.0) -> int:
        """Start a run, resumed where there is something to resume; ``step`` 0 kills nowhere."""
        self.log.write_bytes(b'')
        env = dict(
            FAULT_WORK=str(work),
            FAULT_STEP=str(step),
            FAULT_KEPT=str(kept),
            FAULT_LOG=str(self.log),
            FAULT_TRACE=str(self.folder / f'{work.name}.trace'),
        )
        options = [
            f'default_hooks.checkpoint.interval={EVERY}',
            'default_hooks.checkpoint.max_keep_ckpts=2',
            'default_hooks.visualization.interval=0',
            'default_hooks.visualization.num_val=0',
            f'train_dataloader.num_workers={workers}',
            f'train_dataloader.persistent_workers={workers > 0}',
        ]
        arguments = [self.config, '--work-dir', work, '--resume', '--cfg-options', *options]
        out = self.folder / 'printed.txt'
        return self.processes.start(self.script, ROOT / 'tools' / 'train.py', *arguments, out=out, env=env)

    def wait(self, pid: int) -> int:
        """Exit code of a run; data workers that outlive it are killed."""
        code = self.processes.wait(pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        return code

    def trace(self, work: Path) -> list[list]:
        """[iteration, digest of the weights, of the generators] of every iteration of every run there."""
        file = self.folder / f'{work.name}.trace'
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def printed(self) -> str:
        """The end of what the last run said."""
        return (self.folder / 'printed.txt').read_text(errors='replace')[-400:]

    def close(self) -> None:
        """Stop the process that starts the others, if it was made here."""
        if self._own:
            self.processes.close()


def difference(training: Training, work: Path, whole: dict, expected: dict[int, list]) -> str | None:
    """Say in what a finished run differs from the one without kills, or None."""
    seen = training.trace(work)
    for iteration, *digests in seen:
        if digests != expected[iteration]:
            return f'weights or random states differ after iteration {iteration}'
    # A run killed as it wrote a checkpoint did not write down the iteration before it.
    if any(iteration % EVERY for iteration in set(expected) - {row[0] for row in seen}):
        return 'iterations are missing'
    last = torch.load(work / f'iter_{ITERATIONS}.pth', weights_only=True)
    try:
        for part in ('state_dict', 'optimizer', 'param_schedulers'):
            assert_same(whole[part], last[part])
        scalars = [checkpoint['message_hub']['log_scalars'] for checkpoint in (whole, last)]
        for key in ('train/loss', 'train/guidance_points', 'train/lr'):
            assert_same(*(part[key] for part in scalars))
    except AssertionError:
        return 'the last checkpoint differs'
    left = sorted(path.name for path in work.glob('*.pth') if path.name.startswith('iter'))
    if left != [f'iter_{ITERATIONS - EVERY}.pth', f'iter_{ITERATIONS}.pth'] or list(work.glob('.*.tmp')):
        return f'other checkpoints are left: {", ".join(left)}'
    return None


def kill_once(
    training: Training, work: Path, rng: random.Random, operations: int, seconds: float
) -> str | None:
    """Start a run and kill it somewhere; returns the kind of kill, None where it ended before."""
    workers = rng.choice((0, 0, 1, 2, 3))
    place = rng.choice(PLACES)
    if place == 'write':
        pid = training.start(work, workers, rng.randint(1, operations), rng.random())
    else:
        pid = training.start(work, workers)
        sleep_while_alive(pid, rng.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
    if training.wait(pid) != -signal.SIGKILL:
        return None
    with_workers = 'with data workers' if workers else 'without data workers'
    return f'{"inside a checkpoint write" if place == "write" else "at a time"}, {with_workers}'


def run(
    count: int, minutes: float, seed: int, shown: bool = True, processes: Processes | None = None
) -> dict:
    """Kill ``count`` times; returns the report."""
    campaign = Campaign('kill_training', count, minutes, seed, shown)
    rng = random.Random(seed)
    with temporary_folder() as name:
        folder = Path(name)
        training = Training(folder, processes)
        try:
            # Twice: the first takes longer, and two must be equal for a comparison to mean anything.
            for whole_run in (folder / 'first', folder / 'whole'):
                began = time.monotonic()
                code = training.wait(training.start(whole_run))
                if code != 0:
                    raise RuntimeError(f'the run without kills failed ({code}): {training.printed()}')
            seconds, operations = time.monotonic() - began, training.log.stat().st_size
            whole = torch.load(folder / 'whole' / f'iter_{ITERATIONS}.pth', weights_only=True)
            expected = {row[0]: row[1:] for row in training.trace(folder / 'whole')}
            assert len(expected) == ITERATIONS
            if wrong := difference(training, folder / 'first', whole, expected):
                raise RuntimeError(f'two runs without kills differ: {wrong}')
            campaign.facts.update(operations=operations, seconds_unkilled=round(seconds, 2))
            for number in campaign.trials():
                work = folder / f'work{number}'
                for _ in range(rng.randint(1, 3)):
                    kind = kill_once(training, work, rng, operations, seconds)
                    if kind is None:
                        break
                    campaign.tried[kind] += 1
                code = training.wait(training.start(work, rng.choice((0, 2))))
                if code != 0:
                    campaign.fail(f'trial {number}: resumed, exit code {code}: {training.printed()}')
                elif wrong := difference(training, work, whole, expected):
                    campaign.fail(f'trial {number}: {wrong}')
                shutil.rmtree(work, ignore_errors=True)
        finally:
            training.close()
    return campaign.report()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args = build_parser(__doc__, 100, 'kills').parse_args(argv)
    report = run(args.count, args.minutes, args.seed)
    rows = [('killed', 'tried'), *report['kinds'].items(), ('all', report['tried'])]
    return finish(report, args.json, rows)


if __name__ == '__main__':
    sys.exit(main())
