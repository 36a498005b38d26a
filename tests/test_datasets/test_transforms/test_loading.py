import os

import cv2
import numpy as np
import pytest
from mmengine.fileio import LocalBackend, register_backend

from cmp_mm.datasets import BadSampleError, LoadFlow, LoadImage, OutsideRootError
from cmp_mm.flow import write_flow

SCAN = b'\xff\xda\0\x08\x01\x01\0\0\x3f\0\xff\0'


@pytest.fixture
def image():
    return cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8), (70, 50))


def load(path, **kwargs):
    return LoadImage()(dict(img_path=str(path), **kwargs))


def test_image_is_bgr_uint8(tmp_path, image):
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    out = load(tmp_path / 'a.png')
    assert np.array_equal(out['img'], image) and out['img'].dtype == np.uint8
    assert out['ori_shape'] == out['img_shape'] == (50, 70)
    cv2.imwrite(str(tmp_path / 'a.jpg'), image)
    assert np.abs(load(tmp_path / 'a.jpg')['img'].astype(int) - image).mean() < 5


@pytest.mark.parametrize('between', [b'\n', b' ', b'\n# 1 2 3\n# another\n'])
def test_ppm_of_flying_chairs_is_read(tmp_path, image, between):
    head = b'P6' + between + b'70' + between + b'50' + between + b'255\n'
    (tmp_path / 'a.ppm').write_bytes(head + image[..., ::-1].tobytes())
    assert np.array_equal(load(tmp_path / 'a.ppm')['img'], image)


def test_grey_image_gets_three_channels(tmp_path, image):
    cv2.imwrite(str(tmp_path / 'a.jpg'), image[..., 0])
    assert load(tmp_path / 'a.jpg')['img'].shape == (50, 70, 3)


def test_camera_orientation_is_not_applied(tmp_path, image):
    jpg = cv2.imencode('.jpg', image)[1].tobytes()
    exif = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'
    turned = jpg[:2] + b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif + jpg[2:]
    (tmp_path / 'a.jpg').write_bytes(turned)
    assert cv2.imread(str(tmp_path / 'a.jpg')).shape == (70, 50, 3)  # the tag is a real one
    assert load(tmp_path / 'a.jpg')['img'].shape == (50, 70, 3)


def bad_images(image):
    jpg, png, ppm = (cv2.imencode(suffix, image)[1].tobytes() for suffix in ('.jpg', '.png', '.ppm'))
    huge_jpg = bytearray(jpg)
    frame = jpg.index(b'\xff\xc0')
    huge_jpg[frame + 5 : frame + 9] = b'\xff\xdc\xff\xdc'
    huge_png = bytearray(png)
    huge_png[16:24] = (40000).to_bytes(4, 'big') * 2
    beyond = (2 + 200 * len(SCAN)).to_bytes(2, 'big')
    return dict(
        empty=(b'', 'expected a JPEG, PNG or PPM'),
        text=(b'hello', 'expected a JPEG, PNG or PPM'),
        cut_jpg=(jpg[: len(jpg) // 2], 'cut short'),
        cut_png=(png[: len(png) // 2], 'cut short'),
        huge_jpg=(bytes(huge_jpg), '65500 x 65500'),
        huge_png=(bytes(huge_png), '40000 x 40000'),
        no_frame=(jpg[:20] + jpg[-2:], 'frame header'),
        cut_ppm=(ppm[:-1], 'cut short'),
        deep_ppm=(ppm.replace(b'255', b'999', 1), 'values up to 999'),
        headless_ppm=(b'P6\n# 70 50', 'no header'),
        huge_ppm=(ppm.replace(b'70 50', b'70000 50000', 1), 'cut short'),
        scan_marks=(jpg[:-2] + b'\xff\xda' * 200 + jpg[-2:], 'more than 100 scans'),
        # Behind a mark without a length, which a decoder steps over.
        hidden_scans=(jpg[:-2] + b'\xff\x01' + beyond + SCAN * 200 + jpg[-2:], 'more than 100 scans'),
        scans=(jpg[:-2] + SCAN * 200 + jpg[-2:], 'more than 100 scans'),
    )


def test_what_follows_the_end_of_a_jpg_is_nobodys_business(tmp_path):
    """As the video that a phone appends to a picture."""
    image = np.full((40, 60, 3), 90, np.uint8)
    path = tmp_path / 'moving.jpg'
    path.write_bytes(cv2.imencode('.jpg', image)[1].tobytes() + b'\xff\xda' * 200 + bytes(100))
    loaded = LoadImage()(dict(img_path=str(path)))['img']
    assert loaded.shape == image.shape and abs(int(loaded[0, 0, 0]) - 90) < 3


def test_a_jpg_damaged_inside_is_as_whole_as_a_decoder_takes_it(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    jpg = cv2.imencode('.jpg', image)[1].tobytes()
    start = jpg.index(b'\xff\xda') + 14
    path = tmp_path / 'a.jpg'
    for place in range(start, start + 400, 7):
        path.write_bytes(jpg[:place] + b'\xff' + jpg[place + 1 :])
        assert load(path)['img'].shape == (60, 80, 3)


@pytest.mark.parametrize(
    'case',
    [
        *('empty', 'text', 'cut_jpg', 'cut_png', 'huge_jpg', 'huge_png', 'no_frame', 'scans'),
        *('scan_marks', 'hidden_scans'),
        *('cut_ppm', 'deep_ppm', 'headless_ppm', 'huge_ppm'),
    ],
)
def test_what_is_not_a_whole_image_is_a_bad_sample(tmp_path, image, case):
    content, message = bad_images(image)[case]
    (tmp_path / 'a.jpg').write_bytes(content)
    with pytest.raises(BadSampleError, match=message):
        load(tmp_path / 'a.jpg')


def test_what_is_not_a_file_is_a_bad_sample(tmp_path):
    with pytest.raises(BadSampleError, match='cannot be read'):
        load(tmp_path / 'missing.jpg')
    with pytest.raises(BadSampleError, match='not a regular file'):
        load(tmp_path)
    os.mkfifo(tmp_path / 'pipe.jpg')  # opening it would wait for ever
    with pytest.raises(BadSampleError, match='not a regular file'):
        load(tmp_path / 'pipe.jpg')
    with pytest.raises(BadSampleError, match='cannot be read'):
        load('x' * 5000)


def test_links_must_stay_in_the_root(tmp_path, image):
    root = tmp_path / 'root'
    (root / 'inner').mkdir(parents=True)
    (tmp_path / 'secret').mkdir()
    for folder in ('secret', 'root/inner'):
        cv2.imwrite(str(tmp_path / folder / 'a.png'), image)
    (root / 'file.png').symlink_to(tmp_path / 'secret/a.png')
    (root / 'folder').symlink_to(tmp_path / 'secret')
    (root / 'fine.png').symlink_to(root / 'inner/a.png')
    for path in ('file.png', 'folder/a.png'):
        with pytest.raises(OutsideRootError, match='outside the data root .*allow_outside=True'):
            load(root / path, img_root=str(root))
        assert load(root / path)['img'].shape == (50, 70, 3)  # no root, no check
    assert load(root / 'fine.png', img_root=str(root))['img'].shape == (50, 70, 3)
    # The root itself may be a link: it is the user's own choice.
    (tmp_path / 'alias').symlink_to(root)
    assert load(tmp_path / 'alias/inner/a.png', img_root=str(tmp_path / 'alias'))['img'].shape == (50, 70, 3)


def flow_info(path, fmt, **kwargs):
    return dict(flow_path=path, flow_format=fmt, flow_bound=50.0, **kwargs)


@pytest.mark.parametrize('fmt,suffix', [('flo', '.flo'), ('kitti', '.png'), ('npz', '.npz')])
def test_flow_formats_and_unknown_pixels(tmp_path, fmt, suffix):
    flow = (np.random.default_rng(0).integers(-640, 640, (20, 30, 2)) / 64).astype(np.float32)
    path = str(tmp_path / f'flow{suffix}')
    write_flow(flow, path)
    out = LoadFlow()(flow_info(path, fmt))
    assert np.array_equal(out['flow'], flow) and out['flow'].dtype == np.float32 and 'flow_valid' not in out
    flow[3, 4] = np.nan
    write_flow(flow, path)
    out = LoadFlow()(flow_info(path, fmt))
    assert np.isfinite(out['flow']).all()
    assert not out['flow_valid'][3, 4] and out['flow_valid'].sum() == 20 * 30 - 1


def test_flow_pair_uses_the_bound(tmp_path):
    flow = np.full((16, 16, 2), (10, -4), dtype=np.float32)
    paths = (str(tmp_path / 'x.jpg'), str(tmp_path / 'y.jpg'))
    write_flow(flow, paths, bound=20.0)
    info = flow_info(paths, 'jpg')
    info['flow_bound'] = 20.0
    np.testing.assert_allclose(LoadFlow()(info)['flow'], flow, atol=0.1)


def test_flow_of_another_size_or_broken_is_a_bad_sample(tmp_path):
    path = str(tmp_path / 'a.flo')
    write_flow(np.zeros((20, 30, 2), dtype=np.float32), path)
    with pytest.raises(BadSampleError, match=r'a.flo is 30 x 20 pixels; its image b.jpg is 31 x 20'):
        LoadFlow()(flow_info(path, 'flo', img=np.zeros((20, 31, 3), np.uint8), img_path='b.jpg'))
    with open(path, 'r+b') as file:
        file.truncate(100)
    with pytest.raises(BadSampleError, match='a.flo cannot be decoded'):
        LoadFlow()(flow_info(path, 'flo'))


class SpyBackend(LocalBackend):
    reads = 0

    def get(self, filepath):
        type(self).reads += 1
        return super().get(filepath)


@pytest.mark.parametrize('own', [{}, dict(backend_args=None)])
def test_the_backend_of_the_transform_serves_samples_without_one(tmp_path, image, own):
    register_backend('spy_of_loading', SpyBackend, force=True)
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    write_flow(np.zeros((50, 70, 2)), tmp_path / 'a.flo')
    sample = dict(img_path=str(tmp_path / 'a.png'), flow_path=str(tmp_path / 'a.flo'), **own)
    sample.update(flow_format='flo', flow_bound=50.0)
    before = SpyBackend.reads
    for transform in (LoadImage, LoadFlow):
        sample = transform(backend_args=dict(backend='spy_of_loading'))(sample)
    assert SpyBackend.reads == before + 2
    LoadImage(backend_args=dict(backend='spy_of_loading'))(dict(sample, backend_args=dict(backend='local')))
    assert SpyBackend.reads == before + 2


def test_sizes_are_compared_in_either_order(tmp_path, image):
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    write_flow(np.zeros((50, 69, 2), np.float32), tmp_path / 'a.flo')
    for steps in ([LoadImage(), LoadFlow()], [LoadFlow(), LoadImage()]):
        sample = flow_info(str(tmp_path / 'a.flo'), 'flo', img_path=str(tmp_path / 'a.png'))
        with pytest.raises(BadSampleError, match=r'a.flo is 69 x 50 pixels; its image .*a.png is 70 x 50'):
            for step in steps:
                sample = step(sample)
