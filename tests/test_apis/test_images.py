import contextlib
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from cmp_mm.apis import InputError, read_image, to_rgb_array
from cmp_mm.apis.images import decode_image, to_rgb_tensor


def test_every_kind_of_image_gives_the_same_tensor(image, tmp_path):
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), image[..., ::-1])
    wanted = torch.from_numpy(image).permute(2, 0, 1).float()
    scaled = image.astype(np.float64) / 255
    bgr = np.ascontiguousarray(image[..., ::-1])
    for given_image, options in (
        (path, {}),
        (str(path), {}),
        (Image.fromarray(image), {}),
        (image, dict(color_order='rgb')),
        (bgr, dict(color_order='bgr')),
        (image[..., ::-1], dict(color_order='bgr')),
        (image.astype(np.uint16) * 257, dict(color_order='rgb', value_range=(0, 65535))),
        (scaled, dict(color_order='rgb', value_range=(0, 1))),
        (scaled.astype('>f4') * 2 - 1, dict(color_order='rgb', value_range=(-1, 1))),
        (torch.from_numpy(scaled).permute(2, 0, 1), dict(color_order='rgb', value_range=(0, 1))),
        (torch.from_numpy(image).permute(2, 0, 1)[None], dict(color_order='rgb')),
    ):
        torch.testing.assert_close(to_rgb_tensor(given_image, **options), wanted, atol=1e-3, rtol=0)
    np.testing.assert_array_equal(to_rgb_array(bgr, 'bgr'), image)


def test_grey_images_need_no_order(image):
    grey = image[..., 0]
    for given_image in (grey, grey[..., None], torch.from_numpy(grey), Image.fromarray(grey)):
        got = to_rgb_array(given_image)
        assert all((got[..., channel] == grey).all() for channel in range(3))


def test_orientation_in_a_file_is_applied(image, tmp_path):
    path = tmp_path / 'turned.png'
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned clockwise
    Image.fromarray(image).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(image, -1))


@pytest.mark.parametrize('turn', range(1, 9))
def test_every_orientation_is_that_of_pillow(image, turn):
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = turn
    Image.fromarray(image).save(buffer, 'png', exif=exif)
    with Image.open(buffer) as picture:
        wanted = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), wanted)


def broken_exif(kind):
    """A block whose resolution is text, one cut short, one of zeros."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    data = exif.tobytes()
    if kind == 'text':
        place = data.index(b'\x01\x1a\x00\x05')
        return data[: place + 3] + b'\x02' + data[place + 4 :]
    return data[:10] if kind == 'short' else bytes(16)


@pytest.mark.parametrize(('kind', 'turned'), [('text', True), ('short', False), ('zeros', False)])
def test_a_broken_exif_block_costs_no_picture(image, kind, turned):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'png', exif=broken_exif(kind))
    wanted = np.rot90(image, -1) if turned else image
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), wanted)


def grey_tiff(values, bits, white_is_zero):
    """A TIFF of one row of values, packed as their bits are."""
    row = ''.join(f'{value:0{bits}b}' for value in values)
    data = np.array(values, '<u2').tobytes() if bits == 16 else int(row, 2).to_bytes(len(row) // 8, 'big')
    tags = [
        (256, len(values)), (257, 1), (258, bits), (259, 1), (262, int(not white_is_zero)), (273, 8),
        (277, 1), (278, 1), (279, len(data)),
    ]  # fmt: skip
    folder = b''.join(struct.pack('<HHIHH', tag, 3, 1, value, 0) for tag, value in tags)
    start = struct.pack('<2sHI', b'II', 42, 8 + len(data))
    return start + data + struct.pack('<H', len(tags)) + folder + bytes(4)


@pytest.mark.parametrize('white_is_zero', [False, True])
@pytest.mark.parametrize('bits', [8, 12, 16])
def test_grey_of_a_tiff_is_scaled_by_its_bits(bits, white_is_zero):
    if bits == 12 and white_is_zero:
        with pytest.raises(InputError, match='not a whole image file'):  # Pillow knows none
            decode_image(grey_tiff([0, 4095], bits, white_is_zero))
        return
    grey = [0, 255, 17, 128]
    values = [255 - value if white_is_zero else value for value in grey]
    data = grey_tiff([value << (bits - 8) for value in values], bits, white_is_zero)
    np.testing.assert_array_equal(decode_image(data)[0], np.repeat(np.array(grey)[:, None], 3, axis=1))


@pytest.mark.parametrize(
    ('change', 'options', 'message'),
    [
        (lambda i: i, {}, 'color_order'),
        (lambda i: i, dict(color_order='gbr'), "'gbr'"),
        (lambda i: i.astype(np.float32), dict(color_order='rgb'), 'value_range'),
        (lambda i: i.astype(np.float32), dict(color_order='rgb', value_range=(0, 1)), 'outside the stated'),
        (lambda i: i * np.float32('nan'), dict(color_order='rgb', value_range=(0, 1)), 'nan'),
        (lambda i: i, dict(color_order='rgb', value_range=(0, 1)), 'uint8'),
        (lambda i: i, dict(color_order='rgb', value_range=(1, 0)), 'low below high'),
        (lambda i: i, dict(color_order='rgb', value_range=3), 'expected'),
        (lambda i: i[..., :2], dict(color_order='rgb'), r'\(45, 61, 2\)'),
        (lambda i: i[:0], dict(color_order='rgb'), r'\(0, 61, 3\)'),
        (lambda i: np.stack([i, i]), dict(color_order='rgb'), r'\(2, 45, 61, 3\)'),
        (lambda i: i.astype(str), dict(color_order='rgb'), 'real numbers'),
        (lambda i: torch.complex(torch.ones(3, 4, 4), torch.ones(3, 4, 4)), {}, 'real numbers'),
        (lambda i: Image.fromarray(i[..., 0]).convert('F'), {}, "'F'"),
        (lambda i: [1, 2], {}, 'list'),
    ],
)
def test_unusable_images_are_named(image, change, options, message):
    with pytest.raises(InputError, match=message):
        to_rgb_tensor(change(image), **options)


def test_unreadable_files_are_named(tmp_path):
    path = tmp_path / 'image.png'
    for content, message in ((None, 'No such file'), (b'', 'no format'), (b'\x89PNG\r\n\x1a\n', 'image.png')):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_image(path)
    with pytest.raises(InputError, match='not a regular file'):
        read_image(tmp_path)


def huge(kind):
    """A small file of a format whose header claims 31623 x 31623 pixels, about 10^9."""
    buffer, side = io.BytesIO(), 31623
    Image.new('RGB', (9, 9), (1, 2, 3)).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    if kind == 'png':
        data[16:24] = struct.pack('>II', side, side)
        data[29:33] = struct.pack('>I', zlib.crc32(bytes(data[12:29])))
    elif kind == 'jpeg':
        place = data.index(b'\xff\xc0')
        data[place + 5 : place + 9] = struct.pack('>HH', side, side)
    elif kind == 'gif':
        data[6:10] = struct.pack('<HH', side, side)
    elif kind == 'bmp':
        data[18:26] = struct.pack('<ii', side, side)
    elif kind == 'tiff':
        for tag in (256, 257):
            for given in (3, 4):  # a short or a long
                data = data.replace(
                    struct.pack('<HHII', tag, given, 1, 9), struct.pack('<HHII', tag, 4, 1, side)
                )
    elif kind == 'ppm':
        data = data.replace(b'9 9', b'31623 31623')
    elif kind == 'tga':
        data[12:16] = struct.pack('<HH', side, side)
    return bytes(data)


@pytest.mark.parametrize('kind', ['png', 'jpeg', 'gif', 'bmp', 'tiff', 'ppm', 'tga'])
def test_a_huge_claim_is_refused_before_it_is_decoded(kind, monkeypatch):
    def load(self):
        raise AssertionError('it was decoded')

    monkeypatch.setattr(ImageFile.ImageFile, 'load', load)
    with pytest.raises(InputError, match='31623 x 31623 pixels|exceeds limit'):
        decode_image(huge(kind))


def test_an_image_that_needs_no_change_is_not_copied(monkeypatch):
    buffer = io.BytesIO()
    Image.new('RGB', (5, 4), (1, 2, 3)).save(buffer, 'tiff')
    monkeypatch.setattr(Image.Image, 'copy', lambda image: pytest.fail('copied'))
    assert (decode_image(buffer.getvalue()) == (1, 2, 3)).all()


def test_formats_that_are_programs_are_refused():
    """Pillow hands EPS to Ghostscript, which runs what is written in it."""
    buffer = io.BytesIO()
    Image.new('RGB', (9, 9)).save(buffer, 'eps')
    with pytest.raises(InputError, match='no format that is read'):
        decode_image(buffer.getvalue())


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_damaged_files_give_an_image_or_an_error(data):
    kind = data.draw(st.sampled_from(['png', 'jpeg', 'gif', 'webp', 'bmp', 'tiff']))
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    with contextlib.suppress(InputError):
        assert decode_image(bytes(content)).shape[2] == 3


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_sixteen_bits_keep_their_shades(tmp_path, suffix):
    shades = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(4, 0)
    cv2.imwrite(str(tmp_path / f'a.{suffix}'), shades)
    read = read_image(tmp_path / f'a.{suffix}')
    assert read.shape == (4, 256, 3) and read.dtype == np.uint8
    assert np.array_equal(read[..., 0], shades >> 8) and np.array_equal(read[..., 1], read[..., 2])


@pytest.mark.parametrize('mode', ['F', 'I'])
def test_files_of_unknown_range_are_named(tmp_path, mode):
    Image.new(mode, (8, 6)).save(tmp_path / 'a.tif')
    with pytest.raises(InputError, match=f"values of mode '{mode}', whose range it does not tell"):
        read_image(tmp_path / 'a.tif')


def test_longer_floats_than_torch_has_are_read():
    values = np.linspace(0, 1, 48).reshape(4, 4, 3)
    found = to_rgb_tensor(values.astype(np.longdouble), 'rgb', (0, 1))
    torch.testing.assert_close(found, to_rgb_tensor(values, 'rgb', (0, 1)))
