import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import cmp_mm
from cmp_mm.datasets import ImageFlowDataset
from cmp_mm.datasets.preparation import IncompleteError, OutputError, PrepareError, prepare
from cmp_mm.datasets.preparation import frames as reading
from cmp_mm.datasets.preparation.pool import WorkerPool
from cmp_mm.datasets.preparation.settings import digest_of
from cmp_mm.datasets.preparation.sources import find_sources
from cmp_mm.datasets.preparation.store import Store
from cmp_mm.datasets.preparation.video import prepare_video
from cmp_mm.flow import build_flow_estimator, read_flow, write_flow

ROOT = str(Path(cmp_mm.__file__).parents[1])
OPTIONS = {'short_side': 64, 'progress': False}


def entries(out: Path) -> list[dict]:
    parts = [json.loads((out / f'{split}.json').read_text())['data_list'] for split in ('train', 'val')]
    return sorted(parts[0] + parts[1], key=lambda entry: entry['img_path'])


def test_pairs_hold_the_frames_and_the_motion_between_them(tmp_path, videos):
    out = tmp_path / 'out'
    summary = prepare([videos], out, workers=2, **OPTIONS)
    assert summary['complete'] and summary['videos']['ok'] == 3
    assert summary['pairs']['total'] == 15 and summary['pairs']['val'] >= 5
    assert summary['motion']['mean_px']['mean'] == pytest.approx(2.5, abs=0.3)
    motion = {'jump': (3, -1), 'walk': (2, 1), 'more-run': (2, 1)}
    for entry in entries(out):
        frame = cv2.imread(str(out / entry['img_path']))
        assert frame.shape[:2] == (entry['height'], entry['width']) == (64, 96)
        assert (out / entry['img2_path']).exists()
        flow, _ = read_flow([out / path for path in entry['flow_path']])
        middle = np.median(flow[16:48, 16:80], axis=(0, 1))
        assert middle == pytest.approx(motion[entry['video']], abs=0.5)
    assert not list(out.rglob('*.tmp')) and not list(out.rglob('*.part'))
    sheet = cv2.imread(str(out / 'contact_sheet.png'))
    assert sheet is not None and sheet.std() > 20
    assert json.loads((out / 'summary.json').read_text())['pairs'] == summary['pairs']


@pytest.mark.parametrize('flow_format', ['jpg', 'flo', 'kitti', 'npz'])
def test_the_data_set_reads_every_format(tmp_path, videos, flow_format):
    out = tmp_path / 'out'
    prepare([videos / 'jump', videos / 'walk.mp4'], out, workers=1, flow_format=flow_format, **OPTIONS)
    pipeline = [{'type': 'LoadImage'}, {'type': 'LoadFlow'}]
    dataset = ImageFlowDataset(ann_file=str(out / 'train.json'), pipeline=pipeline)
    assert len(dataset) == 5
    sample = dataset[2]
    assert sample['img'].shape == (64, 96, 3) and sample['flow'].shape == (64, 96, 2)
    assert np.isfinite(sample['flow']).all() and 2 < np.abs(sample['flow']).max() < 10


def test_the_number_of_workers_changes_no_byte(tmp_path, videos, contents):
    for name, workers in (('one', 1), ('seven', 7)):
        prepare([videos], tmp_path / name, workers=workers, reference_lists=True, **OPTIONS)
    assert contents(tmp_path / 'one') == contents(tmp_path / 'seven')
    assert 'train.txt' in contents(tmp_path / 'one')


def test_static_pairs_and_cuts_are_left_out_and_counted(tmp_path, moving_frames, write_video):
    frames = moving_frames(4)
    scenes = [*frames, frames[-1], frames[-1], *moving_frames(4, mirrored=True)]
    video = write_video(tmp_path / 'v.mp4', scenes)
    summary = prepare([video], tmp_path / 'out', workers=1, **OPTIONS)
    assert summary['rejected'] == {'cut': 1, 'static': 2, 'size': 0, 'gap': 0, 'no_flow': 0}
    kept = [entry['img_path'][-10:-4] for entry in entries(tmp_path / 'out')]
    assert kept == ['000000', '000001', '000002', '000006', '000007', '000008']
    stored = sorted(path.stem for path in (tmp_path / 'out' / 'frames' / 'v').iterdir())
    assert stored == [f'{index:06d}' for index in (0, 1, 2, 3, 6, 7, 8, 9)]


def test_frames_of_several_sizes_are_reported(tmp_path, moving_frames, write_folder):
    folder = write_folder(tmp_path / 'f', moving_frames(3))
    for index, frame in enumerate(moving_frames(3, size=(64, 80))):
        cv2.imwrite(str(folder / f'frame{10 + index}.png'), frame)
    summary = prepare([folder], tmp_path / 'out', workers=1, **OPTIONS)
    assert summary['rejected']['size'] == 1 and summary['pairs']['total'] == 4
    (problem,) = summary['problems']
    assert problem['status'] == 'damaged'
    assert problem['reason'] == 'frames of 2 sizes: 96 x 64 (3), 80 x 64 (3)'
    assert {(entry['width'], entry['height']) for entry in entries(tmp_path / 'out')} == {(96, 64), (80, 64)}


def test_broken_and_empty_videos_are_skipped_and_named(tmp_path, videos, moving_frames, write_video):
    (videos / 'empty.mp4').write_bytes(b'')
    data = (videos / 'walk.mp4').read_bytes()
    (videos / 'half.mp4').write_bytes(data[: len(data) // 2])
    write_video(videos / 'short.mp4', moving_frames(1))
    summary = prepare([videos], tmp_path / 'out', workers=2, **OPTIONS)
    assert summary['videos'] == {'total': 6, 'ok': 3, 'damaged': 0, 'skipped': 3, 'without_pairs': 0}
    assert summary['pairs']['total'] == 15
    reasons = {problem['video']: problem['reason'] for problem in summary['problems']}
    assert reasons['short'] == 'has 1 frames at this rate; a pair needs 2'
    assert 'cannot be read as a video' in reasons['empty'] and reasons['half']
    assert not (tmp_path / 'out' / 'frames' / 'half').exists()


def test_a_source_that_changed_is_prepared_again(tmp_path, videos, moving_frames, write_video, contents):
    out = tmp_path / 'out'
    prepare([videos], out, workers=1, **OPTIONS)
    before = {path: path.stat().st_mtime_ns for path in out.rglob('flow/*/*')}
    write_video(videos / 'walk.mp4', moving_frames(4))
    summary = prepare([videos], out, workers=1, **OPTIONS)
    assert summary['pairs']['total'] == 13
    after = {path: path.stat().st_mtime_ns for path in out.rglob('flow/*/*')}
    assert {path for path in after if after[path] != before[path]} == set(out.glob('flow/walk/*'))
    prepare([videos], tmp_path / 'fresh', workers=1, **OPTIONS)
    assert contents(out) == contents(tmp_path / 'fresh')


def test_precomputed_flow_is_taken_by_name(tmp_path, videos):
    first, second = tmp_path / 'first', tmp_path / 'second'
    prepare([videos / 'walk.mp4'], first, workers=1, flow_format='flo', **OPTIONS)
    flow = first / 'flow'
    (flow / 'walk' / '000002.flo').unlink()
    options = {'estimator': 'precomputed', 'estimator_options': {'root': str(flow)}, 'flow_format': 'flo'}
    summary = prepare([videos / 'walk.mp4'], second, workers=1, **options, **OPTIONS)
    assert summary['pairs']['total'] == 4 and summary['rejected']['no_flow'] == 1
    reason = summary['problems'][0]['reason']
    assert reason.startswith('no usable flow for 1 pairs (no precomputed flow of frame ')
    for index in (0, 1, 3, 4):
        name = f'flow/walk/{index:06d}.flo'
        assert (first / name).read_bytes() == (second / name).read_bytes()
    # What was missing has come, and one was corrected: that alone makes the video a changed one.
    stored = second / 'flow' / 'walk' / '000000.flo'
    before = stored.stat().st_mtime_ns
    prepare([videos / 'walk.mp4'], second, workers=1, **options, **OPTIONS)
    assert stored.stat().st_mtime_ns == before
    (flow / 'walk' / '000002.flo').write_bytes((flow / 'walk' / '000001.flo').read_bytes())
    write_flow(2 * read_flow(flow / 'walk' / '000003.flo')[0], flow / 'walk' / '000003.flo')
    summary = prepare([videos / 'walk.mp4'], second, workers=1, **options, **OPTIONS)
    assert summary['pairs']['total'] == 5 and not summary['problems']
    for index in range(5):
        name = f'flow/walk/{index:06d}.flo'
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_what_is_prepared_stays_while_its_source_cannot_be_seen(tmp_path, videos, capsys):
    """Links to a disk that is not mounted."""
    disk, source, out = tmp_path / 'disk', tmp_path / 'source', tmp_path / 'out'
    shutil.move(videos, disk)
    source.mkdir()
    (source / 'walk.mp4').symlink_to(disk / 'walk.mp4')
    (source / 'run.avi').symlink_to(disk / 'more' / 'run.avi')
    options = dict(OPTIONS, workers=1)
    prepare([source], out, **options)
    stored = {path: path.stat().st_mtime_ns for path in out.glob('f*/*/*')}
    assert len(stored) == 2 * (6 + 2 * 5)
    shutil.move(disk, tmp_path / 'away')
    summary = prepare([source], out, **dict(options, progress=True))
    assert summary['videos']['ok'] == 2 and summary['pairs']['total'] == 10
    assert {path: path.stat().st_mtime_ns for path in out.glob('f*/*/*')} == stored
    told = 'walk.mp4: cannot be read (No such file or directory); what it was prepared to stays'
    assert told in capsys.readouterr().err
    # One whose files are gone, too, is skipped, and made again once it is back.
    shutil.rmtree(out / 'flow' / 'walk')
    summary = prepare([source], out, **options)
    assert summary['videos']['skipped'] == 1
    assert summary['problems'][0]['reason'] == 'cannot be read (No such file or directory)'
    shutil.move(tmp_path / 'away', disk)
    assert prepare([source], out, **options)['videos']['ok'] == 2
    again = {path: path.stat().st_mtime_ns for path in out.glob('f*/run/*')}
    assert again and all(stored[path] == time for path, time in again.items())


def test_what_is_prepared_stays_without_the_flow_it_was_prepared_from(tmp_path, videos):
    flow, out = tmp_path / 'first' / 'flow', tmp_path / 'out'
    prepare([videos], flow.parent, workers=1, flow_format='flo', **OPTIONS)
    options = {'estimator': 'precomputed', 'estimator_options': {'root': str(flow)}}
    prepare([videos / 'walk.mp4'], out, workers=1, **options, **OPTIONS)
    stored = {path: path.stat().st_mtime_ns for path in out.glob('f*/walk/*')}
    assert len(stored) == 6 + 2 * 5

    def again():
        summary = prepare([videos / 'walk.mp4'], out, workers=1, **options, **OPTIONS)
        assert summary['pairs']['total'] == 5
        return {path: path.stat().st_mtime_ns for path in out.glob('f*/walk/*')}

    record = out / 'records' / 'walk.json'
    content = json.loads(record.read_text())
    shutil.move(flow / 'walk', tmp_path / 'away')
    assert again() == stored
    shutil.move(tmp_path / 'away', flow / 'walk')
    assert again() == stored
    # An earlier version's record knows nothing of flow.
    del content['fingerprint']['flow']
    record.write_text(json.dumps(content))
    assert again() == stored


def test_an_interrupted_video_still_tells_why_flow_is_missing(tmp_path, source_of, small, videos):
    prepare([videos / 'walk.mp4'], tmp_path / 'first', workers=1, flow_format='flo', **OPTIONS)
    flow = tmp_path / 'first' / 'flow'
    (flow / 'walk' / '000000.flo').unlink()
    source = source_of(videos / 'walk.mp4')
    options = dict(estimator='precomputed', estimator_options={'root': str(flow)})
    store = Store(tmp_path / 'out', dataclasses.replace(small, **options))
    store.claim()
    estimator = build_flow_estimator('precomputed', root=str(flow))

    def interrupt(share, kept, rejected):
        if kept == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_video(source, store, [estimator], interrupt)
    record = prepare_video(source, store, [estimator], lambda *_: None)
    assert len(record['pairs']) == 4
    assert record['reason'].startswith('no usable flow for 1 pairs (no precomputed flow of frame ')


def test_a_video_beside_its_frames_leaves_the_flow_to_them(tmp_path, moving_frames, write_folder, videos):
    frames = [tmp_path / 'src' / 'walk', tmp_path / 'src' / 'other' / 'walk']
    for folder in frames:
        write_folder(folder, moving_frames(4))
    shutil.copy(videos / 'walk.mp4', tmp_path / 'src' / 'walk.mp4')
    prepare([frames[0]], tmp_path / 'first', workers=1, flow_format='flo', **OPTIONS)
    shutil.copytree(tmp_path / 'first' / 'flow' / 'walk', tmp_path / 'flow' / 'walk')
    for number, path in enumerate(sorted(frames[0].iterdir())[:3]):
        made = tmp_path / 'flow' / 'walk' / f'{number:06d}.flo'
        made.rename(made.with_stem(path.stem))
    options = {'estimator': 'precomputed', 'estimator_options': {'root': str(tmp_path / 'flow')}}
    summary = prepare([tmp_path / 'src'], tmp_path / 'out', workers=1, **options, **OPTIONS)
    assert summary['pairs']['total'] == 3 and summary['videos']['total'] == 3


def test_two_videos_never_get_the_same_precomputed_flow(tmp_path, videos, moving_frames, write_folder):
    write_folder(tmp_path / 'other', moving_frames(6))
    options = {'estimator': 'precomputed', 'estimator_options': {'root': str(tmp_path)}}
    message = 'jump and .*other would both get the precomputed flow '
    with pytest.raises(PrepareError, match=message):
        prepare([tmp_path / 'other', videos / 'jump'], tmp_path / 'out', workers=1, **options, **OPTIONS)
    # Files, whose frames are numbered: two of one name, and one beside the frames that were taken from it.
    twin = shutil.copy(videos / 'walk.mp4', tmp_path / 'other' / 'walk.mp4')
    with pytest.raises(PrepareError, match='walk.mp4 and .*walk.mp4 would both get .*walk/000000; leave one'):
        prepare([twin, videos / 'walk.mp4'], tmp_path / 'out', workers=1, **options, **OPTIONS)
    (videos / 'walk').mkdir()
    for number in (1, 2):
        shutil.copy(tmp_path / 'other' / 'frame0.png', videos / 'walk' / f'{number:06d}.png')
    with pytest.raises(PrepareError, match='walk.mp4 and .*walk would both get .*walk/000001; leave one'):
        prepare([videos], tmp_path / 'out', workers=1, **options, **OPTIONS)
    assert not (tmp_path / 'out').exists()
    # Not those whose numbers are longer.
    for path in list((videos / 'walk').iterdir()):
        path.rename(path.with_stem(f'{int(path.stem):08d}'))
    summary = prepare([videos], tmp_path / 'out', workers=1, **options, **OPTIONS)
    assert summary['videos']['total'] == 4


def test_a_worker_that_dies_costs_its_video_only(tmp_path, videos, moving_frames, write_folder, inject):
    write_folder(videos / 'killer', moving_frames(6))
    write_folder(videos / 'once', moving_frames(6))
    inject()
    summary = prepare([videos], tmp_path / 'out', workers=2, **OPTIONS)
    assert summary['videos']['skipped'] == 1 and summary['videos']['ok'] == 4
    (problem,) = summary['problems']
    assert problem['video'] == 'killer' and problem['reason'] == 'its worker died (SIGKILL)'
    assert (tmp_path / 'faults' / 'mark').exists()  # the other one died once, and was tried again
    assert sum(entry['video'] == 'once' for entry in entries(tmp_path / 'out')) == 5
    # The next run tries again what died, and goes on from what there was.
    assert (tmp_path / 'out' / 'records' / 'killer.part').exists()
    (tmp_path / 'faults' / 'sitecustomize.py').unlink()
    assert prepare([videos], tmp_path / 'out', workers=2, **OPTIONS)['videos']['ok'] == 5


def test_a_worker_that_hangs_is_killed(tmp_path, videos, moving_frames, write_folder, inject):
    write_folder(videos / 'sleeper', moving_frames(3))
    inject()
    started = time.monotonic()
    summary = prepare([videos], tmp_path / 'out', workers=2, stall_seconds=3, **OPTIONS)
    assert time.monotonic() - started < 60
    assert [problem['video'] for problem in summary['problems']] == ['sleeper']
    assert summary['problems'][0]['reason'] == 'its worker said nothing for 3 seconds'


def test_a_full_disk_stops_with_one_line_and_is_continued(tmp_path, videos, inject, contents, monkeypatch):
    out = tmp_path / 'out'
    inject(full=True)
    with pytest.raises(OutputError, match='cannot write .*/out.*: No space left on device$') as caught:
        prepare([videos], out, workers=2, **OPTIONS)
    assert '\n' not in str(caught.value)
    assert not list(out.rglob('*.tmp')) and not (out / 'train.json').exists()
    monkeypatch.delenv('PYTHONPATH')
    prepare([videos], out, workers=2, **OPTIONS)
    prepare([videos], tmp_path / 'fresh', workers=2, **OPTIONS)
    assert contents(out) == contents(tmp_path / 'fresh')


@pytest.mark.parametrize('fault', [OSError(errno.EIO, 'Input/output error'), MemoryError()])
def test_a_fault_of_reading_is_tried_again_and_costs_nothing(
    tmp_path, source_of, small, moving_frames, write_video, monkeypatch, contents, fault
):
    """A disk, a network, a lack of memory: not the video."""
    source = source_of(write_video(tmp_path / 'v.mp4', moving_frames(16)))
    estimator, shrink, seen = build_flow_estimator('dis'), reading._VideoResizer.__call__, []

    def break_down(self, frame):
        seen.append(frame)
        if len(seen) == 16:
            raise fault
        return shrink(self, frame)

    store = Store(tmp_path / 'out', small)
    store.claim()
    monkeypatch.setattr(reading._VideoResizer, '__call__', break_down)
    record = prepare_video(source, store, [estimator], lambda *_: None)
    assert record['status'] == 'skipped' and 'cannot be read' in record['reason']
    assert not store.finished(source.name, source.fingerprint())
    noted = range(len((store.out / 'records' / 'v.part').read_bytes().splitlines()) - 1)
    kept = {path: path.stat().st_mtime_ns for n in noted for path in store.flow_paths('v', n)}
    assert kept
    monkeypatch.undo()
    assert len(prepare_video(source, store, [estimator], lambda *_: None)['pairs']) == 15
    assert store.finished(source.name, source.fingerprint())
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    fresh = Store(tmp_path / 'fresh', small)
    fresh.claim()
    prepare_video(source, fresh, [estimator], lambda *_: None)
    assert contents(store.out) == contents(fresh.out)


@pytest.mark.parametrize(('code', 'again'), [(errno.EIO, True), (errno.EACCES, False), (errno.EISDIR, False)])
def test_an_image_that_could_not_be_read_is_tried_again(
    tmp_path, source_of, small, moving_frames, write_folder, monkeypatch, code, again
):
    """After a fault; what is forbidden would have every run do its whole folder anew."""
    source = source_of(write_folder(tmp_path / 'f', moving_frames(6)))
    store, estimator = Store(tmp_path / 'out', small), build_flow_estimator('dis')
    store.claim()

    def forbid(path, *more):
        if path.endswith('frame1.png'):
            raise OSError(code, os.strerror(code), path)
        return open(path, *more)

    monkeypatch.setattr(reading, 'open', forbid, raising=False)
    record = prepare_video(source, store, [estimator], lambda *_: None)
    assert record['status'] == 'damaged' and len(record['pairs']) == 3
    assert store.finished(source.name, source.fingerprint()) is not again
    monkeypatch.undo()
    record = prepare_video(source, store, [estimator], lambda *_: None)
    assert record['status'] == 'ok' and len(record['pairs']) == 5


def test_a_lack_of_memory_for_an_image_is_tried_again(
    tmp_path, source_of, small, moving_frames, write_folder, monkeypatch
):
    source = source_of(write_folder(tmp_path / 'f', moving_frames(6)))
    store, estimator = Store(tmp_path / 'out', small), build_flow_estimator('dis')
    store.claim()

    def no_memory(*args):
        error = cv2.error('Insufficient memory')
        error.code = cv2.Error.StsNoMem
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(reading.cv2, 'imdecode', no_memory)
        record = prepare_video(source, store, [estimator], lambda *_: None)
    assert record['status'] == 'skipped' and record['retry']
    assert not store.finished(source.name, source.fingerprint())
    assert len(prepare_video(source, store, [estimator], lambda *_: None)['pairs']) == 5


@pytest.mark.parametrize('kind', ['video', 'frames'])
@pytest.mark.parametrize('seen', [0, 4])
def test_a_disk_that_goes_away_costs_nothing(
    tmp_path, source_of, small, moving_frames, write_video, write_folder, monkeypatch, kind, seen
):
    """Before the first frame or near the end: once it is back the source is the same."""
    disk = tmp_path / 'disk'
    frames = moving_frames(8)
    path = write_video(disk / 'v.mp4', frames) if kind == 'video' else write_folder(disk / 'v', frames)
    store, estimator, told = Store(tmp_path / 'out', small), build_flow_estimator('dis'), []
    store.claim()
    name = '_read_video' if kind == 'video' else '_read_image'
    place = reading.FrameReader if kind == 'video' else reading
    before = getattr(place, name)

    def go_away(*_):
        told.append(1)
        if len(told) > seen and disk.exists():
            disk.rename(tmp_path / 'away')

    def read(*args):
        if not seen:
            go_away()
        return before(*args)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, read)
        record = prepare_video(source_of(path), store, [estimator], go_away)
    assert record['status'] == 'skipped' and record['retry']
    kept = {file: file.stat().st_mtime_ns for file in store.out.glob('flow/v/*')}
    (tmp_path / 'away').rename(disk)
    source = source_of(path)
    assert not store.finished(source.name, source.fingerprint())
    assert len(prepare_video(source, store, [estimator], lambda *_: None)['pairs']) == 7
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())
    assert store.finished(source.name, source.fingerprint())


@pytest.mark.parametrize('counts', [(2, 1), (1, 1)], ids=['after the gap', 'at the gap'])
def test_an_image_that_comes_back_has_its_folder_done_anew(
    tmp_path, source_of, small, moving_frames, write_folder, monkeypatch, counts
):
    """The journal of a run that was ended knows it as missing."""
    source = source_of(write_folder(tmp_path / 'f', moving_frames(6)))
    store, estimator = Store(tmp_path / 'out', small), build_flow_estimator('dis')
    store.claim()

    def fail(path, *more):
        if path.endswith('frame2.png'):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return open(path, *more)

    def stop(share, kept, rejected):
        if (kept, rejected) == counts:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(reading, 'open', fail, raising=False)
        prepare_video(source, store, [estimator], stop)
    record = prepare_video(source, store, [estimator], lambda *_: None)
    assert (record['status'], len(record['pairs'])) == ('ok', 5)


@pytest.mark.parametrize('change', ['cut', 'replaced', 'removed'])
def test_a_source_that_changes_while_it_is_read_is_skipped(
    tmp_path, source_of, small, moving_frames, write_video, change
):
    """Between being listed and read to its end; the next run takes it as it is then."""
    video = write_video(tmp_path / 'v.mp4', moving_frames(6))
    store = Store(tmp_path / 'out', small)
    store.claim()
    whole, estimator = video.read_bytes(), build_flow_estimator('dis')

    def report(share, kept, rejected):
        # Open all the while, it is read to its end; what lies under its name is something else by then.
        video.unlink(missing_ok=True)
        if change != 'removed':
            video.write_bytes(whole[: len(whole) // 2] if change == 'cut' else whole[::-1])

    record = prepare_video(source_of(video), store, [estimator], report)
    if change == 'removed':
        # Or its disk is: what was made stays for the next run, which takes the same video up.
        reason = 'cannot be read any more (No such file or directory)'
        assert (record['status'], record['reason'], record['retry']) == ('skipped', reason, True)
        assert list(store.out.glob('flow/v/*'))
    else:
        assert (record['status'], record['reason']) == ('skipped', 'changed while it was read')
        assert not list(store.out.glob('f*/*'))  # neither frames nor flow
    record = prepare_video(source_of(video), store, [estimator], lambda *_: None)
    assert record['status'] == 'skipped' and 'cannot be read' in record['reason']
    video.write_bytes(whole)
    assert len(prepare_video(source_of(video), store, [estimator], lambda *_: None)['pairs']) == 5


def test_frames_that_go_away_while_they_are_read_are_skipped(
    tmp_path, source_of, small, moving_frames, write_folder
):
    folder = write_folder(tmp_path / 'f', moving_frames(6))
    store = Store(tmp_path / 'out', small)
    store.claim()

    def report(share, kept, rejected):
        (folder / 'frame5.png').unlink(missing_ok=True)

    record = prepare_video(source_of(folder), store, [build_flow_estimator('dis')], report)
    assert (record['status'], record['reason']) == ('skipped', 'changed while it was read')


def test_a_folder_that_vanishes_is_one_line(tmp_path, source_of, small, moving_frames, write_folder):
    folder = write_folder(tmp_path / 'f', moving_frames(6))
    store = Store(tmp_path / 'out', small)
    store.claim()
    with pytest.raises(OutputError, match='cannot write .*out.*: No such file or directory') as caught:
        prepare_video(
            source_of(folder),
            store,
            [build_flow_estimator('dis')],
            lambda *_: shutil.rmtree(store.out, ignore_errors=True),
        )
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('code', [errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT])
def test_a_folder_that_takes_nothing_is_one_line(tmp_path, small, monkeypatch, code):
    """Read-only, forbidden, broken, over quota; whoever runs the tests as root may write everywhere."""

    def refuse(path, mode='r', *more, **options):
        if 'x' in mode:
            raise OSError(code, os.strerror(code), str(path))
        return open(path, mode, *more, **options)

    monkeypatch.setattr('cmp_mm.flow.files.open', refuse, raising=False)
    with pytest.raises(OutputError, match=os.strerror(code)) as caught:
        Store(tmp_path / 'out', small).claim()
    assert '\n' not in str(caught.value) and caught.value.exit_code == 3


def test_a_journal_left_beside_its_record_is_removed(tmp_path, videos):
    """A run killed right after it wrote the record leaves it."""
    out = tmp_path / 'out'
    prepare([videos / 'jump'], out, workers=1, **OPTIONS)
    left = out / 'records' / 'jump.part'
    left.write_text('{}\n')
    prepare([videos / 'jump'], out, workers=1, **OPTIONS)
    assert not left.exists()


def start(arguments: list[str], **options) -> subprocess.Popen:
    code = 'import sys; from cmp_mm.datasets.preparation.cli import main; sys.exit(main())'
    environment = {**os.environ, 'PYTHONPATH': f'{os.environ.get("PYTHONPATH", "")}:{ROOT}'}
    return subprocess.Popen(
        [sys.executable, '-c', code, *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'nothing happened'
        time.sleep(0.005)


def count_rows(out: Path) -> int:
    """Pairs dealt with: lines of the journals, and pairs of finished videos (never fewer than before)."""
    rows = 0
    for path in (out / 'records').glob('[!.]*'):
        try:
            text = path.read_text()
            rows += text.count('\n') - 1 if path.suffix == '.part' else len(json.loads(text)['pairs'])
        except (FileNotFoundError, ValueError):
            continue
    return rows


def test_killed_at_any_time_it_continues_to_the_same_bytes(tmp_path, videos, contents, inject, monkeypatch):
    out = tmp_path / 'out'
    inject(delay=0.03)
    for rows in (2, 8):
        process = start([str(videos), '--out', str(out), '--workers', '2', '--short-side', '64'])
        wait_for(lambda rows=rows: count_rows(out) >= rows)
        process.send_signal(signal.SIGKILL)
        process.wait()
        # Its workers notice that it is gone, and stop.
        time.sleep(0.5)
        stopped = count_rows(out)
        time.sleep(0.3)
        assert count_rows(out) == stopped
        process.stderr.close()
        assert not (out / 'train.json').exists()
    monkeypatch.delenv('PYTHONPATH')
    times = {path: path.stat().st_mtime_ns for path in out.rglob('flow/*/*.jpg')}
    prepare([videos], out, workers=2, **OPTIONS)
    assert sum(path.stat().st_mtime_ns == changed for path, changed in times.items()) >= 2 * 8  # kept
    prepare([videos], tmp_path / 'fresh', workers=2, **OPTIONS)
    assert contents(out) == contents(tmp_path / 'fresh')


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_cleanly_and_says_how_to_continue(tmp_path, videos, inject, signum):
    out = tmp_path / 'out'
    inject(delay=0.05)
    # Shells start background jobs with SIGINT ignored, and children inherit that: here it is as at a prompt.
    process = start(
        [str(videos), '--out', str(out), '--workers', '1', '--short-side', '64'],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: count_rows(out) >= 2)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == f'interrupted; run the same command again to continue in {out}'
    assert 'Traceback' not in errors


def test_two_ranks_share_the_videos_and_the_last_merges(tmp_path, videos, contents, monkeypatch):
    shutil.copytree(videos / 'jump', videos / 'jump2', copy_function=shutil.copy2)
    out = tmp_path / 'out'
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert prepare([videos], out, workers=1, **OPTIONS) == {'complete': False, 'missing': 2}
    with pytest.raises(IncompleteError, match='2 of 4 videos in .* are not ready, first jump;'):
        prepare([videos], out, merge_only=True, **OPTIONS)
    monkeypatch.setenv('RANK', '0')
    assert prepare([videos], out, workers=1, **OPTIONS)['complete']
    monkeypatch.undo()
    prepare([videos], tmp_path / 'one', workers=1, **OPTIONS)
    assert contents(out) == contents(tmp_path / 'one')
    (out / 'train.json').unlink()
    prepare([], out, merge_only=True, **OPTIONS)
    assert contents(out) == contents(tmp_path / 'one')


def test_a_missing_extra_or_wrong_option_is_one_line(tmp_path, videos):
    with pytest.raises(PrepareError, match="'nope' is unknown; expected one of dis"):
        prepare([videos], tmp_path / 'out', workers=1, estimator='nope', **OPTIONS)
    wrong = dict(estimator='precomputed', estimator_options={'root': 5})
    with pytest.raises(PrepareError, match='not int'):
        prepare([videos], tmp_path / 'out', workers=1, **wrong, **OPTIONS)
    with pytest.raises(PrepareError, match='whose frame rate is unknown; give folder fps'):
        prepare([videos], tmp_path / 'out', workers=1, fps=5.0, **OPTIONS)
    with pytest.raises(PrepareError, match='workers is 0'):
        prepare([videos], tmp_path / 'out', workers=0, **OPTIONS)


def test_an_overwriting_run_that_is_stopped_leaves_no_finished_set(tmp_path, videos, contents):
    out = tmp_path / 'out'
    prepare([videos], out, workers=1, reference_lists=True, **OPTIONS)
    merged = ('train.json', 'val.json', 'train.txt', 'val.txt', 'summary.json', 'contact_sheet.png')
    assert all((out / name).exists() for name in merged)
    # One share of three, as after a kill: its flow is of the new bound, that of the others still of the old.
    prepare([videos], out, workers=1, overwrite=True, shard='0/3', flow_bound=20.0, **OPTIONS)
    assert not any((out / name).exists() for name in merged)
    for rank in (1, 2):
        prepare([videos], out, workers=1, overwrite=True, shard=f'{rank}/3', flow_bound=20.0, **OPTIONS)
    prepare([videos], tmp_path / 'fresh', workers=1, flow_bound=20.0, **OPTIONS)
    assert contents(out) == contents(tmp_path / 'fresh')


def test_a_changed_video_takes_the_annotation_back_until_all_are_ready(
    tmp_path, videos, moving_frames, write_video, monkeypatch
):
    out = tmp_path / 'out'
    prepare([videos], out, workers=1, **OPTIONS)
    write_video(videos / 'walk.mp4', moving_frames(4))

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WorkerPool, 'run', stop)
        with pytest.raises(KeyboardInterrupt):
            prepare([videos], out, workers=1, **OPTIONS)
    assert not (out / 'train.json').exists() and not (out / 'summary.json').exists()
    assert prepare([videos], out, workers=1, **OPTIONS)['pairs']['total'] == 13


@pytest.mark.parametrize('number', [10, 10.0])
def test_pairs_of_settings_that_were_written_otherwise_stay(tmp_path, videos, number):
    """As an earlier version named them, for which 10 and 10.0 were not one setting."""
    out, options = tmp_path / 'out', dict(OPTIONS, workers=1, fps=10.0, folder_fps=10.0)
    prepare([videos], out, **options)
    settings = json.loads((out / 'settings.json').read_text())
    settings.update(fps=number, folder_fps=number)
    (out / 'settings.json').write_text(json.dumps(settings))
    for path in (out / 'records').glob('*.json'):
        path.write_text(json.dumps(dict(json.loads(path.read_text()), settings=digest_of(settings))))
    stored = {path: path.stat().st_mtime_ns for path in out.glob('f*/*/*')}
    for sources, more in ((videos, {}), (videos, {}), ([], dict(merge_only=True))):
        given = dict(OPTIONS, **more) if more else options
        assert prepare(sources, out, **given)['pairs']['total'] == 15
        assert {path: path.stat().st_mtime_ns for path in out.glob('f*/*/*')} == stored


def test_a_merge_that_is_stopped_leaves_no_summary(tmp_path, videos, monkeypatch):
    """Lists of which one splits the videos anew must not pass for a finished set."""
    out, replace = tmp_path / 'out', os.replace
    prepare([videos], out, workers=1, **OPTIONS)

    def stop(source, target):
        if Path(target).name == 'train.json':
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', stop)
        with pytest.raises(KeyboardInterrupt):
            prepare([], out, merge_only=True, val_share=0.6, **OPTIONS)
    assert not (out / 'summary.json').exists()
    prepare([], out, merge_only=True, val_share=0.6, **OPTIONS)
    assert (out / 'summary.json').exists()


def test_a_merge_takes_nothing_from_those_who_prepare(tmp_path, videos):
    out = tmp_path / 'out'
    prepare([videos], out, workers=1, **OPTIONS)
    written = out / 'records' / '.jump.json.1-2.tmp'
    written.write_bytes(b'half')
    prepare([], out, merge_only=True, **OPTIONS)
    assert written.exists()
    prepare([videos], out, workers=1, **OPTIONS)  # alone in the folder
    assert not written.exists()


def test_a_merge_leaves_nothing_of_an_earlier_one(tmp_path, videos):
    out = tmp_path / 'out'
    prepare([videos], out, workers=1, reference_lists=True, **OPTIONS)
    prepare([], out, merge_only=True, val_share=0.9, **OPTIONS)
    assert not (out / 'train.txt').exists() and not (out / 'val.txt').exists()


def test_a_set_without_pairs_has_no_sheet_of_an_earlier_one(tmp_path, videos):
    out, broken = tmp_path / 'out', tmp_path / 'broken.mp4'
    prepare([videos / 'walk.mp4'], out, workers=1, **OPTIONS)
    assert (out / 'contact_sheet.png').exists()
    broken.write_bytes(b'no video')
    assert prepare([broken], out, workers=1, **OPTIONS)['pairs']['total'] == 0
    assert not (out / 'contact_sheet.png').exists()


def test_a_merge_without_sources_takes_the_videos_of_the_present_settings(tmp_path, videos):
    out = tmp_path / 'out'
    prepare([videos], out, workers=1, **OPTIONS)
    prepare([videos / 'walk.mp4'], out, workers=1, overwrite=True, flow_bound=20.0, **OPTIONS)
    summary = prepare([], out, merge_only=True, **OPTIONS)
    assert summary['videos']['ok'] == 1 and summary['other_videos'] == 2
    assert {entry['video'] for entry in entries(out)} == {'walk'}


def test_a_record_that_no_longer_holds_is_gone_before_its_video_is_made_anew(
    tmp_path, small, moving_frames, write_folder, monkeypatch
):
    """Another process, or a merge after Ctrl-C, must not take the video for ready."""
    src, out = tmp_path / 'src', tmp_path / 'out'
    write_folder(src / 'walk', moving_frames(3))
    store = Store(out, small)
    store.claim()
    (source,) = find_sources([src])
    assert prepare_video(source, store, [build_flow_estimator('dis')], lambda *_: None)['pairs']
    write_folder(src / 'walk', moving_frames(4))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(WorkerPool, 'run', stop)
    with pytest.raises(KeyboardInterrupt):
        prepare([src], out, workers=1, **OPTIONS)
    with pytest.raises(IncompleteError, match='1 of 1 videos'):
        prepare([src], out, merge_only=True, **OPTIONS)


def test_one_of_several_leaves_alone_what_the_others_are_writing(
    tmp_path, small, moving_frames, write_folder
):
    src, out = tmp_path / 'src', tmp_path / 'out'
    write_folder(src / 'jump', moving_frames(2))
    Store(out, small).claim()
    written = out / 'records' / '.jump.json.1-2.tmp'
    written.write_bytes(b'half')
    found = prepare([src], out, workers=1, shard='1/2', **OPTIONS)
    assert found == {'complete': False, 'missing': 1}
    assert written.exists()
