"""Bytes that lie: each gives a flow field or `FlowFormatError`, and no memory is taken on a header's word."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_mm.flow import FLOW_FORMATS, FlowFormatError, decode_flow, encode_flow

# The suite tries a few hundred; set this for as many as one has time for.
EXAMPLES = int(os.environ.get('CMP_MM_FUZZ_EXAMPLES', '300'))
SMALL = np.random.default_rng(3).normal(0, 10, (5, 7, 2)).astype(np.float32)
HOLES = np.arange(35).reshape(5, 7) % 3 > 0
WHOLE = {fmt: encode_flow(SMALL, fmt, valid=None if fmt == 'jpg' else HOLES) for fmt in FLOW_FORMATS}


def read(fmt: str, data: bytes) -> tuple:
    """Decode bytes; for the jpg pair they take the place of the x file."""
    return decode_flow((data, WHOLE['jpg'][1]) if fmt == 'jpg' else data, fmt)


def first_file(fmt: str) -> bytes:
    return WHOLE[fmt][0] if fmt == 'jpg' else WHOLE[fmt]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))


def png(width: int, height: int, pixels: bytes, depth=16, colour=2, interlace=0, extra=b'') -> bytes:
    header = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, interlace)
    return (
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + extra + chunk(b'IDAT', pixels) + chunk(b'IEND', b'')
    )


def npz(members: dict[str, bytes], compression=zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', compression) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return buffer.getvalue()


def npy_header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(text)) + text


def jpg_of_claimed_size(width: int, height: int) -> bytes:
    data = bytearray(cv2.imencode('.jpg', np.zeros((8, 8), np.uint8))[1].tobytes())
    place = data.index(b'\xff\xc0')
    data[place + 5 : place + 9] = struct.pack('>HH', height, width)
    return bytes(data)


HUGE = {
    'flo': b'PIEH' + struct.pack('<ii', 31623, 31623) + bytes(64),
    'flo too short for its size': b'PIEH' + struct.pack('<ii', 4000, 4000) + bytes(64),
    'flo of negative sides': b'PIEH' + struct.pack('<ii', -31623, -31623) + bytes(64),
    'kitti': png(31623, 31623, zlib.compress(bytes(10_000))),
    'kitti too short for its size': png(4000, 4000, zlib.compress(bytes(10_000))),
    'jpg': jpg_of_claimed_size(31623, 31623),
    'jpg too short for its size': jpg_of_claimed_size(4000, 4000),
    'npz': npz({'flow.npy': npy_header('(31623, 31623, 2)') + bytes(64)}),
    'npz too short for its size': npz({'flow.npy': npy_header('(4000, 4000, 2)') + bytes(64)}),
    'npz of negative sides': npz({'flow.npy': npy_header('(-31623, -31623, 2)') + bytes(64)}),
}


@pytest.mark.parametrize('case', HUGE)
def test_a_huge_claim_is_refused_before_allocation(case):
    decode_flow(WHOLE['npz'], 'npz')  # imports what is imported on first use
    tracemalloc.start()
    try:
        with pytest.raises(FlowFormatError, match='claims'):
            read(case.split()[0], HUGE[case])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_png_that_inflates_to_more_than_it_claims():
    bomb = png(4, 4, zlib.compress(bytes(2**26), 9))
    tracemalloc.start()
    try:
        with pytest.raises(FlowFormatError, match='is not the 100 bytes'):
            decode_flow(bomb, 'kitti')
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_npz_that_inflates_to_more_than_it_claims():
    bomb = npz({'flow.npy': npy_header('(4, 4, 2)') + bytes(2**26)})
    tracemalloc.start()
    try:
        with pytest.raises(FlowFormatError, match='not that long'):
            decode_flow(bomb, 'npz')
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('fmt', FLOW_FORMATS)
def test_every_truncation_is_refused(fmt):
    data = first_file(fmt)
    for length in range(len(data)):
        with pytest.raises(FlowFormatError):
            read(fmt, data[:length])


@pytest.mark.parametrize('fmt', ['flo', 'kitti', 'npz'])
def test_one_changed_byte_never_passes_unseen_where_there_are_checksums(fmt):
    data = first_file(fmt)
    expected = read(fmt, data)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 0x55
        try:
            flow, valid = read(fmt, bytes(changed))
        except FlowFormatError:
            continue
        if fmt != 'flo':  # which has none
            np.testing.assert_array_equal(flow, expected[0])
            np.testing.assert_array_equal(valid, expected[1])


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
@given(
    fmt=st.sampled_from(FLOW_FORMATS),
    edits=st.lists(
        st.tuples(
            st.floats(0, 1), st.sampled_from(['set', 'insert', 'delete', 'cut']), st.binary(max_size=8)
        ),
        max_size=6,
    ),
    mend=st.booleans(),
)
def test_mutated_bytes_give_a_flow_or_the_error(fmt, edits, mend):
    data = bytearray(first_file(fmt))
    for where, kind, piece in edits:
        place = int(where * len(data))
        if kind == 'set':
            data[place : place + len(piece)] = piece
        elif kind == 'insert':
            data[place:place] = piece
        elif kind == 'delete':
            del data[place : place + len(piece)]
        else:
            del data[place:]
    if fmt == 'kitti' and mend:
        data = mend_checksums(data)  # else hardly a changed png comes past its checksums
    try:
        flow, valid = read(fmt, bytes(data))
    except FlowFormatError as error:
        assert str(error) and '\n' not in str(error)
        return
    assert flow.dtype == np.float32 and flow.ndim == 3 and flow.shape[2] == 2 and np.isfinite(flow).all()
    if valid is not None:
        assert valid.dtype == bool and valid.shape == flow.shape[:2] and not flow[~valid].any()


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
@given(fmt=st.sampled_from(FLOW_FORMATS), data=st.binary(max_size=200))
def test_any_bytes_give_the_error(fmt, data):
    with pytest.raises(FlowFormatError):
        read(fmt, data)


def mend_checksums(data: bytearray) -> bytearray:
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack('>I', data[place : place + 4])
        end = place + 12 + length
        if end > len(data):
            break
        data[end - 4 : end] = struct.pack('>I', zlib.crc32(bytes(data[place + 4 : end - 4])))
        place = end
    return data


class Payload:
    """Would write a file if it were ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_npz_never_opens_a_pickle(tmp_path):
    planted = tmp_path / 'planted'
    buffer = io.BytesIO()
    np.savez(buffer, flow=np.array([[[Payload(planted)] * 2]], dtype=object))
    with pytest.raises(FlowFormatError, match='type object'):
        decode_flow(buffer.getvalue(), 'npz')
    with pytest.raises(FlowFormatError):
        decode_flow(npz({'flow.npy': pickle.dumps(Payload(planted))}), 'npz')
    with pytest.raises(FlowFormatError):
        decode_flow(pickle.dumps(Payload(planted)), 'npz')
    assert not planted.exists()


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (npz({'flou.npy': b''}), 'no flow.npy'),
        (npz({'flow.npy': npy_header('(5, 7, 2)', "'<i4'") + bytes(280)}), 'type int32'),
        (npz({'flow.npy': npy_header('(5, 7)') + bytes(140)}), r'shape \(5, 7\)'),
        (npz({'flow.npy': npy_header('(5, 7, 3)') + bytes(420)}), r'shape \(5, 7, 3\)'),
        (npz({'flow.npy': npy_header('(5, 7, 2)') + bytes(281)}), 'not that long'),
        (npz({'flow.npy': npy_header('(5, 7, 2)') + bytes(280)}, zipfile.ZIP_LZMA), 'compression 14'),
        (
            npz(
                {
                    'flow.npy': npy_header('(5, 7, 2)') + bytes(280),
                    'valid.npy': npy_header('(7, 5)', "'|b1'") + bytes(35),
                }
            ),
            r'valid of shape \(7, 5\)',
        ),
    ],
)
def test_npz_of_something_else(data, message):
    with pytest.raises(FlowFormatError, match=message):
        decode_flow(data, 'npz')


ROW = b'\0' + bytes(12)


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (cv2.imencode('.png', np.zeros((4, 4, 3), np.uint8))[1].tobytes(), '8 bits and colour type 2'),
        (cv2.imencode('.png', np.zeros((4, 4), np.uint16))[1].tobytes(), '16 bits and colour type 0'),
        (png(2, 2, zlib.compress(ROW)), 'not the 26 bytes'),
        (png(2, 2, zlib.compress(3 * ROW)), 'not the 26 bytes'),
        (png(2, 2, zlib.compress(2 * ROW)[:-5]), 'not the 26 bytes'),
        (png(2, 2, b'no deflate stream at all'), 'broken'),
        (png(2, 2, zlib.compress(2 * ROW), interlace=1), 'interlace 1'),
        (png(0, 2, zlib.compress(2 * ROW)), 'at least 1'),
        (png(2, 2, zlib.compress(2 * ROW), extra=chunk(b'IHDR', bytes(13))), 'two IHDR'),
    ],
)
def test_png_of_something_else(data, message):
    with pytest.raises(FlowFormatError, match=message):
        decode_flow(data, 'kitti')


def test_png_extras_change_nothing():
    # A transparency chunk would make a fourth channel, an animation chunk another reader.
    extra = chunk(b'tRNS', bytes(6)) + chunk(b'acTL', struct.pack('>II', 2, 0)) + chunk(b'tEXt', b'a\0b')
    flow, valid = decode_flow(
        png(2, 2, zlib.compress(2 * (b'\0' + bytes([128, 64, 128, 0, 0, 1]) * 2)), extra=extra), 'kitti'
    )
    assert valid is None and flow.tolist() == [[[1, 0], [1, 0]]] * 2


@pytest.mark.parametrize('mark', [1, 65535])
def test_a_picture_is_no_kitti_flow(mark):
    def rows(*blues):
        return zlib.compress(
            b''.join(b'\0' + bytes([128, 64, 128, 0]) + struct.pack('>H', blue) for blue in blues)
        )

    flow, valid = decode_flow(png(1, 3, rows(mark, 0, mark)), 'kitti')
    assert valid.ravel().tolist() == [True, False, True] and flow[0].tolist() == [[1, 0]]
    with pytest.raises(
        FlowFormatError, match='blue values from 7 to 9; KITTI flow has 0 and one other there'
    ):
        decode_flow(png(1, 3, rows(9, 0, 7)), 'kitti')


def test_jpg_that_would_keep_a_decoder_busy():
    x = WHOLE['jpg'][0]
    comment = b'\xff\xda' * 101
    many = x[:2] + b'\xff\xfe' + struct.pack('>H', 2 + len(comment)) + comment + x[2:]
    with pytest.raises(FlowFormatError, match='more than 100 scans'):
        read('jpg', many)


def test_jpg_header_hidden_behind_a_marker_without_length():
    # A decoder steps over RST0 alone and meets the large frame; who reads a length there meets the small one.
    x = WHOLE['jpg'][0]
    large = jpg_of_claimed_size(60000, 60000)
    frame = large[large.index(b'\xff\xc0') :][:13]
    hidden = x[:2] + b'\xff\xd0' + struct.pack('>H', 2 + len(frame)) + frame + x[2:]
    with pytest.raises(FlowFormatError, match='no frame header'):
        read('jpg', hidden)


@pytest.mark.parametrize('data', [b'', (b'',), (b'', b'', b''), None, 'text', 7])
def test_what_is_not_bytes_or_a_pair(data):
    for fmt in FLOW_FORMATS:
        with pytest.raises(FlowFormatError):
            decode_flow(data, fmt)


def test_pair_of_two_sizes():
    x = encode_flow(np.zeros((5, 8, 2)), 'jpg')[0]
    with pytest.raises(FlowFormatError, match='8 x 5 and y of 7 x 5'):
        decode_flow((x, WHOLE['jpg'][1]), 'jpg')
