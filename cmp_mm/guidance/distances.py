"""Exact squared distances to the nearest edge, for chosen pixels.

The squared distance of pixel (y, x) is

    min over x' of  v(y, x')^2 + (x - x')^2,   v = vertical distance to the nearest edge.

v is found for all pixels at once, in 8 bits up to 180. The minimum is taken for single pixels, over a
window as wide as a known bound on the distance, or, if that is beyond 180, over the whole row.
"""

from collections.abc import Iterator

import numpy as np

from .workspace import NEAR, Workspace

_SHIFTS = (1, 2, 4, 8, 16, 32, 64, 54)  # any distance up to 181 is a sum of some; none overflows 8 bits
_FAR_SHIFT = 128  # in any stretch longer than this lies a pixel whose short distance is known
_OFFSETS = (np.arange(-NEAR, NEAR + 1) ** 2).astype(np.uint16)
_SPANS = (16, 48, 96, 144, NEAR)  # windows are as wide as the first of these that holds the bound
_FEW = 200  # pixels that are not worth sorting by span
_CHUNK = 120_000  # bytes gathered at once: from 128 KiB on an array gets fresh pages


class EdgeDistances:
    """Distances to the edges of one mask.

    Args:
        edges: (H, W) uint8 of 0 and 1, at least one 1.
        reach: a bound on all distances.
        space: buffers for this height and width, filled here.
    """

    def __init__(self, edges: np.ndarray, reach: float, space: Workspace) -> None:
        self.space, self.reach = space, reach
        self.height, self.width = edges.shape
        self._search_vertically(edges)
        inside = space.squares[:, NEAR : NEAR + self.width]
        np.copyto(inside, space.vertical)
        np.multiply(inside, inside, out=inside)
        if reach > NEAR:
            self._search_far()

    def at(self, rows: np.ndarray, cols: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """(P,) float32, exact: squared distances of pixels whose distances do not exceed ``bounds``."""
        values = np.empty(len(rows), np.float32)
        centres = rows * (self.width + 2 * NEAR) + cols + NEAR
        spans = _SPANS
        if len(rows) < _FEW:
            longest = bounds.max(initial=0)
            spans = [span for span in _SPANS if span >= longest][:1]
        shorter = -1
        for span in spans:
            chosen = np.flatnonzero((bounds > shorter) & (bounds <= span))
            shorter = span
            if len(chosen) == 0:
                continue
            side = 2 * span + 1
            stretches = self.space.stretches(side)
            offsets = _OFFSETS[NEAR - span : NEAR + span + 1]
            for part in runs(chosen, 2 * side):
                window = stretches[centres[part] - span]
                np.add(window, offsets, out=window)
                values[part] = np.minimum.reduce(window, axis=1)
        if self.reach > NEAR:
            _, _, squares, steps = self.space.far_buffers()
            for part in runs(np.flatnonzero(bounds > shorter), 4 * self.width):
                window = squares[rows[part]]
                np.add(window, steps[cols[part]], out=window)
                values[part] = np.minimum.reduce(window, axis=1)
        return values

    def _search_vertically(self, edges: np.ndarray) -> None:
        """Fill ``space.vertical``: v of every pixel, cut off at NEAR + 1."""
        vertical, shifted = self.space.vertical, self.space.shifted
        np.bitwise_xor(edges, 1, out=vertical)
        np.multiply(vertical, NEAR + 1, out=vertical)
        reached = 0
        for shift in _SHIFTS:
            np.add(vertical, np.uint8(shift), out=shifted)
            np.minimum(vertical[shift:], shifted[:-shift], out=vertical[shift:])
            np.minimum(vertical[:-shift], shifted[shift:], out=vertical[:-shift])
            reached += shift
            if reached >= self.reach:
                break

    def _search_far(self) -> None:
        """Fill the far buffers: v and v^2 of every pixel, however long."""
        vertical, shifted, squares, _ = self.space.far_buffers()
        np.copyto(vertical, self.space.vertical)
        np.copyto(vertical, 2 * (self.height + self.width), where=vertical > NEAR)
        reached = NEAR
        while reached < min(self.reach, self.height):
            np.add(vertical, np.uint16(_FAR_SHIFT), out=shifted)
            np.minimum(vertical[_FAR_SHIFT:], shifted[:-_FAR_SHIFT], out=vertical[_FAR_SHIFT:])
            np.minimum(vertical[:-_FAR_SHIFT], shifted[_FAR_SHIFT:], out=vertical[:-_FAR_SHIFT])
            reached += _FAR_SHIFT
        np.copyto(squares, vertical)
        np.multiply(squares, squares, out=squares)


def runs(indices: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The indices in runs that, at ``size`` bytes each, gather a small array."""
    step = max(1, _CHUNK // size)
    for first in range(0, len(indices), step):
        yield indices[first : first + step]
