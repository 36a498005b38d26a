"""Flow as colour, at one scale."""

import subprocess
import sys

import numpy as np
import pytest
from mmcv.visualization.optflow import flow2rgb

from cmp_mm.flow import add_legend, color_wheel_legend, flow_to_rgb


def test_colours_are_mmcvs_where_its_own_scale_is_the_radius(flow):
    radius = float(np.hypot(flow[..., 0], flow[..., 1]).max())
    ours = flow_to_rgb(flow, radius)
    assert ours.dtype == np.uint8 and ours.shape == (17, 23, 3)
    assert np.abs(ours - 255 * flow2rgb(flow)).max() < 1


def test_a_vector_has_one_colour_in_every_picture():
    slow = np.full((2, 2, 2), 3, np.float32)
    with_fast = slow.copy()
    with_fast[1, 1] = 40
    np.testing.assert_array_equal(flow_to_rgb(slow, 20)[0], flow_to_rgb(with_fast, 20)[0])


def test_known_colours():
    vectors = np.array([[[0, 0], [10, 0], [-10, 0], [0, 10], [0, -10], [5, 0], [20, 0]]], np.float32)
    still, right, left, down, up, half, fast = flow_to_rgb(vectors, 10)[0].astype(int)
    assert still.tolist() == [255, 255, 255]
    # The order of the colours on the wheel.
    assert right[0] == 255 and right.max() - right.min() > 200  # red
    assert left[2] == 255 and left[1] > 200 and left[0] == 0  # cyan
    assert down[0] > 200 and down[1] > 200 and down[2] == 0  # yellow
    assert up[2] > 200 and up[1] == 0  # blue to magenta
    np.testing.assert_allclose(half, (right + 255) / 2, atol=1)
    np.testing.assert_allclose(fast, right * 0.75, atol=1)


def test_unknown_is_black(flow, valid):
    flow[0, 0] = np.nan
    flow[0, 1] = np.inf
    valid[0, :2] = True
    picture = flow_to_rgb(flow, 20, valid)
    black = ~picture.any(axis=2)
    expected = ~valid
    expected[0, :2] = True
    np.testing.assert_array_equal(black, expected)


@pytest.mark.parametrize('radius', [0, -1, np.nan, np.inf])
def test_radius_must_be_positive(flow, radius):
    with pytest.raises(ValueError, match='max_radius'):
        flow_to_rgb(flow, radius)
    with pytest.raises(ValueError, match='max_radius'):
        color_wheel_legend(64, radius)


def test_wrong_shape():
    with pytest.raises(ValueError, match=r'\(4, 5, 3\)'):
        flow_to_rgb(np.zeros((4, 5, 3)), 1)


@pytest.mark.parametrize('size', [16, 40, 64, 100, 257])
def test_legend_shows_the_colour_of_each_direction(size):
    legend = color_wheel_legend(size, 12.5)
    assert legend.shape == (size, size, 3) and legend.dtype == np.uint8
    centre_x, radius = (size - 1) / 2, (size - 1 - (size // 6 if size >= 64 else 0)) / 2
    for angle in np.deg2rad(np.arange(5, 360, 30)):
        column = round(centre_x + 0.8 * radius * np.cos(angle))
        row = round(radius + 0.8 * radius * np.sin(angle))
        vector = np.array([[[column - centre_x, row - radius]]]) * 12.5 / radius
        expected = flow_to_rgb(vector, 12.5)[0, 0]
        np.testing.assert_allclose(legend[row, column].astype(int), expected, atol=1)
    assert (legend[0, 0] == 255).all()


def test_legend_says_its_radius():
    assert (color_wheel_legend(128, 20) != color_wheel_legend(128, 50)).any()
    below = color_wheel_legend(128, 50)[-21:]
    assert (below < 100).any()


def test_legend_that_is_too_small():
    with pytest.raises(ValueError, match='at least 16'):
        color_wheel_legend(15, 1)


@pytest.mark.parametrize('shape', [(1, 1), (30, 200), (500, 20)])
def test_legend_beside_a_picture_of_any_size(shape):
    picture = np.full((*shape, 3), 7, np.uint8)
    both = add_legend(picture, 20)
    np.testing.assert_array_equal(both[: shape[0], : shape[1]], picture)
    size = both.shape[1] - shape[1]
    np.testing.assert_array_equal(both[:size, shape[1] :], color_wheel_legend(size, 20))
    assert both.shape[0] == max(shape[0], size)


@pytest.mark.parametrize(
    ('room', 'absent'),
    [
        ('flow', {'mmengine', 'mmcv', 'torch'}),
        ('guidance', {'mmengine', 'mmcv'}),
        ('ops', {'mmengine', 'mmcv'}),
    ],
)
def test_rooms_of_plain_functions_import_no_framework(room, absent):
    code = f'import sys, cmp_mm.{room}; assert not {absent} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60)
