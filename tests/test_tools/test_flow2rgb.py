import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmp_mm.flow import add_legend, flow_to_rgb, read_flow, write_flow

TOOL = Path(__file__).parents[2] / 'tools' / 'visualization' / 'flow2rgb.py'


@pytest.fixture(scope='module')
def main():
    return runpy.run_path(str(TOOL))['main']


@pytest.fixture
def flow():
    return np.random.default_rng(0).normal(0, 5, (30, 40, 2)).astype(np.float32)


def read_rgb(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_one_file_with_legend(main, flow, tmp_path, capsys):
    write_flow(flow, tmp_path / 'a.flo')
    assert main([str(tmp_path / 'a.flo'), '--out', str(tmp_path / 'b.png'), '--max-radius', '10']) == 0
    np.testing.assert_array_equal(read_rgb(tmp_path / 'b.png'), add_legend(flow_to_rgb(flow, 10), 10))
    fastest = np.hypot(flow[..., 0], flow[..., 1]).max()
    assert f'fastest vector {fastest:.4g} px, 1 with vectors beyond' in capsys.readouterr().out


def test_a_folder_at_one_scale(main, flow, tmp_path):
    (tmp_path / 'in' / 'deep').mkdir(parents=True)
    write_flow(flow, tmp_path / 'in' / 'slow.npz')
    write_flow(flow * 3, tmp_path / 'in' / 'deep' / 'fast.png')
    assert main([str(tmp_path / 'in'), '--out', str(tmp_path / 'out'), '--no-legend']) == 0
    np.testing.assert_array_equal(read_rgb(tmp_path / 'out' / 'slow.png'), flow_to_rgb(flow, 20))
    kitti = np.rint(flow * 3 * 64) / 64
    np.testing.assert_array_equal(read_rgb(tmp_path / 'out' / 'deep' / 'fast.png'), flow_to_rgb(kitti, 20))


def test_bound_of_jpg_and_unknown_pixels(main, flow, tmp_path):
    (tmp_path / 'in').mkdir()
    valid = np.ones(flow.shape[:2], bool)
    valid[:10] = False
    write_flow(flow, tmp_path / 'in' / 'known.npz', valid=valid)
    jpg = tmp_path / 'in' / 'pair_x.jpg', tmp_path / 'in' / 'pair_y.jpg'
    write_flow(flow, jpg, bound=20)
    read, _ = read_flow(jpg, bound=20)
    assert main([str(tmp_path / 'in'), '--out', str(tmp_path / 'out'), '--no-legend', '--bound', '20']) == 0
    np.testing.assert_array_equal(read_rgb(tmp_path / 'out' / 'known.png'), flow_to_rgb(flow, 20, valid))
    (drawn,) = (path for path in (tmp_path / 'out').iterdir() if path.name != 'known.png')
    np.testing.assert_array_equal(read_rgb(drawn), flow_to_rgb(read, 20))


def test_a_broken_file_is_one_line_and_the_rest_is_drawn(main, flow, tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'a.flo').write_bytes(b'PIEH')
    write_flow(flow, tmp_path / 'in' / 'b.flo')
    assert main([str(tmp_path / 'in'), '--out', str(tmp_path / 'out')]) == 1
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['b.png']
    streams = capsys.readouterr()
    assert sum('flow2rgb: ' in line for line in streams.err.splitlines()) == 1 and 'a.flo' in streams.err
    assert '1 drawn' in streams.out and '1 failed' in streams.out


def test_nothing_to_begin_with(main, flow, tmp_path, capsys):
    out = ['--out', str(tmp_path / 'out')]
    assert main([str(tmp_path / 'nowhere'), *out]) == 2
    assert main([str(tmp_path), *out]) == 2
    for name in ('a.flo', 'a.npz'):
        write_flow(flow, tmp_path / name)
    assert main([str(tmp_path), *out]) == 2
    streams = capsys.readouterr().err.splitlines()
    assert len(streams) == 3
    assert 'no such file' in streams[0] and 'no flow files' in streams[1] and 'one name' in streams[2]
    assert not (tmp_path / 'out').exists()


def test_a_source_is_never_overwritten(main, flow, tmp_path):
    write_flow(flow, tmp_path / 'a.png')
    before = (tmp_path / 'a.png').read_bytes()
    assert main([str(tmp_path), '--out', str(tmp_path)]) == 2
    assert (tmp_path / 'a.png').read_bytes() == before


def test_an_unwritable_folder_is_one_line(main, flow, tmp_path, capsys):
    write_flow(flow, tmp_path / 'a.flo')
    (tmp_path / 'out').write_text('a file')
    assert main([str(tmp_path / 'a.flo'), '--out', str(tmp_path / 'out')]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize('radius', ['0', '-3', 'nan', 'inf', 'wide'])
def test_a_radius_that_is_none(main, tmp_path, radius):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), '--out', str(tmp_path), '--max-radius', radius])
    assert stop.value.code == 2


def test_one_format_alone(main, flow, tmp_path):
    (tmp_path / 'in').mkdir()
    write_flow(flow, tmp_path / 'in' / 'a.flo')
    write_flow(flow * 2, tmp_path / 'in' / 'a.png')
    arguments = [str(tmp_path / 'in'), '--out', str(tmp_path / 'out'), '--no-legend', '--from', 'flo']
    assert main(arguments) == 0
    np.testing.assert_array_equal(read_rgb(tmp_path / 'out' / 'a.png'), flow_to_rgb(flow, 20))
