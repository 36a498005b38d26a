"""Buffers of the fast watershed path, kept between calls.

Fresh arrays of this size are fresh pages, and the system's work of handing them out takes longer than
the arithmetic done in them. The crops of a data set have one size, so the buffers serve again.
"""

import threading

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

NEAR = 180  # longest distance whose square, and that of a step as long, add up in 16 bits
STRIP = 64  # rows of a flow whose derivatives stay in a core's cache
KEPT_SIZES = 4


class Workspace:
    """Buffers for flows of one height and width."""

    def __init__(self, height: int, width: int) -> None:
        half = (-(-height // 2), -(-width // 2))
        self.gx = np.empty((min(STRIP, height) + 2, width, 2), np.float32)
        self.gy = np.empty_like(self.gx)
        self.strength = np.empty((height, width), np.float32)
        self.mask = np.empty((height, width), np.uint8)
        self.maybe = np.empty((height, width), bool)
        self.vertical = np.empty((height, width), np.uint8)
        self.shifted = np.empty((height, width), np.uint8)
        # Squared vertical distances, with margins: no window leaves its row of memory.
        self.squares = np.full((height, width + 2 * NEAR), (NEAR + 1) ** 2, np.uint16)
        self.even = np.zeros((2 * half[0], 2 * half[1]), np.uint8)
        self.row_pairs = np.empty((half[0], 2 * half[1]), np.uint8)
        self.halved = np.empty(half, np.float32)
        self.upper = np.empty(half, np.float32)
        self.highest = np.empty(half, np.float32)
        self.neighbours = np.empty((height, width), np.float32)
        self._padded: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._windows: dict[tuple, np.ndarray] = {}
        self._far: tuple[np.ndarray, ...] | None = None

    def padded(self, radius: int) -> tuple[np.ndarray, np.ndarray]:
        """Float32 maps of the pixels and of the blocks, with ``radius`` more on each side."""
        if radius not in self._padded:
            if len(self._padded) >= KEPT_SIZES:
                self._padded.clear()
                self._windows.clear()
            rows, cols = (side + 2 * radius for side in self.neighbours.shape)
            block_rows, block_cols = (side + 2 * radius for side in self.upper.shape)
            self._padded[radius] = (
                np.zeros((rows, cols), np.float32),
                np.zeros((block_rows, block_cols), np.float32),
            )
        return self._padded[radius]

    def far_buffers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """For distances beyond ``NEAR``: two uint16 maps, an int32 map, and (x - x')^2 for all x, x'."""
        if self._far is None:
            height, width = self.vertical.shape
            column = np.arange(width, dtype=np.int32)
            self._far = (
                np.empty((height, width), np.uint16),
                np.empty((height, width), np.uint16),
                np.empty((height, width), np.int32),
                (column - column[:, None]) ** 2,
            )
        return self._far

    def stretches(self, side: int) -> np.ndarray:
        """View of ``squares``: row i holds the ``side`` elements from flat index i on."""
        key = ('squares', side)
        if key not in self._windows:
            self._windows[key] = sliding_window_view(self.squares.reshape(-1), side)
        return self._windows[key]

    def windows(self, values: np.ndarray, side: int) -> np.ndarray:
        """View of one of this workspace's padded maps: [i, j] is the square from (i, j) on."""
        key = (values.__array_interface__['data'][0], values.shape, side)
        if key not in self._windows:
            self._windows[key] = sliding_window_view(values, (side, side))
        return self._windows[key]


_local = threading.local()


def workspace(height: int, width: int) -> Workspace:
    """This thread's buffers for a size; a few sizes are kept."""
    kept = _local.__dict__.setdefault('kept', {})
    if (height, width) not in kept:
        if len(kept) >= KEPT_SIZES:
            kept.clear()
        kept[height, width] = Workspace(height, width)
    return kept[height, width]
