"""What every guidance function asks of its input; one sentence per complaint."""

from numbers import Integral

import numpy as np

UNKNOWN_FLOW = 1e9  # Middlebury's convention: a larger component marks unknown flow


def check_flow(flow: np.ndarray) -> None:
    """Raise ValueError unless ``flow`` is a non-empty (H, W, 2) array of numbers."""
    shape = getattr(flow, 'shape', None)
    if shape is None or len(shape) != 3 or shape[2] != 2 or 0 in shape:
        found = f'shape {tuple(shape)}' if shape is not None else type(flow).__name__
        raise ValueError(f'flow must be an array of shape (height, width, 2) with pixels in it, got {found}')
    if flow.dtype.kind not in 'fiu':
        raise ValueError(f'flow must hold numbers, got dtype {flow.dtype}')


def check_kernel_size(kernel_size: int) -> None:
    """Raise ValueError unless ``kernel_size`` is a positive odd integer."""
    if not isinstance(kernel_size, Integral) or isinstance(kernel_size, bool) or kernel_size < 1:
        raise ValueError(f'kernel_size must be a positive odd integer, got {kernel_size!r}')
    if kernel_size % 2 == 0:
        raise ValueError(f'kernel_size must be odd so that the window has a centre, got {kernel_size}')


def known_everywhere(flow: np.ndarray) -> bool:
    """Whether all vectors are finite and none is marked unknown."""
    return bool(flow.max() <= UNKNOWN_FLOW and flow.min() >= -UNKNOWN_FLOW)  # NaN compares False


def unknown_mask(flow: np.ndarray) -> np.ndarray:
    """(H, W) bool, True where a vector is not finite or marked unknown."""
    return ~(np.abs(flow) <= UNKNOWN_FLOW).all(axis=2)
