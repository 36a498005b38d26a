"""Middlebury ``.flo``: 'PIEH', width, height (little-endian int32), then u, v as float32, row by row."""

import struct

import numpy as np

from .common import FlowFormatError, check_size, split_unknown

MAGIC = b'PIEH'
HEADER_BYTES = 12
# Middlebury's convention: a component beyond 1e9 means unknown; 1.666666752e9 is what its own tools write.
UNKNOWN_ABOVE = 1e9
UNKNOWN_VALUE = 1.666666752e9


def encode_flo(flow: np.ndarray, valid: np.ndarray | None) -> bytes:
    """Encode a checked flow (see `check_flow`); unknown pixels get Middlebury's unknown value."""
    height, width = flow.shape[:2]
    flow = flow.astype('<f4')
    if valid is not None:
        flow[~valid] = UNKNOWN_VALUE
    return MAGIC + struct.pack('<ii', width, height) + flow.tobytes()


def decode_flo(data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode ``.flo`` bytes; components that are NaN, infinite or beyond 1e9 are unknown.

    Raises:
        FlowFormatError: wrong magic number, or a size the number of bytes does not agree with.
    """
    if len(data) < HEADER_BYTES:
        raise FlowFormatError(f'.flo data has {len(data)} bytes; its header alone takes {HEADER_BYTES}')
    if data[:4] != MAGIC:
        raise FlowFormatError(f'.flo data starts with {bytes(data[:4])!r}; expected {MAGIC!r}')
    width, height = struct.unpack('<ii', data[4:HEADER_BYTES])
    check_size(height, width, '.flo header')
    expected = HEADER_BYTES + 8 * width * height
    if len(data) != expected:
        raise FlowFormatError(
            f'.flo header claims {width} x {height} pixels, which take {expected} bytes; found {len(data)}'
        )
    flow = np.frombuffer(data, '<f4', offset=HEADER_BYTES).reshape(height, width, 2).astype(np.float32)
    with np.errstate(invalid='ignore'):
        unknown = (np.abs(flow) > UNKNOWN_ABOVE).any(axis=2)
    return split_unknown(flow, ~unknown)
