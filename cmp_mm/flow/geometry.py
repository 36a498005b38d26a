"""What happens to flow vectors when the image, or the motion itself, is changed.

All functions take (H, W, 2) pixels, u to the right and v down, leave their input alone and keep float32
(and float64) as it is. Unknown pixels may be NaN; they stay NaN.
"""

import math

import cv2
import numpy as np


def resize_flow(flow: np.ndarray, size: tuple[int, int], nearest: bool = False) -> np.ndarray:
    """Resize a flow field; u scales by the ratio of widths, v by the ratio of heights.

    Args:
        flow: (H, W, 2) pixels of the old size.
        size: (height, width) of the result.
        nearest: take the nearest vector rather than a bilinear mean, which would mix unknown vectors into
            their neighbours. Masks resized with `resize_mask` stay aligned with it.

    Returns:
        (height, width, 2) pixels of the new size.

    Raises:
        ValueError: wrong shape or an empty size.
    """
    flow = _as_flow(flow)
    height, width = _check_size(size)
    ratio = np.array([width / flow.shape[1], height / flow.shape[0]], dtype=flow.dtype)
    interpolation = cv2.INTER_NEAREST_EXACT if nearest else cv2.INTER_LINEAR
    resized = cv2.resize(flow, (width, height), interpolation=interpolation)
    # Whole rows against a row of ratios: numpy is ten times slower at broadcasting over an axis of two.
    return (resized.reshape(height, 2 * width) * np.tile(ratio, width)).reshape(height, width, 2)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a boolean (H, W) mask to (height, width) by nearest pixel, as `resize_flow` with ``nearest``."""
    height, width = _check_size(size)
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError(f'mask has shape {mask.shape}; expected (height, width)')
    small = mask.astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)


def flip_flow(flow: np.ndarray, direction: str) -> np.ndarray:
    """Mirror the field and negate the component along the mirrored axis.

    Args:
        flow: (H, W, 2) pixels.
        direction: 'horizontal' (left and right change places, u changes sign) or 'vertical' (top and
            bottom, v).
    """
    flow = _as_flow(flow)
    if direction not in ('horizontal', 'vertical'):
        raise ValueError(f'flip direction is {direction!r}; expected horizontal or vertical')
    axis, channel = (1, 0) if direction == 'horizontal' else (0, 1)
    flipped = np.flip(flow, axis).copy()
    # 0 - x rather than -x: still pixels stay +0 and keep their angle.
    flipped[..., channel] = 0 - flipped[..., channel]
    return flipped


def rotate_flow(flow: np.ndarray, degrees: float) -> np.ndarray:
    """Turn every vector where it stands; a positive angle turns right into down (clockwise on the screen).

    A rotation matrix rather than an angle and a length: right in all quadrants, and zero stays zero.

    Args:
        flow: (H, W, 2) pixels.
        degrees: angle of the turn.
    """
    flow = _as_flow(flow)
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    u, v = flow[..., 0], flow[..., 1]
    return np.stack((cos * u - sin * v, sin * u + cos * v), axis=-1).astype(flow.dtype, copy=False)


def scale_flow(flow: np.ndarray, factor: float) -> np.ndarray:
    """Multiply all vectors by one factor; the field keeps its size."""
    flow = _as_flow(flow)
    return flow * flow.dtype.type(factor)


def reverse_flow(flow: np.ndarray) -> np.ndarray:
    """Let everything move the opposite way: each vector negated where it stands.

    This is an augmentation of the motion, not the flow from frame t + 1 back to t, whose vectors stand
    where the forward ones end.
    """
    return 0 - _as_flow(flow)


def move_camera(
    flow: np.ndarray, pan: tuple[float, float] = (0.0, 0.0), zoom: float = 0.0, roll: float = 0.0
) -> np.ndarray:
    """The flow to the second frame as a camera that moved on would have taken it, of a far scene.

    What is at p in the first frame and at p + f in the second is taken to where that place goes: with a
    camera's motion of its own at p alone, fast things would miss the turn of the way they went.

    Args:
        flow: (H, W, 2) pixels.
        pan: (u, v) pixels, the same everywhere.
        zoom: share by which everything moves away from the image's centre.
        roll: degrees by which everything turns about it; positive turns right into down.
    """
    flow = _as_flow(flow)
    height, width = flow.shape[:2]
    down = np.arange(height, dtype=np.float32)[:, None] - np.float32((height - 1) / 2)
    right = np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)
    angle = math.radians(roll)
    along = (1 + zoom) * math.cos(angle) - 1
    across = (1 + zoom) * math.sin(angle)
    right, down = right + flow[..., 0], down + flow[..., 1]
    moved = np.stack(
        (pan[0] + along * right - across * down, pan[1] + across * right + along * down), axis=-1
    )
    return flow + moved.astype(flow.dtype, copy=False)


def _as_flow(flow: np.ndarray) -> np.ndarray:
    flow = np.asarray(flow)
    if flow.ndim != 3 or flow.shape[2] != 2 or flow.size == 0:
        raise ValueError(f'flow has shape {flow.shape}; expected (height, width, 2)')
    return flow if flow.dtype in (np.float32, np.float64) else flow.astype(np.float32)


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    height, width = (int(side) for side in size)
    if height < 1 or width < 1:
        raise ValueError(f'new size is {height} x {width} (height x width); both must be at least 1')
    return height, width
