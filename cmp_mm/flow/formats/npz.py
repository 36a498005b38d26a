"""Compressed npz: array ``flow`` (H, W, 2) float32 and, where not all is known, ``valid`` (H, W) bool.

Read member by member rather than with `numpy.load`, so that no pickle is ever opened and a claimed shape
is checked against the bytes there are before an array of it is made.
"""

import io
import struct
import zipfile

import numpy as np
from numpy.lib import format as npy_format

from .common import DEFLATE_MAX_RATIO, FlowFormatError, check_size, split_unknown

NPY_HEADER_LIMIT = 10_000  # numpy's own limit; the header of a plain array has 128 bytes


def encode_npz(flow: np.ndarray, valid: np.ndarray | None) -> bytes:
    """Encode a checked flow, exactly; ``valid`` is stored only where something is unknown."""
    buffer = io.BytesIO()
    arrays = {'flow': flow} if valid is None else {'flow': flow, 'valid': valid}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def decode_npz(data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode npz bytes; NaN and infinite vectors are unknown. float16 and float64 are converted.

    Raises:
        FlowFormatError: not a whole npz with such arrays.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_directory(archive, data)
            flow = _read_member(archive, len(data), 'flow.npy', ('f2', 'f4', 'f8'))
            valid = None
            if 'valid.npy' in archive.namelist():
                valid = _read_member(archive, len(data), 'valid.npy', ('b1',))
    except FlowFormatError:
        raise
    except Exception as error:  # zipfile answers broken bytes with a dozen kinds of errors
        raise FlowFormatError(f'npz data is broken ({type(error).__name__}: {error})') from None
    if valid is not None and valid.shape != flow.shape[:2]:
        raise FlowFormatError(f'npz has valid of shape {valid.shape} for flow of shape {flow.shape}')
    with np.errstate(over='ignore'):
        return split_unknown(flow.astype(np.float32, order='C'), valid)


def _check_directory(archive: zipfile.ZipFile, data: bytes) -> None:
    """Refuse a damaged directory: a mask that it no longer names must not be taken for absent."""
    end = data.rfind(b'PK\x05\x06')  # the end record, which holds the number of members
    (count,) = struct.unpack('<H', data[end + 10 : end + 12])
    if count != len(archive.infolist()):
        raise FlowFormatError(f'npz directory lists {len(archive.infolist())} of its {count} members')
    for info in archive.infolist():
        archive.open(info).close()  # compares the name with that in the member's own header


def _read_member(archive: zipfile.ZipFile, total: int, name: str, kinds: tuple[str, ...]) -> np.ndarray:
    if name not in archive.namelist():
        raise FlowFormatError(f'npz has no {name}; expected arrays flow and, optionally, valid')
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FlowFormatError(f'npz member {name} has compression {info.compress_type}; expected deflate')
    with archive.open(info) as member:
        # The header is read from a bounded piece: its own length field can claim 4 GiB.
        head = io.BytesIO(member.read(NPY_HEADER_LIMIT))
        version = npy_format.read_magic(head)
        if version not in ((1, 0), (2, 0)):
            raise FlowFormatError(f'npz member {name} has npy version {version}; expected 1.0 or 2.0')
        read_header = (
            npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        )
        shape, fortran, dtype = read_header(head)
        _check_array(name, shape, dtype, kinds, min(info.compress_size, total))
        expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        body = head.read()
        body += member.read(max(expected - len(body), 0) + 1)
    if len(body) != expected:
        raise FlowFormatError(
            f'npz member {name} claims shape {shape}, {expected} bytes; it is not that long'
        )
    # A stored bool may hold any byte; comparing makes it one.
    array = np.frombuffer(body, np.uint8) != 0 if dtype.kind == 'b' else np.frombuffer(body, dtype)
    return array.reshape(shape, order='F' if fortran else 'C')


def _check_array(name: str, shape: tuple, dtype: np.dtype, kinds: tuple[str, ...], packed: int) -> None:
    if dtype.str[1:] not in kinds:
        raise FlowFormatError(f'npz member {name} has type {dtype}; expected one of {", ".join(kinds)}')
    if name == 'flow.npy' and (len(shape) != 3 or shape[2] != 2):
        raise FlowFormatError(f'npz member {name} has shape {shape}; expected (height, width, 2)')
    if name == 'valid.npy' and len(shape) != 2:
        raise FlowFormatError(f'npz member {name} has shape {shape}; expected (height, width)')
    check_size(shape[0], shape[1], f'npz member {name}')
    if shape[0] * shape[1] * dtype.itemsize > DEFLATE_MAX_RATIO * packed:
        raise FlowFormatError(
            f'npz member {name} claims shape {shape}; its {packed} bytes of data cannot hold it'
        )
