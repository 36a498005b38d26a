"""Feed changed bytes to all readers of what comes from outside: each must end in a result or a defined error.

    python -m tests.faults.fuzz --count 100000                    # random changes, every reader
    python -m tests.faults.fuzz --engine atheris --count 100000   # guided by coverage; pip install atheris
    python -m tests.faults.fuzz --readers flow video --count 1000

Every input of the first kind follows from the seed, the reader and its number alone. The readers run in
processes of their own, whose memory is limited. A fault is: an error that is not the reader's own, a crash,
more than --megabytes of memory above the start, or more seconds than the reader may take. Readers of videos
and of folders of frames may crash: the preparation has them in worker processes, as here, and goes on.
"""

import argparse
import faulthandler
import json
import mmap
import os
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .common import ROOT, build_parser, finish, temporary_folder

GROUPS = ('flow', 'annotation', 'image', 'checkpoint', 'guidance', 'video')
# As the preparation gives its workers; read when OpenCV is loaded.
ENVIRONMENT = dict(OPENCV_IO_MAX_IMAGE_PIXELS=str(2**26), OPENCV_LOG_LEVEL='SILENT', OMP_NUM_THREADS='1')
# Whatever is claimed: no reader may even ask for so much, libraries' own included.
ADDRESS_BYTES = 8 << 30
# Outcomes that are faults; others are places in a list of names, from 1.
FAULT, CRASH, HANG, GREEDY = 255, 254, 253, 252
FAULTS = {FAULT: 'undefined error', CRASH: 'crash', HANG: 'hang', GREEDY: 'memory'}
# A reader that waits, rather than works, is given more: the machine may be busy.
PATIENCE = 20


def make_readers(group: str, folder: Path) -> list[Any]:
    """Make the readers of a group."""
    from .readers_files import FILE_READERS
    from .readers_guidance import GUIDANCE_READERS

    place = folder / group
    place.mkdir()
    return {**FILE_READERS, **GUIDANCE_READERS}[group](place)


def input_of(reader: Any, seed: int, number: int) -> bytes:
    """The bytes of an input; the first are the whole files themselves."""
    if number < len(reader.corpus):
        return reader.corpus[number]
    rng = random.Random(f'{seed}/{reader.name}/{number}')
    return reader.change(rng.choice(reader.corpus), rng, reader.corpus)


class Shared:
    """What a reading process writes down as it goes, so that its death loses nothing."""

    FORM = struct.Struct('qqd')  # number of the input at work, peak memory in KiB, longest time in seconds

    def __init__(self, count: int) -> None:
        self.outcomes, self._state = mmap.mmap(-1, max(count, 1)), mmap.mmap(-1, self.FORM.size)

    def write(self, number: int, peak: int, longest: float) -> None:
        """Note what is being read."""
        self.FORM.pack_into(self._state, 0, number, peak, longest)

    def read(self) -> tuple[int, int, float]:
        """What `write` was given last."""
        return self.FORM.unpack_from(self._state, 0)


class Reading:
    """The reading process, seen from inside.

    Args:
        reader: what reads.
        seed: of the inputs.
        shared: where outcomes go.
        log: file of the outcomes' names; faults go to one beside it.
        megabytes: above the start that the reader may take.
    """

    def __init__(self, reader: Any, seed: int, shared: Shared, log: Path, megabytes: int) -> None:
        self.reader, self.seed, self.shared = reader, seed, shared
        self.log, self.limit = log, max(megabytes, reader.megabytes) * 1024
        self.names = log.read_text().splitlines()

    def run(self, first: int, count: int) -> None:
        """Read inputs ``first`` to ``count``."""
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.disable()
        for stream in (1, 2):  # what decoders and loggers say
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        self.reader.read(self.reader.corpus[0])  # loads what is loaded on first use
        start, longest = _peak_kib(), 0.0
        for number in range(first, count):
            self.shared.write(number, _peak_kib(), longest)
            data, before = input_of(self.reader, self.seed, number), time.process_time()
            try:
                outcome = self._place(self.reader.read(data))
            except Exception:
                outcome = FAULT
                lines = traceback.format_exc().splitlines()
                place = next((line.strip() for line in reversed(lines) if 'cmp_mm/' in line), '')
                self._note(number, outcome, f'{lines[-1][:200]} ({place})')
            longest, peak = max(longest, time.process_time() - before), _peak_kib()
            if peak > start + self.limit:
                outcome = GREEDY
                self._note(number, outcome, f'{(peak - start) // 1024} MB')
                start = peak
            self.shared.outcomes[number] = outcome
        self.shared.write(count, _peak_kib(), longest)

    def _place(self, outcome: str) -> int:
        if outcome not in self.names:
            self.names.append(outcome)
            with open(self.log, 'a') as file:
                file.write(outcome + '\n')
        return 1 + self.names.index(outcome)

    def _note(self, number: int, code: int, text: str) -> None:
        with open(self.log.with_suffix('.faults'), 'a') as file:
            file.write(json.dumps([number, code, text]) + '\n')


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def watch(pid: int, reader: Any, shared: Shared, count: int, end: float, bar: tqdm) -> tuple[int, bool]:
    """Wait for a reading process; returns its wait status, and whether it was killed as it hung."""
    at, since, worked = -1, 0.0, 0.0
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        number = shared.read()[0]
        bar.update(number - bar.n)
        if found:
            return status, False
        now = time.monotonic()
        if number != at:
            at, since, worked = number, now, _processor_seconds(pid)
        busy = _processor_seconds(pid) - worked > reader.seconds
        hangs = number < count and now - since > reader.seconds * (1 if busy else PATIENCE)
        if hangs or now > end:
            os.kill(pid, signal.SIGKILL)
            return os.waitpid(pid, 0)[1], hangs
        time.sleep(0.02)


def fuzz_reader(
    reader: Any, count: int, seed: int, minutes: float, megabytes: int, folder: Path, shown: bool = True
) -> dict[str, Any]:
    """Feed a reader with changed bytes; returns what came of them."""
    count = max(len(reader.corpus) + 1, round(count * reader.share))
    shared, log = Shared(count), folder / 'outcomes'
    faults = log.with_suffix('.faults')
    log.write_text('')
    faults.write_text('')
    began, first = time.monotonic(), 0
    end, crashes, longest, peak = began + 60 * minutes, [], 0.0, 0
    with tqdm(total=count, desc=reader.name, unit='input', disable=not shown, mininterval=2) as bar:
        while first < count and time.monotonic() < end:
            shared.write(first, 0, 0.0)
            pid = os.fork()
            if pid == 0:
                try:
                    Reading(reader, seed, shared, log, megabytes).run(first, count)
                    os._exit(0)
                finally:
                    os._exit(1)
            status, hung = watch(pid, reader, shared, count, end, bar)
            first, high, slow = shared.read()
            longest, peak = max(longest, slow), max(peak, high)
            if hung or (os.WIFSIGNALED(status) and time.monotonic() < end):
                shared.outcomes[first] = code = HANG if hung else CRASH
                text = f'over {reader.seconds:g} s' if hung else signal.Signals(os.WTERMSIG(status)).name
                crashes.append((first, code, text))
                first += 1
            elif os.WIFEXITED(status) and first < count:
                raise RuntimeError(f'{reader.name}: the reading process gave up at input {first}')
    survived = [one for one in crashes if one[1] == CRASH and reader.may_crash]
    found = [
        *map(json.loads, faults.read_text().splitlines()),
        *(one for one in crashes if one not in survived),
    ]
    codes = Counter(shared.outcomes[:first])
    return {
        'reader': reader.name,
        'tried': first - codes[0],
        'outcomes': {name: codes[place] for place, name in enumerate(log.read_text().splitlines(), 1)},
        'crashes_survived': len(survived),
        'not_survived': [
            f'{reader.name}, seed {seed}, input {number}: {FAULTS[code]}: {text}'
            for number, code, text in found
        ],
        'longest_seconds': round(longest, 2),
        'peak_mb': peak // 1024,
        'seconds': round(time.monotonic() - began, 1),
    }


def guide_reader(group: str, place: int, reader: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Let atheris choose the changes, in a process of its own; returns what came of them."""
    began = time.monotonic()
    count = max(1, round(args.count * reader.share))
    options = [f'-runs={count}', f'-max_total_time={int(60 * args.minutes)}', f'-seed={args.seed + 1}']
    options += [f'-timeout={int(PATIENCE * reader.seconds)}', '-print_final_stats=1', '-max_len=65536']
    options += [f'-rss_limit_mb={args.megabytes + 1024}', '-verbosity=1']
    command = [sys.executable, '-m', 'tests.faults.guided', group, str(place), *options]
    print(f'{reader.name}: {count} inputs, at most {args.minutes:g} minutes ...', file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    text = done.stderr.decode('utf-8', 'replace')
    numbers = dict(re.findall(r'stat::(\w+):\s+(\d+)', text))
    covered = re.findall(r' cov: (\d+)', text)
    lines = [line for line in text.splitlines() if 'Error' in line or 'SUMMARY' in line or 'ERROR' in line]
    failed = [f'{reader.name}: exit code {done.returncode}: {" / ".join(lines[-3:])[:500]}']
    return {
        'reader': reader.name,
        'tried': int(numbers.get('number_of_executed_units', 0)),
        'outcomes': {'branches covered': int(covered[-1]) if covered else 0},
        'crashes_survived': 0,
        'not_survived': failed if done.returncode else [],
        'longest_seconds': int(numbers.get('slowest_unit_time_sec', 0)),
        'peak_mb': int(numbers.get('peak_rss_mb', 0)),
        'seconds': round(time.monotonic() - began, 1),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Fuzz the readers asked for; returns the report."""
    os.environ.update(ENVIRONMENT)
    sys.path.insert(0, str(ROOT))
    import cv2
    import torch

    # A process that forks must have no other threads.
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    report = {'script': f'fuzz, {args.engine}', 'seed': args.seed, 'not_survived': [], 'readers': results}
    with temporary_folder() as name:
        for group in args.readers:
            for place, reader in enumerate(make_readers(group, Path(name))):
                if args.only and args.only not in reader.name:
                    continue
                if args.engine == 'random':
                    limits = (args.seed, args.minutes, args.megabytes, Path(name))
                    result = fuzz_reader(reader, args.count, *limits)
                elif reader.may_crash:
                    # Its work is in libraries that are not instrumented.
                    continue
                else:
                    result = guide_reader(group, place, reader, args)
                results.append(result)
                report['not_survived'] += result['not_survived']
                # At once: it may be long before the last reader is done.
                print(json.dumps({**result, 'not_survived': len(result['not_survived'])}), flush=True)
                if args.json is not None:
                    args.json.write_text(json.dumps(report, indent=1) + '\n')
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    parser = build_parser(__doc__, 100_000, 'inputs for each reader; slow ones get a share')
    parser.add_argument('--engine', choices=('random', 'atheris'), default='random', help='(%(default)s)')
    parser.add_argument('--readers', nargs='+', choices=GROUPS, default=GROUPS, help='groups of readers')
    parser.add_argument('--only', metavar='TEXT', help='of these the readers whose name holds this')
    parser.add_argument('--megabytes', type=int, default=256, help='that a reader may take (%(default)s)')
    args = parser.parse_args(argv)
    if args.engine == 'atheris':
        try:
            import atheris  # noqa: F401
        except ImportError:
            parser.error('--engine atheris needs atheris: pip install atheris')
    report = run(args)
    rows: list[tuple] = [
        ('reader', 'inputs', 'outcomes', 'crashes survived', 'faults', 'longest s', 'peak MB')
    ]
    for one in report['readers']:
        outcomes = ', '.join(f'{name} {count}' for name, count in one['outcomes'].items())
        numbers = (one['crashes_survived'], len(one['not_survived']), one['longest_seconds'], one['peak_mb'])
        rows.append((one['reader'], one['tried'], outcomes, *numbers))
    return finish(report, args.json, rows)


if __name__ == '__main__':
    sys.exit(main())
