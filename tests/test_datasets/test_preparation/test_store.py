import ctypes
import errno
import json
import os

import cv2
import numpy as np
import pytest

from cmp_mm.datasets.preparation.errors import OutputError, PrepareError
from cmp_mm.datasets.preparation.settings import PairSettings
from cmp_mm.datasets.preparation.store import Store
from cmp_mm.flow import write_flow

PRINT = {'label': 'a', 'bytes': 3, 'changed_ns': 1}
RECORD = {'video': 'a', 'fingerprint': PRINT, 'retry': False, 'pairs': []}


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / 'out', PairSettings())
    store.claim()
    return store


def test_a_folder_holds_one_set_of_settings(store):
    store.write_record('a', RECORD)
    Store(store.out, PairSettings()).claim()
    other = Store(store.out, PairSettings(short_side=240, quality=80))
    with pytest.raises(PrepareError, match='other settings .quality 90, now 80; short_side 416, now 240'):
        other.claim()
    other.claim(overwrite=True)
    assert other.read_record('a') is None  # made with the old settings, so it is to be made again
    assert store.read_record('a') is not None


def test_settings_may_change_while_nothing_is_prepared(store):
    other = Store(store.out, PairSettings(short_side=240))
    other.claim()
    other.resume('a', PRINT).close()
    with pytest.raises(PrepareError, match='other settings'):
        store.claim()


def test_a_folder_of_someone_else_is_not_taken(tmp_path):
    (tmp_path / 'frames').mkdir()
    with pytest.raises(PrepareError, match='holds frames but no settings.json'):
        Store(tmp_path, PairSettings()).claim()


@pytest.mark.parametrize('operation', ['mkdir', 'replace'])
def test_killed_at_any_step_of_claiming_a_folder_it_can_be_claimed_again(tmp_path, monkeypatch, operation):
    class Killed(BaseException):
        pass

    original, done = getattr(os, operation), []

    def deadly(*arguments, **options):
        if len(done) == steps:
            raise Killed
        done.append(arguments)
        return original(*arguments, **options)

    for steps in range({'mkdir': 4, 'replace': 1}[operation]):
        done.clear()
        out = tmp_path / f'out{steps}'
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, operation, deadly)
            Store(out, PairSettings()).claim()
        Store(out, PairSettings()).claim()
        assert (out / 'records').is_dir() and (out / 'settings.json').exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OutputError, match='cannot write .*file/out: Not a directory'):
        Store(tmp_path / 'file' / 'out', PairSettings()).claim()


def test_finished_means_same_settings_same_source_and_files_there(store):
    assert not store.finished('a', PRINT)
    store.write_record('a', RECORD)
    assert store.finished('a', PRINT)
    assert not store.finished('a', {**PRINT, 'bytes': 4})
    store.write_record('a', {**RECORD, 'retry': True})
    assert not store.finished('a', PRINT)
    store.write_record('a', {**RECORD, 'pairs': [[0, 48, 64, 1.0, 2.0, 0.1, 0]]})
    assert not store.finished('a', PRINT)
    for path in [store.frame_path('a', 0), store.frame_path('a', 1), *store.flow_paths('a', 0)]:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b'x')
    assert store.finished('a', PRINT)


@pytest.mark.parametrize('settings', [[], {}, None, 3])
def test_a_record_of_no_settings_is_none_of_ours(store, settings):
    store.write_record('a', RECORD)
    path = store.record_path('a')
    path.write_text(json.dumps(dict(json.loads(path.read_text()), settings=settings)))
    assert store.read_record('a') is None


def test_a_journal_survives_a_torn_line(store):
    journal = store.resume('a', PRINT)
    for index in range(3):
        journal.add([index, 'static'])
    journal.close()
    part = store.out / 'records' / 'a.part'
    part.write_bytes(part.read_bytes() + b'[3, "sta')
    (store.out / 'frames' / 'a' / '.000003.jpg.1-2.tmp').write_bytes(b'half')

    journal = store.resume('a', PRINT)

    assert journal.rows == [[index, 'static'] for index in range(3)]
    assert not list((store.out / 'frames' / 'a').iterdir())
    journal.add([3, 'cut'])
    journal.close()
    assert [json.loads(line) for line in part.read_text().splitlines()][1:][-1] == [3, 'cut']


@pytest.mark.parametrize('change', ['source', 'settings', 'broken'])
def test_a_journal_of_something_else_is_not_believed(store, change):
    journal = store.resume('a', PRINT)
    journal.add([0, 'static'])
    journal.close()
    (store.out / 'flow' / 'a' / '000000_x.jpg').write_bytes(b'old')
    if change == 'broken':
        part = store.out / 'records' / 'a.part'
        part.write_bytes(part.read_bytes().replace(b'static', b'"'))
    other = Store(store.out, PairSettings(quality=80)) if change == 'settings' else store
    journal = other.resume('a', {**PRINT, 'bytes': 4} if change == 'source' else PRINT)
    assert journal.rows == []
    assert not list((store.out / 'flow' / 'a').iterdir())
    journal.close()


@pytest.mark.parametrize('flow_format', ['jpg', 'flo', 'kitti', 'npz'])
@pytest.mark.parametrize('harm', ['empty', 'cut', 'gone'])
def test_a_journal_is_believed_up_to_the_first_pair_whose_files_are_not_whole(tmp_path, flow_format, harm):
    """A power cut leaves renamed files without their content."""
    store = Store(tmp_path / 'out', PairSettings(flow_format=flow_format))
    store.claim()
    journal = store.resume('a', PRINT)
    flow = np.ones((20, 24, 2), np.float32)
    frame = cv2.imencode('.jpg', np.zeros((20, 24, 3), np.uint8))[1].tobytes()
    for index in range(3):
        for number in (index, index + 1):
            store.frame_path('a', number).write_bytes(frame)
        paths = store.flow_paths('a', index)
        write_flow(flow, paths if flow_format == 'jpg' else paths[0], flow_format)
        journal.add([index, None, 20, 24, 1.0, 1.0, 0.1, 0])
    journal.close()
    journal = store.resume('a', PRINT)
    journal.close()
    assert len(journal.rows) == 3

    harmed = store.flow_paths('a', 1)[-1]
    content = harmed.read_bytes()
    harmed.unlink()
    if harm != 'gone':
        harmed.write_bytes(content[: -len(content) // 3] if harm == 'cut' else b'')

    journal = store.resume('a', PRINT)
    journal.close()
    assert [row[0] for row in journal.rows] == [0]


def test_a_record_waits_for_the_disk(store, monkeypatch):
    """What a record speaks of is on the disk before it, and itself before it has its name."""
    events = []
    monkeypatch.setattr(
        'cmp_mm.datasets.preparation.store.flush_file_system', lambda out: events.append('all')
    )
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda handle: (events.append('record'), fsync(handle)))
    monkeypatch.setattr(os, 'replace', lambda *paths: (events.append('name'), replace(*paths)))
    store.write_record('a', {**RECORD, 'pairs': [[0, 48, 64, 1.0, 2.0, 0.1, 0]]})
    assert events == ['all', 'record', 'name']


def test_a_disk_that_loses_writes_is_an_error(store, monkeypatch):
    class Libc:
        @staticmethod
        def syncfs(handle):
            ctypes.set_errno(errno.EIO)
            return -1

    monkeypatch.setattr(ctypes, 'CDLL', lambda *args, **options: Libc)
    with pytest.raises(OSError, match='Input/output error'):
        store.write_record('a', {**RECORD, 'pairs': [[0, 48, 64, 1.0, 2.0, 0.1, 0]]})
    assert not store.record_path('a').exists()


@pytest.mark.parametrize('number', [1, 2, 3])
@pytest.mark.parametrize('harm', ['empty', 'gone'])
def test_a_journal_is_believed_up_to_the_first_pair_whose_frames_are_not_whole(store, number, harm):
    journal = store.resume('a', PRINT)
    frame = cv2.imencode('.jpg', np.zeros((20, 24, 3), np.uint8))[1].tobytes()
    for index in range(3):
        for one in (index, index + 1):
            store.frame_path('a', one).write_bytes(frame)
        write_flow(np.ones((20, 24, 2), np.float32), store.flow_paths('a', index), 'jpg')
        journal.add([index, None, 20, 24, 1.0, 1.0, 0.1, 0])
    journal.close()
    harmed = store.frame_path('a', number)
    harmed.unlink() if harm == 'gone' else harmed.write_bytes(b'')
    journal = store.resume('a', PRINT)
    journal.close()
    assert [row[0] for row in journal.rows] == list(range(number - 1))


def test_a_video_one_of_whose_files_was_taken_away_is_not_finished(store):
    store.write_record('a', {**RECORD, 'pairs': [[0, 48, 64, 1.0, 2.0, 0.1, 0]]})
    paths = [store.frame_path('a', 0), store.frame_path('a', 1), *store.flow_paths('a', 0)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b'x')
    for path in paths:
        path.unlink()
        assert not store.finished('a', PRINT) and not store.holds_pairs('a'), path
        path.write_bytes(b'x')
    assert store.finished('a', PRINT) and store.holds_pairs('a')
