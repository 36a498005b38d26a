"""The reference's jpg pair: u and v as one grey JPEG each, value I meaning I / 255 * 2 bound - bound pixels.

This is the inverse of what denseflow writes with the same bound. Zero has no code: 127 and 128 are
-.196 and +.196 px at bound 50. Unknown pixels have no code either. It is not ``mmcv.quantize_flow``, which
cuts its range into 255 bins; a file does not tell which wrote it.
"""

import struct

import cv2
import numpy as np

from .common import FlowFormatError, check_size

QUALITY = 95
MAX_SIDE = 65500  # libjpeg's limit
# The fewest bits a block of 8 x 8 pixels can take are 2 when sequential (DC code, end of block) and 1 when
# progressive (DC code), so a header claiming more pixels per byte than this cannot be true.
PIXELS_PER_BYTE = 64 * 8
# Each progressive scan is a pass over the whole image: thousands of empty ones would keep a decoder busy
# for hours. Encoders write about ten.
MAX_SCANS = 100


def encode_jpg(flow: np.ndarray, valid: np.ndarray | None, bound: float) -> tuple[bytes, bytes]:
    """Encode a checked flow as (x, y) JPEGs, values beyond the bound clipped to it.

    Raises:
        FlowFormatError: there are unknown pixels, which a JPEG cannot mark, or a side is too long.
    """
    height, width = flow.shape[:2]
    if valid is not None:
        raise FlowFormatError(
            f'{int((~valid).sum())} of {valid.size} flow vectors are unknown or not finite, which a jpg '
            'pair cannot mark; use flo, kitti or npz'
        )
    if max(height, width) > MAX_SIDE:
        raise FlowFormatError(f'flow is {width} x {height} pixels; a jpg side has at most {MAX_SIDE}')
    # In place, for this runs on every pair that is prepared.
    code = np.clip(flow, -bound, bound)
    code += bound
    code *= 255 / (2 * bound)
    grey = np.rint(code, out=code).astype(np.uint8)
    return _encode_grey(grey[..., 0]), _encode_grey(grey[..., 1])


def decode_jpg(data: tuple[bytes, bytes], bound: float) -> tuple[np.ndarray, None]:
    """Decode an (x, y) pair of JPEGs. Every pixel is known, hence the None.

    Raises:
        FlowFormatError: not a pair, not whole JPEGs, or of two sizes.
    """
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise FlowFormatError('jpg flow is a pair of files, x and y; got one')
    axes = [_decode_grey(part, axis) for part, axis in zip(data, 'xy', strict=True)]
    if axes[0].shape != axes[1].shape:
        sizes = [f'{axis.shape[1]} x {axis.shape[0]}' for axis in axes]
        raise FlowFormatError(f'jpg flow has x of {sizes[0]} and y of {sizes[1]} pixels; expected one size')
    pixels_of = np.arange(256, dtype=np.float32) * np.float32(2 * bound / 255) - np.float32(bound)
    return cv2.LUT(cv2.merge(axes), pixels_of), None


def _encode_grey(grey: np.ndarray) -> bytes:
    done, jpg = cv2.imencode('.jpg', grey, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise FlowFormatError(f'flow of {grey.shape[1]} x {grey.shape[0]} pixels cannot be written as jpg')
    return jpg.tobytes()


def _decode_grey(data: bytes, axis: str) -> np.ndarray:
    data = bytes(data)
    height, width = _check_header(data, axis)
    try:
        # The orientation tag of a camera must not turn a flow field.
        grey = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error as error:
        raise FlowFormatError(f'{axis} jpg cannot be decoded ({error.err})') from None
    if grey is None or grey.shape != (height, width):
        raise FlowFormatError(f'{axis} jpg cannot be decoded')
    return grey


def _check_header(data: bytes, axis: str) -> tuple[int, int]:
    """Read (height, width) from the frame header and check it against the number of bytes."""
    if data[:2] != b'\xff\xd8':
        raise FlowFormatError(f'{axis} jpg starts with {data[:2]!r}; expected {bytes([255, 216])!r}')
    # libjpeg invents the rest of a cut file; its end mark tells that it is whole.
    if not data.rstrip(b'\0').endswith(b'\xff\xd9'):
        raise FlowFormatError(f'{axis} jpg of {len(data)} bytes is cut short: there is no end mark')
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        (length,) = struct.unpack('>H', data[position + 2 : position + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return _check_frame(data, axis, marker, data[position + 4 : position + 2 + length])
        # Markers without a length, and a scan before the frame: a decoder would go on elsewhere than here.
        if length < 2 or marker in (0x00, 0x01) or 0xD0 <= marker <= 0xDA:
            break
        position += 2 + length
    raise FlowFormatError(f'{axis} jpg has no frame header')


def _check_frame(data: bytes, axis: str, marker: int, frame: bytes) -> tuple[int, int]:
    if marker not in (0xC0, 0xC1, 0xC2):
        raise FlowFormatError(
            f'{axis} jpg has frame type {marker:#x}; expected baseline or progressive Huffman'
        )
    if len(frame) < 6 or frame[0] != 8 or frame[5] not in (1, 3):
        raise FlowFormatError(f'{axis} jpg is not an 8-bit image of 1 or 3 channels')
    height, width = struct.unpack('>HH', frame[1:5])
    check_size(height, width, f'{axis} jpg header')
    if height * width > PIXELS_PER_BYTE * len(data):
        raise FlowFormatError(
            f'{axis} jpg header claims {width} x {height} pixels; its {len(data)} bytes cannot hold them'
        )
    if data.count(b'\xff\xda') > MAX_SCANS:
        raise FlowFormatError(f'{axis} jpg has more than {MAX_SCANS} scans')
    return height, width
