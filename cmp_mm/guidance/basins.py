"""Local maxima of the exact distance transform, without the whole transform.

A pixel can only be the largest of its window if no pixel there is surely larger. Bounds for that come
from the distance transform at half resolution: the distance of a pixel is within sqrt(2) of twice its
2 x 2 block's. The few pixels that pass get their exact squared distance,

    min over x' of  v(y, x')^2 + (x - x')^2,   v = vertical distance to the nearest edge,

over a window as wide as their upper bound, and are then compared exactly. Squared distances are
integers, so ties are ties.
"""

import cv2
import numpy as np

from .workspace import FAR, REACH, Workspace

_SLACK = np.float32(np.sqrt(2) * (1 + 1e-5))
_SHIFTS = (1, 2, 4, 8, 16, 32, 64, 54)  # any distance up to 181 is a sum of some; none overflows 8 bits
_OFFSETS = (np.arange(-REACH, REACH + 1) ** 2).astype(np.uint16)
_SPANS = (16, 48, 96, 144, REACH)  # windows are as wide as the first of these that holds the bound
_FEW = 200  # pixels that are not worth sorting by span
_CHUNK = 1 << 15  # elements gathered at once: small enough to stay in the cache, and in the heap
_MANY = 600  # blocks from which it pays to look at one pixel of each before all four
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
        self.blocks = self._block_distances()
        self.reach = int(2 * self.blocks.max() + _SLACK) + 1

    def run(self) -> np.ndarray | None:
        if self.reach > REACH:
            return None
        known = self._promising(self.radius // 2, _SLACK)
        self._square_vertical_distances()
        blocks = np.flatnonzero(known)
        if len(blocks) > _MANY:
            blocks = self._sharpen(blocks)
            known.fill(False)
            known.reshape(-1)[blocks] = True
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
        keep = self._settle(known, exact, rows, cols, values)
        return rows[keep] * self.width + cols[keep]

    def _inside(self, padded: np.ndarray) -> np.ndarray:
        radius = self.radius
        return padded[radius : padded.shape[0] - radius, radius : padded.shape[1] - radius]

    def _block_distances(self) -> np.ndarray:
        """(H / 2, W / 2) float32: distance of each 2 x 2 block to the nearest one with an edge, in blocks."""
        edges = self.edges
        if self.height % 2 or self.width % 2:
            self.space.even[: self.height, : self.width] = edges
            edges = self.space.even
        pairs = np.bitwise_or(edges[0::2], edges[1::2], out=self.space.row_pairs)
        clear = (pairs.view(np.uint16) == 0).view(np.uint8)
        return cv2.distanceTransform(clear, cv2.DIST_L2, cv2.DIST_MASK_PRECISE, self.space.blocks)

    def _promising(self, around: int, slack: np.float32) -> np.ndarray:
        """(H / 2, W / 2) bool: blocks not below any of those ``around`` by more than the slack, in blocks."""
        side = 2 * around + 1
        highest = cv2.dilate(self.blocks, np.ones((side, side), np.uint8), self.space.highest)
        np.subtract(highest, slack, out=highest)
        return np.greater_equal(self.blocks, highest)

    def _sharpen(self, blocks: np.ndarray) -> np.ndarray:
        """Which of the promising blocks (flat indices) still are when one pixel of each is known exactly.

        The upper left pixel's distance replaces twice the block's: the others are within sqrt(2) of it
        too, and it is itself a pixel to beat, in every window that reaches (radius - 1) / 2 blocks.
        """
        top, left = np.divmod(blocks, self.blocks.shape[1])
        bounds = 2 * self.blocks.reshape(-1)[blocks] + _SLACK
        corner = np.sqrt(self._exact_at(2 * top, 2 * left, bounds).astype(np.float32))
        self.blocks.reshape(-1)[blocks] = corner / 2
        lowered = self.space.lowered
        np.subtract(self.blocks, _SLACK / 2, out=lowered)
        lowered.reshape(-1)[blocks] = corner / 2
        side = 2 * ((self.radius - 1) // 2) + 1
        highest = cv2.dilate(lowered, np.ones((side, side), np.uint8), self.space.highest)
        return blocks[corner / 2 + _SLACK / 2 >= highest.reshape(-1)[blocks]]

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
        np.multiply(vertical, vertical, out=inside, dtype=np.uint16)

    def _exact(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, columns and exact squared distances (uint16) of all pixels of some blocks (flat indices)."""
        top, left = np.divmod(blocks, self.blocks.shape[1])
        top, left = 2 * top, 2 * left
        rows = np.concatenate([top, top, top + 1, top + 1])
        cols = np.concatenate([left, left + 1, left, left + 1])
        bounds = 2 * self.blocks.reshape(-1)[blocks] + _SLACK
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
        """(P,) bool: which candidates also hold against the blocks whose pixels are not known exactly."""
        radius = self.radius
        padded, padded_blocks = self.space.padded(radius)
        rivals = self._inside(padded_blocks)
        np.multiply(self.blocks, ~known, out=rivals)
        # Blocks that the window of (row, col) meets start at (row - radius) // 2 and are radius + 1 a side.
        first_row, first_col = (rows - radius) // 2 + radius, (cols - radius) // 2 + radius
        harmless = (np.sqrt(values.astype(np.float32)) - _SLACK) / 2
        doubtful = np.flatnonzero(
            self._gathered_maxima(padded_blocks, radius + 1, first_row, first_col) > harmless
        )
        keep = np.ones(len(rows), dtype=bool)
        if len(doubtful) == 0:
            return keep
        windows = self.space.windows(padded_blocks, radius + 1)
        windows = windows[first_row[doubtful], first_col[doubtful]]
        which, down, right = np.nonzero(windows > harmless[doubtful, None, None])
        asked = np.zeros(self.blocks.shape, dtype=bool)
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
