"""The one-dimensional bilinear weights (align_corners=True) that every path shares."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=64)
def axis_positions(size_in: int, size_out: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Where each output position lies between the input nodes, as torch computes it.

    Args:
        size_in: nodes along the axis.
        size_out: output positions along the axis.
        dtype: 'float32' or 'float64'; torch rounds the positions to the dtype of the values, so a
            float32 path that used exact positions would differ from it by more than rounding.

    Returns:
        (size_out,) int64 lower node, and (size_out,) fraction in [0, 1] of the way to the next one.
    """
    kind = np.dtype(dtype).type
    scale = kind(size_in - 1) / kind(size_out - 1) if size_out > 1 else kind(0)
    position = np.arange(size_out).astype(kind) * scale
    lower = np.minimum(position.astype(np.int64), size_in - 1)
    return lower, np.clip(position - lower.astype(kind), 0, 1)


@lru_cache(maxsize=64)
def axis_matrix(size_in: int, size_out: int, dtype: str) -> np.ndarray:
    """(size_out, size_in) matrix of the same weights: two entries a row, which sum to 1."""
    lower, fraction = axis_positions(size_in, size_out, dtype)
    rows = np.arange(size_out)
    matrix = np.zeros((size_out, size_in), dtype=dtype)
    matrix[rows, lower] = 1 - fraction
    matrix[rows, np.minimum(lower + 1, size_in - 1)] += fraction
    return matrix
