"""Prepare a folder of changed videos, as a user would: each is prepared or counted, none stops the others.

python -m tests.faults.hostile_videos --count 1000
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .common import ROOT, build_parser, finish, temporary_folder
from .fuzz import input_of
from .mutate import mutate
from .readers_files import Reader, videos


def run(count: int, minutes: float, seed: int) -> dict:
    """Prepare ``count`` videos; returns the report."""
    began, failures = time.monotonic(), []
    with temporary_folder() as name:
        folder, out = Path(name) / 'videos', Path(name) / 'out'
        folder.mkdir()
        reader = Reader('video', videos(), lambda data: 'read', mutate)
        for number in range(count):
            (folder / f'{number:06d}.mp4').write_bytes(input_of(reader, seed, number))
        tool = ROOT / 'tools' / 'dataset_converters' / 'video2pairs.py'
        command = [sys.executable, tool, folder, '--out', out, '--short-side', '16', '--stall-seconds', '60']
        environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
        try:
            done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, timeout=60 * minutes)
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = None
            failures.append(f'not done after {minutes:g} minutes')
        found = {}
        if (out / 'summary.json').exists():
            summary = json.loads((out / 'summary.json').read_text())
            found = summary['videos']
            deaths = [one for one in summary['problems'] if 'its worker' in one['reason']]
            found['workers_died'] = len(deaths)
        if code is not None and code != 1:
            failures.append(f'exit code {code}; expected 1, as some are skipped')
        if code is not None and sum(found.get(key, 0) for key in ('ok', 'damaged', 'skipped')) != count:
            failures.append(f'{count} videos, counted {found}')
    return {
        'script': 'hostile_videos',
        'seed': seed,
        'tried': count,
        'videos': found,
        'not_survived': failures,
        'seconds': round(time.monotonic() - began, 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args = build_parser(__doc__, 1000, 'videos').parse_args(argv)
    report = run(args.count, args.minutes, args.seed)
    rows = [('videos', report['tried']), *report['videos'].items()]
    return finish(report, args.json, rows)


if __name__ == '__main__':
    sys.exit(main())
