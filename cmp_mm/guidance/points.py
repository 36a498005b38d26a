"""Grid points, thinning of close points, and the map the network reads."""

import math
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np

from .checks import check_kernel_size


def grid_stride(bg_ratio: float) -> int:
    """Stride of the grid that covers a share ``bg_ratio`` of all pixels: int(sqrt(1 / bg_ratio)).

    Args:
        bg_ratio: share of pixels, in (0, 1].

    Returns:
        Stride in pixels, at least 1. The paper's 2.5e-5 gives 200.

    Raises:
        ValueError: the ratio is outside (0, 1].
    """
    if isinstance(bg_ratio, bool) or not isinstance(bg_ratio, Real) or not 0 < bg_ratio <= 1:
        raise ValueError(f'bg_ratio must be a share of pixels in (0, 1], got {bg_ratio!r}')
    return int(math.sqrt(1.0 / bg_ratio))


def grid_points(height: int, width: int, stride: int) -> np.ndarray:
    """Points of a regular grid, centred: the first row is int((h - h // stride * stride) / 2).

    Args:
        height: image height in pixels.
        width: image width in pixels.
        stride: distance of neighbouring points in pixels; beyond a side it leaves one, central line.

    Returns:
        (P, 2) int32 (row, column), in row order; at least one point.

    Raises:
        ValueError: a size or the stride is not a positive integer.
    """
    for name, value in (('height', height), ('width', width), ('stride', stride)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f'{name} of the grid must be a positive integer, got {value!r}')
    rows = np.arange((height - height // stride * stride) // 2, height, stride, dtype=np.int32)
    cols = np.arange((width - width // stride * stride) // 2, width, stride, dtype=np.int32)
    return np.stack(np.meshgrid(rows, cols, indexing='ij'), axis=-1).reshape(-1, 2)


def drop_close_points(
    points: np.ndarray, kernel_size: int, rng: np.random.Generator, step: int = 1
) -> np.ndarray:
    """Drop, at random, one of any two points closer than (kernel_size - 1) / 2 in both axes.

    Args:
        points: (P, 2) (row, column).
        kernel_size: the suppression window's side the points were found with, odd.
        rng: decides which of two points goes.
        step: subsampling the points were found at; the distance is that many times larger.

    Returns:
        (Q, 2), the points kept, in the order given; no two of them are close.

    Raises:
        ValueError: the kernel size is not a positive odd integer.
    """
    check_kernel_size(kernel_size)
    reach = (kernel_size - 1) / 2 * step
    order = np.lexsort((points[:, 1], points[:, 0]))
    rows, cols = points[order].T
    alive = np.ones(len(points), dtype=bool)
    ends = np.searchsorted(rows, rows + reach, side='left')
    for i in np.flatnonzero(ends > np.arange(1, len(points) + 1)):
        if not alive[i]:
            continue
        # Pairs with an earlier point are settled already: here i meets only those behind it.
        rivals = (
            i + 1 + np.flatnonzero(alive[i + 1 : ends[i]] & (np.abs(cols[i + 1 : ends[i]] - cols[i]) < reach))
        )
        if len(rivals) == 0:
            continue
        # i meets its rivals one by one, a fair coin each; i falls at toss number `fall`.
        fall = rng.geometric(0.5)
        alive[rivals[: fall - 1]] = False
        alive[i] = fall > len(rivals)
    keep = np.zeros(len(points), dtype=bool)
    keep[order[alive]] = True
    return points[keep]


def guidance_map(points: np.ndarray, vectors: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The guidance the network reads: flow at the points, 0 elsewhere, and the mask, twice.

    Args:
        points: (P, 2) (row, column); P may be 0.
        vectors: (P, 2) (u, v) pixels at each point. Of two vectors at one point the later one counts.
        size: (height, width) of the map.

    Returns:
        (height, width, 4) float32: u, v, mask, mask.

    Raises:
        ValueError: a point lies outside the map or between pixels, or points and vectors do not match.
    """
    height, width = size
    points = _whole_numbers(np.asarray(points).reshape(-1, 2))
    vectors = np.asarray(vectors, dtype=np.float32).reshape(-1, 2)
    if len(points) != len(vectors):
        raise ValueError(
            f'each guidance point needs one vector, got {len(points)} points, {len(vectors)} vectors'
        )
    check_inside(points, height, width)
    out = np.zeros((height, width, 4), dtype=np.float32)
    rows, cols = points.T
    out[rows, cols, :2] = vectors
    out[rows, cols, 2:] = 1
    return out


def _whole_numbers(points: np.ndarray) -> np.ndarray:
    """Points as int64: an empty list, or whole numbers in a floating type, are points too."""
    whole = np.trunc(points) == points if points.dtype.kind == 'f' else np.ones(points.shape, dtype=bool)
    if not whole.all():
        row, col = points[~whole.all(axis=1)][0].tolist()
        raise ValueError(f'guidance points must be whole pixels, got row {row}, column {col}')
    return points.astype(np.int64)


def check_inside(points: np.ndarray, height: int, width: int) -> None:
    """Raise ValueError, naming the first one, if a (row, column) point is outside the image."""
    outside = (points < 0).any(axis=1) | (points[:, 0] >= height) | (points[:, 1] >= width)
    if outside.any():
        row, col = points[outside][0].tolist()
        raise ValueError(
            f'guidance points must lie inside the {height} x {width} image, got row {row}, column {col}'
        )
