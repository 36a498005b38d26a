"""Which files of a folder are flow."""

import cv2
import numpy as np
import pytest

from cmp_mm.flow import FlowFormatError, find_flow_files, read_flow, write_flow


@pytest.fixture
def folder(tmp_path):
    """Return a folder with flow of every format among frames and notes."""
    flow = np.ones((4, 5, 2), np.float32)
    (tmp_path / 'deep' / 'er').mkdir(parents=True)
    write_flow(flow, tmp_path / 'a.flo')
    write_flow(flow, tmp_path / 'deep' / 'b.npz')
    write_flow(flow, tmp_path / 'deep' / 'c.png')
    write_flow(flow, (tmp_path / 'deep' / 'd_x.jpg', tmp_path / 'deep' / 'd_y.jpg'))
    write_flow(flow, (tmp_path / 'deep/er/flow_x_007.jpg', tmp_path / 'deep/er/flow_y_007.jpg'))
    frame = np.zeros((4, 5, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'frame.png'), frame)
    cv2.imwrite(str(tmp_path / 'frame.jpg'), frame)
    (tmp_path / 'notes.txt').write_text('none')
    (tmp_path / '.a.flo.1-2.tmp').write_bytes(b'half')
    (tmp_path / '.hidden.flo').write_bytes(b'half')
    return tmp_path


def test_all_formats_are_found_and_frames_left_out(folder):
    files = find_flow_files([folder])
    assert [(file.name, file.fmt) for file in files] == [
        ('a', 'flo'),
        ('deep/b', 'npz'),
        ('deep/c', 'kitti'),
        ('deep/d', 'jpg'),
        ('deep/er/007', 'jpg'),
    ]
    for file in files:
        np.testing.assert_allclose(read_flow(file.source, file.fmt)[0], 1, atol=0.2)


def test_linked_folders_are_searched_each_once(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp('disk')
    (folder / 'deep').rename(elsewhere / 'deep')
    (folder / 'deep').symlink_to(elsewhere / 'deep')
    (elsewhere / 'deep' / 'loop').symlink_to(folder)
    names = [file.name for file in find_flow_files([folder])]
    assert names == ['a', 'deep/b', 'deep/c', 'deep/d', 'deep/er/007']
    # One that is there beside a link to it keeps its own name.
    (folder / 'deep').unlink()
    (elsewhere / 'deep' / 'loop').unlink()
    (elsewhere / 'deep').rename(folder / 'real')
    for link in ('a_link', 'z_link'):
        (folder / link).symlink_to(folder / 'real')
    names = [file.name for file in find_flow_files([folder])]
    assert names == ['a', 'real/b', 'real/c', 'real/d', 'real/er/007']
    (folder / 'a_folder').mkdir()
    (folder / 'a_folder' / 'link').symlink_to(folder / 'real')
    assert [file.name for file in find_flow_files([folder])] == names


def test_one_format(folder):
    assert [file.name for file in find_flow_files([folder], 'jpg')] == ['deep/d', 'deep/er/007']
    with pytest.raises(ValueError, match="'exr'"):
        find_flow_files([folder], 'exr')


def test_files_by_name_and_each_once(folder):
    sources = [folder / 'deep' / 'd_y.jpg', folder / 'deep' / 'd_x.jpg', folder / 'a.flo', folder / 'a.flo']
    assert [file.name for file in find_flow_files(sources)] == ['d', 'a']


def test_half_a_pair_is_listed_so_that_reading_it_fails(folder):
    (folder / 'deep' / 'd_x.jpg').unlink()
    file = next(file for file in find_flow_files([folder]) if file.name == 'deep/d')
    with pytest.raises(FileNotFoundError, match='d_x.jpg'):
        read_flow(file.source, file.fmt)


def test_a_broken_png_is_listed_so_that_reading_it_fails(folder):
    (folder / 'cut.png').write_bytes((folder / 'deep' / 'c.png').read_bytes()[:20])
    file = next(file for file in find_flow_files([folder]) if file.name == 'cut')
    with pytest.raises(FlowFormatError, match='cut short'):
        read_flow(file.source, file.fmt)


def test_wrong_sources(folder):
    with pytest.raises(FileNotFoundError, match='nowhere'):
        find_flow_files([folder / 'nowhere'])
    for name in ('notes.txt', 'frame.jpg'):
        with pytest.raises(FlowFormatError, match='not named like a flow file'):
            find_flow_files([folder / name])
