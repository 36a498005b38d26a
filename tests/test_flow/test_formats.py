"""What is written is what is read, and what other readers and writers of the formats mean by it."""

import io
import struct

import cv2
import numpy as np
import pytest
from mmcv.video import flow_from_bytes, sparse_flow_from_bytes

from cmp_mm.flow import FlowFormatError, decode_flow, encode_flow

EXACT = ('flo', 'npz')
WITH_MASK = ('flo', 'npz', 'kitti')


@pytest.mark.parametrize('fmt', EXACT)
def test_exact_formats_keep_every_bit(flow, fmt):
    decoded, valid = decode_flow(encode_flow(flow, fmt), fmt)
    assert decoded.dtype == np.float32 and valid is None
    np.testing.assert_array_equal(decoded, flow)


@pytest.mark.parametrize('fmt', WITH_MASK)
def test_unknown_pixels_stay_unknown_and_read_as_zero(flow, valid, fmt):
    decoded, known = decode_flow(encode_flow(flow, fmt, valid=valid), fmt)
    assert known.dtype == bool
    np.testing.assert_array_equal(known, valid)
    assert not decoded[~valid].any()
    np.testing.assert_allclose(decoded[valid], flow[valid], atol=1 / 128 if fmt == 'kitti' else 0)


@pytest.mark.parametrize('fmt', WITH_MASK)
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_unknown(flow, fmt, value):
    flow[3, 4, 1] = value
    decoded, valid = decode_flow(encode_flow(flow, fmt), fmt)
    assert np.argwhere(~valid).tolist() == [[3, 4]]
    assert decoded[3, 4].tolist() == [0, 0] and np.isfinite(decoded).all()


def test_jpg_refuses_what_it_cannot_mark(flow, valid):
    with pytest.raises(FlowFormatError, match='cannot mark'):
        encode_flow(flow, 'jpg', valid=valid)
    flow[0, 0, 0] = np.nan
    with pytest.raises(FlowFormatError, match='1 of 391 flow vectors'):
        encode_flow(flow, 'jpg')


def test_encoding_leaves_its_input_alone(flow, valid):
    flow[0, 0] = np.nan
    flow_before, valid_before = flow.copy(), valid.copy()
    for fmt in WITH_MASK:
        encode_flow(flow, fmt, valid=valid)
    np.testing.assert_array_equal(flow, flow_before)
    np.testing.assert_array_equal(valid, valid_before)


@pytest.mark.parametrize('fmt', ['flo', 'npz', 'kitti', 'jpg'])
@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (9, 1)])
def test_smallest_sizes(fmt, shape):
    decoded, _ = decode_flow(encode_flow(np.ones((*shape, 2), np.float32), fmt), fmt)
    np.testing.assert_allclose(decoded, np.ones((*shape, 2)), atol=0.2)


def test_flo_is_the_published_layout():
    data = b'PIEH' + struct.pack('<2i8f', 2, 2, 1, 2, 3, 4, 5, 6, 7, 8)
    expected = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], np.float32)
    decoded, valid = decode_flow(data, 'flo')
    np.testing.assert_array_equal(decoded, expected)
    assert valid is None
    assert encode_flow(expected, 'flo') == data


def test_flo_knows_middleburys_unknown_value():
    data = b'PIEH' + struct.pack('<2i4f', 2, 1, 1, 2, 1.666666752e9, 1.666666752e9)
    decoded, valid = decode_flow(data, 'flo')
    assert valid.tolist() == [[True, False]]
    assert encode_flow(decoded, 'flo', valid=valid) == data


def test_flo_against_mmcv_and_opencv(flow, tmp_path):
    data = encode_flow(flow, 'flo')
    np.testing.assert_array_equal(flow_from_bytes(data), flow)
    path = tmp_path / 'flow.flo'
    path.write_bytes(data)
    np.testing.assert_array_equal(cv2.readOpticalFlow(str(path)), flow)
    cv2.writeOpticalFlow(str(path), flow)
    assert path.read_bytes() == data


def test_kitti_is_the_published_layout():
    flow = np.array([[[0, 0], [1.5, -2], [-512, 511.984375]]], np.float32)
    png = encode_flow(flow, 'kitti', valid=np.array([[True, True, True]]))
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert image.dtype == np.uint16
    assert image.tolist() == [[[32768, 32768, 1], [32864, 32640, 1], [0, 65535, 1]]]
    np.testing.assert_array_equal(decode_flow(png, 'kitti')[0], flow)


def test_kitti_against_mmcv(flow, valid):
    data = encode_flow(flow, 'kitti', valid=valid)
    theirs, their_valid = sparse_flow_from_bytes(data)
    ours, our_valid = decode_flow(data, 'kitti')
    np.testing.assert_array_equal(our_valid, their_valid > 0)
    np.testing.assert_array_equal(ours[valid], theirs[valid])


def test_kitti_clips_to_its_range():
    decoded, valid = decode_flow(encode_flow(np.array([[[600.0, -600.0]]]), 'kitti'), 'kitti')
    assert valid is None and decoded.tolist() == [[[511.984375, -512]]]


def test_jpg_value_means_what_the_reference_says():
    grey = np.full((16, 16), 127, np.uint8)
    x = cv2.imencode('.jpg', grey)[1].tobytes()
    y = cv2.imencode('.jpg', np.full((16, 16), 255, np.uint8))[1].tobytes()
    decoded, valid = decode_flow((x, y), 'jpg', bound=50)
    assert valid is None
    np.testing.assert_allclose(decoded[..., 0], 127 / 255 * 100 - 50, atol=1e-5)
    np.testing.assert_allclose(decoded[..., 1], 50, atol=1e-5)


@pytest.mark.parametrize('bound', [20.0, 50.0])
def test_jpg_steps_and_clipping(bound):
    # Constant pictures survive JPEG exactly, which leaves the quantisation alone to be seen.
    for value in (-2 * bound, -bound, -0.3 * bound, 0.0, 0.001, 0.77 * bound, bound, 2 * bound):
        flow = np.full((8, 8, 2), value, np.float32)
        decoded, _ = decode_flow(encode_flow(flow, 'jpg', bound), 'jpg', bound)
        code = np.rint((np.clip(value, -bound, bound) + bound) / (2 * bound) * 255)
        np.testing.assert_allclose(decoded, code / 255 * 2 * bound - bound, atol=1e-4)


def test_jpg_is_grey_and_close_on_smooth_flow():
    rows, columns = np.mgrid[:64, :64].astype(np.float32)
    flow = np.stack((columns / 2 - 16, rows - 32), axis=2)
    pair = encode_flow(flow, 'jpg')
    for part in pair:
        assert cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_UNCHANGED).ndim == 2
    decoded, _ = decode_flow(pair, 'jpg')
    assert np.abs(decoded - flow).mean() < 0.2


def test_jpg_reads_colour_and_progressive_files():
    grey = np.full((16, 16, 3), 200, np.uint8)
    x = cv2.imencode('.jpg', grey)[1].tobytes()
    y = cv2.imencode('.jpg', grey, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    decoded, _ = decode_flow((x, y), 'jpg')
    np.testing.assert_allclose(decoded, 200 / 255 * 100 - 50, atol=0.5)


def test_jpg_is_not_turned_by_an_orientation_tag(flow):
    x, y = encode_flow(flow, 'jpg')
    tiff = b'II*\0' + struct.pack('<IHHHIHHI', 8, 1, 0x112, 3, 1, 6, 0, 0)
    tag = b'\xff\xe1' + struct.pack('>H', 2 + 6 + len(tiff)) + b'Exif\0\0' + tiff
    turned = x[:2] + tag + x[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_GRAYSCALE).shape == (23, 17)
    np.testing.assert_array_equal(decode_flow((turned, y), 'jpg')[0], decode_flow((x, y), 'jpg')[0])


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64', '>f4'])
@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_npz_of_other_writers(flow, dtype, save):
    buffer = io.BytesIO()
    save(buffer, flow=np.asfortranarray(flow.astype(dtype)), other=np.arange(3))
    decoded, valid = decode_flow(buffer.getvalue(), 'npz')
    assert decoded.dtype == np.float32 and decoded.flags.c_contiguous and valid is None
    np.testing.assert_array_equal(decoded, flow.astype(dtype).astype(np.float32))


def test_npz_is_what_numpy_reads(flow, valid):
    with np.load(io.BytesIO(encode_flow(flow, 'npz', valid=valid))) as arrays:
        assert set(arrays) == {'flow', 'valid'}
        np.testing.assert_array_equal(arrays['flow'][valid], flow[valid])
        np.testing.assert_array_equal(arrays['valid'], valid)


@pytest.mark.parametrize(
    ('flow', 'valid', 'message'),
    [
        (np.zeros((4, 5)), None, r'shape \(4, 5\)'),
        (np.zeros((4, 5, 3)), None, r'shape \(4, 5, 3\)'),
        (np.zeros((0, 5, 2)), None, 'at least 1'),
        (np.zeros((4, 5, 2), complex), None, 'complex'),
        (np.zeros((4, 5, 2)), np.ones((5, 4), bool), r'shape \(5, 4\)'),
    ],
)
def test_flow_that_is_none(flow, valid, message):
    with pytest.raises(FlowFormatError, match=message):
        encode_flow(flow, 'flo', valid=valid)


@pytest.mark.parametrize('bound', [0, -1, np.nan, np.inf])
def test_bound_must_be_positive(flow, bound):
    pair = encode_flow(flow, 'jpg')
    with pytest.raises(ValueError, match='bound'):
        encode_flow(flow, 'jpg', bound)
    with pytest.raises(ValueError, match='bound'):
        decode_flow(pair, 'jpg', bound)


def test_unknown_format_is_named(flow):
    with pytest.raises(ValueError, match="'exr' is unknown; expected one of flo, kitti, npz, jpg"):
        encode_flow(flow, 'exr')
    with pytest.raises(ValueError, match="'exr'"):
        decode_flow(b'', 'exr')


def test_jpg_keeps_textured_flow_to_a_few_steps():
    """At OpenCV's default quality, as denseflow writes; at 75 the mean error is twice as large."""
    flow = np.random.default_rng(0).normal(0, 8, (64, 64, 2)).astype(np.float32)
    decoded, _ = decode_flow(encode_flow(flow, 'jpg'), 'jpg')
    assert np.abs(decoded - flow).mean() < 100 / 255 * 2.5


def test_flo_unknown_may_be_negative_and_in_one_component():
    data = b'PIEH' + struct.pack('<2i4f', 2, 1, 1, 2, -2e9, 3)
    decoded, valid = decode_flow(data, 'flo')
    assert valid.tolist() == [[True, False]] and decoded[0, 1].tolist() == [0, 0]
