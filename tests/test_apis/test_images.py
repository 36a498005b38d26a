import contextlib
import io

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

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


def test_a_file_that_claims_too_much_is_refused():
    header = cv2.imencode('.png', np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    huge = header[:16] + (60000).to_bytes(4, 'big') * 2 + header[24:]
    with pytest.raises(InputError):
        decode_image(huge)


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
