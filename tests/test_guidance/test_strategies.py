import numpy as np
import pytest
import torch
from scipy import signal

from cmp_mm.guidance import (
    STRATEGIES,
    check_strategies,
    drop_close_points,
    grid_points,
    sample_guidance_batched,
    sample_points,
    watershed_candidates,
)

PAPER = [dict(type='watershed', kernel_size=15), dict(type='grid', stride=40)]


def moving_square(height: int = 100, width: int = 120) -> np.ndarray:
    flow = np.zeros((height, width, 2), dtype=np.float32)
    flow[30:60, 40:90] = (6, -2)
    return flow


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def as_set(points: np.ndarray) -> set[tuple[int, int]]:
    return {tuple(point) for point in points.tolist()}


def test_seven_strategies():
    assert sorted(STRATEGIES) == sorted(
        ['watershed', 'grid', 'uniform', 'gradnms', 'single', 'full', 'specified']
    )


@pytest.mark.parametrize(
    'strategy',
    [
        dict(type='watershed', kernel_size=15),
        dict(type='grid', stride=30),
        dict(type='grid', bg_ratio=1e-3),
        dict(type='uniform', num_points=20),
        dict(type='uniform', bg_ratio=0.01),
        dict(type='gradnms', kernel_size=15),
        dict(type='single'),
        dict(type='full'),
        dict(type='specified', points=[[3, 4], [50, 60]]),
    ],
    ids=str,
)
@pytest.mark.parametrize('size', [(100, 120), (1, 1), (2, 7), (810, 90)])
def test_every_strategy_gives_points_inside_and_repeats_by_seed(strategy, size):
    flow = np.resize(moving_square(), (*size, 2))
    if strategy['type'] == 'specified':
        strategy = dict(strategy, points=[[0, 0], [size[0] - 1, size[1] - 1]])
    points = sample_points(flow, [strategy], rng=rng())
    assert points.dtype == np.int32 and points.ndim == 2 and points.shape[1] == 2
    assert (points >= 0).all() and (points < size).all()
    np.testing.assert_array_equal(points, sample_points(flow, [strategy], rng=rng()))


def test_watershed_and_grid_together():
    flow = moving_square()
    points = sample_points(flow, PAPER, rng=rng())
    grid = as_set(grid_points(100, 120, 40))
    candidates = as_set(watershed_candidates(flow, 15))
    chosen = as_set(points)
    assert grid <= chosen and chosen <= grid | candidates and chosen & candidates


def test_points_are_shuffled_and_cut():
    flow = moving_square()
    everything = sample_points(flow, [dict(type='grid', stride=10)], rng=rng())
    assert as_set(everything) == as_set(grid_points(100, 120, 10))
    assert (everything != grid_points(100, 120, 10)).any()
    some = sample_points(flow, [dict(type='grid', stride=10)], max_points=7, rng=rng())
    np.testing.assert_array_equal(some, everything[:7])
    assert len(sample_points(flow, [dict(type='grid', stride=10)], max_points=10_000, rng=rng())) == 120
    assert sample_points(flow, PAPER, max_points=0, rng=rng()).shape == (0, 2)


def test_uniform_counts_and_spread():
    flow = np.zeros((50, 200, 2), dtype=np.float32)
    points = sample_points(flow, [dict(type='uniform', bg_ratio=0.2)], rng=rng())
    assert len(points) == int(0.2 * 50 * 200)
    np.testing.assert_allclose(points.mean(axis=0), (24.5, 99.5), rtol=0.1)
    assert len(sample_points(flow, [dict(type='uniform', num_points=3)], rng=rng())) == 3


def test_single_is_one_moving_pixel():
    flow = moving_square()
    seen = set()
    for seed in range(50):
        points = sample_points(flow, [dict(type='single')], rng=rng(seed))
        assert points.shape == (1, 2)
        assert flow[points[0, 0], points[0, 1]].any()
        seen |= as_set(points)
    assert len(seen) > 40
    only_v = np.zeros((5, 5, 2), dtype=np.float32)
    only_v[2, 3, 1] = 0.5
    np.testing.assert_array_equal(sample_points(only_v, [dict(type='single')]), [[2, 3]])


def test_single_on_a_still_flow_gives_none():
    assert sample_points(np.zeros((5, 5, 2)), [dict(type='single')]).shape == (0, 2)


def test_full_is_every_pixel_whatever_else_is_asked():
    flow = moving_square(6, 7)
    points = sample_points(flow, [dict(type='grid', stride=3), dict(type='full')], max_points=5)
    np.testing.assert_array_equal(points, np.argwhere(np.ones((6, 7))))


def test_specified_gives_those_points():
    flow = moving_square()
    points = sample_points(flow, [dict(type='specified', points=np.array([[3, 4], [9, 2]]))], rng=rng())
    assert as_set(points) == {(3, 4), (9, 2)}


def test_gradnms_equals_its_definition():
    """Score: box mean of the edges minus a box mean of half the side, each over its own maximum."""
    generator = rng(5)  # with whose flow the coarse mean alone has a third more maxima
    coarse = generator.normal(0, 8, (6, 8, 2))
    flow = np.kron(coarse, np.ones((20, 20, 1))).astype(np.float32)
    height, width = flow.shape[:2]
    sobel = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=np.float64)
    edge = np.zeros((height, width))
    for channel in range(2):
        gx, gy = (
            signal.convolve2d(flow[..., channel], kernel, boundary='symm', mode='same')
            for kernel in (sobel, sobel.T)
        )
        edge += np.sqrt(gx**2 + gy**2)
    side = width // 20
    coarse, fine = (
        signal.convolve2d(edge, np.ones((n, n)), boundary='symm', mode='same') for n in (side, side // 2)
    )
    score = coarse / coarse.max() - fine / fine.max()
    expected = set()
    for row, col in np.argwhere(score > 0.1):
        window = score[max(row - 7, 0) : row + 8, max(col - 7, 0) : col + 8]
        if score[row, col] >= window.max() - 1e-5:
            expected.add((row, col))
    points = as_set(sample_points(flow, [dict(type='gradnms', kernel_size=15)], rng=generator))
    assert points and points <= expected
    # Each window that holds an expected point holds a chosen one: only rounding ties may differ.
    for row, col in expected:
        assert any(abs(row - r) <= 7 and abs(col - c) <= 7 for r, c in points)


@pytest.mark.parametrize('strategy', [dict(type='watershed'), dict(type='gradnms'), dict(type='single')])
@pytest.mark.parametrize('value', [0.0, 5.0, np.nan, np.inf])
def test_constant_or_unknown_flow_is_defined(strategy, value):
    flow = np.full((60, 70, 2), value, dtype=np.float32)
    points = sample_points(flow, [strategy], rng=rng())
    assert len(points) == (1 if strategy['type'] == 'single' and value == 5 else 0)


def test_points_avoid_unknown_and_invalid_pixels():
    flow = moving_square()
    flow[:, :30] = np.nan
    valid = np.ones((100, 120), dtype=bool)
    valid[50:] = False
    for strategy in (dict(type='grid', stride=7), dict(type='uniform', bg_ratio=0.5), dict(type='full')):
        points = sample_points(flow, [strategy], rng=rng(), valid=valid)
        assert len(points) > 0
        assert (points[:, 1] >= 30).all() and (points[:, 0] < 50).all()
    assert len(sample_points(flow, [dict(type='full')], valid=valid)) == 50 * 90
    with pytest.raises(ValueError, match='valid must have'):
        sample_points(flow, PAPER, valid=valid[:5])


@pytest.mark.parametrize(
    ('strategies', 'message'),
    [
        ([], 'non-empty list'),
        (dict(type='grid', stride=3), 'non-empty list'),
        ('grid', 'must be a dict'),
        ([dict(stride=3)], "with a 'type'"),
        ([dict(type='random')], "unknown guidance strategy 'random', expected one of watershed, grid"),
        ([dict(type='watershed', kernel=3)], "'watershed' has no option 'kernel', expected kernel_size"),
        ([dict(type='single', number=3)], 'expected no option'),
        ([dict(type='watershed', kernel_size=80)], 'must be odd'),
        ([dict(type='gradnms', kernel_size=0)], 'positive odd integer'),
        ([dict(type='grid')], "exactly one of 'stride' and 'bg_ratio'"),
        ([dict(type='grid', stride=3, bg_ratio=0.1)], 'exactly one'),
        ([dict(type='grid', stride=0)], 'stride of guidance strategy'),
        ([dict(type='grid', bg_ratio=0)], r'\(0, 1\]'),
        ([dict(type='uniform', bg_ratio=1.5)], r'\(0, 1\]'),
        ([dict(type='uniform', num_points=-3)], 'positive integer'),
        ([dict(type='specified')], r'points=\[\[row, column\], \.\.\.\]'),
        ([dict(type='specified', points=[[1.5, 2]])], 'integers'),
    ],
)
def test_a_bad_strategy_is_one_clear_sentence(strategies, message):
    with pytest.raises(ValueError, match=message):
        check_strategies(strategies)
    with pytest.raises(ValueError, match=message):
        sample_points(moving_square(), strategies)


def test_a_range_of_caps_is_drawn_evenly_in_the_logarithm():
    flow = np.zeros((64, 64, 2), np.float32)
    generator = rng()
    numbers = [
        len(sample_points(flow, [dict(type='grid', stride=4)], (1, 15), generator)) for _ in range(3000)
    ]
    assert min(numbers) == 1 and max(numbers) == 15
    # [1, 2), [2, 4), [4, 8) and [8, 16) are equally wide in the logarithm.
    octaves = np.bincount(np.log2(numbers).astype(int), minlength=4) / len(numbers)
    np.testing.assert_allclose(octaves, 0.25, atol=0.03)
    assert len(sample_points(flow, [dict(type='grid', stride=4)], [6, 6], generator)) == 6


def test_a_range_from_none_leaves_some_without_guidance():
    flow = np.zeros((64, 64, 2), np.float32)
    generator = rng()
    numbers = [
        len(sample_points(flow, [dict(type='grid', stride=4)], (0, 4), generator)) for _ in range(3000)
    ]
    # n stands for [n + 1, n + 2) of [1, 6).
    expected = np.diff(np.log(np.arange(1, 7))) / np.log(6)
    np.testing.assert_allclose(np.bincount(numbers) / 3000, expected, atol=0.03)
    assert len(sample_points(flow, [dict(type='grid', stride=4)], (0, 0), generator)) == 0


@pytest.mark.parametrize('max_points', [(-1, 4), (5, 4), (1, 2, 3), (1, 2.5), (1,)])
def test_a_bad_range_of_caps_is_one_clear_sentence(max_points):
    with pytest.raises(ValueError, match='0 <= low <= high'):
        sample_points(moving_square(), PAPER, max_points=max_points)


@pytest.mark.parametrize('max_points', [-2, 1.5, None, True])
def test_a_bad_cap_is_one_clear_sentence(max_points):
    with pytest.raises(ValueError, match='max_points must be -1'):
        sample_points(moving_square(), PAPER, max_points=max_points)


def test_a_specified_point_outside_is_named():
    with pytest.raises(ValueError, match='row 100, column 3'):
        sample_points(moving_square(), [dict(type='specified', points=[[100, 3]])])


def test_long_sides_are_thinned_at_the_step_they_were_searched_at():
    flow = np.zeros((810, 90, 2), np.float32)
    flow[:, 30:60, 0] = 5
    watershed = [dict(type='watershed', kernel_size=15)]
    batch = torch.from_numpy(np.ascontiguousarray(flow.transpose(2, 0, 1)))[None]
    for seed in range(5):
        points = sample_points(flow, watershed, rng=rng(seed))
        wanted = drop_close_points(watershed_candidates(flow, 15), 15, rng(seed), step=2)
        assert len(wanted) and as_set(points) == as_set(wanted)
        np.testing.assert_array_equal(sample_guidance_batched(batch, watershed, seeds=[seed])[0], points)


def test_gradnms_points_of_a_long_flow_lie_at_its_motion():
    flow = np.zeros((900, 100, 2), np.float32)
    flow[600:700, 40:80] = (6, -2)
    points = sample_points(flow, [dict(type='gradnms', kernel_size=15)], rng=rng())
    assert len(points) and (points > (590, 30)).all() and (points < (710, 90)).all()
