import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmp_mm.datasets.preparation.errors import PrepareError
from cmp_mm.datasets.preparation.sources import find_sources, list_frames, natural_key


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'x')
    return path


def test_frame_names_are_ordered_as_people_count():
    names = ['f10.png', 'f2.png', 'f1.png', 'f01.png', 'a2b10.png', 'a2b9.png', '7.png']
    expected = ['7.png', 'a2b9.png', 'a2b10.png', 'f01.png', 'f1.png', 'f2.png', 'f10.png']
    assert sorted(names, key=natural_key) == expected


def test_any_mix_of_files_and_folders_is_searched_recursively(tmp_path):
    touch(tmp_path / 'set' / 'a.mp4')
    touch(tmp_path / 'set' / 'deep' / 'er' / 'b.MKV')
    for number in (1, 2, 10):
        touch(tmp_path / 'set' / 'frames' / f'{number}.jpg')
    touch(tmp_path / 'set' / 'notes.txt')
    touch(tmp_path / 'set' / '.hidden' / 'c.mp4')
    touch(tmp_path / 'set' / 'cover.jpg')
    lone = touch(tmp_path / 'lone.video')

    sources = find_sources([tmp_path / 'set', lone])

    assert [(source.name, source.kind) for source in sources] == [
        ('a', 'video'),
        ('deep-er-b', 'video'),
        ('frames', 'frames'),
        ('lone', 'video'),
    ]
    assert [source.label for source in sources] == ['a', 'deep/er/b', 'frames', 'lone']
    assert [os.path.basename(path) for path in list_frames(sources[2].path)] == ['1.jpg', '2.jpg', '10.jpg']


def test_pictures_of_videos_are_no_frames(tmp_path):
    """Thumbnails beside them, a cover above."""
    for name in ('one', 'two.part'):
        touch(tmp_path / 'set' / 'clips' / f'{name}.mp4')
        touch(tmp_path / 'set' / 'clips' / f'{name}.jpg')
    touch(tmp_path / 'set' / 'cover.jpg')
    assert [(source.label, source.kind) for source in find_sources([tmp_path / 'set'])] == [
        ('clips/one', 'video'),
        ('clips/two.part', 'video'),
    ]
    # Frames beside a video are frames all the same.
    for number in (1, 2):
        touch(tmp_path / 'set' / 'clips' / f'{number}.jpg')
    assert ('clips', 'frames') in [(source.label, source.kind) for source in find_sources([tmp_path / 'set'])]
    frames = list_frames(str(tmp_path / 'set' / 'clips'))
    assert [os.path.basename(frame) for frame in frames] == ['1.jpg', '2.jpg'], 'and thumbnails are none'
    # A folder is no video, whatever its name.
    (tmp_path / 'set' / 'clips' / '1.avi').mkdir()
    assert list_frames(str(tmp_path / 'set' / 'clips')) == frames


def test_flow_kept_as_pictures_is_no_video(tmp_path):
    # denseflow's folder, and one that mirrors its frames.
    for number in (1, 2, 3):
        touch(tmp_path / 'dense' / f'img_{number:05d}.jpg')
    for axis in 'xy':
        for number in (1, 2):
            touch(tmp_path / 'dense' / f'flow_{axis}_{number:05d}.jpg')
            touch(tmp_path / 'mirror' / f'{number}_{axis}.jpg')
    # Only one file of what would be a pair: a frame.
    for name in ('map_x.jpg', 'map_z.jpg', 'flow_x_7.jpg'):
        touch(tmp_path / 'named' / name)
    generator = np.random.default_rng(0)
    for folder in ('image_2', 'flow_occ', 'deep', 'from_black'):
        (tmp_path / 'kitti' / folder).mkdir(parents=True)
        for number in (0, 1):
            path = str(tmp_path / 'kitti' / folder / f'{number:06d}_10.png')
            image = generator.integers(0, 2**16, (6, 8, 3)).astype(np.uint16)
            if folder == 'flow_occ':
                image[..., 0] %= 2
            if folder == 'from_black' and number == 0:
                image[:] = 0
            cv2.imwrite(path, (image >> 8).astype(np.uint8) if folder == 'image_2' else image)
    # KITTI's beside the frames they are of, and a frame that is there twice.
    beside = tmp_path / 'kitti' / 'beside'
    for number in (0, 1, 2):
        touch(beside / f'{number}.jpg')
    for number in (0, 1):
        shutil.copy(tmp_path / 'kitti' / 'flow_occ' / '000000_10.png', beside / f'{number}.png')
    cv2.imwrite(str(beside / '2.png'), np.zeros((6, 8, 3), np.uint8))
    # Of 16 bits and no flow: the frame once more, and one of each is enough.
    cv2.imwrite(str(beside / '0.png'), generator.integers(0, 2**16, (6, 8, 3)).astype(np.uint16))
    found = {source.label: source.path for source in find_sources([tmp_path])}
    frames = list_frames(found.pop('kitti/beside'))
    assert [os.path.basename(path) for path in frames] == ['0.jpg', '1.jpg', '2.jpg', '2.png']
    assert sorted(found) == ['dense', 'kitti/deep', 'kitti/from_black', 'kitti/image_2', 'named']
    assert [os.path.basename(path) for path in list_frames(found['dense'])] == [
        'img_00001.jpg',
        'img_00002.jpg',
        'img_00003.jpg',
    ]
    assert len(list_frames(found['named'])) == 3


def test_the_output_folder_and_repeated_sources_are_not_searched(tmp_path):
    video = touch(tmp_path / 'a.mp4')
    touch(tmp_path / 'out' / 'frames' / 'a' / '000000.jpg')
    touch(tmp_path / 'out' / 'frames' / 'a' / '000001.jpg')
    (tmp_path / 'loop').symlink_to(tmp_path)
    sources = find_sources([tmp_path, video, tmp_path], tmp_path / 'out')
    assert [source.name for source in sources] == ['a']
    with pytest.raises(PrepareError, match='lies in the output folder'):
        find_sources([tmp_path / 'out' / 'frames'], tmp_path / 'out')


def test_names_are_unique_and_fit_for_lists_and_file_systems(tmp_path):
    for name in ('a.mp4', 'a.avi', 'b/c.mp4', 'b-c.mp4', 'two words.mp4', '-dash.mp4', 'é' * 120 + '.mp4'):
        touch(tmp_path / 'set' / name)
    touch(tmp_path / 'other' / 'a.mp4')
    sources = find_sources([tmp_path / 'set', tmp_path / 'other'])
    names = [source.name for source in sources]
    assert len(set(names)) == len(sources) == 8
    assert all(len(name.encode()) <= 170 and not set(name) & set(' /') for name in names)
    assert not any(name.startswith(('.', '-')) for name in names)
    assert names == sorted(names)
    assert 'two_words' in names
    # The same files give the same names in whatever order they are given.
    assert find_sources([tmp_path / 'other', tmp_path / 'set']) == sources


def test_names_do_not_depend_on_how_or_where_the_source_is_mounted(tmp_path, monkeypatch):
    for name in ('walk.mp4', 'walk.avi', 'run.mp4', 'b/c.mp4', 'b-c.mp4'):
        touch(tmp_path / 'set' / name)
    names = [source.name for source in find_sources([tmp_path / 'set'])]
    assert len(set(names)) == 5 and 'run' in names
    monkeypatch.chdir(tmp_path)
    assert [source.name for source in find_sources(['set'])] == names
    (tmp_path / 'set').rename(tmp_path / 'moved')
    assert [source.name for source in find_sources([tmp_path / 'moved'])] == names


def test_a_changed_source_is_told_from_an_unchanged_one(tmp_path):
    touch(tmp_path / 'a.mp4')
    for number in (1, 2):
        touch(tmp_path / 'f' / f'{number}.png')
    video, frames = find_sources([tmp_path])
    before = video.fingerprint(), frames.fingerprint()
    assert (video.fingerprint(), frames.fingerprint()) == before
    (tmp_path / 'a.mp4').write_bytes(b'longer')
    touch(tmp_path / 'f' / '3.png')
    assert video.fingerprint() != before[0]
    assert frames.fingerprint() != before[1]


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('gone', 'no such file or folder'),
        ('empty', 'no video file and no folder of frames'),
        ('image.png', 'an image; expected a video file or the folder of its frames'),
    ],
)
def test_a_wrong_source_is_named(tmp_path, name, message):
    (tmp_path / 'empty').mkdir()
    touch(tmp_path / 'image.png')
    with pytest.raises(PrepareError, match=f'SRC .*{name}: {message}'):
        find_sources([tmp_path / name])
    with pytest.raises(PrepareError, match='no SRC given'):
        find_sources([])
