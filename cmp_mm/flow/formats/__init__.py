"""Flow fields to bytes and back: ``.flo``, KITTI png, compressed npz and the reference's jpg pair."""

import numpy as np

from .common import MAX_PIXELS, FlowFormatError, check_bound, check_flow
from .flo import decode_flo, encode_flo
from .jpg import decode_jpg, encode_jpg
from .kitti import decode_kitti, encode_kitti
from .npz import decode_npz, encode_npz

FLOW_FORMATS = ('flo', 'kitti', 'npz', 'jpg')

# The one-file formats; a jpg pair also needs its bound.
_ENCODERS = {'flo': encode_flo, 'kitti': encode_kitti, 'npz': encode_npz}
_DECODERS = {'flo': decode_flo, 'kitti': decode_kitti, 'npz': decode_npz}

__all__ = ['FLOW_FORMATS', 'MAX_PIXELS', 'FlowFormatError', 'decode_flow', 'encode_flow']


def encode_flow(
    flow: np.ndarray, fmt: str, bound: float = 50.0, valid: np.ndarray | None = None
) -> bytes | tuple[bytes, bytes]:
    """Encode a flow field.

    Args:
        flow: (H, W, 2) pixels, [..., 0] = u to the right, [..., 1] = v down. A vector that is NaN or
            infinite counts as unknown.
        fmt: 'flo' (exact), 'npz' (exact), 'kitti' (steps of 1/64 px, clipped to [-512, 512)) or 'jpg'
            (lossy, clipped to the bound; cannot mark unknown pixels).
        bound: pixels, for 'jpg' only: grey value I means I / 255 * 2 bound - bound.
        valid: (H, W), true where the flow is known; None means everywhere it is finite.

    Returns:
        The bytes of the file; for 'jpg' a pair, (x, y).

    Raises:
        FlowFormatError: wrong shape or type, or unknown pixels in a jpg pair.
        ValueError: unknown format or bound that is not a positive number.
    """
    check_format(fmt)
    flow, valid = check_flow(flow, valid)
    if fmt == 'jpg':
        return encode_jpg(flow, valid, check_bound(bound))
    return _ENCODERS[fmt](flow, valid)


def decode_flow(
    data: bytes | tuple[bytes, bytes], fmt: str, bound: float = 50.0
) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode a flow field from bytes that may be anything.

    What the header claims is checked against the number of bytes, and against `MAX_PIXELS`, before memory
    is taken for it. No pickle is opened.

    Args:
        data: the bytes of the file; for 'jpg' a pair, (x, y).
        fmt: 'flo', 'kitti', 'npz' or 'jpg'.
        bound: pixels, for 'jpg' only.

    Returns:
        flow: (H, W, 2) float32 pixels, finite, zero where unknown.
        valid: (H, W) bool, or None when the whole flow is known.

    Raises:
        FlowFormatError: the bytes are not a whole flow field of this format.
        ValueError: unknown format or bound that is not a positive number.
    """
    check_format(fmt)
    if fmt == 'jpg':
        return decode_jpg(data, check_bound(bound))
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise FlowFormatError(f'{fmt} flow is one file; got {type(data).__name__}, expected bytes')
    return _DECODERS[fmt](bytes(data))


def check_format(fmt: str) -> None:
    """Raise ValueError unless it is the name of a flow format."""
    if fmt not in FLOW_FORMATS:
        raise ValueError(f'flow format {fmt!r} is unknown; expected one of {", ".join(FLOW_FORMATS)}')
