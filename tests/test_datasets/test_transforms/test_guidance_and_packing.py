import numpy as np
import pytest
import torch

from cmp_mm.datasets import (
    FlowCenterCrop,
    FlowRandomCamera,
    FlowRandomCrop,
    FlowRandomFlip,
    FlowRandomReverse,
    FlowRandomRotate,
    FlowRandomScale,
    FlowResize,
    PackFlowInputs,
    SampleGuidance,
)
from cmp_mm.structures import FlowDataSample

GRID = [dict(type='grid', stride=10)]


def a_sample(height=40, width=60):
    flow = np.random.default_rng(0).standard_normal((height, width, 2)).astype(np.float32)
    return dict(img=np.zeros((height, width, 3), np.uint8), flow=flow)


def test_guidance_vectors_are_the_flow_at_the_points():
    sample = SampleGuidance(GRID + [dict(type='watershed', kernel_size=9)])(a_sample())
    points, vectors = sample['guidance_points'], sample['guidance_vectors']
    assert points.dtype == np.int64 and vectors.dtype == np.float32 and len(points) >= 24
    assert np.array_equal(vectors, sample['flow'][points[:, 0], points[:, 1]])


def test_guidance_follows_the_global_random_numbers():
    def points(seed):
        np.random.seed(seed)
        return SampleGuidance([dict(type='uniform', num_points=5)])(a_sample())['guidance_points']

    assert np.array_equal(points(1), points(1)) and not np.array_equal(points(1), points(2))


def test_guidance_is_cut_to_the_cap_and_avoids_unknown_pixels():
    sample = a_sample()
    sample['flow_valid'] = np.zeros((40, 60), dtype=bool)
    sample['flow_valid'][:, :30] = True
    points = SampleGuidance(GRID, max_points=7)(sample)['guidance_points']
    assert len(points) == 7 and (points[:, 1] < 30).all()
    sample['flow_valid'][:] = False
    empty = SampleGuidance(GRID)(sample)
    assert empty['guidance_points'].shape == empty['guidance_vectors'].shape == (0, 2)


def test_wrong_strategies_are_refused_when_built():
    with pytest.raises(ValueError, match="'magic'"):
        SampleGuidance([dict(type='magic')])
    with pytest.raises(ValueError, match='odd'):
        SampleGuidance([dict(type='watershed', kernel_size=8)])
    with pytest.raises(ValueError, match='max_points'):
        SampleGuidance(GRID, max_points=-2)
    with pytest.raises(ValueError, match='must be a non-empty list of dicts, got {'):
        SampleGuidance(GRID[0])


def test_packed_types_shapes_and_order():
    sample = a_sample()
    sample['img'][:] = np.random.default_rng(1).integers(0, 256, sample['img'].shape)
    sample.update(video='v', img_path='a.jpg', sample_idx=3, ori_shape=(9, 9), img_shape=(40, 60), other=1)
    flow, image = sample['flow'].copy(), sample['img'].copy()
    packed = PackFlowInputs()(SampleGuidance(GRID)(sample))
    data = packed['data_samples']
    assert isinstance(data, FlowDataSample)
    assert packed['inputs']['image'].dtype == torch.uint8 and packed['inputs']['image'].is_contiguous()
    assert np.array_equal(packed['inputs']['image'].numpy(), image.transpose(2, 0, 1))
    assert data.gt_flow.dtype == torch.float32
    assert np.array_equal(data.gt_flow.numpy(), flow.transpose(2, 0, 1))
    assert data.guidance_points.dtype == torch.int64 and data.guidance_vectors.dtype == torch.float32
    assert 'gt_valid' not in data
    assert data.metainfo == dict(
        video='v', img_path='a.jpg', sample_idx=3, ori_shape=(9, 9), img_shape=(40, 60)
    )


def test_packing_only_what_there_is():
    sample = a_sample()
    sample['flow_valid'] = np.random.default_rng(2).random((40, 60)) > 0.5
    data = PackFlowInputs(meta_keys=[])(dict(sample))['data_samples']
    assert data.gt_valid.dtype == torch.bool
    assert np.array_equal(data.gt_valid.numpy(), sample['flow_valid'])
    assert 'guidance_points' not in data
    # Only what choosing points on the device needs: a seed that the data set's own seeding decides.
    assert data.metainfo.keys() == {'guidance_seed'}
    np.random.seed(5)
    first = PackFlowInputs(meta_keys=[])(dict(sample))['data_samples'].metainfo
    np.random.seed(5)
    assert PackFlowInputs(meta_keys=[])(dict(sample))['data_samples'].metainfo == first
    assert PackFlowInputs(meta_keys=[])(dict(sample))['data_samples'].metainfo != first
    only_image = PackFlowInputs()(dict(img=sample['img']))
    assert 'gt_flow' not in only_image['data_samples']


@pytest.mark.parametrize(
    'step',
    [
        FlowRandomCamera(prob=0.0),
        FlowRandomFlip(1.0),
        FlowRandomReverse(0.0),
        FlowRandomScale(),
        FlowRandomRotate(),
        FlowRandomCrop(20),
        FlowCenterCrop(20),
        FlowResize(short_side=20),
    ],
)
def test_nothing_moves_under_guidance_that_was_chosen(step):
    step(a_sample())
    with pytest.raises(ValueError, match=f'{type(step).__name__} comes after SampleGuidance'):
        step(SampleGuidance(GRID)(a_sample()))
