"""Kill a small preparation by SIGKILL at random points, continue it, and compare every byte.

    python -m tests.faults.kill_preparation --count 100

Half of the kills come at a random time, half right before a random operation on the files of the output
folder (open, rename, remove). They hit the process that was started, all of its processes, or one worker. Up
to three fall on one folder. After each, whatever lies there under a final name must be what a run without
kills leaves; continued, the folder must become equal to that run's, byte for byte.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np

from tests.test_tools.test_train.conftest import Processes

from .common import ROOT, Campaign, build_parser, finish, sleep_while_alive, temporary_folder

VICTIMS = ('main', 'all', 'worker')

# In every process of the preparation: counts the operations on files of the output folder, over all processes
# by the length of a file, and kills at the one wanted.
HOOK = """
import os, signal, sys

out, step, victim = os.environ['FAULT_OUT'], int(os.environ['FAULT_STEP']), os.environ['FAULT_VICTIM']
main = int(os.environ.setdefault('FAULT_MAIN', str(os.getpid())))
log = os.open(os.environ['FAULT_LOG'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def hook(event, arguments):
    if event == 'open':
        path, _, flags = arguments
        if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR):
            return
    elif event in ('os.rename', 'os.remove', 'os.mkdir', 'os.rmdir'):
        path = arguments[0]
    else:
        return
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path).startswith(out):
        return
    os.write(log, b'.')
    if os.fstat(log).st_size == step:
        if victim == 'all':
            os.killpg(0, signal.SIGKILL)
        if victim == 'main':
            os.kill(main, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
"""
PREPARE = """
import os, sys
import sitecustomize_of_faults
from cmp_mm.datasets.preparation.cli import main
sys.exit(main(sys.argv[1:]))
"""


def write_sources(folder: Path) -> None:
    """Two videos and a folder of frames, of 8 frames each, in which a texture moves."""
    texture = np.random.default_rng(0).integers(30, 226, (60, 80, 3), dtype=np.uint8)
    texture = cv2.resize(texture, (600, 450), interpolation=cv2.INTER_CUBIC)
    for name, step in (('walk.mp4', (2, 1)), ('run.avi', (3, -1)), ('jump', (1, 2))):
        places = [(250 - step[1] * index, 350 - step[0] * index) for index in range(8)]
        frames = [np.ascontiguousarray(texture[y : y + 64, x : x + 96]) for y, x in places]
        folder.mkdir(parents=True, exist_ok=True)
        if '.' not in name:
            (folder / name).mkdir()
            for index, frame in enumerate(frames):
                cv2.imwrite(str(folder / name / f'{index}.png'), frame)
            continue
        with av.open(str(folder / name), 'w') as container:
            stream = container.add_stream('mpeg4', rate=10)
            stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 64, 96, 'yuv420p', 4_000_000
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'bgr24')))
            container.mux(stream.encode())


def contents(folder: Path) -> dict[str, str]:
    """Hash of each file under a final name: not of journals, nor of what was being written."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file() and path.suffix not in ('.part', '.tmp')
    }


class Preparation:
    """Runs of one preparation, each in a process of its own, started from one that has the libraries.

    Args:
        folder: an empty one.
        processes: what starts them; None makes one.
    """

    def __init__(self, folder: Path, processes: Processes | None = None) -> None:
        self.folder, self.sources = folder, folder / 'sources'
        write_sources(self.sources)
        self.script, self.log = folder / 'prepare.py', folder / 'operations'
        self.script.write_text(PREPARE)
        hooks = folder / 'hooks'
        hooks.mkdir()
        (hooks / 'sitecustomize_of_faults.py').write_text(HOOK)
        # What Python runs at the start of every process, the preparation's workers too.
        (hooks / 'sitecustomize.py').write_text(
            'import os\nif "FAULT_OUT" in os.environ:\n    import sitecustomize_of_faults\n'
        )
        self.hooks = hooks
        self._own = processes is None
        environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
        self.processes = Processes(environment) if processes is None else processes

    def start(self, out: Path, step: int = 0, victim: str = 'main') -> int:
        """Start a run that kills ``victim`` at file operation ``step`` (0: never); returns its process id."""
        self.log.write_bytes(b'')
        fault = dict(FAULT_OUT=str(out), FAULT_STEP=str(step), FAULT_VICTIM=victim, FAULT_LOG=str(self.log))
        options = ['--out', out, '--workers', '2', '--short-side', '64', '--val-share', '.4']
        printed = self.folder / 'printed.txt'
        env = {**fault, 'PYTHONPATH': f'{self.hooks}{os.pathsep}{ROOT}'}
        return self.processes.start(self.script, self.sources, *options, out=printed, env=env)

    def printed(self) -> str:
        """What the last run said."""
        return (self.folder / 'printed.txt').read_text(errors='replace')

    def close(self) -> None:
        """Stop the process that starts the others, if it was made here."""
        if self._own:
            self.processes.close()


def check_kept(out: Path, whole: dict[str, str]) -> str | None:
    """Say what lies under a final name although it is not what an unkilled run leaves there."""
    for name, digest in contents(out).items():
        if whole.get(name) != digest:
            return f'{name} is not what it should be'
    return None


def kill_once(
    preparation: Preparation, out: Path, rng: random.Random, operations: int, seconds: float
) -> tuple[str | None, int]:
    """Start a run and kill it; returns the kind of kill, None where it ended before, and the exit code."""
    victim = rng.choice(VICTIMS)
    if rng.random() < 0.5:
        # Continued runs do less, so the wanted operation may never come.
        pid = preparation.start(out, rng.randint(1, operations), victim)
        code = preparation.processes.wait(pid)
        # A worker's death is made good by the run itself, which then ends as ever.
        struck = code == -signal.SIGKILL or 'it is tried again' in preparation.printed()
        return (f'{victim} at an operation' if struck else None), code
    victim = rng.choice(VICTIMS[:2])
    pid = preparation.start(out)
    sleep_while_alive(pid, rng.uniform(0, seconds))
    # It is waited for below, so the id is still its own even if it has ended.
    (os.killpg if victim == 'all' else os.kill)(pid, signal.SIGKILL)
    code = preparation.processes.wait(pid)
    return (f'{victim} at a time' if code == -signal.SIGKILL else None), code


def run(
    count: int, minutes: float, seed: int, shown: bool = True, processes: Processes | None = None
) -> dict:
    """Kill ``count`` times; returns the report."""
    campaign = Campaign('kill_preparation', count, minutes, seed, shown)
    rng = random.Random(seed)
    with temporary_folder() as name:
        folder = Path(name)
        preparation = Preparation(folder, processes)
        try:
            # Twice: the first takes longer, and two must be equal for a comparison to mean anything.
            for whole_run in (folder / 'first', folder / 'whole'):
                began = time.monotonic()
                code = preparation.processes.wait(preparation.start(whole_run))
                if code != 0:
                    raise RuntimeError(f'the run without kills failed ({code}): {preparation.printed()}')
            seconds, operations = time.monotonic() - began, preparation.log.stat().st_size
            whole = contents(folder / 'whole')
            if contents(folder / 'first') != whole:
                raise RuntimeError('two runs without kills differ')
            campaign.facts.update(files=len(whole), operations=operations, seconds_unkilled=round(seconds, 2))
            for number in campaign.trials():
                out = folder / f'out{number}'
                for _ in range(rng.randint(1, 3)):
                    kind, code = kill_once(preparation, out, rng, operations, seconds)
                    if kind is None:
                        break
                    campaign.tried[kind] += 1
                    wrong = check_kept(out, whole) if out.exists() else None
                    if wrong:
                        campaign.fail(f'trial {number}, killed ({kind}): {wrong}')
                code = preparation.processes.wait(preparation.start(out))
                if code != 0:
                    campaign.fail(
                        f'trial {number}: continued, exit code {code}: {preparation.printed()[-300:]}'
                    )
                elif contents(out) != whole:
                    campaign.fail(f'trial {number}: continued, the result differs')
                elif list(out.rglob('*.tmp')) or list(out.rglob('*.part')):
                    campaign.fail(f'trial {number}: unfinished files are left')
                shutil.rmtree(out, ignore_errors=True)
        finally:
            preparation.close()
    return campaign.report()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    parser = build_parser(__doc__, 100, 'kills')
    args: argparse.Namespace = parser.parse_args(argv)
    report = run(args.count, args.minutes, args.seed)
    rows = [('killed', 'tried'), *report['kinds'].items(), ('all', report['tried'])]
    return finish(report, args.json, rows)


if __name__ == '__main__':
    sys.exit(main())
