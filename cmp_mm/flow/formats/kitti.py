"""KITTI flow: a 16-bit RGB png with R = 64 u + 2**15, G = 64 v + 2**15, B = 1 where the flow is known."""

import struct
import zlib

import cv2
import numpy as np

from .common import DEFLATE_MAX_RATIO, FlowFormatError, check_size

SIGNATURE = b'\x89PNG\r\n\x1a\n'
SCALE = 64.0
OFFSET = 2.0**15
MIN_FLOW, MAX_FLOW = -OFFSET / SCALE, (65535 - OFFSET) / SCALE


def encode_kitti(flow: np.ndarray, valid: np.ndarray | None) -> bytes:
    """Encode a checked flow in steps of 1/64 px, clipped to [-512, 512) px as KITTI's own tool does."""
    code = np.clip(np.rint(flow * SCALE) + OFFSET, 0, 65535).astype(np.uint16)
    known = np.ones(flow.shape[:2], np.uint16) if valid is None else valid.astype(np.uint16)
    code = code * known[..., None]  # KITTI writes 0, 0, 0 where the flow is unknown
    try:
        done, png = cv2.imencode('.png', np.dstack((known, code[..., 1], code[..., 0])))  # B, G, R
    except cv2.error as error:
        raise FlowFormatError(f'flow of shape {flow.shape} cannot be written as png ({error.err})') from None
    if not done:
        raise FlowFormatError(f'flow of shape {flow.shape} cannot be written as png')
    return png.tobytes()


def decode_kitti(data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode KITTI png bytes; the flow is 0 where it is unknown (blue channel 0).

    Raises:
        FlowFormatError: not a whole 16-bit RGB png, or its blue channel is no mask.
    """
    header, packed = _read_chunks(data)
    width, height = _check_header(header, len(packed))
    _check_pixel_bytes(packed, (1 + 6 * width) * height)
    # Only the checked chunks are passed on: text, colour profiles, transparency or animation frames in
    # the file can neither change the numbers nor reach the image library.
    clean = SIGNATURE + _chunk(b'IHDR', header) + _chunk(b'IDAT', packed) + _chunk(b'IEND', b'')
    try:
        image = cv2.imdecode(np.frombuffer(clean, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise FlowFormatError(f'png data cannot be decoded ({error.err})') from None
    if image is None or image.shape != (height, width, 3) or image.dtype != np.uint16:
        raise FlowFormatError('png data cannot be decoded')
    known = image[..., 0] > 0
    marks = image[..., 0][known]
    if marks.size and marks.min() != marks.max():  # KITTI's is 1; some write 65535
        raise FlowFormatError(
            f'png has blue values from {marks.min()} to {marks.max()}; KITTI flow has 0 and one other there: '
            'this is a picture'
        )
    flow = (image[..., :0:-1].astype(np.float32) - np.float32(OFFSET)) / np.float32(SCALE)
    if known.all():
        return flow, None
    flow[~known] = 0
    return flow, known


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))


def _read_chunks(data: bytes) -> tuple[bytes, bytes]:
    """Return the bodies of IHDR and of all IDAT chunks, every checksum and the end mark verified."""
    if data[:8] != SIGNATURE:
        raise FlowFormatError(f'png data starts with {bytes(data[:8])!r}; expected {SIGNATURE!r}')
    header, parts, position = None, [], len(SIGNATURE)
    while position + 12 <= len(data):
        (length,) = struct.unpack('>I', data[position : position + 4])
        kind = bytes(data[position + 4 : position + 8])
        end = position + 12 + length
        if end > len(data):
            break
        body = bytes(data[position + 8 : end - 4])
        if zlib.crc32(kind + body) != struct.unpack('>I', data[end - 4 : end])[0]:
            raise FlowFormatError(f'png chunk {kind!r} at byte {position} has a wrong checksum')
        if header is None and kind != b'IHDR':
            raise FlowFormatError(f'png data starts with chunk {kind!r}; expected IHDR')
        if kind == b'IHDR':
            if header is not None:
                raise FlowFormatError('png data has two IHDR chunks')
            header = body
        elif kind == b'IDAT':
            parts.append(body)
        elif kind == b'IEND':
            return header, b''.join(parts)
        position = end
    raise FlowFormatError(f'png data of {len(data)} bytes is cut short: there is no IEND chunk')


def _check_header(header: bytes, packed_bytes: int) -> tuple[int, int]:
    if len(header) != 13:
        raise FlowFormatError(f'png header has {len(header)} bytes; expected 13')
    width, height, depth, colour, compression, filtering, interlace = struct.unpack('>IIBBBBB', header)
    if (depth, colour) != (16, 2):
        raise FlowFormatError(
            f'png has {depth} bits and colour type {colour}; KITTI flow is 16-bit RGB (colour type 2)'
        )
    if (compression, filtering, interlace) != (0, 0, 0):
        raise FlowFormatError(
            f'png has compression {compression}, filter {filtering}, interlace {interlace}; '
            'KITTI flow has 0, 0, 0'
        )
    check_size(height, width, 'png header')
    if (1 + 6 * width) * height > DEFLATE_MAX_RATIO * packed_bytes:
        raise FlowFormatError(
            f'png header claims {width} x {height} pixels; its {packed_bytes} bytes of data cannot hold them'
        )
    return width, height


def _check_pixel_bytes(packed: bytes, expected: int) -> None:
    """Check that the data inflates to exactly the claimed size, in pieces, so that nothing large is kept.

    The image library fills in what a short stream leaves out; those pixels would pass for flow.
    """
    inflater, found, piece = zlib.decompressobj(), 0, packed
    try:
        while not inflater.eof and found <= expected:
            produced = len(inflater.decompress(piece, 1 << 20))
            found += produced
            piece = inflater.unconsumed_tail
            if not produced and not piece:
                break
    except zlib.error as error:
        raise FlowFormatError(f'png pixel data is broken ({error})') from None
    if found != expected or not inflater.eof:
        raise FlowFormatError(f'png pixel data is not the {expected} bytes its header claims')
