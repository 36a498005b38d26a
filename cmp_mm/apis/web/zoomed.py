"""Places of an image on the picture of it that is clicked on, a whole number of times larger."""

from typing import Any

import numpy as np

from cmp_mm.visualization import draw_arrows


def on_zoomed(points: np.ndarray, zoom: int) -> np.ndarray:
    """Pixel centres of an image as places on the picture ``zoom`` times larger."""
    return (np.asarray(points, np.float64).reshape(-1, 2) + 0.5) * zoom - 0.5


def dots(
    picture: np.ndarray, points: Any, zoom: int, colour: tuple[int, int, int] = (255, 214, 0)
) -> np.ndarray:
    """Draw points, (P, 2) x, y in an image, on its picture ``zoom`` times larger; returns a new picture."""
    places = on_zoomed(points, zoom)
    return draw_arrows(picture, places[:, ::-1], np.zeros_like(places), colour=colour)
