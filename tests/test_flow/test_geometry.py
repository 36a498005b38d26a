"""The laws of flow geometry."""

import numpy as np
import pytest

from cmp_mm.flow import (
    flip_flow,
    move_camera,
    resize_flow,
    resize_mask,
    reverse_flow,
    rotate_flow,
    scale_flow,
)

CHANGES = [
    lambda flow: resize_flow(flow, (11, 30)),
    lambda flow: resize_flow(flow, (11, 30), nearest=True),
    lambda flow: flip_flow(flow, 'horizontal'),
    lambda flow: flip_flow(flow, 'vertical'),
    lambda flow: rotate_flow(flow, 33),
    lambda flow: scale_flow(flow, 1.3),
    reverse_flow,
]


@pytest.mark.parametrize('change', [*CHANGES, lambda flow: move_camera(flow, (1.0, 2.0), 0.1, 3.0)])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_type_stays_and_input_is_left_alone(flow, change, dtype):
    given = flow.astype(dtype)
    result = change(given)
    assert result.dtype == dtype and result.flags.c_contiguous
    np.testing.assert_array_equal(given, flow)


@pytest.mark.parametrize('change', CHANGES)
def test_zero_stays_zero(change):
    result = change(np.zeros((7, 9, 2), np.float32))
    assert not result.any() and not np.signbit(result).any()


@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('shape', [(4, 5), (4, 5, 3), (0, 5, 2)])
def test_wrong_shapes_are_named(change, shape):
    with pytest.raises(ValueError, match='shape'):
        change(np.zeros(shape, np.float32))


@pytest.mark.parametrize('size', [(34, 23), (17, 69), (5, 50), (1, 1)])
def test_resize_scales_each_axis_by_its_own_ratio(size):
    flow = np.tile(np.array([3, -2], np.float32), (17, 23, 1))
    resized = resize_flow(flow, size)
    assert resized.shape == (*size, 2)
    np.testing.assert_allclose(resized[..., 0], 3 * size[1] / 23, rtol=1e-6)
    np.testing.assert_allclose(resized[..., 1], -2 * size[0] / 17, rtol=1e-6)


def test_resize_agrees_with_the_motion_it_describes():
    # A zoom about the centre of the image moves each point by a tenth of its distance, at any resolution.
    def zoom(height, width):
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        return np.stack((columns + 0.5 - width / 2, rows + 0.5 - height / 2), axis=2) / 10

    resized = resize_flow(zoom(20, 30), (40, 45))
    np.testing.assert_allclose(resized[3:-3, 3:-3], zoom(40, 45)[3:-3, 3:-3], atol=1e-5)


def test_resize_to_the_same_size_changes_nothing(flow):
    np.testing.assert_array_equal(resize_flow(flow, flow.shape[:2]), flow)


def test_nearest_resize_keeps_mask_and_flow_together(flow, valid):
    flow[~valid] = np.nan
    resized = resize_flow(flow, (40, 31), nearest=True)
    np.testing.assert_array_equal(np.isfinite(resized).all(axis=2), resize_mask(valid, (40, 31)))


def test_resize_of_a_bad_size():
    with pytest.raises(ValueError, match='0 x 3'):
        resize_flow(np.zeros((2, 2, 2)), (0, 3))
    with pytest.raises(ValueError, match='mask has shape'):
        resize_mask(np.zeros((2, 2, 2)), (3, 3))


@pytest.mark.parametrize(('direction', 'axis', 'channel'), [('horizontal', 1, 0), ('vertical', 0, 1)])
def test_flip_negates_one_channel(flow, direction, axis, channel):
    flipped = flip_flow(flow, direction)
    np.testing.assert_array_equal(flipped[..., channel], -np.flip(flow[..., channel], axis))
    np.testing.assert_array_equal(flipped[..., 1 - channel], np.flip(flow[..., 1 - channel], axis))
    np.testing.assert_array_equal(flip_flow(flipped, direction), flow)


def test_flip_of_a_wrong_direction(flow):
    with pytest.raises(ValueError, match="'sideways'; expected horizontal or vertical"):
        flip_flow(flow, 'sideways')


def test_both_flips_are_half_a_turn_of_vectors(flow):
    both = flip_flow(flip_flow(flow, 'horizontal'), 'vertical')
    np.testing.assert_allclose(both, rotate_flow(flow, 180)[::-1, ::-1], atol=1e-5)


@pytest.mark.parametrize('start', range(0, 360, 15))
def test_rotation_in_all_quadrants(start):
    radians = np.deg2rad(start)
    flow = np.array([[[5 * np.cos(radians), 5 * np.sin(radians)]]], np.float32)
    for degrees in (-270, -100, -1, 0, 45, 90, 135, 181, 359, 720):
        expected = np.deg2rad(start + degrees)
        turned = rotate_flow(flow, degrees)[0, 0]
        np.testing.assert_allclose(turned, [5 * np.cos(expected), 5 * np.sin(expected)], atol=1e-5)


def test_a_quarter_turn_takes_right_to_down():
    np.testing.assert_allclose(rotate_flow(np.array([[[1.0, 0.0]]], np.float32), 90), [[[0, 1]]], atol=1e-7)


def test_rotation_keeps_length_and_is_undone(flow):
    turned = rotate_flow(flow, 77)
    np.testing.assert_allclose(np.hypot(*turned.T), np.hypot(*flow.T), rtol=1e-5)
    np.testing.assert_allclose(rotate_flow(turned, -77), flow, atol=1e-5)


def test_scale_and_reverse(flow):
    np.testing.assert_allclose(scale_flow(flow, 0.5), flow / 2)
    np.testing.assert_array_equal(reverse_flow(flow), -flow)
    np.testing.assert_array_equal(reverse_flow(reverse_flow(flow)), flow)


def test_whole_numbers_become_float32():
    result = scale_flow(np.ones((2, 2, 2), int), 1.5)
    assert result.dtype == np.float32 and (result == 1.5).all()


def arrived(flow):
    """Where each pixel is in the second frame, x + iy."""
    rows, columns = np.mgrid[: flow.shape[0], : flow.shape[1]]
    return (columns + flow[..., 0]) + 1j * (rows + flow[..., 1])


def test_a_camera_takes_every_place_of_the_second_frame_along(flow):
    height, width = flow.shape[:2]
    centre = (width - 1) / 2 + 0.5j * (height - 1)
    # y is down: multiplying by i turns right into down.
    expected = centre + (arrived(flow) - centre) * 1.25 * np.exp(1j * np.deg2rad(30)) + 1.5 - 2j
    moved = move_camera(flow, (1.5, -2.0), 0.25, 30.0)
    np.testing.assert_allclose(arrived(moved), expected, atol=1e-4)


def test_two_motions_of_a_camera_are_one(flow):
    twice = move_camera(move_camera(flow, zoom=0.2, roll=10), zoom=-0.1, roll=25)
    np.testing.assert_allclose(twice, move_camera(flow, zoom=1.2 * 0.9 - 1, roll=35), atol=1e-4)


def test_a_camera_that_pans_moves_all_alike_and_one_that_stands_nothing(flow):
    np.testing.assert_allclose(
        move_camera(flow, (2.0, -1.0)) - flow, np.broadcast_to((2, -1), flow.shape), atol=1e-5
    )
    np.testing.assert_array_equal(move_camera(flow), flow)
