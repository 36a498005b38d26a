from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_mm.guidance import drop_close_points, grid_points, grid_stride, guidance_map

GOLDEN = sorted((Path(__file__).parents[1] / 'data' / 'guidance').glob('guidance_*.npz'))


@pytest.mark.parametrize('file', GOLDEN, ids=lambda file: file.stem)
def test_grid_equals_the_reference_implementation(file):
    golden = np.load(file)
    height, width = golden['flow'].shape[:2]
    for stride in (29, 80, 200):
        assert golden[f'grid_g{stride}_stride'] == stride
        np.testing.assert_array_equal(grid_points(height, width, stride), golden[f'grid_g{stride}'])


@pytest.mark.parametrize(
    ('bg_ratio', 'stride'),
    [(1.5625e-4, 80), (2.5e-5, 200), (3.629e-5, 165), (5.632e-5, 133), (5.74e-5, 131), (1, 1), (0.5, 1)],
)
def test_stride_of_the_published_ratios(bg_ratio, stride):
    assert grid_stride(bg_ratio) == stride


@pytest.mark.parametrize('bg_ratio', [0, -0.1, 1.01, float('nan'), None, '0.5', True])
def test_ratio_out_of_range(bg_ratio):
    with pytest.raises(ValueError, match=r'\(0, 1\]'):
        grid_stride(bg_ratio)


@given(height=st.integers(1, 60), width=st.integers(1, 60), stride=st.integers(1, 70))
def test_grid_is_inside_regular_and_not_empty(height, width, stride):
    points = grid_points(height, width, stride)
    assert len(points) >= 1
    assert (points >= 0).all() and (points < (height, width)).all()
    for axis, side in ((0, height), (1, width)):
        lines = np.unique(points[:, axis])
        assert (np.diff(lines) == stride).all()
        assert lines[0] < stride and lines[-1] + stride >= side


@pytest.mark.parametrize('arguments', [(0, 4, 1), (4, -1, 1), (4, 4, 0), (4, 4, 2.5), (4, 4, True)])
def test_grid_refuses_bad_sizes(arguments):
    with pytest.raises(ValueError, match='positive integer'):
        grid_points(*arguments)


def close(points: np.ndarray, reach: float) -> np.ndarray:
    apart = np.abs(points[:, None].astype(int) - points[None])
    pairs = (apart < reach).all(axis=2)
    return pairs & ~np.eye(len(points), dtype=bool)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 60), kernel_size=st.sampled_from([1, 3, 9, 21]))
def test_no_two_kept_points_are_close_and_nothing_goes_without_need(seed, count, kernel_size):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 60, (count, 2)).astype(np.int32)
    kept = drop_close_points(points, kernel_size, rng)
    reach = (kernel_size - 1) / 2
    assert not close(kept, reach).any()
    # A point that was close to none stays, and the order is the one given.
    alone = points[~close(points, reach).any(axis=1)] if count else points
    kept_list = kept.tolist()
    assert all(point in kept_list for point in alone.tolist())
    rest = iter(points.tolist())
    assert all(point in rest for point in kept_list)
    # At least one of every crowd survives: each dropped point had a neighbour.
    dropped = [point for point in points.tolist() if point not in kept_list]
    for point in dropped:
        apart = np.abs(points - np.array(point))
        assert (apart < reach).all(axis=1).sum() >= 2


def test_each_of_two_close_points_goes_half_of_the_time():
    points = np.array([[5, 5], [6, 5]])
    rng = np.random.default_rng(0)
    first = sum(drop_close_points(points, 9, rng)[0, 0] == 5 for _ in range(2000))
    assert 900 < first < 1100


def test_reach_is_strict_and_grows_with_the_subsampling():
    rng = np.random.default_rng(0)
    points = np.array([[0, 0], [4, 4]])
    assert len(drop_close_points(points, 9, rng)) == 2
    assert len(drop_close_points(points, 11, rng)) == 1
    assert len(drop_close_points(points * 2, 11, rng)) == 2
    assert len(drop_close_points(points * 2, 11, rng, step=2)) == 1


def test_same_seed_same_points():
    points = np.random.default_rng(1).integers(0, 40, (80, 2))
    one = drop_close_points(points, 9, np.random.default_rng(7))
    two = drop_close_points(points, 9, np.random.default_rng(7))
    other = drop_close_points(points, 9, np.random.default_rng(8))
    np.testing.assert_array_equal(one, two)
    assert one.shape != other.shape or (one != other).any()


def test_even_kernel_is_refused():
    with pytest.raises(ValueError, match='odd'):
        drop_close_points(np.zeros((1, 2), int), 4, np.random.default_rng(0))


def test_map_holds_the_vectors_and_the_mask_twice():
    points = np.array([[0, 0], [2, 3]])
    vectors = np.array([[0.0, 0.0], [1.5, -2.5]])
    out = guidance_map(points, vectors, (3, 4))
    assert out.shape == (3, 4, 4) and out.dtype == np.float32
    np.testing.assert_array_equal(out[2, 3], [1.5, -2.5, 1, 1])
    np.testing.assert_array_equal(out[0, 0], [0, 0, 1, 1])  # a static point is guidance too
    assert np.abs(out).sum() == 4 + 1.5 + 2.5


def test_map_of_no_points_is_zero():
    assert not guidance_map(np.zeros((0, 2), int), np.zeros((0, 2)), (3, 4)).any()


@pytest.mark.parametrize('point', [(-1, 0), (0, -1), (3, 0), (0, 4)])
def test_map_refuses_a_point_outside(point):
    with pytest.raises(ValueError, match=rf'inside the 3 x 4 image, got row {point[0]}, column {point[1]}'):
        guidance_map(np.array([point]), np.zeros((1, 2)), (3, 4))


def test_map_refuses_points_without_vectors():
    with pytest.raises(ValueError, match='2 points, 1 vectors'):
        guidance_map(np.zeros((2, 2), int), np.zeros((1, 2)), (3, 4))


def test_map_takes_empty_lists_and_whole_floats_only():
    assert not guidance_map([], [], (4, 4)).any()
    out = guidance_map(np.array([[1.0, 2.0]]), [[3, 4]], (4, 4))
    assert out[1, 2].tolist() == [3, 4, 1, 1]
    with pytest.raises(ValueError, match='whole pixels, got row 1.5, column 2.0'):
        guidance_map([[1.5, 2.0]], [[3, 4]], (4, 4))
    with pytest.raises(ValueError, match='whole pixels'):
        guidance_map([[np.nan, 2.0]], [[3, 4]], (4, 4))


def test_of_two_vectors_at_one_point_the_later_counts():
    assert guidance_map([[1, 1], [1, 1]], [[1, 2], [3, 4]], (3, 3))[1, 1].tolist() == [3, 4, 1, 1]
