"""Motion edges: where the Sobel gradient of a flow exceeds a tenth of its maximum."""

import cv2
import numpy as np
from scipy import signal

from .workspace import STRIP, Workspace

EDGE_THRESHOLD = np.float32(0.1)  # of the strongest edge
EDGE_FLOOR = np.float32(0.01)  # a flow whose strongest edge is weaker than this is not stretched to 1
SOBEL = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=np.float32)
# How far OpenCV's float32 sums can be from the plain path's, by counting roundings: a derivative is off
# by at most 28 half-ulps of the largest flow component M, hence the strength by 28 * 2 * sqrt(2) of them
# (5e-6 M), and by some ten half-ulps of itself (6e-7).
_FLOW_ERROR = 6e-6
_STRENGTH_ERROR = 1e-6


def edge_strength(flow: np.ndarray) -> np.ndarray:
    """Sum over both channels of the Sobel gradient's magnitude, symmetric at the border.

    Args:
        flow: (H, W, 2) float32, finite.

    Returns:
        (H, W) float32.
    """
    strength = np.zeros(flow.shape[:2], dtype=np.float32)
    for channel in range(2):
        gx = signal.convolve2d(flow[..., channel], SOBEL, mode='same', boundary='symm')
        gy = signal.convolve2d(flow[..., channel], SOBEL.T, mode='same', boundary='symm')
        strength += np.sqrt(gx * gx + gy * gy)
    return strength


def edge_mask_reference(flow: np.ndarray) -> np.ndarray:
    """(H, W) bool: the strength over its maximum (at least 0.01) is greater than 0.1."""
    strength = edge_strength(flow)
    return strength / max(strength.max(), EDGE_FLOOR) > EDGE_THRESHOLD


def fill_strength(flow: np.ndarray, space: Workspace) -> float:
    """:func:`edge_strength` up to rounding, through OpenCV, a strip of rows at a time.

    Args:
        flow: (H, W, 2) float32, contiguous.
        space: buffers for this height and width; ``space.strength`` gets the strength.

    Returns:
        The largest absolute component of the flow; NaN if there is a NaN.
    """
    height = flow.shape[0]
    largest = np.float32(0)
    for top in range(0, height, STRIP):
        bottom = min(top + STRIP, height)
        above, below = min(top, 1), min(height - bottom, 1)
        strip = flow[top - above : bottom + below]
        largest = np.maximum(largest, np.maximum(strip.max(), -strip.min()))
        gx, gy = space.gx[: len(strip)], space.gy[: len(strip)]
        cv2.Sobel(strip, cv2.CV_32F, 1, 0, gx, ksize=3, borderType=cv2.BORDER_REFLECT)
        cv2.Sobel(strip, cv2.CV_32F, 0, 1, gy, ksize=3, borderType=cv2.BORDER_REFLECT)
        cv2.magnitude(gx, gy, gx)
        inner = gx[above : above + bottom - top]
        np.add(inner[..., 0], inner[..., 1], out=space.strength[top:bottom])
    return float(largest)


def edge_mask(flow: np.ndarray, largest: float, space: Workspace) -> np.ndarray | None:
    """The mask of :func:`edge_mask_reference`, pixel by pixel the same.

    OpenCV adds in another order. Pixels too near the threshold for that, and those that may hold the
    maximum, are computed again as the plain path does.

    Args:
        flow: (H, W, 2) float32, finite, contiguous.
        largest: the largest absolute component of the flow.
        space: buffers for this height and width, with the flow's strength.

    Returns:
        (H, W) uint8 of 0 and 1, a buffer of ``space``; None if there is no edge.
    """
    strength = space.strength
    peak = float(strength.max())
    threshold = float(EDGE_THRESHOLD) * max(peak, float(EDGE_FLOOR))
    error = _FLOW_ERROR * largest + _STRENGTH_ERROR * threshold
    error_of_peak = _FLOW_ERROR * largest + _STRENGTH_ERROR * peak
    margin = error + float(EDGE_THRESHOLD) * error_of_peak
    mask = np.greater(strength, np.float32(threshold + margin), out=space.mask.view(bool))
    maybe = np.greater(strength, np.float32(threshold - margin), out=space.maybe)
    count = np.count_nonzero(mask)
    if np.count_nonzero(maybe) != count:
        _settle(flow, strength, peak - 2 * error_of_peak, np.flatnonzero(maybe & ~mask), mask)
        count = np.count_nonzero(mask)
    return space.mask if count else None


def _settle(
    flow: np.ndarray, strength: np.ndarray, near_peak: float, doubtful: np.ndarray, mask: np.ndarray
) -> None:
    """Decide the doubtful pixels (flat indices) of ``mask`` by the plain path's arithmetic."""
    peaks = np.flatnonzero(strength > near_peak)
    if len(doubtful) + len(peaks) > strength.size // 16:
        mask[:] = edge_mask_reference(flow)
        return
    exact = _strength_at(flow, np.concatenate([peaks, doubtful]))
    peak = max(exact[: len(peaks)].max(), EDGE_FLOOR)
    mask.reshape(-1)[doubtful] = exact[len(peaks) :] / peak > EDGE_THRESHOLD


def _strength_at(flow: np.ndarray, at: np.ndarray) -> np.ndarray:
    """:func:`edge_strength` at some pixels, by the same convolution over their stacked surroundings."""
    height, width = flow.shape[:2]
    rows, cols = np.divmod(at, width)
    beside = np.arange(-1, 2)
    rows = np.clip(rows[:, None, None] + beside[:, None], 0, height - 1)
    cols = np.clip(cols[:, None, None] + beside, 0, width - 1)
    patches = flow[rows, cols].reshape(-1, 3, 2)
    strength = np.zeros(len(at), dtype=np.float32)
    for channel in range(2):
        gx = signal.convolve2d(patches[..., channel], SOBEL, mode='valid')[::3, 0]
        gy = signal.convolve2d(patches[..., channel], SOBEL.T, mode='valid')[::3, 0]
        strength += np.sqrt(gx * gx + gy * gy)
    return strength
