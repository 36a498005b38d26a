"""Puppet sets as files: complete, exact, continued, and readable by those they are for."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmp_mm.datasets import ImageFlowDataset
from cmp_mm.datasets.preparation import PrepareError
from cmp_mm.datasets.preparation.annotation import choose_val
from cmp_mm.datasets.preparation.errors import EXIT_INTERRUPTED
from cmp_mm.datasets.puppets import (
    KEYPOINT_NAMES,
    PART_NAMES,
    exact_flow,
    part_mask,
    random_clip,
    render_frame,
    visible_keypoints,
)
from cmp_mm.datasets.puppets.render import figure_boxes
from cmp_mm.datasets.puppets.render_set import render_set
from cmp_mm.datasets.puppets.writer import ClipSettings
from cmp_mm.flow import read_flow

SETTINGS = ClipSettings(seed=1, frames=3, height=48, width=64, flow_format='kitti')
TOOL = Path(__file__).parents[3] / 'tools' / 'dataset_converters' / 'render_puppets.py'


@pytest.fixture(scope='module')
def puppet_set(tmp_path_factory):
    out = tmp_path_factory.mktemp('puppets')
    return out, render_set(out, SETTINGS, clips=6, val_share=0.4)


def annotation(out, split):
    return json.loads((out / f'{split}.json').read_text())


def test_files_hold_what_was_rendered(puppet_set):
    out, _ = puppet_set
    entries = annotation(out, 'train')['data_list'] + annotation(out, 'val')['data_list']
    assert len(entries) == 6 * 2
    for entry in entries:
        number, t = int(entry['video'].removeprefix('puppets')), int(Path(entry['img_path']).stem)
        clip = random_clip(1, number, 3, 48, 64)
        frame = render_frame(clip, t)
        flow, valid = read_flow(out / entry['flow_path'])
        assert valid is None
        np.testing.assert_allclose(flow, exact_flow(clip, t, frame.layers), atol=1 / 128 + 1e-6)
        mask = cv2.imread(str(out / entry['part_mask_path']), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, part_mask(clip, frame.layers))
        image = cv2.imread(str(out / entry['img_path']))[..., ::-1].astype(int)
        assert np.abs(image - frame.image).mean() < 8
        assert (out / entry['img2_path']).exists()
        figures = clip.keypoints.shape[1]
        assert len(entry['keypoints']) == figures * len(KEYPOINT_NAMES) and len(entry['boxes']) == figures
        seen = visible_keypoints(clip, t, frame.layers).reshape(-1, 3)
        np.testing.assert_allclose(entry['keypoints'], seen, atol=0.0051)  # written with two decimals
        assert entry['boxes'] == figure_boxes(clip, frame.layers)


@pytest.mark.parametrize(('flow_format', 'tolerance'), [('jpg', 1.0), ('flo', 0), ('npz', 0)])
def test_flow_formats(tmp_path, flow_format, tolerance):
    render_set(tmp_path, ClipSettings(1, 2, 32, 40, flow_format), clips=2, val_share=0.5)
    for split in ('train', 'val'):
        found = annotation(tmp_path, split)
        assert found['metainfo']['flow_format'] == flow_format
        (entry,) = found['data_list']
        paths = entry['flow_path']
        flow, _ = read_flow([tmp_path / p for p in paths] if isinstance(paths, list) else tmp_path / paths)
        clip = random_clip(1, int(entry['video'][-5:]), 2, 32, 40)
        expected = exact_flow(clip, 0, render_frame(clip, 0).layers)
        # The jpg pair rounds to .39 px, and JPEG blurs edges.
        assert np.abs(flow - expected).mean() <= tolerance


def test_split_is_by_clip(puppet_set):
    out, summary = puppet_set
    train, val = (
        {entry['video'] for entry in annotation(out, split)['data_list']} for split in ('train', 'val')
    )
    assert train and val and not train & val and len(train | val) == 6
    assert val == set(choose_val(train | val, 0.4))
    assert summary['pairs'] == {'total': 12, 'train': 2 * len(train), 'val': 2 * len(val)}
    assert json.loads((out / 'summary.json').read_text()) == summary


def test_continues_and_grows(tmp_path):
    render_set(tmp_path, SETTINGS, clips=3)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob('frames/*/*')}
    before = annotation(tmp_path, 'train')
    # As if it was killed while clip 1 was written.
    (tmp_path / 'records' / 'puppets00001.json').unlink()
    (tmp_path / 'flow' / 'puppets00001' / '000001.png').unlink()
    done = []
    render_set(tmp_path, SETTINGS, clips=4, progress=done.append)
    assert done == [2, 1, 1]
    for path, written in times.items():
        assert (path.stat().st_mtime_ns == written) == ('puppets00001' not in str(path)), path
    assert (tmp_path / 'flow' / 'puppets00001' / '000001.png').exists()
    render_set(tmp_path, SETTINGS, clips=3)
    assert annotation(tmp_path, 'train') == before
    assert not list(tmp_path.rglob('*.tmp'))


def test_processes_change_nothing(puppet_set, tmp_path):
    out, _ = puppet_set
    render_set(tmp_path, SETTINGS, clips=6, val_share=0.4, workers=2)
    files = {path.relative_to(out): path.read_bytes() for path in out.rglob('*') if path.is_file()}
    again = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
    assert files == again


def test_other_settings_need_another_folder(puppet_set, tmp_path):
    out, _ = puppet_set
    with pytest.raises(PrepareError, match='other settings.*frames 3, now 4'):
        render_set(out, ClipSettings(1, 4, 48, 64, 'kitti'), clips=2)
    (tmp_path / 'train.json').write_text('{}')
    with pytest.raises(PrepareError, match=r'holds train\.json but no settings'):
        render_set(tmp_path, SETTINGS, clips=1)
    assert (tmp_path / 'train.json').read_text() == '{}'


def test_bad_settings_are_named(tmp_path):
    for change, message in (
        (dict(frames=1), 'frames is 1'),
        (dict(height=8), 'height is 8.*32'),
        (dict(flow_format='avi'), "'avi'.*kitti"),
        (dict(flow_bound=0), 'bound is 0'),
    ):
        with pytest.raises(PrepareError, match=message):
            ClipSettings(**{**dict(seed=0, frames=2, height=32, width=32, flow_format='flo'), **change})
    with pytest.raises(PrepareError, match='clips is 0'):
        render_set(tmp_path / 'new', SETTINGS, clips=0)
    assert not (tmp_path / 'new').exists()


def test_coco_keypoints(puppet_set):
    out, _ = puppet_set
    coco = json.loads((out / 'keypoints_train.json').read_text())
    assert coco['categories'][0]['keypoints'] == list(KEYPOINT_NAMES)
    entries = annotation(out, 'train')['data_list']
    assert [image['file_name'] for image in coco['images']] == [entry['img_path'] for entry in entries]
    # Figure by figure of each entry, those of which nothing is seen left out.
    figures = [
        (number, box, points)
        for number, entry in enumerate(entries)
        for box, points in zip(entry['boxes'], np.array(entry['keypoints']).reshape(-1, 14, 3), strict=True)
        if box is not None
    ]
    # pycocotools keeps the numbers of matches in an array in which 0 is none.
    assert [found['id'] for found in coco['annotations']] == list(range(1, len(figures) + 1))
    assert len({number for number, _, _ in figures}) > 1
    for found, (number, box, expected) in zip(coco['annotations'], figures, strict=True):
        assert coco['images'][number]['id'] == found['image_id']
        x, y, width, height = found['bbox']
        assert [x, y, x + width, y + height] == box and found['area'] == width * height
        assert width > 0 and height > 0 and x + width <= 64 and y + height <= 48
        points = np.array(found['keypoints']).reshape(14, 3)
        np.testing.assert_array_equal(points, expected * (expected[:, 2:] > 0))
        assert found['num_keypoints'] == (points[:, 2] > 0).sum()
        assert not points[points[:, 2] == 0].any()
        seen = points[points[:, 2] == 2]
        assert (seen[:, 0] >= x - 1).all() and (seen[:, 0] <= x + width).all()
        assert (seen[:, 1] >= y - 1).all() and (seen[:, 1] <= y + height).all()


def test_lists_for_segmentation(puppet_set):
    out, _ = puppet_set
    for split in ('train', 'val'):
        names = (out / 'splits' / f'{split}.txt').read_text().split()
        assert len(names) == len(annotation(out, split)['data_list'])
        for name in names:
            assert (out / 'frames' / f'{name}.jpg').exists()
            mask = cv2.imread(str(out / 'parts' / f'{name}.png'), cv2.IMREAD_UNCHANGED)
            assert mask.dtype == np.uint8 and mask.ndim == 2 and mask.max() < len(PART_NAMES)


def test_contact_sheet(puppet_set):
    out, _ = puppet_set
    sheet = cv2.imread(str(out / 'contact_sheet.png'))
    assert sheet is not None and sheet.std() > 20


def test_read_by_the_dataset(puppet_set):
    out, _ = puppet_set
    dataset = ImageFlowDataset(
        ann_file='train.json', data_root=str(out), pipeline=[dict(type='LoadImage'), dict(type='LoadFlow')]
    )
    assert len(dataset) == len(annotation(out, 'train')['data_list'])
    sample = dataset[0]
    assert sample['img'].shape == (48, 64, 3) and sample['flow'].shape == (48, 64, 2)


def test_command_line(tmp_path):
    command = [sys.executable, str(TOOL), '--out', str(tmp_path / 'set'), '--clips', '2', '--frames', '2']
    command += ['--size', '32x40', '--workers', '1', '--flow-format', 'jpg', '--val-share', '0.5']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'rendering: 100%' in done.stderr and 'contact_sheet.png' in done.stdout
    assert json.loads((tmp_path / 'set' / 'summary.json').read_text())['val_share'] == 0.5
    wrong = subprocess.run([*command, '--seed', '5'], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.strip().splitlines()[-1].startswith('error: ') and 'seed 0, now 5' in wrong.stderr


@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='finds workers in Linux /proc')
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_tool(tmp_path, signum):
    command = [sys.executable, str(TOOL), '--out', str(tmp_path / 'out'), '--clips', '500', '--frames', '3']
    mark = f'RENDERED_BY={tmp_path}'
    env = {**os.environ, 'RENDERED_BY': str(tmp_path)}
    with subprocess.Popen([*command, '--size', '32x40'], stderr=subprocess.PIPE, env=env) as tool:
        wait_until(lambda: list((tmp_path / 'out').glob('records/*')))
        assert len(processes_with(mark)) >= 3, 'the tool and its workers'
        tool.send_signal(signum)
        error = tool.communicate(timeout=60)[1].decode()
    wait_until(lambda: not processes_with(mark))
    if signum == signal.SIGTERM:
        assert tool.returncode == EXIT_INTERRUPTED
        assert error.strip().splitlines()[-1] == 'stopped; start the same command again to continue'
        assert 'Traceback' not in error


def wait_until(reached):
    deadline = time.monotonic() + 180
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_with(mark):
    """Process ids whose environment has the entry."""
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / 'environ').read_bytes().split(b'\0'):
                found.append(folder.name)
    return found


def test_vectors_beyond_the_bound_are_told(tmp_path):
    options = ['--clips', '1', '--frames', '3', '--size', '48x64', '--flow-format']
    beyond = sum(
        int((np.abs(exact_flow(clip, t, render_frame(clip, t).layers)) > 2).any(axis=2).sum())
        for clip in [random_clip(0, 0, 3, 48, 64)]
        for t in range(2)
    )
    assert beyond > 0
    for extra, expected in ((['jpg', '--flow-bound', '2'], beyond), (['kitti', '--flow-bound', '2'], 0)):
        out = tmp_path / extra[0]
        command = [sys.executable, str(TOOL), '--out', str(out), *options, *extra]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads((out / 'summary.json').read_text())['clipped_vectors'] == expected
        assert (f'{beyond} vectors exceed --flow-bound 2 and were clipped' in done.stdout) == (expected > 0)


@pytest.mark.parametrize('harm', [Path.unlink, lambda path: path.write_bytes(b'')])
@pytest.mark.parametrize('name', ['frames/puppets00001/000001.jpg', 'parts/puppets00001/000000.png'])
def test_a_lost_or_emptied_file_is_made_again(tmp_path, name, harm):
    render_set(tmp_path, SETTINGS, clips=2)
    whole = (tmp_path / name).read_bytes()
    harm(tmp_path / name)
    render_set(tmp_path, SETTINGS, clips=2)
    assert (tmp_path / name).read_bytes() == whole
