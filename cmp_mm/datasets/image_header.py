"""The size an image file claims, read from its header before a decoder takes memory for it."""

import re
import struct

from cmp_mm.flow.formats import MAX_PIXELS

# Fewest bytes per pixel: deflate expands by at most 1032 (PNG, 1 bit per pixel), a JPEG block of 64 pixels
# takes at least 1 bit. PPM is not compressed.
PIXELS_PER_BYTE = {'PNG': 1032 * 8, 'JPEG': 512, 'PPM': 1}
# Each progressive scan is a pass over the whole image; encoders write about ten.
MAX_SCANS = 100
# What may come between scans: a segment, which has a length, or the end. All else is a scan's data.
_MARKER = re.compile(rb'\xff[\xc4\xd9-\xdd\xe0-\xef\xfe]')
PNG_START = b'\x89PNG\r\n\x1a\n'
# Three numbers, between which there may be comments: width, height, largest value.
PPM_HEADER = re.compile(rb'P6' + rb'(?:\s|#[^\n]*\n)+(\d{1,9})' * 3 + rb'\s')


def check_image_header(data: bytes) -> tuple[int, int]:
    """Check that bytes can be a whole JPEG, PNG or PPM of a reasonable size.

    A cut file is refused: decoders would fill the missing part with grey and say nothing.

    Returns:
        (height, width) that the header claims.

    Raises:
        ValueError: none of these, cut short, or a size that is 0, over `MAX_PIXELS`, or more than
            that many bytes can hold.
    """
    if data[:2] == b'\xff\xd8':
        kind, (height, width) = 'JPEG', _jpeg_size(data)
    elif data[:8] == PNG_START:
        kind, (height, width) = 'PNG', _png_size(data)
    elif data[:2] == b'P6':
        kind, (height, width) = 'PPM', _ppm_size(data)
    else:
        raise ValueError(f'starts with {data[:4]!r}; expected a JPEG, PNG or PPM image')
    if height < 1 or width < 1:
        raise ValueError(f'{kind} header claims {width} x {height} pixels; both sides must be at least 1')
    if height * width > min(MAX_PIXELS, PIXELS_PER_BYTE[kind] * len(data)):
        raise ValueError(
            f'{kind} header claims {width} x {height} pixels, more than {MAX_PIXELS} or than its '
            f'{len(data)} bytes can hold'
        )
    return height, width


def _ppm_size(data: bytes) -> tuple[int, int]:
    header = PPM_HEADER.match(data[:4096])
    if header is None:
        raise ValueError('PPM has no header')
    width, height, largest = map(int, header.groups())
    if largest != 255:
        raise ValueError(f'PPM has values up to {largest}; expected 255')
    expected = header.end() + 3 * width * height
    if len(data) < expected:
        raise ValueError(f'PPM of {len(data)} bytes is cut short: expected {expected}')
    return height, width


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 33 or data[12:16] != b'IHDR':
        raise ValueError('PNG has no header')
    width, height = struct.unpack('>II', data[16:24])
    # Decoders take the memory a chunk claims, up to 4 GB, before they read it.
    position = len(PNG_START)
    while position + 12 <= len(data):
        length, kind = struct.unpack('>I4s', data[position : position + 8])
        position += 12 + length
        if position > len(data):
            raise ValueError(
                f'PNG of {len(data)} bytes is cut short: its chunk {kind.decode("latin-1")!r} claims '
                f'{length} bytes, more than there are'
            )
        if kind == b'IEND':
            return height, width
    raise ValueError(f'PNG of {len(data)} bytes is cut short: there is no end mark')


def _jpeg_size(data: bytes) -> tuple[int, int]:
    size, position = None, 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], 'big')
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if position + 9 > len(data):
                break
            height, width = struct.unpack('>HH', data[position + 5 : position + 9])
            size = height, width
        elif marker == 0xDA:
            # From here on the end mark can only be the end: a thumbnail's lies in an earlier segment.
            if data.rfind(b'\xff\xd9', position) < 0:
                raise ValueError(f'JPEG of {len(data)} bytes is cut short: there is no end mark')
            break
        if length < 2:
            break
        position += 2 + length
    if size is None:
        raise ValueError('JPEG has no frame header')
    if data.count(b'\xff\xda') > MAX_SCANS and _scans(data, position) > MAX_SCANS:
        raise ValueError(f'JPEG has more than {MAX_SCANS} scans')
    return size


def _scans(data: bytes, position: int) -> int:
    """Scans from the first one, at ``position``, to the end mark.

    What a file has after that, as a phone's video, is not read. Damage may lead the walk astray: of a file
    whose end it does not find all is counted.
    """
    scans = 0
    while position + 4 <= len(data):
        scans += data[position + 1] == 0xDA
        position += 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
        marker = _MARKER.search(data, position)
        if marker is None:
            break
        if marker.group()[-1] == 0xD9:
            return scans
        position = marker.start()
    return data.count(b'\xff\xda')
