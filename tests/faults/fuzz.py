"""Feed changed bytes to all readers of what comes from outside: each must end in a result or a defined error.

    python -m tests.faults.fuzz --count 100000                     # every reader, by both engines
    python -m tests.faults.fuzz --engines guided --readers flow video --count 1000

There are two engines: "random" changes whole files, and each input follows from the seed, the reader and its
number alone; "guided" changes what has reached something new, see guided.py. The readers run in processes of
their own, whose memory is limited. A fault is: an error that is not the reader's own, a crash, more than
--megabytes of memory above the start, or more seconds than the reader may take; the input is kept in --keep.
Readers of videos and of folders of frames may crash: the preparation has them in worker processes, as here,
and goes on.
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
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .common import ROOT, build_parser, finish, temporary_folder
from .guided import Growing, records

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
# Inputs of so many bytes can be kept, and so many of a reader are.
MOST_KEPT_BYTES, MOST_KEPT = 2**24, 20


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


class Changing:
    """Chooses inputs: random changes of whole files."""

    def __init__(self, reader: Any, seed: int, file: Path) -> None:
        self.input, self.read = partial(input_of, reader, seed), reader.read

    def prepare(self) -> None:
        """Silence what decoders and loggers say."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


ENGINES = {'random': Changing, 'guided': Growing}


class Shared:
    """What a reading process writes down as it goes, so that its death loses nothing."""

    # Number of the input at work, peak memory in KiB, longest time in seconds, bytes of the input.
    FORM = struct.Struct('qqdq')

    def __init__(self, count: int) -> None:
        self.outcomes, self._state = mmap.mmap(-1, max(count, 1)), mmap.mmap(-1, self.FORM.size)
        self._data = mmap.mmap(-1, MOST_KEPT_BYTES)

    def write(self, number: int, peak: int, longest: float, data: bytes = b'') -> None:
        """Note what is being read."""
        data = data[:MOST_KEPT_BYTES]
        self._data[: len(data)] = data
        self.FORM.pack_into(self._state, 0, number, peak, longest, len(data))

    def read(self) -> tuple[int, int, float]:
        """What `write` was given last, without the input."""
        return self.FORM.unpack_from(self._state, 0)[:3]

    def data(self) -> bytes:
        """The input that `write` was given last."""
        return self._data[: self.FORM.unpack_from(self._state, 0)[3]]


class Reading:
    """The reading process, seen from inside.

    Args:
        reader: what reads.
        engine: chooses the inputs.
        shared: where outcomes go.
        log: file of the outcomes' names; faults go to one beside it.
        megabytes: above the start that the reader may take.
    """

    def __init__(self, reader: Any, engine: Any, shared: Shared, log: Path, megabytes: int) -> None:
        self.reader, self.engine, self.shared = reader, engine, shared
        self.log, self.limit = log, max(megabytes, reader.megabytes) * 1024
        self.names = log.read_text().splitlines()

    def run(self, first: int, count: int) -> None:
        """Read inputs ``first`` to ``count``."""
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        self.engine.prepare()
        self.reader.read(self.reader.corpus[0])  # loads what is loaded on first use
        start, longest = _peak_kib(), 0.0
        for number in range(first, count):
            data = self.engine.input(number)
            self.shared.write(number, _peak_kib(), longest, data)
            before = time.process_time()
            try:
                outcome = self._place(self.engine.read(data))
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
            file.write(json.dumps([number, code, text, self.shared.data().hex()]) + '\n')


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
    reader: Any,
    engine: str,
    count: int,
    seed: int,
    minutes: float,
    megabytes: int,
    folder: Path,
    keep: Path,
    shown: bool = True,
) -> dict[str, Any]:
    """Feed a reader with changed bytes; returns what came of them."""
    count = max(len(reader.corpus) + 1, count)
    shared, log, grown = Shared(count), folder / 'outcomes', folder / 'grown'
    faults = log.with_suffix('.faults')
    log.write_text('')
    faults.write_text('')
    grown.unlink(missing_ok=True)
    began, first = time.monotonic(), 0
    end, crashes, longest, peak = began + 60 * minutes, [], 0.0, 0
    name = f'{reader.name}, {engine}'
    with tqdm(total=count, desc=name, unit='input', disable=not shown, mininterval=2) as bar:
        while first < count and time.monotonic() < end:
            shared.write(first, 0, 0.0)
            pid = os.fork()
            if pid == 0:
                try:
                    source = ENGINES[engine](reader, seed, grown)
                    Reading(reader, source, shared, log, megabytes).run(first, count)
                    os._exit(0)
                finally:
                    os._exit(1)
            status, hung = watch(pid, reader, shared, count, end, bar)
            first, high, slow = shared.read()
            longest, peak = max(longest, slow), max(peak, high)
            if hung or (os.WIFSIGNALED(status) and time.monotonic() < end):
                shared.outcomes[first] = code = HANG if hung else CRASH
                text = f'over {reader.seconds:g} s' if hung else signal.Signals(os.WTERMSIG(status)).name
                crashes.append((first, code, text, shared.data().hex()))
                first += 1
            elif os.WIFEXITED(status) and first < count:
                raise RuntimeError(f'{name}: the reading process gave up at input {first}')
    survived = [one for one in crashes if one[1] == CRASH and reader.may_crash]
    found = [
        *map(json.loads, faults.read_text().splitlines()),
        *(one for one in crashes if one not in survived),
    ]
    codes = Counter(shared.outcomes[:first])
    return {
        'reader': reader.name,
        'engine': engine,
        'tried': first - codes[0],
        'outcomes': {name: codes[place] for place, name in enumerate(log.read_text().splitlines(), 1)},
        'kept': sum(1 for _ in records(grown)) if grown.exists() else 0,
        'crashes_survived': len(survived),
        'not_survived': [
            f'{name}, seed {seed}, input {number}: {FAULTS[code]}: {text}'
            + (f'; see {keep_input(keep, name, number, data)}' if place < MOST_KEPT else '')
            for place, (number, code, text, data) in enumerate(found)
        ],
        'longest_seconds': round(longest, 2),
        'peak_mb': peak // 1024,
        'seconds': round(time.monotonic() - began, 1),
    }


def keep_input(keep: Path, name: str, number: int, data: str) -> Path:
    """Write an input that is a fault to a file."""
    keep.mkdir(parents=True, exist_ok=True)
    path = keep / f'{re.sub("[^a-z0-9]+", "_", name.lower())}_{number}'
    path.write_bytes(bytes.fromhex(data))
    return path


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
    report = {'script': 'fuzz', 'seed': args.seed, 'not_survived': [], 'readers': results}
    with temporary_folder() as name:
        for group in args.readers:
            for reader in make_readers(group, Path(name)):
                if args.only and not any(text in reader.name for text in args.only):
                    continue
                for engine in args.engines:
                    limits = (args.count, args.seed, args.minutes, args.megabytes, Path(name), args.keep)
                    result = fuzz_reader(reader, engine, *limits)
                    results.append(result)
                    report['not_survived'] += result['not_survived']
                    # At once: it may be long before the last reader is done.
                    print(json.dumps({**result, 'not_survived': len(result['not_survived'])}), flush=True)
                    if args.json is not None:
                        args.json.write_text(json.dumps(report, indent=1) + '\n')
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    parser = build_parser(__doc__, 100_000, 'inputs for each reader and engine')
    parser.add_argument('--engines', nargs='+', choices=ENGINES, default=list(ENGINES), help='(both)')
    parser.add_argument('--readers', nargs='+', choices=GROUPS, default=GROUPS, help='groups of readers')
    parser.add_argument('--only', nargs='+', metavar='TEXT', help='of these the readers named so or so on')
    parser.add_argument(
        '--keep', type=Path, default=ROOT / 'work_dirs' / 'fuzz', help='folder of the inputs that are faults'
    )
    parser.add_argument('--megabytes', type=int, default=256, help='that a reader may take (%(default)s)')
    args = parser.parse_args(argv)
    report = run(args)
    rows: list[tuple] = [
        (
            *('reader', 'engine', 'inputs', 'outcomes', 'kept'),
            *('crashes survived', 'faults', 'longest s', 'peak MB'),
        )
    ]
    for one in report['readers']:
        outcomes = ', '.join(f'{name} {count}' for name, count in one['outcomes'].items())
        numbers = (one['crashes_survived'], len(one['not_survived']), one['longest_seconds'], one['peak_mb'])
        rows.append((one['reader'], one['engine'], one['tried'], outcomes, one['kept'], *numbers))
    return finish(report, args.json, rows)


if __name__ == '__main__':
    sys.exit(main())
