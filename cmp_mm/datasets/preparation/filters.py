"""What is measured on a pair of frames, and which pairs are left out: static ones and scene cuts."""

from dataclasses import dataclass

import cv2
import numpy as np

from .settings import PairSettings

# Short side, in pixels, at which pairs are compared: enough to tell a cut, a few hundredths of DIS's cost.
THUMB_SIDE = 104
# In a flat, dark picture noise must not count as a changed scene.
MIN_CONTRAST = 10.0
STATIC_SHARE = 0.01

REJECTIONS = {
    'cut': 'scene cut',
    'static': 'static',
    'size': 'frames of two sizes',
    'gap': 'a frame between is missing',
    'no_flow': 'no usable flow',
}


@dataclass(frozen=True)
class PairMeasure:
    """What is known of a pair.

    Attributes:
        mean: pixels, mean length of the flow vectors.
        fast: pixels, the length that 1 % of the vectors exceed.
        residual: mean difference between the first frame and the second one warped back onto it, over the
            contrast (standard deviation of the grey values) of the two.
        clipped: number of vectors with a component beyond the bound.
    """

    mean: float
    fast: float
    residual: float
    clipped: int


def make_thumb(image: np.ndarray) -> np.ndarray:
    """Shrink an RGB frame to what pairs are compared on: (h, w) uint8, grey, every step-th pixel's mean."""
    height, width = image.shape[:2]
    step = thumb_step(height, width)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (width // step, height // step), interpolation=cv2.INTER_AREA)


def thumb_step(height: int, width: int) -> int:
    """Return by how much frames of this size are shrunk for comparing."""
    return max(1, round(min(height, width) / THUMB_SIDE))


def measure_pair(
    flow: np.ndarray, thumb0: np.ndarray, thumb1: np.ndarray, bound: float
) -> PairMeasure | None:
    """Measure a pair.

    Motion and residual are taken on every step-th vector; the clipped vectors are counted among all.

    Args:
        flow: (H, W, 2) float32 pixels, NaN where unknown.
        thumb0, thumb1: of the two frames, from `make_thumb`.
        bound: pixels.

    Returns:
        The measures, or None where no vector of those looked at is known.
    """
    height, width = thumb0.shape
    step = thumb_step(*flow.shape[:2])
    coarse = flow[step // 2 :: step, step // 2 :: step][:height, :width]
    u, v = np.ascontiguousarray(coarse[..., 0]), np.ascontiguousarray(coarse[..., 1])
    length = cv2.magnitude(u, v)
    known = np.isfinite(length)
    everywhere = bool(known.all())
    if not known.any():
        return None
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    warped = cv2.remap(
        thumb1,
        np.nan_to_num(u, posinf=0, neginf=0) / step + columns,
        np.nan_to_num(v, posinf=0, neginf=0) / step + rows,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    difference = cv2.absdiff(thumb0, warped)
    if not everywhere:
        length, difference = length[known], difference[known]
    contrast = np.hypot(cv2.meanStdDev(thumb0)[1], cv2.meanStdDev(thumb1)[1]).item() / np.sqrt(2)
    rank = int((1 - STATIC_SHARE) * (length.size - 1))
    return PairMeasure(
        mean=float(length.mean()),
        fast=float(np.partition(length, rank, axis=None)[rank]),
        residual=float(difference.mean()) / max(contrast, MIN_CONTRAST),
        clipped=_count_clipped(flow, bound),
    )


def judge_pair(measure: PairMeasure | None, settings: PairSettings) -> str | None:
    """Return why a measured pair is left out, a key of `REJECTIONS`, or None where it stays."""
    if measure is None:
        return 'no_flow'
    if settings.cut_threshold and measure.residual > settings.cut_threshold:
        return 'cut'
    if settings.min_motion and measure.fast < settings.min_motion:
        return 'static'
    return None


def _count_clipped(flow: np.ndarray, bound: float) -> int:
    # Most flow stays inside, which two passes without temporary arrays can tell. Unlike cv2.norm, these
    # are NaN, so never inside, where one vector is unknown.
    if flow.min() >= -bound and flow.max() <= bound:
        return 0
    return int((np.abs(flow) > bound).any(axis=2).sum())
