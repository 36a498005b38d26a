"""Flow as colour: direction is hue, speed is saturation, at a scale that does not change between pictures.

The colours are Middlebury's (Baker et al., *A Database and Evaluation Methodology for Optical Flow*, IJCV
2011). Scaling each picture by its own fastest pixel, as is common, makes pictures incomparable; here the
radius is always given.
"""

import functools
import math

import cv2
import numpy as np


def flow_to_rgb(flow: np.ndarray, max_radius: float, valid: np.ndarray | None = None) -> np.ndarray:
    """Colour a flow field.

    Args:
        flow: (H, W, 2) pixels.
        max_radius: the speed, in pixels, of full saturation. Still pixels are white; faster ones than this
            are darkened to three quarters, so that they show.
        valid: (H, W) bool; unknown pixels and those not finite are black.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: wrong shape, or a radius that is not positive.
    """
    flow = np.asarray(flow, dtype=np.float32)
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise ValueError(f'flow has shape {flow.shape}; expected (height, width, 2)')
    max_radius = _check_radius(max_radius)
    known = np.isfinite(flow).all(axis=2)
    if valid is not None:
        known &= np.asarray(valid, dtype=bool)
    flow = np.where(known[..., None], flow, np.float32(0))

    wheel = _colour_wheel()
    radius = np.hypot(flow[..., 0], flow[..., 1]) / np.float32(max_radius)
    # The wheel starts at 'left'; its last colour is the neighbour of its first.
    position = (np.arctan2(-flow[..., 1], -flow[..., 0]) / np.float32(math.pi) + 1) / 2 * (len(wheel) - 1)
    left = np.clip(position.astype(np.int64), 0, len(wheel) - 1)
    share = (position - left)[..., None]
    colour = (1 - share) * wheel[left] + share * wheel[(left + 1) % len(wheel)]
    radius = radius[..., None]
    colour = np.where(radius <= 1, 1 - radius * (1 - colour), 0.75 * colour)
    return np.rint(255 * np.clip(colour, 0, 1) * known[..., None]).astype(np.uint8)


def color_wheel_legend(size: int, max_radius: float) -> np.ndarray:
    """Draw the key to `flow_to_rgb`: a disc whose centre is stillness and whose rim is ``max_radius``.

    The colour at a place of the disc is that of a vector from the centre to that place.

    Args:
        size: side of the square picture in pixels, at least 16; from 64 on the radius is written below.
        max_radius: pixels at the rim.

    Returns:
        (size, size, 3) uint8, RGB, white around the disc.

    Raises:
        ValueError: the size is too small or the radius not positive.
    """
    max_radius = _check_radius(max_radius)
    if size < 16:
        raise ValueError(f'legend size is {size} pixels; expected at least 16')
    text_height = size // 6 if size >= 64 else 0
    disc = (size - 1 - text_height) / 2
    centre_x = (size - 1) / 2
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    vectors = np.stack((columns - np.float32(centre_x), rows - np.float32(disc)), axis=-1) / np.float32(disc)
    picture = flow_to_rgb(vectors, 1.0)
    picture[np.hypot(vectors[..., 0], vectors[..., 1]) > 1] = 255
    if text_height:
        text = f'{max_radius:g} px'
        scale = cv2.getFontScaleFromHeight(cv2.FONT_HERSHEY_SIMPLEX, max(text_height * 6 // 10, 6))
        (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        place = (max(0, (size - width) // 2), size - max(2, text_height // 6))
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


def add_legend(picture: np.ndarray, max_radius: float) -> np.ndarray:
    """Set the legend of `color_wheel_legend` to the right of a picture, on white.

    Args:
        picture: (H, W, 3) uint8, RGB, from `flow_to_rgb` with the same ``max_radius``.
        max_radius: pixels at the rim of the disc.

    Returns:
        (max(H, size), W + size, 3) uint8, RGB, with the legend's size between 64 and 128 pixels.
    """
    size = min(128, max(64, picture.shape[0] // 3))
    height, width = picture.shape[:2]
    canvas = np.full((max(height, size), width + size, 3), 255, np.uint8)
    canvas[:height, :width] = picture
    canvas[:size, width:] = color_wheel_legend(size, max_radius)
    return canvas


@functools.lru_cache(maxsize=1)
def _colour_wheel() -> np.ndarray:
    """Return the 55 colours of the wheel, (55, 3) float32 RGB in [0, 1]."""
    from mmcv.visualization.optflow import make_color_wheel  # here: importing mmcv takes a second

    return make_color_wheel().astype(np.float32)


def _check_radius(max_radius: float) -> float:
    max_radius = float(max_radius)
    if not (math.isfinite(max_radius) and max_radius > 0):
        raise ValueError(f'max_radius is {max_radius}; expected a finite number of pixels above 0')
    return max_radius
