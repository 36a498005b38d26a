"""Results over the image they belong to."""

import cv2
import numpy as np

from cmp_mm.flow import flow_to_rgb


def overlay_flow(image: np.ndarray, flow: np.ndarray, max_radius: float, opacity: float = 0.6) -> np.ndarray:
    """Blend the colours of a flow over an image; pixels that are still or of unknown motion stay as they are.

    Args:
        image: (H, W, 3) uint8 RGB.
        flow: (H, W, 2) pixels.
        max_radius: speed in pixels of full colour and opacity.
        opacity: of the fastest pixels, 0..1.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    colours = flow_to_rgb(flow, max_radius)
    speed = np.hypot(flow[..., 0], flow[..., 1]) / max_radius
    share = opacity * np.clip(2 * np.nan_to_num(speed), 0, 1)[..., None]
    return np.rint((1 - share) * image + share * colours).astype(np.uint8)


def overlay_mask(
    image: np.ndarray,
    mask: np.ndarray,
    colour: tuple[int, int, int] = (0, 160, 255),
    opacity: float = 0.45,
) -> np.ndarray:
    """Tint a mask over an image and draw its outline.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool.
        colour: RGB.
        opacity: of the tint, 0..1.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    share = opacity * mask[..., None]
    blended = np.rint((1 - share) * image + share * np.array(colour)).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(blended, outlines, -1, (255, 255, 255), 1)
