import importlib.util
import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from cmp_mm.apis import InputError
from cmp_mm.apis.command_line import one_line_errors
from cmp_mm.flow import read_flow
from cmp_mm.registry import MODELS

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture
def tool():
    """`main` of a tool, by its path without '.py'."""

    def load(name: str):
        spec = importlib.util.spec_from_file_location(Path(name).name, TOOLS / f'{name}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.main

    return load


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """Options that name a tiny random network."""
    folder = tmp_path_factory.mktemp('network')
    config = Config(
        dict(
            model=dict(
                type='CMP',
                backbone=dict(type='ResNet', depth=18, num_stages=2, out_indices=(1,)),
                neck=dict(type='ConvNeck', in_channels=128, out_channels=16),
                guidance_encoder=dict(type='GuidanceEncoder', stride=8),
                decoder=dict(type='PlainDecoder', in_channels=32, combo=(1, 2), out_channels=42),
                codec=dict(type='QuantizedFlowCodec', num_bins=21),
                loss=dict(type='QuantizedFlowLoss'),
            )
        )
    )
    config.dump(str(folder / 'tiny.py'))
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(config.model).state_dict()), folder / 'tiny.pth')
    return [
        '--config', str(folder / 'tiny.py'), '--checkpoint', str(folder / 'tiny.pth'), '--device', 'cpu'
    ]  # fmt: skip


@pytest.fixture
def image(tmp_path):
    """Path of a 50 x 40 picture of noise."""
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    return str(path)


def test_propagate_writes_pictures_and_flow(tool, network, image, tmp_path, capsys):
    out = tmp_path / 'out'
    arrows = ['--arrow', '10,12,-8.5,3', '--arrow', '40,30,0,0']
    tool('demo/propagate_demo')([image, *arrows, '--out', str(out), *network])
    assert {path.name for path in out.iterdir()} == {'panel.png', 'overlay.png', 'flow.flo', 'flow.npz'}
    flow, _ = read_flow(out / 'flow.flo')
    assert flow.shape == (40, 50, 2)
    np.testing.assert_array_equal(read_flow(out / 'flow.npz')[0], flow)
    assert cv2.imread(str(out / 'overlay.png')).shape[0] >= 40
    assert 'mean motion' in capsys.readouterr().out


def test_propagate_along_trajectories(tool, network, image, tmp_path):
    paths = tmp_path / 'paths.json'
    paths.write_text(json.dumps([[[10, 10], [12, 10], [14, 11]]]))
    tool('demo/propagate_demo')(
        [image, '--trajectories', str(paths), '--out', str(tmp_path / 'out'), *network]
    )
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['0', '1', '2']


def test_video_by_arrows_and_trajectories(tool, network, image, tmp_path, capsys):
    main = tool('demo/video_demo')
    main([image, '--arrow', '10,12,8,3', '--frames', '4', '--out', str(tmp_path / 'new' / 'a.mp4'), *network])
    with av.open(str(tmp_path / 'new' / 'a.mp4')) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4
    paths = tmp_path / 'paths.json'
    paths.write_text(json.dumps([[[10, 10], [12, 10], [14, 11]]]))
    main([image, '--trajectories', str(paths), '--out', str(tmp_path / 'b.gif'), *network])
    with Image.open(tmp_path / 'b.gif') as gif:
        assert gif.size == (50, 40)
    assert '4 frames' in capsys.readouterr().out
    # Sides of an mp4 are even, and what is printed is what was written.
    cv2.imwrite(image, np.zeros((41, 51, 3), np.uint8))
    main([image, '--arrow', '10,12,8,3', '--frames', '2', '--out', str(tmp_path / 'odd.mp4'), *network])
    with av.open(str(tmp_path / 'odd.mp4')) as container:
        stream = container.streams.video[0]
        assert f'2 frames of {stream.width} x {stream.height} pixels' in capsys.readouterr().out
    for option in (['--frames', '9'], ['--motion', 'stepwise']):
        with pytest.raises(SystemExit):
            main([image, '--trajectories', str(paths), *option, '--out', str(tmp_path / 'c.gif'), *network])
        assert '--frames and --motion are of arrows' in capsys.readouterr().err


@pytest.mark.parametrize('options', [[], ['--method', 'aligned', '--zoom-factor', '2', '--crop-size', '40']])
def test_annotate_writes_masks(tool, network, image, tmp_path, options):
    points = ['--positive', '20,20', '--positive', '26,22', '--static', '3,3']
    tool('demo/annotate_demo')([image, *points, '--out', str(tmp_path / 'out'), *options, *network])
    mask = cv2.imread(str(tmp_path / 'out' / 'mask.png'), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (40, 50) and set(np.unique(mask)) <= {0, 255}
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {
        'mask.png', 'score.png', 'overlay.png', 'panel.png'
    }  # fmt: skip


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('propagate_demo', [], 'no arrows'),
        ('propagate_demo', ['--arrow', '99,0,1,1'], 'outside the image of 50 x 40'),
        ('propagate_demo', ['--arrow', '9,0,nan,1'], 'finite'),
        ('propagate_demo', ['--trajectories', 'none.json'], 'none.json cannot be read'),
        ('video_demo', [], 'no arrows'),
        ('annotate_demo', ['--static', '1,1'], 'no positive points'),
        ('annotate_demo', ['--positive', '-1,-5'], 'x -1, y -5'),
    ],
)
def test_errors_are_one_line(tool, network, image, tmp_path, name, options, message):
    out = tmp_path / ('out.mp4' if name == 'video_demo' else 'out')
    with pytest.raises(SystemExit, match=f'error: .*{message}'), one_line_errors(name):
        tool(f'demo/{name}')([image, *options, '--out', str(out), *network])
    assert not out.exists()


def test_without_a_checkpoint_it_says_how_to_make_one(tool, image, tmp_path):
    with pytest.raises(InputError, match='quickstart'):
        tool('demo/propagate_demo')([image, '--arrow', '1,1,1,1', '--out', str(tmp_path / 'out')])


def test_annotation_benchmark(tool, network, tmp_path, capsys):
    y, x = np.mgrid[:40, :60]
    truth = np.hypot(x - 30, y - 20) < 9
    for name in ('images', 'masks'):
        (tmp_path / name / 'clip').mkdir(parents=True)
    frame = np.where(truth[..., None], (200, 30, 30), (20, 120, 20)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / 'images' / 'clip' / '0.jpg'), frame)
    cv2.imwrite(str(tmp_path / 'masks' / 'clip' / '0.png'), truth.astype(np.uint8) * 255)
    figures = tmp_path / 'figures.json'
    tool('benchmarks/bench_annotation')(
        ['--images', str(tmp_path / 'images'), '--masks', str(tmp_path / 'masks'), '--points', '2']
        + ['--json', str(figures), *network]
    )
    iou = json.loads(figures.read_text())['iou']
    assert iou['disc, 20% of the short side'][0][0] == pytest.approx((8 / 9) ** 2, abs=0.06)
    assert iou['GrabCut'][0][0] > 0.75
    assert all(0 <= value <= 1 for scores in iou.values() for one in scores for value in one)
    assert 'GrabCut' in capsys.readouterr().out


def test_guidance_sets_benchmark(tool, network, tmp_path, capsys):
    figures = tmp_path / 'figures.json'
    tool('benchmarks/bench_guidance_sets')(
        [
            *network[:2],
            '--device',
            'cpu',
            '--sets',
            '3',
            '--size',
            '32',
            '--rounds',
            '1',
            '--cfg-options',
            'codec.num_bins=5',
            'decoder.out_channels=10',
            '--json',
            str(figures),
        ]
    )
    assert 'codec.num_bins=5 decoder.out_channels=10, 32 x 32' in capsys.readouterr().out
    (row,) = json.loads(figures.read_text())['rows']
    assert row['T'] == 3 and row['max_difference_px'] < 1e-2
