"""What the fault scripts share: options, a line of progress with the time left, a table, a JSON file."""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]


def build_parser(description: str, count: int, what: str) -> argparse.ArgumentParser:
    """Return a parser with the options every fault script has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--count', type=int, default=count, help=f'{what} (%(default)s)')
    parser.add_argument(
        '--minutes', type=float, default=60.0, help='stop after so long (%(default)g); fuzz: each reader'
    )
    parser.add_argument('--seed', type=int, default=0, help='another seed, other faults (%(default)s)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures there too')
    return parser


def temporary_folder() -> tempfile.TemporaryDirectory:
    """A folder in memory where there is one: what is tried is processes that die, not disks."""
    memory = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix='cmp_mm-faults-', dir=memory)


def sleep_while_alive(pid: int, seconds: float) -> None:
    """Sleep, but not longer than a process lives; it may be waited for elsewhere."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(OSError):
            if Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z':
                return
        time.sleep(min(left, 0.05))


class Campaign:
    """Counts faults and what became of them.

    Args:
        name: of the script.
        count: faults to try.
        minutes: to stop after.
        seed: goes into the report.
        shown: show the progress.

    Attributes:
        tried: faults by kind.
        failures: one line for each fault that was not survived.
        facts: anything else for the report.
    """

    def __init__(self, name: str, count: int, minutes: float, seed: int, shown: bool = True) -> None:
        self.name, self.count, self.seed, self.shown = name, count, seed, shown
        self.end = time.monotonic() + 60 * minutes
        self.began = time.monotonic()
        self.tried: Counter[str] = Counter()
        self.failures: list[str] = []
        self.facts: dict[str, Any] = {}

    def trials(self) -> Iterator[int]:
        """Yield the numbers of trials until enough faults were tried or the time is over."""
        number = 0
        with tqdm(total=self.count, desc=self.name, unit='fault', disable=not self.shown) as bar:
            while (done := self.tried.total()) < self.count and time.monotonic() < self.end:
                yield number
                number += 1
                bar.update(min(self.tried.total(), self.count) - done)
                bar.set_postfix_str(f'{len(self.failures)} not survived')

    def fail(self, line: str) -> None:
        """Note a fault that was not survived."""
        self.failures.append(line)
        if self.shown:
            tqdm.write(f'NOT SURVIVED: {line}', file=sys.stderr)

    def report(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {
            'script': self.name,
            'seed': self.seed,
            'tried': self.tried.total(),
            'wanted': self.count,
            'kinds': dict(sorted(self.tried.items())),
            'not_survived': self.failures,
            'seconds': round(time.monotonic() - self.began, 1),
            'machine': f'{platform.machine()}, Python {platform.python_version()}',
            **self.facts,
        }


def finish(report: dict[str, Any], json_file: Path | None, rows: list[tuple]) -> int:
    """Print a table, write the JSON, and return the exit code: 1 where a fault was not survived.

    Args:
        report: with ``not_survived``, a list.
        json_file: where to write it, or None.
        rows: of the table, the first its head.
    """
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        print(
            '| ' + ' | '.join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) + ' |'
        )
        if number == 0:
            print('|' + '|'.join('-' * (width + 2) for width in widths) + '|')
    for line in report['not_survived']:
        print(f'NOT SURVIVED: {line}')
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(report, indent=1) + '\n')
    return 1 if report['not_survived'] else 0
