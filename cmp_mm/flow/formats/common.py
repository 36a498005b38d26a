"""What every flow format shares: the error, the size limits, and the meaning of unknown pixels."""

import math

import numpy as np

# A format's header can claim any size; past this one the claim is refused before memory is asked for.
# 2**26 pixels is twice an 8K frame and 512 MiB of float32 flow.
MAX_PIXELS = 2**26

# Deflate (PNG, npz) cannot expand by more than 1032 : 1, so a larger claim cannot be true.
DEFLATE_MAX_RATIO = 1032


class FlowFormatError(ValueError):
    """The bytes are not a flow field of the format they are read as, or a flow cannot be written as one."""


def check_size(height: int, width: int, what: str) -> None:
    """Refuse a claimed size that is empty or larger than `MAX_PIXELS`.

    Raises:
        FlowFormatError: the size is not positive or too large.
    """
    if height < 1 or width < 1:
        raise FlowFormatError(f'{what} claims {width} x {height} pixels; both sides must be at least 1')
    if height * width > MAX_PIXELS:
        raise FlowFormatError(f'{what} claims {width} x {height} pixels; at most {MAX_PIXELS} are read')


def check_bound(bound: float) -> float:
    """Return the jpg bound as a float if it is finite and positive, else raise ``ValueError``."""
    bound = float(bound)
    if not (math.isfinite(bound) and bound > 0):
        raise ValueError(f'the flow bound is {bound}; expected a finite number of pixels above 0')
    return bound


def check_flow(flow: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Bring a flow that is to be written into one form.

    Args:
        flow: (H, W, 2), real numbers, pixels.
        valid: (H, W), true where the flow is known; None means everywhere.

    Returns:
        flow (H, W, 2) float32, finite, zero where unknown; valid (H, W) bool, or None when every pixel
        is known. A pixel with a NaN or infinite component counts as unknown.

    Raises:
        FlowFormatError: a shape or type is wrong.
    """
    flow = np.asarray(flow)
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise FlowFormatError(f'flow has shape {flow.shape}; expected (height, width, 2)')
    if flow.dtype.kind not in 'fiu':
        raise FlowFormatError(f'flow has type {flow.dtype}; expected real numbers')
    check_size(flow.shape[0], flow.shape[1], 'flow')
    if valid is not None:
        valid = np.asarray(valid)
        if valid.shape != flow.shape[:2]:
            raise FlowFormatError(f'valid mask has shape {valid.shape}; flow needs {flow.shape[:2]}')
        valid = valid != 0
    with np.errstate(over='ignore'):  # a float64 beyond float32 becomes infinite, that is, unknown
        converted = flow.astype(np.float32, copy=False)
    # Not copied, the usual case: encoders do not write into the flow they are given.
    if valid is None and np.isfinite(converted).all():
        return converted, None
    return split_unknown(converted.copy() if converted is flow else converted, valid)


def split_unknown(flow: np.ndarray, valid: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Move unknown values out of the flow and into the mask.

    Args:
        flow: (H, W, 2) float32, owned by the caller: changed in place where pixels are unknown.
        valid: (H, W) bool or None.

    Returns:
        The flow, finite everywhere and zero where unknown, and the mask, None when all is known.
    """
    finite = np.isfinite(flow)
    known = finite[..., 0] & finite[..., 1]  # ten times as fast as all(axis=2)
    if valid is not None:
        known &= valid
    if known.all():
        return flow, None
    flow[~known] = 0
    return flow, known
