"""Files appear whole or not at all, and errors name them."""

import errno
import os
import stat

import numpy as np
import pytest

import cmp_mm.flow.files as flow_files
from cmp_mm.flow import FlowFormatError, read_flow, write_flow

NAMES = {'flo': 'a.flo', 'kitti': 'a.PNG', 'npz': 'a.npz', 'jpg': ('a_x.jpg', 'a_y.jpg')}


def under(folder, name):
    return folder / name if isinstance(name, str) else tuple(folder / part for part in name)


@pytest.mark.parametrize('fmt', NAMES)
@pytest.mark.parametrize('by_suffix', [True, False])
def test_round_trip(flow, tmp_path, fmt, by_suffix):
    path = under(tmp_path, NAMES[fmt])
    given = None if by_suffix else fmt
    write_flow(flow, path, given, bound=40)
    decoded, valid = read_flow(path if fmt != 'jpg' else [str(part) for part in path], given, bound=40)
    # 40 px of noise through JPEG at quality 95 keeps the mean error under its step of .3 px.
    assert np.abs(decoded - flow).mean() < {'jpg': 1.5, 'kitti': 1 / 128}.get(fmt, 1e-9)
    assert valid is None
    assert len(list(tmp_path.iterdir())) == (2 if fmt == 'jpg' else 1)


def test_mask_goes_through(flow, valid, tmp_path):
    write_flow(flow, tmp_path / 'a.flo', valid=valid)
    np.testing.assert_array_equal(read_flow(tmp_path / 'a.flo')[1], valid)


@pytest.mark.parametrize('fmt', NAMES)
def test_nothing_is_left_of_a_write_that_fails(flow, tmp_path, monkeypatch, fmt):
    path = under(tmp_path, NAMES[fmt])
    write_flow(flow, path, fmt)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    class FullDisk:
        def __init__(self, file, mode):
            self.file = open(file, mode)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(flow_files, 'open', FullDisk, raising=False)
    with pytest.raises(OSError, match='No space left'):
        write_flow(-flow, path, fmt)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_both_files_of_a_pair_are_complete_before_one_appears(flow, tmp_path, monkeypatch):
    seen = []

    def replace(source, target):
        seen.append(sorted(file.suffix for file in tmp_path.iterdir()))
        os.rename(source, target)

    monkeypatch.setattr(flow_files.os, 'replace', replace)
    write_flow(flow, under(tmp_path, NAMES['jpg']))
    assert seen == [['.tmp', '.tmp'], ['.jpg', '.tmp']]


def test_new_files_have_the_users_permissions(flow, tmp_path):
    (tmp_path / 'plain').write_bytes(b'')
    write_flow(flow, tmp_path / 'a.flo')
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_flow(tmp_path / 'a.flo')
    with pytest.raises(OSError, match='nowhere'):
        write_flow(np.zeros((2, 2, 2)), tmp_path / 'nowhere' / 'a.flo')


def test_errors_start_with_the_path(tmp_path):
    path = tmp_path / 'a.flo'
    path.write_bytes(b'PIEH')
    with pytest.raises(FlowFormatError) as error:
        read_flow(path)
    assert str(error.value).startswith(f'{path}: ')
    with pytest.raises(FlowFormatError) as error:
        write_flow(np.zeros((2, 2)), path)
    assert str(error.value).startswith(f'{path}: ')
    assert path.read_bytes() == b'PIEH'


def test_a_folder_or_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe.flo')
    (tmp_path / 'folder.flo').mkdir()
    for name in ('pipe.flo', 'folder.flo'):
        with pytest.raises(FlowFormatError, match='not a file'):
            read_flow(tmp_path / name)


def test_a_file_too_long_for_any_flow_is_not_read(tmp_path):
    path = tmp_path / 'a.flo'
    with open(path, 'wb') as file:
        file.truncate(2**36)  # sparse: takes no room
    with pytest.raises(FlowFormatError, match='no flow file has over'):
        read_flow(path)


@pytest.mark.parametrize(
    ('path', 'fmt', 'message'),
    [
        ('a.exr', None, "suffix '.exr'"),
        ('a_x.jpg', None, 'a pair of files'),
        (('a.flo', 'b.flo'), None, 'one file; got 2'),
        (('a.jpg', 'b.jpg', 'c.jpg'), None, 'got 3'),
        ((), None, 'suffix'),
        ('a.flo', 'jpg', 'a pair of files'),
    ],
)
def test_names_that_are_no_flow(path, fmt, message):
    with pytest.raises(FlowFormatError, match=message):
        read_flow(path, fmt)
