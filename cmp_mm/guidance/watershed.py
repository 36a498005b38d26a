"""Watershed guidance candidates: the pixels farthest from every motion edge.

Section 3.2 of the CMP paper (arXiv 1903.11412). Two paths give the same points:
``watershed_candidates_reference`` spells the method out with SciPy, ``watershed_candidates`` is what
training uses.
"""

import numpy as np
from scipy import ndimage

from .basins import distance_maxima
from .checks import UNKNOWN_FLOW, check_flow, check_kernel_size, unknown_mask
from .edges import edge_mask, edge_mask_reference, fill_strength
from .workspace import workspace


def subsampling(height: int, width: int) -> int:
    """Step at which a flow is subsampled before the search: 1 up to a side of 799, then 2, 3, ..."""
    return max(1, max(height, width) // 400)


def _prepare(flow: np.ndarray, kernel_size: int) -> tuple[np.ndarray, int]:
    """Check and subsample: (H, W, 2) float32, contiguous, and the step."""
    check_flow(flow)
    check_kernel_size(kernel_size)
    step = subsampling(*flow.shape[:2])
    return np.ascontiguousarray(flow[::step, ::step], dtype=np.float32), step


def _without_unknown(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The flow with zeros where it is unknown, and where that is."""
    unknown = unknown_mask(flow)
    return np.where(unknown[..., None], np.float32(0), flow), unknown


def _to_points(found: np.ndarray, unknown: np.ndarray | None, width: int, step: int) -> np.ndarray:
    """(P, 2) int32 (row, column) in the whole flow, of flat indices into the subsampled one."""
    if unknown is not None:
        found = found[~unknown.reshape(-1)[found]]
    rows, cols = np.divmod(found, width)
    return np.stack([rows, cols], axis=1).astype(np.int32) * step


def watershed_candidates_reference(flow: np.ndarray, kernel_size: int) -> np.ndarray:
    """Watershed candidates, written plainly with SciPy.

    The flow's edges are found with Sobel filters; the distance of every pixel to the nearest edge is
    the watershed map; a pixel whose distance is positive and the largest of the ``kernel_size``
    square around it is a candidate, unless it lies on the border row or column. Sides of 800 pixels
    or more are subsampled first and the points scaled back.

    Args:
        flow: (H, W, 2) pixels. Vectors that are not finite, or beyond 1e9 in size (the Middlebury
            mark of unknown flow), count as no motion and are never candidates themselves.
        kernel_size: side of the suppression window, odd. The larger, the fewer points.

    Returns:
        (P, 2) int32 (row, column), in row order. A flow without any edge has none.

    Raises:
        ValueError: the flow has another shape, or the kernel size is not a positive odd integer.
    """
    small, step = _prepare(flow, kernel_size)
    small, unknown = _without_unknown(small)
    edges = edge_mask_reference(small)
    if not edges.any():
        return np.zeros((0, 2), dtype=np.int32)
    distance = ndimage.distance_transform_edt(~edges)
    highest = ndimage.maximum_filter(distance, kernel_size, mode='nearest')
    keep = (distance == highest) & (distance > 0)
    keep[[0, -1], :] = False
    keep[:, [0, -1]] = False
    return _to_points(np.flatnonzero(keep), unknown, small.shape[1], step)


def watershed_candidates(flow: np.ndarray, kernel_size: int) -> np.ndarray:
    """Watershed candidates, fast: the same points as :func:`watershed_candidates_reference`.

    Args:
        flow: (H, W, 2) pixels, as there.
        kernel_size: side of the suppression window, odd.

    Returns:
        (P, 2) int32 (row, column), in row order.

    Raises:
        ValueError: the flow has another shape, or the kernel size is not a positive odd integer.
    """
    small, step = _prepare(flow, kernel_size)
    height, width = small.shape[:2]
    space, unknown = workspace(height, width), None
    largest = fill_strength(small, space)
    if not largest <= UNKNOWN_FLOW:  # NaN too
        small, unknown = _without_unknown(small)
        largest = fill_strength(small, space)
    edges = edge_mask(small, largest, space)
    if edges is None:
        return np.zeros((0, 2), dtype=np.int32)
    found = distance_maxima(edges, kernel_size, space)
    return _to_points(found, unknown, width, step)
