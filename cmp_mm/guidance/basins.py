"""Local maxima of the exact distance transform, where possible without the whole transform.

1. A pixel can only be the largest of its window if no pixel there is surely larger. Bounds for that come
   from a distance transform at half resolution: twice a 2 x 2 block's distance is within sqrt(2) of each
   of its pixels'. For large windows a chamfer distance, which is within 2 % of the true one, is enough.
2. One pixel of each promising block gets its exact distance; the blocks that are still promising then
   get all of theirs.
3. What is largest in its window among all these is held against the bounds of the blocks not computed;
   where that leaves a doubt, they are.

Squared distances are integers, so ties are ties. Small windows leave so many blocks that OpenCV's
transform of the whole is faster, and taken; so do larger ones where the flow is full of edges.
"""

import cv2
import numpy as np

from .distances import EdgeDistances, runs
from .workspace import Workspace

_ROOT2 = np.float32(np.sqrt(2) * (1 + 1e-5))
# Pixels per block, at most and at least: OpenCV's 5 x 5 chamfer distance over the Euclidean one lies in
# [.9825, 1.0192].
_AT_MOST, _AT_LEAST = np.float32(2 / 0.982), np.float32(2 / 1.0195)
_KERNELS = range(21, 130)  # smaller windows exclude too little, larger ones cost too much to gather
_FEWEST_PIXELS = 128 * 128  # images below which the whole transform is cheaper than avoiding it
_MOST_BLOCKS = 1 / 10  # share of promising blocks above which it is, too


def distance_maxima(edges: np.ndarray, kernel_size: int, space: Workspace) -> np.ndarray:
    """Pixels off the edges, and off the border, whose distance is the largest of their window.

    Args:
        edges: (H, W) uint8 of 0 and 1, at least one 1.
        kernel_size: side of the window, odd.
        space: buffers for this height and width.

    Returns:
        (P,) flat indices in row order.
    """
    found = None
    if edges.size >= _FEWEST_PIXELS and kernel_size in _KERNELS:
        found = _Search(edges, kernel_size // 2, space).run()
    return _maxima_of_whole(edges, kernel_size, space) if found is None else found


def _maxima_of_whole(edges: np.ndarray, kernel_size: int, space: Workspace) -> np.ndarray:
    clear = np.bitwise_xor(edges, 1, out=space.vertical)
    distance = _transform(clear, cv2.DIST_MASK_PRECISE, space.strength)
    cv2.dilate(distance, np.ones((kernel_size, kernel_size), np.uint8), space.neighbours)
    # Both are square roots of integers in float32: equal if and only if the integers are.
    found = np.equal(distance, space.neighbours, out=space.maybe)
    found &= clear.view(bool)
    found[[0, -1], :] = False
    found[:, [0, -1]] = False
    return np.flatnonzero(found)


def _transform(clear: np.ndarray, mask: int, out: np.ndarray) -> np.ndarray:
    """OpenCV's distance transform, by its own code.

    On one thread it would use IPP's, where that is built in: slower, and unequal in the last bit for
    equal distances.
    """
    ipp = getattr(cv2, 'ipp', None)
    switch = ipp is not None and ipp.useIPP()
    if switch:
        ipp.setUseIPP(False)
    try:
        return cv2.distanceTransform(clear, cv2.DIST_L2, mask, out)
    finally:
        if switch:
            ipp.setUseIPP(True)


class _Search:
    """One call's state: the maps that the steps share."""

    def __init__(self, edges: np.ndarray, radius: int, space: Workspace) -> None:
        self.edges, self.radius, self.space = edges, radius, space
        self.height, self.width = edges.shape
        self.upper = self._block_distances()
        self.padded, self.padded_blocks = space.padded(radius)
        self.exact = self._inside(self.padded)

    def run(self) -> np.ndarray | None:
        blocks = self._promising_blocks()
        if len(blocks) > self.upper.size * _MOST_BLOCKS:
            return None
        self.distances = EdgeDistances(self.edges, float(self.upper.max()), self.space)
        blocks = self._still_promising(blocks)
        self.padded.fill(0)
        rows, cols, values = self._compute(blocks)

        cv2.dilate(self.exact, np.ones((3, 3), np.uint8), self.space.neighbours)
        keep = np.flatnonzero(values == self.space.neighbours[rows, cols])
        rows, cols, values = rows[keep], cols[keep], values[keep]
        keep = (values > 0) & (rows > 0) & (cols > 0) & (rows < self.height - 1) & (cols < self.width - 1)
        rows, cols, values = rows[keep], cols[keep], values[keep]
        for radius in (7, 20, self.radius):
            if 1.5 * radius < self.radius or radius == self.radius:
                keep = self._window_maxima(radius, rows, cols) <= values
                rows, cols, values = rows[keep], cols[keep], values[keep]
        keep = self._settle(blocks, rows, cols, values)
        return np.sort(rows[keep] * self.width + cols[keep])

    def _inside(self, padded: np.ndarray) -> np.ndarray:
        radius = self.radius
        return padded[radius : padded.shape[0] - radius, radius : padded.shape[1] - radius]

    def _block_distances(self) -> np.ndarray:
        """Fill ``space.halved``, in blocks; return (H / 2, W / 2) bounds on the pixels' distances."""
        edges = self.edges
        if self.height % 2 or self.width % 2:
            self.space.even[: self.height, : self.width] = edges
            edges = self.space.even
        pairs = np.bitwise_or(edges[0::2], edges[1::2], out=self.space.row_pairs)
        clear = (pairs.view(np.uint16) == 0).view(np.uint8)
        halved = _transform(clear, cv2.DIST_MASK_5, self.space.halved)
        upper = np.multiply(halved, _AT_MOST, out=self.space.upper)
        return np.add(upper, _ROOT2, out=upper)

    def _promising_blocks(self) -> np.ndarray:
        """Flat indices of the blocks that, by the bounds, may hold a pixel no other of its window exceeds."""
        # A pixel's window meets all blocks up to radius // 2 away.
        highest = self._highest_around(self.space.halved, self.radius // 2)
        np.multiply(highest, _AT_LEAST, out=highest)
        np.subtract(highest, _ROOT2, out=highest)
        return np.flatnonzero(self.upper >= highest)

    def _still_promising(self, blocks: np.ndarray) -> np.ndarray:
        """Those of some blocks that are promising yet when the upper left pixel of each is known.

        It is itself a pixel to beat, in all windows that reach (radius - 1) // 2 blocks, and the block's
        others are within sqrt(2) of it. ``self.upper`` is sharpened on the way.
        """
        top, left = np.divmod(blocks, self.upper.shape[1])
        upper = self.upper.reshape(-1)
        corner = np.sqrt(self.distances.at(2 * top, 2 * left, upper[blocks]))
        upper[blocks] = np.minimum(upper[blocks], corner + _ROOT2)
        lower = np.multiply(self.space.halved, _AT_LEAST, out=self.space.halved)
        np.subtract(lower, _ROOT2, out=lower)
        lower.reshape(-1)[blocks] = corner
        highest = self._highest_around(lower, (self.radius - 1) // 2).reshape(-1)
        return blocks[corner + _ROOT2 >= highest[blocks]]

    def _highest_around(self, values: np.ndarray, around: int) -> np.ndarray:
        side = 2 * around + 1
        return cv2.dilate(values, np.ones((side, side), np.uint8), self.space.highest)

    def _compute(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Enter all pixels of some blocks into the map; rows, columns and squared distances."""
        top, left = np.divmod(blocks, self.upper.shape[1])
        top, left = 2 * top, 2 * left
        rows = np.concatenate([top, top, top + 1, top + 1])
        cols = np.concatenate([left, left + 1, left, left + 1])
        bounds = self.upper.reshape(-1)[blocks]
        bounds = np.concatenate([bounds, bounds, bounds, bounds])
        if self.height % 2 or self.width % 2:
            real = (rows < self.height) & (cols < self.width)
            rows, cols, bounds = rows[real], cols[real], bounds[real]
        values = self.distances.at(rows, cols, bounds)
        self.exact[rows, cols] = values
        return rows, cols, values

    def _settle(
        self, known: np.ndarray, rows: np.ndarray, cols: np.ndarray, values: np.ndarray
    ) -> np.ndarray:
        """(P,) bool: which candidates also hold against the blocks that are not ``known`` exactly."""
        radius = self.radius
        rivals = self._inside(self.padded_blocks)
        np.copyto(rivals, self.upper)
        top, left = np.divmod(known, self.upper.shape[1])
        rivals[top, left] = 0
        # Blocks that the window of (row, col) meets start at (row - radius) // 2 and are radius + 1 a side.
        first_row, first_col = (rows - radius) // 2 + radius, (cols - radius) // 2 + radius
        harmless = np.sqrt(values)
        highest = self._gathered_maxima(self.padded_blocks, radius + 1, first_row, first_col)
        doubtful = np.flatnonzero(highest > harmless)
        keep = np.ones(len(rows), dtype=bool)
        if len(doubtful):
            windows = self.space.windows(self.padded_blocks, radius + 1)
            windows = windows[first_row[doubtful], first_col[doubtful]]
            which, down, right = np.nonzero(windows > harmless[doubtful, None, None])
            asked = np.zeros(self.upper.shape, dtype=bool)
            asked[first_row[doubtful][which] + down - radius, first_col[doubtful][which] + right - radius] = (
                True
            )
            self._compute(np.flatnonzero(asked))
            highest = self._window_maxima(radius, rows[doubtful], cols[doubtful])
            keep[doubtful] = highest <= values[doubtful]
        return keep

    def _window_maxima(self, radius: int, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Maximum of the map over the window around each pixel."""
        margin = self.radius - radius
        return self._gathered_maxima(self.padded, 2 * radius + 1, rows + margin, cols + margin)

    def _gathered_maxima(
        self, values: np.ndarray, side: int, rows: np.ndarray, cols: np.ndarray
    ) -> np.ndarray:
        """Maximum of each (side, side) window of a padded map whose upper left corner is (row, col)."""
        windows = self.space.windows(values, side)
        out = np.empty(len(rows), values.dtype)
        for part in runs(np.arange(len(rows)), 4 * side * side):
            out[part] = windows[rows[part], cols[part]].reshape(-1, side * side).max(axis=1)
        return out
