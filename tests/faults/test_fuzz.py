"""The fuzzing script runs over every reader, and notices each kind of fault."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.fuzz import fuzz_reader
from tests.faults.readers_files import Reader

ROOT = Path(__file__).resolve().parents[2]


def test_every_reader_takes_a_few(tmp_path):
    command = [sys.executable, '-m', 'tests.faults.fuzz', '--count', '40', '--seed', '7']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith('| ')]
    assert len(rows) == 23  # the head and 22 readers
    assert all(int(row.split('|')[2]) > 0 for row in rows[1:])


def crash(data):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(data):
    time.sleep(60)


def gobble(data):
    return str(len(bytearray(os.urandom(2**20)) * 80))


def fail(data):
    raise TypeError('not one of the defined errors')


@pytest.mark.parametrize(
    ('fault', 'told'),
    [
        (crash, 'crash: SIGSEGV'),
        (hang, 'hang: over'),
        (gobble, 'memory: '),
        (fail, 'undefined error: TypeError'),
    ],
)
def test_a_fault_is_noticed_and_the_rest_goes_on(tmp_path, fault, told):
    def read(data):
        return fault(data) if data == b'x' else 'read'

    seconds = 0.02 if fault is hang else 60.0
    reader = Reader(
        'a reader', [b''], read, lambda data, rng, others: rng.choice([b'x', b'y']), seconds=seconds
    )
    result = fuzz_reader(reader, 6, 1, 1.0, 32, tmp_path, shown=False)
    assert result['tried'] == 6 and result['outcomes']['read'] > 0
    assert result['not_survived'] and all(told in line for line in result['not_survived'])


def test_a_crash_where_the_product_survives_it_is_counted(tmp_path):
    def read(data):
        return crash(data) if data == b'x' else 'read'

    reader = Reader('a reader', [b''], read, lambda *_: b'x', may_crash=True)
    result = fuzz_reader(reader, 3, 0, 1.0, 32, tmp_path, shown=False)
    assert result['crashes_survived'] == 2 and not result['not_survived']
