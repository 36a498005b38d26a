"""What a worker process says, asked without starting one."""

import errno
import io
import json
from dataclasses import asdict

import pytest
import torch

from cmp_mm.datasets.preparation import worker
from cmp_mm.datasets.preparation.sources import Source
from cmp_mm.datasets.preparation.store import Store


@pytest.fixture
def ask(tmp_path, source_of, small, moving_frames, write_folder):
    """A function that gives a worker a folder of which an earlier run has noted a part; what it answers."""
    source = source_of(write_folder(tmp_path / 'f', moving_frames(4)))
    store = Store(tmp_path / 'out', small)
    store.claim()
    store.resume(source.name, source.fingerprint()).close()

    def serve() -> tuple[list[dict], Store, Source]:
        messages = io.StringIO()
        task = dict(settings=small.to_dict(), out=str(store.out), source=asdict(source), threads=1)
        worker._Worker(messages).serve(task)
        return [json.loads(line) for line in messages.getvalue().splitlines()], store, source

    return serve


def raising(error):
    def fail(*args, **options):
        raise error

    return fail


@pytest.mark.parametrize(
    'error',
    [
        ModuleNotFoundError("No module named 'nope'"),
        RuntimeError('CUDA error: invalid device ordinal\nCompile with ...'),
        AssertionError('Torch not compiled with CUDA enabled'),
        torch.OutOfMemoryError('CUDA out of memory.'),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_estimator_that_cannot_be_built_stops_everything_in_one_line(ask, monkeypatch, error):
    """It is no video's fault, so none of them is given up."""
    monkeypatch.setattr(worker, 'build_flow_estimator', raising(error))
    (message,), store, _ = ask()
    expected = ' '.join(str(error).split())
    assert message == dict(kind='fatal', message=expected, exit_code=2)
    assert (store.out / 'records' / 'f.part').exists()
    assert store.recorded() == set()


@pytest.mark.parametrize(
    ('error', 'again'),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError('CUDA out of memory.'), True),
        (RuntimeError('CUDA error: unspecified launch failure'), True),
        (OSError(errno.EIO, 'Input/output error'), True),
        (ZeroDivisionError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_failed_for_the_machine_is_tried_again(ask, monkeypatch, error, again):
    monkeypatch.setattr(worker, 'prepare_video', raising(error))
    (message,), store, source = ask()
    assert message['status'] == 'skipped'
    assert message['reason'].startswith(f'cannot be prepared ({type(error).__name__}')
    assert store.read_record('f')['retry'] is again
    assert (store.out / 'records' / 'f.part').exists() is again
    # What failed for its own sake is left alone until it changes.
    assert store.finished('f', source.fingerprint()) is not again
