"""Watershed guidance candidates: the pixels farthest from every motion edge.

Section 3.2 of the CMP paper (arXiv 1903.11412). Two paths give the same points:
``watershed_candidates_reference`` spells the method out with SciPy, ``watershed_candidates`` is what
training uses.
"""

import cv2
import numpy as np
from scipy import ndimage

from .checks import check_flow, check_kernel_size, unknown_mask

EDGE_THRESHOLD = 0.1  # of the strongest edge
EDGE_FLOOR = 0.01  # a flow whose strongest edge is weaker than this is not stretched to 1
_SOBEL = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=np.float32)


def subsampling(height: int, width: int) -> int:
    """Step at which a flow is subsampled before the search: 1 up to a side of 799, then 2, 3, ..."""
    return max(1, max(height, width) // 400)


def edge_strength(flow: np.ndarray) -> np.ndarray:
    """Sum over both channels of the Sobel gradient's magnitude, symmetric at the border.

    Args:
        flow: (H, W, 2) float32, finite.

    Returns:
        (H, W) float32.
    """
    strength = np.zeros(flow.shape[:2], dtype=np.float32)
    for channel in range(2):
        gx = ndimage.convolve(flow[..., channel], _SOBEL, mode='reflect')
        gy = ndimage.convolve(flow[..., channel], _SOBEL.T, mode='reflect')
        strength += np.sqrt(gx * gx + gy * gy)
    return strength


def _prepare(flow: np.ndarray, kernel_size: int) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Check, subsample, and put zeros where the flow is unknown (None: it is known everywhere)."""
    check_flow(flow)
    check_kernel_size(kernel_size)
    step = subsampling(*flow.shape[:2])
    small = np.ascontiguousarray(flow[::step, ::step], dtype=np.float32)
    unknown = unknown_mask(small)
    if unknown is not None:
        small = np.where(unknown[..., None], np.float32(0), small)
    return small, unknown, step


def _to_points(keep: np.ndarray, unknown: np.ndarray | None, step: int) -> np.ndarray:
    keep[[0, -1], :] = False
    keep[:, [0, -1]] = False
    if unknown is not None:
        keep &= ~unknown
    rows, cols = np.divmod(np.flatnonzero(keep), keep.shape[1])
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
    small, unknown, step = _prepare(flow, kernel_size)
    strength = edge_strength(small)
    edge = strength / max(strength.max(), EDGE_FLOOR) > EDGE_THRESHOLD
    if not edge.any():
        return np.zeros((0, 2), dtype=np.int32)
    distance = ndimage.distance_transform_edt(~edge)
    highest = ndimage.maximum_filter(distance, kernel_size, mode='nearest')
    return _to_points((distance == highest) & (distance > 0), unknown, step)


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
    small, unknown, step = _prepare(flow, kernel_size)
    strength = edge_strength(small)
    clear = (strength / max(strength.max(), EDGE_FLOOR) <= EDGE_THRESHOLD).view(np.uint8)
    if clear.all():
        return np.zeros((0, 2), dtype=np.int32)
    distance = cv2.distanceTransform(clear, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    window = np.ones((kernel_size, kernel_size), dtype=np.uint8)
    highest = cv2.dilate(distance, window, borderType=cv2.BORDER_REPLICATE)
    return _to_points((distance == highest) & (distance > 0), unknown, step)
