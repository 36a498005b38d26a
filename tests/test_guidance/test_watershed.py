import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_mm.guidance import (
    watershed_candidates,
    watershed_candidates_batched,
    watershed_candidates_reference,
)
from cmp_mm.guidance.edges import edge_strength
from cmp_mm.guidance.watershed import subsampling

GOLDEN = sorted((Path(__file__).parents[1] / 'data' / 'guidance').glob('guidance_*.npz'))
PATHS = [watershed_candidates_reference, watershed_candidates]


@pytest.fixture(params=[1, 2], ids=['one thread', 'two threads'], autouse=True, scope='module')
def opencv_threads(request):
    """OpenCV takes other code on one thread; data workers often run on one."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(request.param)
    yield
    cv2.setNumThreads(before)


def smooth_flow(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Piecewise motion: a random vector per cell of a coarse grid, nearest or blended."""
    coarse = rng.normal(0, 10, (cells, cells, 2))
    rows = np.linspace(0, cells - 1, height)
    cols = np.linspace(0, cells - 1, width)
    if rng.random() < 0.5:
        rows, cols = np.rint(rows), np.rint(cols)
    r0, c0 = rows.astype(int), cols.astype(int)
    r1, c1 = np.minimum(r0 + 1, cells - 1), np.minimum(c0 + 1, cells - 1)
    fr, fc = (rows - r0)[:, None, None], (cols - c0)[None, :, None]
    top = coarse[r0][:, c0] * (1 - fc) + coarse[r0][:, c1] * fc
    bottom = coarse[r1][:, c0] * (1 - fc) + coarse[r1][:, c1] * fc
    return (top * (1 - fr) + bottom * fr).astype(np.float32)


def plain_candidates(flow: np.ndarray, kernel_size: int) -> set[tuple[int, int]]:
    """The method by its words, with loops, on a flow small enough for that."""
    height, width = flow.shape[:2]
    padded = np.pad(flow.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode='symmetric')
    weights = np.array([1, 2, 1])
    strength = np.zeros((height, width))
    for r in range(height):
        for c in range(width):
            patch = padded[r : r + 3, c : c + 3]
            gx = (weights[:, None] * (patch[:, 2] - patch[:, 0])).sum(axis=0)
            gy = (weights[:, None] * (patch[2] - patch[0])).sum(axis=0)
            strength[r, c] = np.hypot(gx, gy).sum()
    edges = np.argwhere(strength / max(strength.max(), 0.01) > 0.1)
    squared = np.array(
        [[((edges - (r, c)) ** 2).sum(axis=1).min() for c in range(width)] for r in range(height)]
    )
    half = kernel_size // 2
    return {
        (r, c)
        for r in range(1, height - 1)
        for c in range(1, width - 1)
        if squared[r, c] > 0
        and squared[r, c] == squared[max(r - half, 0) : r + half + 1, max(c - half, 0) : c + half + 1].max()
    }


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('file', GOLDEN, ids=lambda file: file.stem)
def test_equals_the_reference_implementation(file, path):
    golden = np.load(file)
    flow = golden['flow'].astype(np.float32)
    for kernel_size in (15, 41, 81):
        points = path(flow, kernel_size)
        assert points.dtype == np.int32
        np.testing.assert_array_equal(points, golden[f'watershed_k{kernel_size}'])


def test_all_golden_files_are_there():
    assert len(GOLDEN) == 5


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('seed', range(4))
def test_equals_the_method_by_its_words(path, seed):
    rng = np.random.default_rng(seed)
    flow = smooth_flow(rng, 23, 31, 4)
    for kernel_size in (3, 7, 15):
        points = {tuple(point) for point in path(flow, kernel_size).tolist()}
        assert points == plain_candidates(flow, kernel_size)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 130),
    width=st.integers(1, 130),
    cells=st.integers(2, 9),
    kernel_size=st.sampled_from([1, 3, 5, 15, 41, 81, 301]),
    noise=st.sampled_from([0.0, 0.01, 1.0, 30.0]),
    offset=st.sampled_from([0.0, 40.0, 3000.0]),
)
def test_fast_path_finds_the_same_points(seed, height, width, cells, kernel_size, noise, offset):
    rng = np.random.default_rng(seed)
    flow = smooth_flow(rng, height, width, cells) + offset
    flow = (flow + noise * rng.standard_normal(flow.shape)).astype(np.float32)
    np.testing.assert_array_equal(
        watershed_candidates(flow, kernel_size), watershed_candidates_reference(flow, kernel_size)
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(120, 260),
    width=st.integers(120, 260),
    cells=st.integers(2, 30),
    kernel_size=st.sampled_from([7, 9, 15, 29, 31, 41, 81, 129, 131]),
    noise=st.sampled_from([0.0, 0.0, 0.01, 0.3, 3.0]),
)
def test_pruned_search_finds_the_same_points(seed, height, width, cells, kernel_size, noise):
    """Sizes at which only promising pixels' distances are computed; odd sides, ties, dense edges."""
    rng = np.random.default_rng(seed)
    flow = smooth_flow(rng, height, width, cells)
    flow = (flow + noise * rng.standard_normal(flow.shape)).astype(np.float32)
    np.testing.assert_array_equal(
        watershed_candidates(flow, kernel_size), watershed_candidates_reference(flow, kernel_size)
    )


@pytest.mark.parametrize('kernel_size', [3, 7, 15, 41, 81, 151])
def test_flow_full_of_edges(kernel_size):
    """Hundreds of basins and ties of all sizes: small windows take the whole transform."""
    rows, cols = np.mgrid[:200, :220]
    for seed in range(25):
        rng = np.random.default_rng(seed)
        flow = np.zeros((200, 220, 2), dtype=np.float32)
        for _ in range(80):
            centre, radii = rng.uniform(0, 1, 2) * flow.shape[:2], rng.uniform(3, 30, 2)
            inside = ((rows - centre[0]) / radii[0]) ** 2 + ((cols - centre[1]) / radii[1]) ** 2 < 1
            flow[inside] += rng.normal(0, 8, 2)
        np.testing.assert_array_equal(
            watershed_candidates(flow, kernel_size), watershed_candidates_reference(flow, kernel_size)
        )


@pytest.mark.parametrize('kernel_size', [7, 15, 41, 81])
def test_pruned_search_on_few_lines(kernel_size):
    """Thin, far edges: long ridges of equal distance, large basins."""
    rng = np.random.default_rng(kernel_size)
    for _ in range(6):
        flow = np.zeros((301, 280, 2), dtype=np.float32)
        for _ in range(rng.integers(1, 5)):
            row, col = rng.integers(0, (301, 280))
            flow[row:, :col] += rng.normal(0, 5, 2)
        np.testing.assert_array_equal(
            watershed_candidates(flow, kernel_size), watershed_candidates_reference(flow, kernel_size)
        )


def test_sizes_and_threads_do_not_share_buffers():
    """The fast path keeps its buffers: other sizes, windows and threads in between must not show."""
    from concurrent.futures import ThreadPoolExecutor

    rng = np.random.default_rng(11)
    jobs = []
    for i in range(24):
        size = [(150, 160), (160, 150), (200, 131), (129, 129), (140, 170), (133, 222)][i % 6]
        jobs.append((smooth_flow(rng, *size, 6), [15, 41, 9][i % 3]))
    expected = [watershed_candidates_reference(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda job: watershed_candidates(*job), jobs * 2))
    for one, two in zip(found, expected * 2, strict=True):
        np.testing.assert_array_equal(one, two)


def test_long_sides_are_subsampled_by_their_multiple_of_400():
    steps = [subsampling(1, side) for side in (1, 400, 799, 800, 1199, 1200)]
    assert steps == [1, 1, 1, 2, 2, 3]
    assert subsampling(800, 1) == 2


@pytest.mark.parametrize('size', [(40, 799), (800, 30), (1200, 40), (790, 790)])
def test_fast_path_finds_the_same_points_on_long_sides(size):
    rng = np.random.default_rng(3)
    flow = smooth_flow(rng, *size, 6)
    flow[:, size[1] // 2 :] += 20
    step = max(1, max(size) // 400)
    for kernel_size in (15, 81):
        points = watershed_candidates(flow, kernel_size)
        np.testing.assert_array_equal(points, watershed_candidates_reference(flow, kernel_size))
        assert (points % step == 0).all()


@pytest.mark.parametrize('size', [(300, 340), (700, 790)])
def test_one_far_edge(size):
    """Distances as long as the image, and a single basin."""
    flow = np.zeros((*size, 2), dtype=np.float32)
    flow[:2, :2] = 5
    for kernel_size in (15, 81, 129, 1001):
        np.testing.assert_array_equal(
            watershed_candidates(flow, kernel_size), watershed_candidates_reference(flow, kernel_size)
        )


def test_edges_exactly_at_the_threshold():
    """A strength of exactly one tenth is no edge; rounding must not make it one."""
    flow = np.zeros((60, 200, 2), dtype=np.float32)
    flow[:, 50:, 0] = 10
    flow[:, 100:, 0] += 1  # strength 4 against 40
    flow[:, 150:, 0] += np.float32(1.0001)
    fast = watershed_candidates(flow, 15)
    np.testing.assert_array_equal(fast, watershed_candidates_reference(flow, 15))
    np.testing.assert_array_equal(fast, batched(flow, 15))
    strength = edge_strength(flow)[30]
    assert strength[99] == 4 and strength.max() == 40
    # The ridge lies in the middle between the edges at 50 and 150.
    assert set(fast[:, 1]) >= {99, 100}


@pytest.mark.parametrize('path', PATHS)
def test_candidates_lie_in_the_middle_between_motion_edges(path):
    flow = np.zeros((50, 60, 2), dtype=np.float32)
    flow[:, 20:40] = (7, -3)
    points = path(flow, 21)
    # Edges are the pixels 19, 20 and 39, 40. Between them is a ridge; outside the border is farthest, and
    # the border is never taken.
    assert set(points[:, 1]) == {29, 30}
    assert set(points[:, 0]) == set(range(1, 49))


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('size', [(1, 1), (1, 50), (2, 2), (3, 3), (40, 50)])
def test_constant_flow_has_no_candidates(path, size):
    flow = np.full((*size, 2), 3.25, dtype=np.float32)
    points = path(flow, 15)
    assert points.shape == (0, 2) and points.dtype == np.int32


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, 1e10, np.float32(3e38)])
def test_unknown_vectors_are_no_motion_and_no_candidates(path, bad):
    rng = np.random.default_rng(0)
    flow = smooth_flow(rng, 90, 100, 5)
    broken, emptied = flow.copy(), flow.copy()
    broken[30:60, 30:70] = bad
    emptied[30:60, 30:70] = 0
    points = path(broken, 15)
    inside = ((points >= 30) & (points < (60, 70))).all(axis=1)
    assert not inside.any()
    expected = watershed_candidates_reference(emptied, 15)
    inside = ((expected >= 30) & (expected < (60, 70))).all(axis=1)
    assert inside.any()
    np.testing.assert_array_equal(points, expected[~inside])


@pytest.mark.parametrize('path', PATHS)
def test_all_unknown(path):
    assert path(np.full((20, 20, 2), np.nan, dtype=np.float32), 15).shape == (0, 2)


@pytest.mark.parametrize('path', PATHS)
def test_input_is_left_alone_and_any_layout_works(path):
    rng = np.random.default_rng(5)
    flow = smooth_flow(rng, 60, 70, 5)
    before = hashlib.sha256(flow.tobytes()).hexdigest()
    points = path(flow, 15)
    assert hashlib.sha256(flow.tobytes()).hexdigest() == before
    strided = np.ascontiguousarray(flow.transpose(2, 0, 1)).transpose(1, 2, 0)
    np.testing.assert_array_equal(path(strided, 15), points)
    np.testing.assert_array_equal(path(flow.astype(np.float64), 15), points)


@pytest.mark.parametrize('path', PATHS)
def test_flow_sign_and_scale_do_not_matter(path):
    rng = np.random.default_rng(6)
    flow = smooth_flow(rng, 80, 80, 5)
    points = path(flow, 15)
    np.testing.assert_array_equal(path(-flow, 15), points)
    np.testing.assert_array_equal(path(flow * 4, 15), points)


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize(
    ('flow', 'kernel_size', 'message'),
    [
        (np.zeros((4, 4, 2)), 4, 'odd'),
        (np.zeros((4, 4, 2)), 0, 'positive odd integer'),
        (np.zeros((4, 4, 2)), 3.0, 'positive odd integer'),
        (np.zeros((4, 4, 2)), True, 'positive odd integer'),
        (np.zeros((4, 4, 3)), 3, r'shape \(4, 4, 3\)'),
        (np.zeros((2, 4, 4)), 3, r'\(height, width, 2\)'),
        (np.zeros((0, 4, 2)), 3, 'with pixels'),
        (np.zeros((4, 4, 2), dtype=complex), 3, 'complex'),
        ([[1, 2]], 3, 'list'),
    ],
)
def test_bad_input_is_one_clear_sentence(path, flow, kernel_size, message):
    with pytest.raises(ValueError, match=message):
        path(flow, kernel_size)


def batched(flow, kernel_size):
    (points,) = watershed_candidates_batched(torch.from_numpy(flow.transpose(2, 0, 1)[None]), kernel_size)
    return points.numpy()


@pytest.mark.parametrize('path', [*PATHS, batched])
@pytest.mark.parametrize(('step', 'found'), [(2.4e-4, False), (2.6e-4, True)])
def test_motion_too_weak_to_be_one_has_no_edge(path, step, found):
    """The strength of an edge is 4 times the step; below a tenth of .01 it is rounding, not motion."""
    flow = np.zeros((40, 50, 2), np.float32)
    flow[:, 10:30, 0] = step
    assert (len(path(flow, 5)) > 0) is found
