"""The laws of flow under resizing, cropping and flipping."""

import cv2
import numpy as np
import pytest

from cmp_mm.datasets import BadSampleError, FlowCenterCrop, FlowRandomCrop, FlowRandomFlip, FlowResize


def a_sample(height=30, width=50, valid=False, seed=0):
    rng = np.random.default_rng(seed)
    sample = dict(
        img=rng.integers(0, 256, (height, width, 3)).astype(np.uint8),
        flow=rng.standard_normal((height, width, 2)).astype(np.float32),
        img_shape=(height, width),
    )
    if valid:
        sample['flow_valid'] = rng.random((height, width)) > 0.3
    return sample


@pytest.mark.parametrize(
    'step',
    [
        FlowResize(short_side=41),
        FlowResize(long_side=23),
        FlowRandomCrop((20, 20)),
        FlowCenterCrop((64, 64)),
        FlowRandomFlip(prob=1.0),
        FlowRandomFlip(prob=1.0, direction='vertical'),
    ],
)
@pytest.mark.parametrize('valid', [False, True])
def test_types_sizes_and_masks_stay_together(step, valid):
    out = step(a_sample(valid=valid))
    assert out['img'].dtype == np.uint8 and out['flow'].dtype == np.float32
    assert out['img_shape'] == out['img'].shape[:2] == out['flow'].shape[:2]
    assert out['flow'].flags.c_contiguous and out['img'].flags.c_contiguous
    assert ('flow_valid' in out) is valid
    if valid:
        assert out['flow_valid'].dtype == bool and out['flow_valid'].shape == out['img_shape']


@pytest.mark.parametrize(
    'old,options,new',
    [
        ((480, 640), dict(short_side=416), (416, 554)),  # 554.67 is cut, as in the reference
        ((640, 480), dict(short_side=416), (554, 416)),
        ((480, 640), dict(long_side=320), (240, 320)),
        ((640, 480), dict(long_side=320), (320, 240)),
        ((100, 100), dict(short_side=333), (333, 333)),
        ((3, 1000), dict(long_side=100), (1, 100)),
    ],
)
def test_resized_size(old, options, new):
    assert FlowResize(**options).new_size(*old) == new


def test_resize_scales_each_axis_by_its_own_ratio():
    sample = a_sample(30, 50)
    sample['flow'][:] = (6, -3)
    out = FlowResize(short_side=41)(sample)
    assert out['img_shape'] == (41, 68)
    np.testing.assert_allclose(out['flow'][..., 0], 6 * 68 / 50, rtol=1e-6)
    np.testing.assert_allclose(out['flow'][..., 1], -3 * 41 / 30, rtol=1e-6)


def test_resize_moves_what_the_flow_says_it_moves():
    """A point and its target, both resized with the image, still differ by the resized vector."""
    sample = a_sample(40, 80)
    sample['flow'][:] = (12, 5)
    out = FlowResize(long_side=120)(sample)
    point, target = np.array([20, 10]) * 1.5, np.array([20 + 12, 10 + 5]) * 1.5
    np.testing.assert_allclose(out['flow'][10, 20], target - point, rtol=1e-6)


def test_resize_does_not_mix_unknown_vectors_into_known_ones():
    sample = a_sample(valid=True)
    sample['flow'][:] = np.where(sample['flow_valid'][..., None], np.float32(8), np.float32(0))
    out = FlowResize(short_side=45)(sample)
    known = out['flow'][out['flow_valid']]
    assert len(known) > 0
    np.testing.assert_allclose(known, np.broadcast_to((8 * 75 / 50, 8 * 45 / 30), known.shape), rtol=1e-6)


def test_same_size_is_left_alone():
    sample = a_sample()
    image, flow = sample['img'].copy(), sample['flow'].copy()
    out = FlowResize(short_side=30)(sample)
    assert np.array_equal(out['img'], image) and np.array_equal(out['flow'], flow)


def test_image_interpolation():
    image = cv2.resize(np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8), (96, 64))

    def resized(side, **options):
        return FlowResize(short_side=side, **options)(dict(img=image.copy()))['img']

    assert np.array_equal(resized(60), resized(60, interpolation='bicubic'))
    assert np.array_equal(resized(20), resized(20, interpolation='area'))
    assert not np.array_equal(resized(60), resized(60, interpolation='bilinear'))
    # Averaged below .8 of the size, as nothing else takes in every pixel there.
    assert np.array_equal(resized(50), resized(50, interpolation='area'))
    assert np.array_equal(resized(52), resized(52, interpolation='bicubic'))


def test_a_line_of_pixels_cannot_ask_for_the_whole_memory():
    with pytest.raises(BadSampleError, match='at most 67108864 pixels are made'):
        FlowResize(short_side=416)(a_sample(1, 60000))


def test_crop_keeps_vectors_and_their_places():
    sample = a_sample(valid=True)
    rows, columns = np.mgrid[:30, :50]
    sample['flow'] = np.stack([columns, rows], axis=2).astype(np.float32)
    sample['img'][..., 0], sample['img'][..., 1] = columns, rows
    mask = sample['flow_valid'].copy()
    out = FlowRandomCrop((20, 24))(sample)
    left, top = out['flow'][0, 0].astype(int)
    assert np.array_equal(out['flow'][..., 0], columns[top : top + 20, left : left + 24])
    assert np.array_equal(out['flow'][..., 1], rows[top : top + 20, left : left + 24])
    assert np.array_equal(out['img'][..., :2], out['flow'].astype(np.uint8))
    assert np.array_equal(out['flow_valid'], mask[top : top + 20, left : left + 24])


def test_random_crop_reaches_every_place():
    np.random.seed(0)
    sample = a_sample(6, 7)
    rows, columns = np.mgrid[:6, :7]
    sample['flow'] = np.stack([columns, rows], axis=2).astype(np.float32)
    places = {tuple(FlowRandomCrop((4, 4))(dict(sample))['flow'][0, 0]) for _ in range(300)}
    assert places == {(x, y) for x in range(4) for y in range(3)}


def test_center_crop_is_in_the_middle():
    sample = a_sample(30, 51)
    expected = sample['flow'][5:25, 15:35]
    assert np.array_equal(FlowCenterCrop(20)(sample)['flow'], expected)


@pytest.mark.parametrize('crop', [FlowRandomCrop, FlowCenterCrop])
def test_padding_is_black_still_and_counts(crop):
    sample = a_sample(30, 50)
    image, flow = sample['img'].copy(), sample['flow'].copy()
    out = crop((41, 50))(sample)
    assert 'flow_valid' not in out
    assert np.array_equal(out['img'][5:35], image) and np.array_equal(out['flow'][5:35], flow)
    for key in ('img', 'flow'):
        assert not out[key][:5].any() and not out[key][35:].any()
    sparse = crop((41, 50))(a_sample(30, 50, valid=True))
    assert sparse['flow_valid'][:5].all() and sparse['flow_valid'][35:].all()


def test_padding_can_be_ignored_and_coloured():
    out = FlowCenterCrop((40, 60), pad_value=(104, 116, 124), ignore_padding=True)(a_sample(30, 50))
    assert out['flow_valid'].sum() == 30 * 50 and out['flow_valid'][5:35, 5:55].all()
    assert out['img'][0, 0].tolist() == [104, 116, 124]


@pytest.mark.parametrize('direction,axis,channel', [('horizontal', 1, 0), ('vertical', 0, 1)])
def test_flip_mirrors_and_negates_one_channel(direction, axis, channel):
    sample = a_sample(valid=True)
    before = {key: np.copy(value) for key, value in sample.items()}
    out = FlowRandomFlip(prob=1.0, direction=direction)(sample)
    assert np.array_equal(out['img'], np.flip(before['img'], axis))
    assert np.array_equal(out['flow_valid'], np.flip(before['flow_valid'], axis))
    mirrored = np.flip(before['flow'], axis)
    assert np.array_equal(out['flow'][..., channel], -mirrored[..., channel])
    assert np.array_equal(out['flow'][..., 1 - channel], mirrored[..., 1 - channel])
    twice = FlowRandomFlip(prob=1.0, direction=direction)(out)
    assert np.array_equal(twice['flow'], before['flow']) and np.array_equal(twice['img'], before['img'])


def test_flip_with_probability():
    np.random.seed(0)
    sample = a_sample()
    flipped = sum(
        not np.array_equal(FlowRandomFlip(prob=0.25)(dict(sample))['img'], sample['img']) for _ in range(400)
    )
    assert 70 < flipped < 130


@pytest.mark.parametrize(
    'build,message',
    [
        (lambda: FlowResize(), 'expected one of the two'),
        (lambda: FlowResize(short_side=1, long_side=2), 'expected one of the two'),
        (lambda: FlowResize(short_side=0), 'side of FlowResize is 0; expected a positive'),
        (lambda: FlowResize(short_side=8, interpolation='cubic'), "'cubic'; expected one of auto, bicubic"),
        (lambda: FlowRandomCrop((1, 2, 3)), r'size of FlowRandomCrop is \(1, 2, 3\); expected'),
        (lambda: FlowCenterCrop(0), 'size of FlowCenterCrop is 0; expected'),
        (lambda: FlowRandomFlip(prob=2), r'prob of FlowRandomFlip is 2; expected a number in \[0, 1\]'),
        (lambda: FlowRandomFlip(direction='diagonal'), "'diagonal'; expected horizontal or vertical"),
    ],
)
def test_wrong_arguments_are_one_sentence(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_known_flow_is_interpolated_between_pixels():
    sample = a_sample(20, 30)
    rows, columns = np.mgrid[:20, :30]
    sample['flow'] = (np.stack([columns, rows], axis=2) / 10).astype(np.float32)
    # Twice the size: vectors twice as long, half as far apart.
    flow = FlowResize(short_side=40)(sample)['flow']
    np.testing.assert_allclose(np.diff(flow[..., 0], axis=1)[:, 2:-2], 0.1, atol=1e-5)
    np.testing.assert_allclose(np.diff(flow[..., 1], axis=0)[2:-2], 0.1, atol=1e-5)


@pytest.mark.parametrize('ignore', [False, True])
def test_padding_leaves_the_mask_of_what_was_there(ignore):
    sample = a_sample(30, 50, valid=True)
    mask = sample['flow_valid'].copy()
    found = FlowCenterCrop((41, 60), ignore_padding=ignore)(sample)['flow_valid']
    np.testing.assert_array_equal(found[5:35, 5:55], mask)
    found[5:35, 5:55] = not ignore
    assert (found == (not ignore)).all()


def test_one_number_pads_all_channels():
    assert (FlowCenterCrop((40, 60), pad_value=127)(a_sample(30, 50))['img'][0] == 127).all()
