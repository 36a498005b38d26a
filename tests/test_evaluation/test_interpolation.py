"""Laws of the interpolations, against references written out here."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_mm.evaluation import INTERPOLATIONS, correct_at_points, interpolate_guidance

EXACT_AT_POINTS = ('nearest', 'idw', 'rbf')


def random_guidance(seed, height, width, count):
    rng = np.random.default_rng(seed)
    flat = rng.choice(height * width, count, replace=False)
    points = np.stack(np.divmod(flat, width), axis=1)
    return points, rng.normal(0, 5, (count, 2)).astype(np.float32)


def distances(points, height, width):
    row, column = np.mgrid[:height, :width]
    return np.hypot(row[..., None] - points[:, 0], column[..., None] - points[:, 1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40), st.data())
def test_nearest_is_nearest(seed, height, width, data):
    count = data.draw(st.integers(1, min(12, height * width)))
    points, vectors = random_guidance(seed, height, width, count)
    flow = interpolate_guidance(points, vectors, (height, width), 'nearest')
    distance = distances(points, height, width)
    # Whatever point was taken where two are as near, its vector must be that of a nearest one.
    allowed = distance <= distance.min(axis=2, keepdims=True) + 1e-6
    found = (flow[:, :, None, :] == vectors).all(axis=3)
    assert (found & allowed).any(axis=2).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_inverse_distance_by_its_formula(seed):
    points, vectors = random_guidance(seed, 15, 22, 6)
    distance = distances(points, 15, 22)
    with np.errstate(divide='ignore', invalid='ignore'):
        weights = 1 / distance**2
        expected = (weights[..., None] * vectors).sum(axis=2) / weights.sum(axis=2)[..., None]
    expected[points[:, 0], points[:, 1]] = vectors
    flow = interpolate_guidance(points, vectors, (15, 22), 'idw')
    np.testing.assert_allclose(flow, expected, rtol=1e-4, atol=1e-4)


def test_inverse_distance_in_blocks(monkeypatch):
    points, vectors = random_guidance(1, 30, 20, 9)
    whole = interpolate_guidance(points, vectors, (30, 20), 'idw')
    monkeypatch.setattr('cmp_mm.evaluation.interpolation._BLOCK', 9 * 20 * 7)
    np.testing.assert_array_equal(interpolate_guidance(points, vectors, (30, 20), 'idw'), whole)


def test_thin_plate_against_a_solved_system():
    points, vectors = random_guidance(2, 18, 25, 7)
    p = points.astype(float)

    def kernel(r):
        return np.where(r > 0, r**2 * np.log(np.maximum(r, 1e-300)), 0.0)

    ones = np.concatenate([np.ones((7, 1)), p], axis=1)
    system = np.block(
        [[kernel(np.linalg.norm(p[:, None] - p[None], axis=2)), ones], [ones.T, np.zeros((3, 3))]]
    )
    weights = np.linalg.solve(system, np.concatenate([vectors, np.zeros((3, 2))]))
    row, column = np.mgrid[:18, :25]
    plane = np.stack([np.ones((18, 25)), row, column], axis=2)
    expected = kernel(distances(points, 18, 25)) @ weights[:7] + plane @ weights[7:]
    flow = interpolate_guidance(points, vectors, (18, 25), 'rbf')
    np.testing.assert_allclose(flow, expected, atol=1e-3)


def test_thin_plate_reproduces_camera_motion():
    """Pan, zoom and roll are affine, and the thin-plate spline is exact on those."""
    points, _ = random_guidance(3, 24, 31, 5)
    row, column = np.mgrid[:24, :31]
    expected = np.stack([1 + 0.1 * column - 0.2 * row, -2 + 0.05 * row + 0.2 * column], axis=2)
    vectors = expected[points[:, 0], points[:, 1]]
    np.testing.assert_allclose(interpolate_guidance(points, vectors, (24, 31), 'rbf'), expected, atol=1e-4)


@pytest.mark.parametrize('method', EXACT_AT_POINTS)
def test_points_keep_their_vectors(method):
    points, vectors = random_guidance(4, 20, 30, 8)
    flow = interpolate_guidance(points, vectors, (20, 30), method)
    np.testing.assert_allclose(flow[points[:, 0], points[:, 1]], vectors, atol=2e-3)


@pytest.mark.parametrize('method', [name for name in INTERPOLATIONS if name != 'zero'])
@pytest.mark.parametrize(
    'points', [[[3, 4]], [[0, 0], [9, 9]], [[1, 1], [2, 2], [5, 5]], [[0, 0], [0, 9], [9, 3]]]
)
def test_one_motion_stays_one_motion(method, points):
    """Also where points are too few, or in line, to span the plane."""
    vectors = np.tile([[2.0, -3.0]], (len(points), 1))
    flow = interpolate_guidance(np.array(points), vectors, (10, 10), method)
    np.testing.assert_allclose(flow, np.broadcast_to([2.0, -3.0], (10, 10, 2)), atol=1e-4)


@pytest.mark.parametrize('method', list(INTERPOLATIONS))
def test_linear_in_the_vectors(method):
    points, vectors = random_guidance(5, 16, 16, 6)
    double = interpolate_guidance(points, 2 * vectors, (16, 16), method)
    np.testing.assert_allclose(double, 2 * interpolate_guidance(points, vectors, (16, 16), method), atol=1e-3)
    assert double.dtype == np.float32


@pytest.mark.parametrize('method', list(INTERPOLATIONS))
def test_no_points_no_motion(method):
    flow = interpolate_guidance(np.zeros((0, 2), int), np.zeros((0, 2)), (7, 5), method)
    assert flow.shape == (7, 5, 2) and flow.dtype == np.float32 and not flow.any()


@pytest.mark.parametrize('method', EXACT_AT_POINTS)
def test_points_on_one_pixel_are_averaged(method):
    points, vectors = np.array([[2, 3], [2, 3], [8, 1]]), np.array([[4.0, 0], [0, 2], [1, 1]])
    flow = interpolate_guidance(points, vectors, (10, 10), method)
    np.testing.assert_allclose(flow[2, 3], [2, 1], atol=1e-4)


def test_mean_and_zero():
    points, vectors = np.array([[0, 0], [4, 4]]), np.array([[2.0, 0], [0, 4]])
    assert (interpolate_guidance(points, vectors, (5, 5), 'mean') == [1, 2]).all()
    assert not interpolate_guidance(points, vectors, (5, 5), 'zero').any()


def test_a_corrected_flow_has_the_vectors_at_the_points():
    points, vectors = random_guidance(6, 16, 24, 6)
    flow = np.random.default_rng(0).normal(0, 4, (16, 24, 2)).astype(np.float32)
    before = flow.copy()
    corrected = correct_at_points(flow, points, vectors)
    np.testing.assert_allclose(corrected[points[:, 0], points[:, 1]], vectors, atol=1e-5)
    assert corrected.dtype == np.float32
    np.testing.assert_array_equal(flow, before)
    # Of every pixel what is missed: mean weighted by 1 / squared distance, and (2 / 16) ** 2 for none.
    for row, column in ((0, 0), (9, 23), (15, 4)):
        weights = 1 / ((points - [row, column]) ** 2).sum(1)
        missed = vectors - flow[points[:, 0], points[:, 1]]
        share = weights @ missed / (weights.sum() + (2 / 16) ** 2)
        np.testing.assert_allclose(corrected[row, column], flow[row, column] + share, atol=1e-5)


def test_a_correction_of_what_is_right_or_without_points_is_none():
    points, _ = random_guidance(6, 16, 16, 6)
    flow = np.random.default_rng(0).normal(0, 4, (16, 16, 2)).astype(np.float32)
    right = correct_at_points(flow, points, flow[points[:, 0], points[:, 1]])
    np.testing.assert_array_equal(right, flow)
    np.testing.assert_array_equal(correct_at_points(flow, np.zeros((0, 2)), np.zeros((0, 2))), flow)


def test_points_on_one_pixel_are_averaged_in_a_correction():
    points, vectors = np.array([[2, 3], [2, 3]]), np.array([[4.0, 0], [0, 2]])
    corrected = correct_at_points(np.ones((8, 8, 2)), points, vectors)
    np.testing.assert_allclose(corrected[2, 3], [2, 1])
    assert corrected.dtype == np.float32


def test_bad_input_is_named():
    one, vector = np.array([[1, 1]]), np.ones((1, 2))
    with pytest.raises(ValueError, match="'cubic'.*nearest"):
        interpolate_guidance(one, vector, (4, 4), 'cubic')
    with pytest.raises(ValueError, match=r'4 x 6.*row 4, column 1'):
        interpolate_guidance(np.array([[4, 1]]), vector, (4, 6), 'nearest')
    with pytest.raises(ValueError, match=r'\(1, 2\).*\(2, 2\)'):
        interpolate_guidance(one, np.ones((2, 2)), (4, 4), 'idw')
    with pytest.raises(ValueError, match=r'4 x 6.*row 4, column 1'):
        correct_at_points(np.zeros((4, 6, 2)), np.array([[4, 1]]), vector)
    with pytest.raises(ValueError, match=r'\(1, 2\).*\(2, 2\)'):
        correct_at_points(np.zeros((4, 6, 2)), one, np.ones((2, 2)))
    with pytest.raises(ValueError, match=r'flow has shape \(2, 4, 6\)'):
        correct_at_points(np.zeros((2, 4, 6)), one, vector)
