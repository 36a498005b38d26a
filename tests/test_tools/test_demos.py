import importlib.util
import json
import re
import warnings
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from cmp_mm.apis import CMPInferencer, InputError, InputWarning
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
    model = MODELS.build(config.model)
    with torch.no_grad():
        model.decoder.head.weight.mul_(20)  # flow that is not all zero
    torch.save(dict(state_dict=model.state_dict()), folder / 'tiny.pth')
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
    assert np.abs(flow[12, 10] - (-8.5, 3)).max() > 0.1
    tool('demo/propagate_demo')([image, *arrows, '--out', str(out), *network, '--correction', 'fade'])
    flow, _ = read_flow(out / 'flow.flo')
    np.testing.assert_allclose(flow[[12, 30], [10, 40]], [(-8.5, 3), (0, 0)], atol=1e-4)


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


POINTS = {
    'propagate_demo': ['--arrow', '10,12,8,3'],
    'video_demo': ['--arrow', '10,12,8,3', '--frames', '2'],
    'annotate_demo': ['--positive', '20,20'],
}


@pytest.mark.parametrize('name', POINTS)
def test_a_picture_far_from_those_trained_on_is_told(tool, network, image, tmp_path, capsys, name):
    def told(side, *options):
        config = Config.fromfile(network[1])
        step = dict(type='FlowResize', short_side=side)
        config.train_dataloader = dict(dataset=dict(type='ImageFlowDataset', pipeline=[step]))
        config.dump(str(tmp_path / 'config.py'))
        out = ['--out', str(tmp_path / ('out.gif' if name == 'video_demo' else 'out'))]
        command = [image, *POINTS[name], *options, *out, '--config', str(tmp_path / 'config.py')]
        tool(f'demo/{name}')([*command, *network[2:]])
        return [line for line in capsys.readouterr().err.splitlines() if 'working-size' in line]

    sentence = (
        'hint: the network was trained on images with a short side of 20 px, this one has 40; '
        '--working-size 20 may be better'
    )
    assert told(20) == [sentence]
    assert told(32) == told(20, '--working-size', '24') == []
    if name == 'annotate_demo':
        zoom = ['--positive', '26,22', '--zoom-factor', '2', '--crop-size', '20']
        assert told(20, *zoom) == []


@pytest.mark.parametrize('name', POINTS)
def test_a_picture_that_is_read_is_not_overwritten(tool, network, image, tmp_path, name):
    folder = tmp_path / 'out'
    folder.mkdir()
    picture = folder / ('video.gif' if name == 'video_demo' else 'overlay.png')
    Image.open(image).save(picture)
    (tmp_path / 'link.png').symlink_to(picture)
    before = picture.read_bytes()
    out = picture if name == 'video_demo' else folder
    for given in (picture, tmp_path / 'link.png'):
        with pytest.raises(InputError, match=f'{picture.name} is read and would be overwritten'):
            tool(f'demo/{name}')([str(given), *POINTS[name], '--out', str(out), *network])
    assert picture.read_bytes() == before and list(folder.iterdir()) == [picture]


def test_each_folder_of_trajectories_is_looked_at_before(tool, network, image, tmp_path):
    (tmp_path / 'out' / '2').mkdir(parents=True)
    picture = tmp_path / 'out' / '2' / 'panel.png'
    Image.open(image).save(picture)
    paths = tmp_path / 'paths.json'
    paths.write_text(json.dumps([[[10, 10], [12, 10], [14, 11]]]))
    command = [str(picture), '--trajectories', str(paths), '--out', str(tmp_path / 'out'), *network]
    with pytest.raises(InputError, match='panel.png is read'):
        tool('demo/propagate_demo')(command)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['2']


@pytest.mark.parametrize('name', POINTS)
def test_an_out_of_another_kind_is_refused(tool, network, image, tmp_path, name):
    (tmp_path / 'file').write_text('')
    cases = {'file': 'file is a file', 'file/deep/result': 'file is a file'}
    if name == 'video_demo':
        (tmp_path / 'folder.gif').mkdir()
        cases = {'file/a.gif': 'file is a file', 'folder.gif': 'folder.gif is a folder'}
    else:
        cases |= {'result.flo': 'has the name of a .flo file', 'a/mask.PNG': 'has the name of a .PNG file'}
    there = sorted(tmp_path.rglob('*'))
    for out, message in cases.items():
        with pytest.raises(InputError, match=f'--out is a f[a-z ]*; .*{message}$'):
            tool(f'demo/{name}')([image, *POINTS[name], '--out', str(tmp_path / out), *network])
    assert sorted(tmp_path.rglob('*')) == there
    if name != 'video_demo':  # a folder that is there is one, whatever its name
        (tmp_path / 'there.png').mkdir()
        tool(f'demo/{name}')([image, *POINTS[name], '--out', str(tmp_path / 'there.png'), *network])
        assert (tmp_path / 'there.png' / 'panel.png').is_file()


def test_warnings_and_errors_name_the_options_of_the_command_line(tool, network, image, tmp_path, capsys):
    command = [image, '--arrow', '10,12,100,3', '--out', str(tmp_path / 'out'), *network]
    with one_line_errors('propagate_demo.py'):
        tool('demo/propagate_demo')(command)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if 'warning' in line.lower())
    assert line == (
        'warning: an arrow has a component of 100 px at the working size, the network expresses up to 50 px '
        'there; use --out-of-range rescale or clip, or a smaller --working-size'
    )
    command += ['--arrow', '10,12,1,1', '--collisions', 'error']
    with pytest.raises(SystemExit, match='use --collisions last or mean$'), one_line_errors('propagate_demo'):
        tool('demo/propagate_demo')(command)
    # Paths keep their names.
    command = ['/no/working_size/a.png', *POINTS['propagate_demo'], '--out', str(tmp_path / 'out'), *network]
    with pytest.raises(SystemExit, match='/no/working_size/a.png'), one_line_errors('propagate_demo'):
        tool('demo/propagate_demo')(command)


def test_a_warning_of_each_frame_is_one_and_others_are_left_alone(capsys):
    with pytest.warns(DeprecationWarning, match='old'), one_line_errors('video_demo.py'):
        for number in (51.5, 60):
            warnings.warn(f'an arrow of {number} px', InputWarning, stacklevel=1)
        warnings.warn('another thing', InputWarning, stacklevel=1)
        warnings.warn('old', DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().err == 'warning: an arrow of 51.5 px\nwarning: another thing\n'


def test_arrows_of_a_video_may_be_longer_than_the_network_expresses(tool, network, image, tmp_path, capsys):
    command = [image, '--arrow', '10,12,100,3', '--frames', '2', '--out', str(tmp_path / 'a.gif'), *network]
    with one_line_errors('video_demo.py'):
        tool('demo/video_demo')(command)
        assert 'warning' not in capsys.readouterr().err
        tool('demo/video_demo')([*command, '--out-of-range', 'warn'])
    assert 'warning: an arrow has a component of 100 px' in capsys.readouterr().err


def test_what_is_left_of_the_arrows_is_told(tool, network, image, tmp_path, capsys):
    main = tool('demo/propagate_demo')
    flows = np.zeros((2, 9, 9, 2))
    flows[0, 3, 2] = (4, 1)  # across an arrow does not count
    flows[1, 5, 6] = (0, -1)
    sets = [[(2.4, 3, 8, 0), (1, 1, 0, 0)], [(6, 5, 0, -6)]]
    assert main.__globals__['share_left'](flows, sets) == pytest.approx((4 * 8 + 6) / (64 + 36))
    command = [image, '--out', str(tmp_path / 'out'), *network]
    main([*command, '--arrow', '10,12,8,3'])
    told = capsys.readouterr()
    assert re.search(r'fastest .* px; at their points -?\d+% of the arrows is left', told.out)
    assert 'hint: the flow falls short of the arrows; --correction fade' in told.err
    main([*command, '--arrow', '10,12,8,3', '--correction', 'fade'])
    told = capsys.readouterr()
    assert 'at their points 100% of the arrows' in told.out and 'hint' not in told.err
    main([*command, '--arrow', '10,12,0,0'])
    told = capsys.readouterr()
    assert 'mean motion' in told.out and 'at their points' not in told.out and 'hint' not in told.err


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--crop-size', '40'], 'give --zoom-factor too'),
        (['--crop-size', '40', '--zoom-factor', '0'], 'give --zoom-factor too'),
        (['--correction', 'fade'], 'unrecognized arguments: --correction'),
        (['--collisions', 'mean'], 'unrecognized arguments: --collisions'),
    ],
)
def test_annotate_refuses_what_would_do_nothing(tool, network, image, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit):
        tool('demo/annotate_demo')(
            [image, *POINTS['annotate_demo'], *options, '--out', str(tmp_path / 'out'), *network]
        )
    assert message in capsys.readouterr().err and not (tmp_path / 'out').exists()


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


def test_propagate_gives_the_flow_of_image_arrows_and_options(tool, network, image, tmp_path, monkeypatch):
    main, drawn = tool('demo/propagate_demo'), []
    panel = main.__globals__['draw_panel']
    monkeypatch.setitem(main.__globals__, 'draw_panel', lambda *args: drawn.append(args) or panel(*args))
    arrows = [(10, 12, 100, 3), (10, 12, -20, 3), (40, 30, 0, 0)]
    options = dict(
        normalization='minus_one_to_one', working_size=32, collisions='mean', out_of_range='rescale'
    )
    command = [image, '--out', str(tmp_path / 'out'), '--max-radius', '7', *network]
    for arrow in arrows:
        command += ['--arrow', ','.join(map(str, arrow))]
    for name, value in options.items():
        command += [f'--{name.replace("_", "-")}', str(value)]
    main(command)
    wanted = CMPInferencer(network[1], network[3], 'cpu', **options)(image, arrows)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(read_flow(tmp_path / 'out' / 'flow.flo')[0], wanted, atol=1e-5)
    _, points, vectors, _, radius = drawn[0]
    assert points.tolist() == [[12, 10], [12, 10], [30, 40]] and radius == 7
    assert vectors.tolist() == [[100, 3], [-20, 3], [0, 0]]


def test_options_reach_the_video(tool, network, image, tmp_path, monkeypatch):
    main, seen = tool('demo/video_demo'), []
    frames = [np.zeros((40, 50, 3), np.uint8)] * 2
    monkeypatch.setitem(main.__globals__, 'animate', lambda *_, **options: seen.append(options) or frames)
    options = ['--frames', '2', '--fps', '5', '--motion', 'stepwise', '--fill', 'inpaint']
    main([image, '--arrow', '1,1,8,3', *options, '--out', str(tmp_path / 'a.mp4'), *network])
    assert seen == [dict(num_frames=2, motion='stepwise', fill='inpaint', color_order='rgb')]
    with av.open(str(tmp_path / 'a.mp4')) as container:
        assert container.streams.video[0].average_rate == 5


def test_options_reach_the_annotator(tool, network, image, tmp_path, monkeypatch):
    main, seen = tool('demo/annotate_demo'), []
    real = main.__globals__['PointAnnotator']
    monkeypatch.setitem(
        main.__globals__,
        'PointAnnotator',
        lambda *args, **options: seen.append(options) or real(*args, **options),
    )
    options = ['--velocity', '7', '--threshold', '0.25', '--method', 'aligned']
    options += ['--zoom-factor', '2', '--crop-size', '40', '--positive', '20,20']
    main([image, *options, '--out', str(tmp_path / 'out'), *network])
    wanted = dict(velocity=7, threshold=0.25, method='aligned', zoom_factor=2, crop_size=40)
    main([image, '--positive', '20,20', '--out', str(tmp_path / 'plain'), *network])
    usual = dict(velocity=10, threshold=0.5, method='reference', zoom_factor=0, crop_size=384)
    assert seen == [dict(wanted, color_order='rgb'), dict(usual, color_order='rgb')]


def test_the_annotator_clicks_into_the_largest_error(tool):
    bench = tool('benchmarks/bench_annotation').__globals__
    truth = np.zeros((20, 40), bool)
    truth[3:14, 20:31] = True
    much = truth.copy()
    much[10:17, 4:11] = True
    assert bench['next_point'](np.zeros_like(truth), truth) == ((25, 8), True)
    assert bench['next_point'](much, truth) == ((7, 13), False)
    answers, asked = [much, truth], []

    def segment(positive, static):
        asked.append((positive.tolist(), static.tolist()))
        return answers.pop(0)

    assert bench['click'](segment, truth, 3) == [121 / 170, 1, 1]
    assert asked == [([[25, 8]], []), ([[25, 8]], [[7, 13]])]


@pytest.mark.parametrize('mode', ['P', 'L', 'RGB', 'RGBA'])
def test_objects_of_a_mask_are_told_apart(tool, tmp_path, mode):
    """Also where the palette's colours are of one brightness, as VOC's first three."""
    load_objects = tool('benchmarks/bench_annotation').__globals__['load_objects']
    for folder in ('images', 'masks'):
        (tmp_path / folder / 'clip').mkdir(parents=True)
    labels = np.zeros((20, 30), np.uint8)
    labels[2:8, 2:8], labels[10:18, 12:28] = 1, 2
    mask = Image.fromarray(labels)
    if mode != 'L':
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        mask = mask.convert(mode) if mode != 'P' else mask
    mask.save(tmp_path / 'masks' / 'clip' / '0.png')
    cv2.imwrite(str(tmp_path / 'images' / 'clip' / '0.jpg'), np.zeros((20, 30, 3), np.uint8))
    found = [truth for _, _, truth in load_objects(tmp_path / 'images', tmp_path / 'masks', 0.0)]
    assert sorted(int(truth.sum()) for truth in found) == [36, 128]
