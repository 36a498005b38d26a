"""Local maxima of the exact distance transform, without the whole transform.

A pixel can only be the largest of its window if no pixel there is surely larger. Bounds for that come
from a chamfer distance at half resolution, which is within 2 % of the true distance of 2 x 2 blocks,
and that, doubled, within sqrt(2) of every pixel's. One pixel of each promising block then gets its
exact squared distance,

    min over x' of  v(y, x')^2 + (x - x')^2,   v = vertical distance to the nearest edge,

over a window as wide as its upper bound; what is still promising is computed in full, and compared
exactly. Squared distances are integers, so ties are ties.
"""

import cv2
import numpy as np

from .workspace import FAR, REACH, Workspace

_ROOT2 = np.float32(np.sqrt(2) * (1 + 1e-5))
# OpenCV's 5 x 5 chamfer distance over the Euclidean one lies in [.9825, 1.0192].
_LONGEST = np.float32(2 / 0.982)  # pixels per unit of chamfer distance, in blocks
_SHORTEST = np.float32(2 / 1.0195)
_SHIFTS = (1, 2, 4, 8, 16, 32, 64, 54)  # any distance up to 181 is a sum of some; none overflows 8 bits
_OFFSETS = (np.arange(-REACH, REACH + 1) ** 2).astype(np.uint16)
_SPANS = (16, 48, 96, 144, REACH)  # windows are as wide as the first of these that holds the bound
_FEW = 200  # pixels that are not worth sorting by span
_CHUNK = 60_000  # elements gathered at once: below 128 KiB, from which on an array gets fresh pages
_PREFILTER = 7  # radius of a first, cheap comparison before a larger window's


def distance_maxima(edges: np.ndarray, kernel_size: int, space: Workspace) -> np.ndarray | None:
    """Pixels off the edges, and off the border, whose distance is the largest of their window.

    Args:
        edges: (H, W) uint8 of 0 and 1, at least one 1.
        kernel_size: side of the window, odd.
        space: buffers for this height and width.

    Returns:
        (P,) flat indices in no certain order; None where the distances are too long for this method.
    """
    return _Search(edges, kernel_size // 2, space).run()


class _Search:
    """One call's state: the maps that the steps share."""

    def __init__(self, edges: np.ndarray, radius: int, space: Workspace) -> None:
        self.edges, self.radius, self.space = edges, radius, space
        self.height, self.width = edges.shape
        self.upper = self._block_distances()
        self.reach = int(self.upper.max()) + 1

    def run(self) -> np.ndarray | None:
        if self.reach > REACH:
            return None
        self._square_vertical_distances()
        blocks = self._promising_blocks()
        rows, cols, values = self._exact(blocks)
        padded, _ = self.space.padded(self.radius)
        padded.fill(0)
        exact = self._inside(padded)
        exact[rows, cols] = values
        cv2.dilate(exact, np.ones((3, 3), np.uint8), self.space.neighbours)
        keep = np.flatnonzero(values == self.space.neighbours[rows, cols])
        rows, cols, values = rows[keep], cols[keep], values[keep]
        keep = (values > 0) & (rows > 0) & (cols > 0) & (rows < self.height - 1) & (cols < self.width - 1)
        rows, cols, values = rows[keep], cols[keep], values[keep]
        radii = [self.radius] if self.radius <= 2 * _PREFILTER else [_PREFILTER, self.radius]
        for radius in radii:
            keep = self._window_maxima(padded, radius, rows, cols) <= values
            rows, cols, values = rows[keep], cols[keep], values[keep]
        keep = self._settle(blocks, exact, rows, cols, values)
        return rows[keep] * self.width + cols[keep]

    def _inside(self, padded: np.ndarray) -> np.ndarray:
        radius = self.radius
        return padded[radius : padded.shape[0] - radius, radius : padded.shape[1] - radius]

    def _block_distances(self) -> np.ndarray:
        """Fill ``space.chamfer``, in blocks; return (H / 2, W / 2) bounds on the pixels' distances."""
        edges = self.edges
        if self.height % 2 or self.width % 2:
            self.space.even[: self.height, : self.width] = edges
            edges = self.space.even
        pairs = np.bitwise_or(edges[0::2], edges[1::2], out=self.space.row_pairs)
        clear = (pairs.view(np.uint16) == 0).view(np.uint8)
        chamfer = cv2.distanceTransform(clear, cv2.DIST_L2, cv2.DIST_MASK_5, self.space.chamfer)
        upper = np.multiply(chamfer, _LONGEST, out=self.space.upper)
        return np.add(upper, _ROOT2, out=upper)

    def _promising_blocks(self) -> np.ndarray:
        """Flat indices of the blocks that may hold a pixel no other of its window exceeds.

        First by the bounds alone, then with the upper left pixel of each block known exactly: it
        is itself a pixel to beat, and the block's others are within sqrt(2) of it. The bounds of
        ``self.upper`` are sharpened on the way.
        """
        # A pixel's window meets all blocks up to radius // 2 away, and the upper left pixels of those
        # up to (radius - 1) // 2 away.
        highest = self._highest_around(self.space.chamfer, self.radius // 2)
        np.multiply(highest, _SHORTEST, out=highest)
        np.subtract(highest, _ROOT2, out=highest)
        blocks = np.flatnonzero(self.upper >= highest)
        top, left = np.divmod(blocks, self.upper.shape[1])
        upper = self.upper.reshape(-1)
        squared = self._exact_at(2 * top, 2 * left, upper[blocks])
        corner = np.sqrt(squared.astype(np.float32))
        upper[blocks] = corner + _ROOT2
        lower = np.multiply(self.space.chamfer, _SHORTEST, out=self.space.chamfer)
        np.subtract(lower, _ROOT2, out=lower)
        lower.reshape(-1)[blocks] = corner
        highest = self._highest_around(lower, (self.radius - 1) // 2).reshape(-1)
        return blocks[corner + _ROOT2 >= highest[blocks]]

    def _highest_around(self, values: np.ndarray, around: int) -> np.ndarray:
        side = 2 * around + 1
        return cv2.dilate(values, np.ones((side, side), np.uint8), self.space.highest)

    def _square_vertical_distances(self) -> None:
        """Fill ``space.squares``: v^2 of every pixel, cut off at 181^2."""
        vertical, shifted = self.space.vertical, self.space.shifted
        np.bitwise_xor(self.edges, 1, out=vertical)
        np.multiply(vertical, FAR, out=vertical)
        reached = 0
        for shift in _SHIFTS:
            np.add(vertical, np.uint8(shift), out=shifted)
            np.minimum(vertical[shift:], shifted[:-shift], out=vertical[shift:])
            np.minimum(vertical[:-shift], shifted[shift:], out=vertical[:-shift])
            reached += shift
            if reached >= self.reach:
                break
        inside = self.space.squares[:, REACH : REACH + self.width]
        np.copyto(inside, vertical)
        np.multiply(inside, inside, out=inside)

    def _exact(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, columns and exact squared distances (uint16) of all pixels of some blocks (flat indices)."""
        top, left = np.divmod(blocks, self.upper.shape[1])
        top, left = 2 * top, 2 * left
        rows = np.concatenate([top, top, top + 1, top + 1])
        cols = np.concatenate([left, left + 1, left, left + 1])
        bounds = self.upper.reshape(-1)[blocks]
        bounds = np.concatenate([bounds, bounds, bounds, bounds])
        if self.height % 2 or self.width % 2:
            real = (rows < self.height) & (cols < self.width)
            rows, cols, bounds = rows[real], cols[real], bounds[real]
        return rows, cols, self._exact_at(rows, cols, bounds)

    def _exact_at(self, rows: np.ndarray, cols: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """(P,) uint16 squared distances of pixels whose distances do not exceed ``bounds``."""
        values = np.empty(len(rows), np.uint16)
        centres = rows * (self.width + 2 * REACH) + cols + REACH
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
            offsets = _OFFSETS[REACH - span : REACH + span + 1]
            step = _CHUNK // side
            for first in range(0, len(chosen), step):
                part = chosen[first : first + step]
                window = stretches[centres[part] - span]
                np.add(window, offsets, out=window)
                values[part] = np.minimum.reduce(window, axis=1)
        return values

    def _window_maxima(
        self, padded: np.ndarray, radius: int, rows: np.ndarray, cols: np.ndarray
    ) -> np.ndarray:
        """Maximum over the window around each pixel of a map with ``self.radius`` more on each side."""
        return self._gathered_maxima(
            padded, 2 * radius + 1, rows + self.radius - radius, cols + self.radius - radius
        )

    def _settle(
        self, known: np.ndarray, exact: np.ndarray, rows: np.ndarray, cols: np.ndarray, values: np.ndarray
    ) -> np.ndarray:
        """(P,) bool: which candidates also hold against the blocks that are not ``known`` exactly."""
        radius = self.radius
        padded, padded_blocks = self.space.padded(radius)
        rivals = self._inside(padded_blocks)
        np.copyto(rivals, self.upper)
        top, left = np.divmod(known, self.upper.shape[1])
        rivals[top, left] = 0
        # Blocks that the window of (row, col) meets start at (row - radius) // 2 and are radius + 1 a side.
        first_row, first_col = (rows - radius) // 2 + radius, (cols - radius) // 2 + radius
        harmless = np.sqrt(values.astype(np.float32))
        doubtful = np.flatnonzero(
            self._gathered_maxima(padded_blocks, radius + 1, first_row, first_col) > harmless
        )
        keep = np.ones(len(rows), dtype=bool)
        if len(doubtful) == 0:
            return keep
        windows = self.space.windows(padded_blocks, radius + 1)
        windows = windows[first_row[doubtful], first_col[doubtful]]
        which, down, right = np.nonzero(windows > harmless[doubtful, None, None])
        asked = np.zeros(self.upper.shape, dtype=bool)
        asked[first_row[doubtful][which] + down - radius, first_col[doubtful][which] + right - radius] = True
        more_rows, more_cols, more_values = self._exact(np.flatnonzero(asked))
        exact[more_rows, more_cols] = more_values
        highest = self._window_maxima(padded, radius, rows[doubtful], cols[doubtful])
        keep[doubtful] = highest <= values[doubtful]
        return keep

    def _gathered_maxima(
        self, values: np.ndarray, side: int, rows: np.ndarray, cols: np.ndarray
    ) -> np.ndarray:
        """Maximum of each (side, side) window of a padded map whose upper left corner is (row, col)."""
        windows = self.space.windows(values, side)
        out = np.empty(len(rows), values.dtype)
        step = max(1, _CHUNK // (side * side))
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            out[part] = windows[rows[part], cols[part]].reshape(-1, side * side).max(axis=1)
        return out
