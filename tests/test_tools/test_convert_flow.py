import os
import runpy
from pathlib import Path

import numpy as np
import pytest

from cmp_mm.flow import read_flow, write_flow

TOOL = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'convert_flow.py'
ENDINGS = {'flo': '.flo', 'kitti': '.png', 'npz': '.npz', 'jpg': ('_x.jpg', '_y.jpg')}


@pytest.fixture(scope='module')
def main():
    return runpy.run_path(str(TOOL))['main']


@pytest.fixture
def flow():
    """Return smooth flow, for JPEG."""
    rows, columns = np.mgrid[:24, :32].astype(np.float32)
    return np.stack((columns / 4 - 4, rows / 3 - 4), axis=2)


def name(folder, stem, fmt):
    ending = ENDINGS[fmt]
    if isinstance(ending, str):
        return folder / f'{stem}{ending}'
    return tuple(folder / f'{stem}{part}' for part in ending)


@pytest.mark.parametrize('source', ENDINGS)
@pytest.mark.parametrize('target', ENDINGS)
def test_every_format_to_every_other(main, flow, tmp_path, source, target):
    (tmp_path / 'in' / 'walk').mkdir(parents=True)
    write_flow(flow, name(tmp_path / 'in' / 'walk', '0001', source), bound=10)
    arguments = [str(tmp_path / 'in'), '--out', str(tmp_path / 'out'), '--to', target, '--bound', '10']
    assert main(arguments) == 0
    converted, valid = read_flow(name(tmp_path / 'out' / 'walk', '0001', target), bound=10)
    assert valid is None
    np.testing.assert_allclose(converted, flow, atol=0.4 if 'jpg' in (source, target) else 0.01)


def test_another_bound(main, flow, tmp_path):
    pair = name(tmp_path, 'a', 'jpg')
    write_flow(flow, pair, bound=10)
    out = tmp_path / 'out'
    arguments = [str(pair[0]), '--out', str(out), '--to', 'jpg', '--bound', '50', '--from-bound', '10']
    assert main(arguments) == 0
    converted, _ = read_flow(name(out, 'a', 'jpg'), bound=50)
    np.testing.assert_allclose(converted, flow, atol=0.8)


def test_unknown_vectors(main, flow, tmp_path, capsys):
    valid = np.ones(flow.shape[:2], bool)
    valid[8:16, 8:16] = False
    write_flow(flow, tmp_path / 'a.flo', valid=valid)
    arguments = [str(tmp_path / 'a.flo'), '--out', str(tmp_path / 'out')]
    assert main([*arguments, '--to', 'kitti']) == 0
    np.testing.assert_array_equal(read_flow(tmp_path / 'out' / 'a.png')[1], valid)
    assert main([*arguments, '--to', 'jpg']) == 1
    assert f'{tmp_path / "a.flo"}: 64 of 768 flow vectors' in capsys.readouterr().err
    assert not (tmp_path / 'out' / 'a_x.jpg').exists()
    assert main([*arguments, '--to', 'jpg', '--fill-unknown']) == 0
    np.testing.assert_allclose(read_flow(name(tmp_path / 'out', 'a', 'jpg'))[0][9:15, 9:15], 0, atol=0.3)


def test_clipping_is_said(main, flow, tmp_path, capsys):
    write_flow(flow, tmp_path / 'a.flo')
    write_flow(flow * 10, tmp_path / 'b.flo')
    assert main([str(tmp_path), '--out', str(tmp_path / 'out'), '--to', 'jpg', '--bound', '10']) == 0
    assert '1 of them have vectors beyond what jpg holds' in capsys.readouterr().out


def test_started_again_it_continues(main, flow, tmp_path, capsys):
    source, out = tmp_path / 'in', tmp_path / 'out'
    source.mkdir()
    for stem in 'abc':
        write_flow(flow, source / f'{stem}.flo')
    arguments = [str(source), '--out', str(out), '--to', 'jpg']
    assert main(arguments) == 0
    (out / 'b_y.jpg').unlink()  # as after a kill between the two files of a pair
    (out / 'a_x.jpg').write_bytes(b'kept')
    assert main(arguments) == 0
    assert '1 converted' in capsys.readouterr().out.splitlines()[-1]
    assert (out / 'b_y.jpg').exists() and (out / 'a_x.jpg').read_bytes() == b'kept'

    write_flow(-flow, source / 'c.flo')  # a new source is converted again
    later = max(path.stat().st_mtime_ns for path in out.iterdir()) + 10**9
    os.utime(source / 'c.flo', ns=(later, later))
    assert main(arguments) == 0
    np.testing.assert_allclose(read_flow(name(out, 'c', 'jpg'))[0], -flow, atol=0.8)
    assert main([*arguments, '--overwrite']) == 0
    assert '3 converted' in capsys.readouterr().out.splitlines()[-1]
    assert (out / 'a_x.jpg').read_bytes() != b'kept'


def test_broken_files_are_one_line_each_and_the_rest_is_converted(main, flow, tmp_path, capsys):
    source = tmp_path / 'in'
    source.mkdir()
    write_flow(flow, source / 'a.flo')
    (source / 'b.flo').write_bytes((source / 'a.flo').read_bytes()[:-1])
    write_flow(flow, name(source, 'c', 'jpg'))
    (source / 'c_x.jpg').unlink()
    assert main([str(source), '--out', str(tmp_path / 'out'), '--to', 'npz']) == 1
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['a.npz']
    streams = capsys.readouterr()
    assert sum('convert_flow: ' in line for line in streams.err.splitlines()) == 2
    assert '1 converted' in streams.out and '2 failed' in streams.out


@pytest.mark.parametrize(
    ('names', 'out', 'message'),
    [
        ((), 'out', 'no flow files'),
        (('a.flo', 'a.npz'), 'out', 'would both become'),
        (('a.png',), '.', 'would overwrite a source'),
    ],
)
def test_nothing_to_begin_with(main, flow, tmp_path, capsys, names, out, message):
    for one in names:
        write_flow(flow, tmp_path / one)
    before = sorted(tmp_path.rglob('*'))
    assert main([str(tmp_path), '--out', str(tmp_path / out), '--to', 'kitti']) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob('*')) == before


def test_a_folder_that_takes_nothing_stops_it(main, flow, tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    for stem in 'abc':
        write_flow(flow, tmp_path / 'in' / f'{stem}.flo')
    (tmp_path / 'out').write_text('a file')
    assert main([str(tmp_path / 'in'), '--out', str(tmp_path / 'out'), '--to', 'npz']) == 2
    assert sum('cannot write' in line for line in capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize('option', ['--bound', '--from-bound'])
def test_a_bound_that_is_none(main, tmp_path, option):
    with pytest.raises(SystemExit):
        main([str(tmp_path), '--out', str(tmp_path), '--to', 'jpg', option, '0'])


def test_beside_the_sources_it_continues_too(main, flow, tmp_path, capsys):
    for stem in 'ab':
        write_flow(flow, tmp_path / f'{stem}.flo')
    arguments = [str(tmp_path), '--out', str(tmp_path), '--to', 'npz']
    assert main(arguments) == 0
    (tmp_path / 'b.npz').unlink()
    assert main(arguments) == 0
    assert '1 converted' in capsys.readouterr().out.splitlines()[-1]
    # A flow of that name that is older than the source was not made from it.
    os.utime(tmp_path / 'a.npz', ns=(1, 1))
    assert main(arguments) == 2
    assert 'a.npz would overwrite a source' in capsys.readouterr().err


def test_one_format_alone(main, flow, tmp_path):
    for file in ('a.flo', 'a.png'):
        write_flow(flow, tmp_path / file)
    out = tmp_path / 'out'
    assert main([str(tmp_path), '--out', str(out), '--to', 'npz', '--from', 'flo']) == 0
    np.testing.assert_array_equal(read_flow(out / 'a.npz')[0], flow)
