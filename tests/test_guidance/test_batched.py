from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_mm.guidance import (
    sample_guidance_batched,
    sample_points,
    watershed_candidates_batched,
    watershed_candidates_reference,
)

GOLDEN = sorted((Path(__file__).parents[1] / 'data' / 'guidance').glob('guidance_*.npz'))
PAPER = [dict(type='watershed', kernel_size=15), dict(type='grid', stride=40)]


def random_flows(seed: int, count: int, height: int, width: int) -> np.ndarray:
    """(N, H, W, 2) float32: rectangles that move, some noise, an odd offset."""
    rng = np.random.default_rng(seed)
    flows = rng.normal(0, 30, (count, 1, 1, 2)) + rng.choice([0, 0.01, 2]) * rng.standard_normal(
        (count, height, width, 2)
    )
    for flow in flows:
        for _ in range(rng.integers(0, 6)):
            top, left = rng.integers(0, height), rng.integers(0, width)
            bottom, right = rng.integers(top, height + 1), rng.integers(left, width + 1)
            flow[top:bottom, left:right] += rng.normal(0, 10, 2)
    return flows.astype(np.float32)


def to_torch(flows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(flows.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize('file', GOLDEN, ids=lambda file: file.stem)
def test_candidates_equal_the_reference_implementation(file):
    golden = np.load(file)
    flow = to_torch(golden['flow'][None].astype(np.float32))
    for kernel_size in (15, 41, 81):
        (points,) = watershed_candidates_batched(flow, kernel_size)
        np.testing.assert_array_equal(points.numpy(), golden[f'watershed_k{kernel_size}'])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 4),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    kernel_size=st.sampled_from([1, 3, 15, 41, 301]),
)
def test_candidates_equal_the_plain_path_per_image(seed, count, height, width, kernel_size):
    flows = random_flows(seed, count, height, width)
    found = watershed_candidates_batched(to_torch(flows), kernel_size)
    assert len(found) == count
    for points, flow in zip(found, flows, strict=True):
        np.testing.assert_array_equal(points.numpy(), watershed_candidates_reference(flow, kernel_size))


@pytest.mark.parametrize('size', [(830, 60), (50, 1250)])
def test_long_sides_are_subsampled(size):
    flows = random_flows(5, 2, *size)
    for points, flow in zip(watershed_candidates_batched(to_torch(flows), 15), flows, strict=True):
        np.testing.assert_array_equal(points.numpy(), watershed_candidates_reference(flow, 15))


def test_an_image_without_edges_among_others():
    flows = random_flows(1, 3, 60, 70)
    flows[1] = 4.5
    found = watershed_candidates_batched(to_torch(flows), 15)
    assert found[1].shape == (0, 2) and found[1].dtype == torch.int64
    np.testing.assert_array_equal(found[2].numpy(), watershed_candidates_reference(flows[2], 15))


@pytest.mark.parametrize('bad', [np.nan, np.inf, 1e10])
def test_unknown_vectors(bad):
    flows = random_flows(2, 2, 80, 90)
    flows[0, 20:50, 30:70] = bad
    found = watershed_candidates_batched(to_torch(flows), 15)
    for points, flow in zip(found, flows, strict=True):
        np.testing.assert_array_equal(points.numpy(), watershed_candidates_reference(flow, 15))
    for i, points in enumerate(sample_guidance_batched(to_torch(flows), PAPER, seeds=[3, 4])):
        expected = sample_points(flows[i], PAPER, rng=np.random.default_rng(3 + i))
        np.testing.assert_array_equal(points.numpy(), expected)


def test_unknown_vectors_in_half_precision():
    flow = torch.zeros(1, 2, 40, 40, dtype=torch.float16)
    flow[0, 0, ::2] = float('inf')
    (points,) = sample_guidance_batched(flow, [dict(type='grid', stride=5)], seeds=[0])
    full = flow[0].permute(1, 2, 0).float().numpy()
    wanted = sample_points(full, [dict(type='grid', stride=5)], rng=np.random.default_rng(0))
    np.testing.assert_array_equal(points.numpy(), wanted)
    assert len(points) == 32 and (points[:, 0] % 2 == 1).all()


@pytest.mark.parametrize(
    'strategies',
    [
        PAPER,
        [dict(type='watershed')],
        [dict(type='watershed', kernel_size=15), dict(type='watershed', kernel_size=9)],
        [dict(type='uniform', bg_ratio=0.01), dict(type='specified', points=[[1, 2]])],
        [dict(type='full')],
    ],
    ids=str,
)
@pytest.mark.parametrize('max_points', [-1, 5, (1, 9), (0, 4)])
@pytest.mark.parametrize('masked', [False, True])
def test_points_are_those_of_the_data_pipeline(strategies, max_points, masked):
    flows = random_flows(7, 3, 70, 80)
    valid = np.random.default_rng(0).random((3, 70, 80)) > 0.5 if masked else None
    found = sample_guidance_batched(
        to_torch(flows),
        strategies,
        max_points,
        seeds=[10, 11, 12],
        valid=None if valid is None else torch.from_numpy(valid),
    )
    for i, points in enumerate(found):
        mask = None if valid is None else valid[i]
        expected = sample_points(flows[i], strategies, max_points, np.random.default_rng(10 + i), mask)
        assert points.dtype == torch.int64
        np.testing.assert_array_equal(points.numpy(), expected)


def test_order_in_the_batch_does_not_matter():
    flows = random_flows(8, 3, 60, 60)
    found = sample_guidance_batched(to_torch(flows), PAPER, 4, seeds=[1, 2, 3])
    turned = sample_guidance_batched(to_torch(flows[::-1].copy()), PAPER, 4, seeds=[3, 2, 1])
    for one, two in zip(found, turned[::-1], strict=True):
        assert torch.equal(one, two)


def test_without_seeds_the_draw_differs():
    flows = to_torch(random_flows(9, 1, 200, 200))
    draws = {
        tuple(sample_guidance_batched(flows, [dict(type='grid', stride=20)])[0].flatten().tolist())
        for _ in range(3)
    }
    assert len(draws) == 3


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(flow=torch.zeros(2, 3, 5, 5)), r'\(images, 2, height, width\)'),
        (dict(flow=torch.zeros(2, 2, 5, 5, dtype=torch.long)), 'floating-point'),
        (dict(flow=torch.zeros(2, 2, 0, 5)), 'with pixels'),
        (dict(strategies=[dict(type='single')]), "'single' cannot be batched"),
        (dict(strategies=[dict(type='gradnms')]), "'gradnms' cannot be batched"),
        (dict(strategies=[dict(type='other')]), "unknown guidance strategy 'other'"),
        (dict(strategies=[dict(type='watershed', kernel_size=4)]), 'must be odd'),
        (dict(max_points=-3), 'max_points'),
        (dict(seeds=[1]), '2 flows needs 2 seeds, got 1'),
        (dict(valid=torch.ones(2, 5, 6, dtype=torch.bool)), r'valid must be \(2, 5, 5\)'),
    ],
)
def test_bad_input_is_one_clear_sentence(change, message):
    arguments = dict(flow=torch.zeros(2, 2, 5, 5), strategies=PAPER) | change
    with pytest.raises(ValueError, match=message):
        sample_guidance_batched(**arguments)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize('kernel_size', [15, 41, 81])
@pytest.mark.parametrize('size', [(384, 384), (131, 70), (830, 60)])
def test_candidates_on_a_gpu(size, kernel_size):
    flows = random_flows(11, 4, *size)
    flows[1] = 2.5  # no edge
    flows[2, 20:40, 10:50] = np.nan
    found = watershed_candidates_batched(to_torch(flows).cuda(), kernel_size)
    for points, flow in zip(found, flows, strict=True):
        assert points.is_cuda
        np.testing.assert_array_equal(points.cpu().numpy(), watershed_candidates_reference(flow, kernel_size))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize('file', GOLDEN, ids=lambda file: file.stem)
def test_reference_points_on_a_gpu(file):
    golden = np.load(file)
    flow = to_torch(golden['flow'][None].astype(np.float32)).cuda()
    for kernel_size in (15, 41, 81):
        (points,) = watershed_candidates_batched(flow, kernel_size)
        np.testing.assert_array_equal(points.cpu().numpy(), golden[f'watershed_k{kernel_size}'])


@pytest.mark.gpu
@needs_gpu
def test_whole_draw_on_a_gpu():
    flows = random_flows(12, 3, 200, 220)
    valid = np.random.default_rng(0).random((3, 200, 220)) > 0.3
    found = sample_guidance_batched(
        to_torch(flows).cuda(), PAPER, 40, seeds=[1, 2, 3], valid=torch.from_numpy(valid).cuda()
    )
    for i, points in enumerate(found):
        expected = sample_points(flows[i], PAPER, 40, np.random.default_rng(1 + i), valid[i])
        np.testing.assert_array_equal(points.cpu().numpy(), expected)


def test_no_point_on_vectors_marked_by_a_negative_number():
    flow = np.zeros((20, 20, 2), np.float32)
    flow[:10] = -2e9
    grid = [dict(type='grid', stride=5)]
    points = sample_points(flow, grid, rng=np.random.default_rng(0))
    assert len(points) == 8 and (points[:, 0] >= 10).all()
    np.testing.assert_array_equal(sample_guidance_batched(to_torch(flow[None]), grid, seeds=[0])[0], points)
