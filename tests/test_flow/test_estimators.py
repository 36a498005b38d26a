"""Estimators by name: what they return, what they refuse, and what they say where an extra is missing."""

import sys
import types

import cv2
import numpy as np
import pytest
import torch

from cmp_mm.flow import FlowEstimator, FlowFormatError, build_flow_estimator, write_flow


def frames(height=64, width=96, shift=(3, 0)):
    """Return two RGB frames of a smooth texture that moves by ``shift`` (x, y)."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.random((height + 40, width + 40, 3)).astype(np.float32), (0, 0), 2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    x, y = shift
    return (
        texture[20 : 20 + height, 20 : 20 + width].copy(),
        texture[20 - y : 20 - y + height, 20 - x : 20 - x + width].copy(),
    )


@pytest.mark.parametrize('preset', ['ultrafast', 'fast', 'medium'])
@pytest.mark.parametrize('shift', [(3, 0), (0, -2)])
def test_dis_finds_a_shift(preset, shift):
    estimator = build_flow_estimator('dis', preset=preset)
    assert isinstance(estimator, FlowEstimator)
    frame0, frame1 = frames(shift=shift)
    flow = estimator(frame0, frame1)
    assert flow.shape == (64, 96, 2) and flow.dtype == np.float32
    np.testing.assert_allclose(np.median(flow[10:-10, 10:-10], axis=(0, 1)), shift, atol=0.3)


def test_dis_gives_the_same_flow_again_and_ignores_names():
    estimator = build_flow_estimator('dis')
    pair = frames()
    first = estimator(*pair)
    estimator(*frames(shift=(-4, 4)))
    np.testing.assert_array_equal(estimator.for_pair(*pair, 'walk/000000.jpg', 'walk/000001.jpg'), first)


@pytest.mark.parametrize('preset', ['ultrafast', 'fast', 'medium'])
@pytest.mark.parametrize('size', [(1, 1), (3, 300), (12, 40), (31, 100), (12, 3000), (300, 5), (12, 12)])
def test_dis_takes_small_and_constant_frames(preset, size):
    # OpenCV itself refuses some of these, and at others crashes the process.
    frame = np.full((*size, 3), 90, np.uint8)
    flow = build_flow_estimator('dis', preset=preset)(frame, frame)
    assert flow.shape == (*size, 2) and np.abs(flow).max() < 0.1


@pytest.mark.parametrize(
    ('first', 'second', 'message'),
    [
        (np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8), r'shape \(20, 20\)'),
        (np.zeros((20, 20, 3)), np.zeros((20, 20, 3)), 'float64'),
        (np.zeros((20, 20, 3), np.uint8), np.zeros((20, 21, 3), np.uint8), 'one size'),
        (np.zeros((0, 20, 3), np.uint8), np.zeros((0, 20, 3), np.uint8), r'shape \(0, 20, 3\)'),
    ],
)
def test_frames_that_are_none(first, second, message):
    with pytest.raises(ValueError, match=message):
        build_flow_estimator('dis')(first, second)


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('farneback', {}, 'expected one of dis, raft, precomputed, ptlflow:<model>'),
        ('ptlflow:', {}, 'unknown'),
        ('dis', {'preset': 'slow'}, "'slow'; expected one of ultrafast, fast, medium"),
        ('dis', {'quality': 1}, "'quality'; it takes preset"),
        ('precomputed', {}, "'root'; it takes root, fmt, bound"),
        ('raft', {'model': 'huge'}, "'huge'; expected large or small"),
    ],
)
def test_wrong_names_and_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_flow_estimator(name, **options)


@pytest.mark.parametrize(
    ('name', 'module', 'command'),
    [
        ('raft', 'torchvision', 'pip install .*torchvision'),
        ('ptlflow:raft', 'ptlflow', "pip install 'ptlflow>=0.4'"),
    ],
)
def test_a_missing_extra_says_how_to_get_it(monkeypatch, name, module, command):
    # Parts that another test has imported would still be found.
    for part in [part for part in sys.modules if part.startswith(f'{module}.')]:
        monkeypatch.delitem(sys.modules, part)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f'needs {module}.*{command}') as error:
        build_flow_estimator(name)
    assert '\n' not in str(error.value)


def test_raft_command_follows_the_installed_torch(monkeypatch):
    from cmp_mm.flow.estimators.raft import install_command

    monkeypatch.setattr('importlib.metadata.version', lambda name: '2.9.1+cpu')
    assert install_command() == "pip install 'torch===2.9.1' 'torchvision==0.24.*'"


@pytest.fixture
def raft_weights(tmp_path):
    optical_flow = pytest.importorskip('torchvision.models.optical_flow')
    torch.manual_seed(0)
    path = tmp_path / 'raft_small.pth'
    torch.save(optical_flow.raft_small(weights=None).state_dict(), path)
    return path


@pytest.mark.parametrize('size', [(40, 60), (131, 150)])
def test_raft_at_any_size(raft_weights, size):
    options = dict(model='small', weights=raft_weights, device='cpu', num_flow_updates=2)
    estimator = build_flow_estimator('raft', **options)
    flow = estimator(*frames(*size))
    assert flow.shape == (*size, 2) and flow.dtype == np.float32 and np.isfinite(flow).all()
    assert flow.std() > 0


def test_raft_s_flow_lies_where_its_frames_do(raft_weights):
    estimator = build_flow_estimator('raft', model='small', weights=raft_weights, device='cpu')
    estimator._network = lambda first, second, num_flow_updates: [first[:, :2]]
    frame, other = frames(131, 150)
    np.testing.assert_allclose(estimator(frame, other), frame[..., :2] / 127.5 - 1, atol=1e-5)


def test_raft_of_the_padded_size_is_the_network_itself(raft_weights):
    from torchvision.models.optical_flow import Raft_Small_Weights, raft_small

    frame0, frame1 = frames(128, 136)
    network = raft_small(weights=None).eval()
    network.load_state_dict(torch.load(raft_weights, weights_only=True))
    inputs = [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in (frame0, frame1)]
    with torch.no_grad():
        expected = network(*Raft_Small_Weights.DEFAULT.transforms()(*inputs))[-1][0].permute(1, 2, 0)
    flow = build_flow_estimator('raft', model='small', weights=raft_weights, device='cpu')(frame0, frame1)
    np.testing.assert_allclose(flow, expected.numpy(), atol=1e-3)


def test_raft_refuses_other_weights(raft_weights, tmp_path):
    with pytest.raises(ValueError, match='not the weights of RAFT large'):
        build_flow_estimator('raft', model='large', weights=raft_weights)
    broken = tmp_path / 'broken.pth'
    broken.write_bytes(raft_weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match='not a weights file'):
        build_flow_estimator('raft', model='small', weights=broken)
    with pytest.raises(FileNotFoundError):
        build_flow_estimator('raft', model='small', weights=tmp_path / 'none.pth')


class FakeModel(torch.nn.Module):
    """A model with the interface of ptlflow 0.4: its flow is the green and the blue channel of frame 0."""

    def forward(self, inputs):
        images = inputs['images']
        assert images.shape[:3] == (1, 2, 3) and images.dtype == torch.float32 and images.max() <= 1
        assert not self.training and not torch.is_grad_enabled()
        return {'flows': images[:, :1, [1, 0]] * 255}  # BGR


def test_ptlflow_adapter(monkeypatch):
    asked = []

    def get_model(model_name, ckpt_path=None, args=None):
        asked.append((model_name, ckpt_path))
        return FakeModel()

    monkeypatch.setitem(sys.modules, 'ptlflow', types.SimpleNamespace(get_model=get_model))
    estimator = build_flow_estimator('ptlflow:liteflownet', weights='sintel', device='cpu')
    assert asked == [('liteflownet', 'sintel')]
    frame0, frame1 = frames(13, 21)
    flow = estimator(frame0, frame1)
    assert flow.dtype == np.float32
    np.testing.assert_allclose(flow, frame0[..., 1:], atol=1e-3)


def test_ptlflow_of_another_output_size(monkeypatch):
    class Half(FakeModel):
        def forward(self, inputs):
            return {'flows': super().forward(inputs)['flows'][..., ::2, ::2]}

    module = types.SimpleNamespace(get_model=lambda name, ckpt_path: Half())
    monkeypatch.setitem(sys.modules, 'ptlflow', module)
    with pytest.raises(ValueError, match=r'shape \(1, 1, 2, 7, 11\)'):
        build_flow_estimator('ptlflow:half', device='cpu')(*frames(13, 21))


FRAME = np.zeros((17, 23, 3), np.uint8)


@pytest.mark.parametrize(
    'file',
    [
        '000012.flo',
        '000012.npz',
        '000012.png',
        ('000012_x.jpg', '000012_y.jpg'),
        ('flow_x_000012.jpg', 'flow_y_000012.jpg'),
    ],
)
def test_precomputed_is_found_by_name(tmp_path, file):
    folder = tmp_path / 'park' / 'walk'
    folder.mkdir(parents=True)
    expected = np.full((17, 23, 2), 4, np.float32)
    write_flow(
        expected, folder / file if isinstance(file, str) else [folder / part for part in file], bound=20
    )
    estimator = build_flow_estimator('precomputed', root=tmp_path, bound=20)
    flow = estimator.for_pair(FRAME, FRAME, 'park/walk/000012.jpg', 'park/walk/000013.jpg')
    np.testing.assert_allclose(flow, expected, atol=0.1)


def test_precomputed_is_found_as_denseflow_names_it(tmp_path):
    expected = np.full((17, 23, 2), 4, np.float32)
    write_flow(expected, [tmp_path / f'flow_{axis}_00012.jpg' for axis in 'xy'], bound=20)
    estimator = build_flow_estimator('precomputed', root=tmp_path, bound=20)
    np.testing.assert_allclose(estimator.for_pair(FRAME, FRAME, 'img_00012.jpg'), expected, atol=0.1)
    with pytest.raises(FileNotFoundError):
        estimator.for_pair(FRAME, FRAME, 'img_00013.jpg')
    write_flow(expected, [tmp_path / f'flow_{axis}_img_00013.jpg' for axis in 'xy'], bound=20)
    np.testing.assert_allclose(estimator.for_pair(FRAME, FRAME, 'img_00013.jpg'), expected, atol=0.1)


def test_precomputed_prefers_what_is_asked_for(tmp_path):
    write_flow(np.full((17, 23, 2), 1.0), tmp_path / 'a.flo')
    write_flow(np.full((17, 23, 2), 2.0), tmp_path / 'a.npz')
    for fmt, value in ((None, 1), ('flo', 1), ('npz', 2)):
        estimator = build_flow_estimator('precomputed', root=tmp_path, fmt=fmt)
        assert (estimator.for_pair(FRAME, FRAME, 'a.png') == value).all()


def test_precomputed_is_resized_to_the_frames(tmp_path):
    write_flow(np.tile(np.array([4, 3], np.float32), (34, 69, 1)), tmp_path / 'a.flo')
    flow = build_flow_estimator('precomputed', root=tmp_path).for_pair(FRAME, FRAME, 'a')
    np.testing.assert_allclose(flow, np.tile([4 / 3, 3 / 2], (17, 23, 1)), rtol=1e-6)


@pytest.mark.parametrize('size', [(17, 23), (51, 46)])
def test_precomputed_leaves_unknown_pixels_nan_and_alone(tmp_path, size):
    valid = np.random.default_rng(0).random(size) > 0.3
    write_flow(np.full((*size, 2), 6.0), tmp_path / 'a.flo', valid=valid)
    flow = build_flow_estimator('precomputed', root=tmp_path).for_pair(FRAME, FRAME, 'a')
    known = np.isfinite(flow).all(axis=2)
    assert 0 < known.sum() < known.size
    assert abs(known.mean() - valid.mean()) < 0.1, 'resized, unknown pixels do not eat their neighbours'
    np.testing.assert_allclose(flow[known], np.tile([6 * 23 / size[1], 6 * 17 / size[0]], (known.sum(), 1)))


def test_flow_of_frames_that_were_not_turned_upright_is_refused(tmp_path):
    """A frame is turned as its file says; flow computed of the raw pixels would be stretched."""
    write_flow(np.zeros((23, 17, 2)), tmp_path / 'a.flo')
    estimator = build_flow_estimator('precomputed', root=tmp_path)
    with pytest.raises(
        FlowFormatError, match="flow of frame 'a' is 17 x 23 pixels, the frame 23 x 17: .*EXIF"
    ):
        estimator.for_pair(FRAME, FRAME, 'a')
    write_flow(np.zeros((30, 17, 2)), tmp_path / 'a.flo')  # of another shape altogether: somebody squeezed it
    assert estimator.for_pair(FRAME, FRAME, 'a').shape == (17, 23, 2)


def test_precomputed_refuses(tmp_path):
    root = tmp_path / 'flow'
    root.mkdir()
    write_flow(np.zeros((17, 23, 2)), tmp_path / 'outside.flo')
    (root / 'broken.flo').write_bytes(b'PIEH')
    estimator = build_flow_estimator('precomputed', root=root)
    with pytest.raises(FileNotFoundError, match="'b/000001.jpg'.*looked for flo, npz, kitti, jpg"):
        estimator.for_pair(FRAME, FRAME, 'b/000001.jpg')
    with pytest.raises(FlowFormatError, match='broken.flo'):
        estimator.for_pair(FRAME, FRAME, 'broken.jpg')
    for name in ('../outside.jpg', str(tmp_path / 'outside'), ''):
        with pytest.raises(ValueError, match='not a path below'):
            estimator.for_pair(FRAME, FRAME, name)
    with pytest.raises(TypeError, match='for_pair'):
        estimator(FRAME, FRAME)
    with pytest.raises(NotADirectoryError, match='nowhere'):
        build_flow_estimator('precomputed', root=tmp_path / 'nowhere')
    with pytest.raises(ValueError, match="'exr'"):
        build_flow_estimator('precomputed', root=root, fmt='exr')


def test_raft_s_padding_repeats_the_rim(raft_weights):
    estimator = build_flow_estimator('raft', model='small', weights=raft_weights, device='cpu')
    seen = []
    estimator._network = lambda first, second, num_flow_updates: seen.append(first) or [first[:, :2]]
    estimator(*frames(131, 150))
    (padded,) = seen
    assert padded.shape[-2:] == (136, 152)
    assert torch.equal(padded[..., :131, 150:], padded[..., :131, 149:150].expand(-1, -1, -1, 2))
    assert torch.equal(padded[..., 131:, :150], padded[..., 130:131, :150].expand(-1, -1, 5, -1))
