"""The visualizer hands one picture per sample to every backend."""

import itertools

import cv2
import numpy as np
import pytest
import torch

from cmp_mm.evaluation import interpolate_guidance
from cmp_mm.flow import flow_to_rgb
from cmp_mm.registry import VISUALIZERS
from cmp_mm.structures import FlowDataSample
from cmp_mm.visualization import draw_panel

NUMBER = itertools.count()


@pytest.fixture
def sample():
    g = torch.Generator().manual_seed(0)
    return FlowDataSample(
        gt_flow=torch.randn(2, 20, 30, generator=g) * 5,
        gt_valid=torch.rand(20, 30, generator=g) > 0.2,
        pred_flow=torch.randn(2, 20, 30, generator=g),
        guidance_points=torch.tensor([[3, 4], [15, 20]]),
        guidance_vectors=torch.tensor([[2.0, 1.0], [-3.0, 0.0]]),
    )


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def build(tmp_path, backends=('LocalVisBackend',), **kwargs):
    cfg = dict(
        type='FlowVisualizer',
        # A name that was built before would return that visualizer.
        name=f'visualizer_{next(NUMBER)}',
        vis_backends=[dict(type=name) for name in backends],
        save_dir=str(tmp_path),
    )
    return VISUALIZERS.build({**cfg, **kwargs})


def test_draws_what_the_sample_has(tmp_path, image, sample):
    visualizer = build(tmp_path, max_radius=7.0)
    points, vectors = sample.guidance_points.numpy(), sample.guidance_vectors.numpy()
    target, prediction = (sample.get(key).numpy().transpose(1, 2, 0) for key in ('gt_flow', 'pred_flow'))
    expected = draw_panel(
        image, points, vectors, {'target': target, 'prediction': prediction}, 7.0, sample.gt_valid.numpy()
    )
    np.testing.assert_array_equal(visualizer.draw(image, sample), expected)
    only = draw_panel(image, points, vectors, {'prediction': prediction}, 7.0)
    np.testing.assert_array_equal(visualizer.draw(image, sample, draw_gt=False), only)
    bare = visualizer.draw(image, FlowDataSample())
    assert bare.shape[1] < only.shape[1]


def test_interpolations_beside_the_prediction(tmp_path, image, sample):
    drawn = build(tmp_path, max_radius=7.0, interpolations=['nearest']).draw(image, sample)
    points, vectors = sample.guidance_points.numpy(), sample.guidance_vectors.numpy()
    nearest = flow_to_rgb(interpolate_guidance(points, vectors, (20, 30), 'nearest'), 7.0)
    zoom = 16
    left = 3 * (30 * zoom + 4)
    np.testing.assert_array_equal(drawn[-20 * zoom :: zoom, left : left + 30 * zoom : zoom], nearest)


def test_local_files_and_tensorboard(tmp_path, image, sample):
    pytest.importorskip('tensorboard', reason='an extra of cmp_mm')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    visualizer = build(tmp_path, ('LocalVisBackend', 'TensorboardVisBackend'))
    visualizer.add_datasample('val_0', image, sample, step=40)
    visualizer.close()
    written = cv2.imread(str(tmp_path / 'vis_data' / 'vis_image' / 'val_0_40.png'))
    np.testing.assert_array_equal(written[..., ::-1], visualizer.draw(image, sample))
    events = EventAccumulator(str(tmp_path / 'vis_data')).Reload()
    (event,) = events.Images('val_0')
    assert event.step == 40 and (event.height, event.width) == written.shape[:2]


def test_out_file(tmp_path, image, sample):
    visualizer = build(tmp_path)
    visualizer.add_datasample('any', image, sample, out_file=str(tmp_path / 'one.png'))
    picture = cv2.cvtColor(cv2.imread(str(tmp_path / 'one.png')), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(picture, visualizer.draw(image, sample))
    assert not (tmp_path / 'vis_data' / 'vis_image').exists()
    assert [path.name for path in tmp_path.glob('*.tmp')] == []


def test_half_precision_prediction(tmp_path, image, sample):
    sample.pred_flow = sample.pred_flow.to(torch.float16)
    build(tmp_path).draw(image, sample)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match='max_radius is 0'):
        build(tmp_path, max_radius=0)
    with pytest.raises(ValueError, match="'cubic'.*nearest"):
        build(tmp_path, interpolations=['cubic'])
