"""Places and masks of an image on the picture of it that is clicked on, a whole number of times larger."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cmp_mm.visualization import draw_arrows
from cmp_mm.visualization.drawing import enlarge

from ..pictures import overlay_mask

STATIC_COLOUR = (255, 60, 60)
PENDING_COLOUR = (80, 230, 255)
# Told apart on the picture; the object in work has the first.
_MASK_COLOURS = ((0, 160, 255), (255, 120, 0), (120, 200, 0), (200, 60, 220), (240, 200, 0), (0, 190, 170))


def on_zoomed(points: np.ndarray, zoom: int) -> np.ndarray:
    """Pixel centres of an image as places on the picture ``zoom`` times larger."""
    return (np.asarray(points, np.float64).reshape(-1, 2) + 0.5) * zoom - 0.5


def dots(
    picture: np.ndarray, points: Any, zoom: int, colour: tuple[int, int, int] = (255, 214, 0)
) -> np.ndarray:
    """Draw points, (P, 2) x, y in an image, on its picture ``zoom`` times larger; returns a new picture."""
    places = on_zoomed(points, zoom)
    return draw_arrows(picture, places[:, ::-1], np.zeros_like(places), colour=colour)


def draw_masks(
    picture: np.ndarray, objects: Sequence[np.ndarray], in_work: np.ndarray | None, zoom: int
) -> np.ndarray:
    """Draw (H, W) bool masks of an image on its picture ``zoom`` times larger; returns what was drawn.

    Args:
        picture: what to draw on.
        objects: those that are finished, told apart by their colours.
        in_work: the one that is not, drawn last.
        zoom: see above.
    """
    work_colour, *colours = _MASK_COLOURS
    for number, mask in enumerate(objects):
        picture = overlay_mask(picture, enlarge(mask, zoom), colours[number % len(colours)])
    return picture if in_work is None else overlay_mask(picture, enlarge(in_work, zoom), work_colour)
