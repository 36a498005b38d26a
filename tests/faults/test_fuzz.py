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
    command = [sys.executable, '-m', 'tests.faults.fuzz', '--count', '25', '--seed', '7']
    command += ['--keep', str(tmp_path)]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith('| ')]
    assert len(rows) == 45  # the head, and 22 readers with two engines each
    assert all(int(row.split('|')[3]) > 0 for row in rows[1:])


def crash(data):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(data):
    time.sleep(60)


def gobble(data):
    return str(len(bytearray(os.urandom(2**20)) * 80))


def fail(data):
    raise TypeError('not one of the defined errors')


@pytest.mark.parametrize('engine', ['random', 'guided'])
@pytest.mark.parametrize(
    ('fault', 'told'),
    [
        (crash, 'crash: SIGSEGV'),
        (hang, 'hang: over'),
        (gobble, 'memory: '),
        (fail, 'undefined error: TypeError'),
    ],
)
def test_a_fault_is_noticed_and_the_rest_goes_on(tmp_path, fault, told, engine):
    def read(data):
        return fault(data) if data == b'x' else 'read'

    seconds = 0.02 if fault is hang else 60.0
    reader = Reader(
        'a reader', [b''], read, lambda data, rng, others: rng.choice([b'x', b'y']), seconds=seconds
    )
    result = fuzz_reader(reader, engine, 6, 1, 5.0, 32, tmp_path, tmp_path / 'kept', shown=False)
    assert result['tried'] == 6 and result['outcomes']['read'] > 0
    assert result['not_survived'] and all(told in line for line in result['not_survived'])
    kept = [Path(line.rpartition('; see ')[2]) for line in result['not_survived']]
    assert all(path.read_bytes() == b'x' for path in kept)


def test_a_crash_where_the_product_survives_it_is_counted(tmp_path):
    def read(data):
        return crash(data) if data == b'x' else 'read'

    reader = Reader('a reader', [b''], read, lambda *_: b'x', may_crash=True)
    result = fuzz_reader(reader, 'random', 3, 0, 1.0, 32, tmp_path, tmp_path, shown=False)
    assert result['crashes_survived'] == 2 and not result['not_survived']


def change_a_byte(data, rng, others):
    place = rng.randrange(len(data))
    return data[:place] + bytes([rng.randrange(64)]) + data[place + 1 :]


def guarded(data):
    """Three bytes must be right, one after the other."""
    if data[0] != 11:
        return 'first'
    if data[1] != 12:
        return 'second'
    if data[2] != 13:
        return 'third'
    raise TypeError('behind all of them')


def lonely(data):
    """The same, for an eye that sees what is returned and said, and no line."""
    right = next((i for i in range(3) if data[i] != 11 + i), 3)
    os.write(2, b'decoder: step ' + b'abc'[:right] + b'\n')
    if right == 3:
        raise TypeError('behind all of them')
    return 'read'


@pytest.mark.parametrize('read', [guarded, lonely])
@pytest.mark.parametrize(('engine', 'found'), [('random', False), ('guided', True)])
def test_guided_inputs_get_where_random_ones_do_not(tmp_path, read, engine, found):
    reader = Reader('a reader', [bytes(3)], read, change_a_byte)
    result = fuzz_reader(reader, engine, 4000, 0, 10.0, 32, tmp_path, tmp_path, shown=False)
    assert bool(result['not_survived']) == found


def test_what_was_kept_outlives_a_crash(tmp_path):
    def read(data):
        return crash(data) if data[0] % 5 == 4 else guarded(data)

    reader = Reader('a reader', [bytes(3)], read, change_a_byte, may_crash=True)
    result = fuzz_reader(reader, 'guided', 200, 0, 10.0, 32, tmp_path, tmp_path, shown=False)
    assert result['tried'] == 200 and result['crashes_survived'] > 2
    # The whole file, and no more than one input for each of the three places that are passed.
    assert 1 <= result['kept'] <= 4
