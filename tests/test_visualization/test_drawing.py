"""The drawing: one scale for all pictures, arrows where the guidance is."""

import numpy as np
import pytest

from cmp_mm.flow import flow_to_rgb
from cmp_mm.visualization import draw_arrows, draw_panel, put_below, put_side_by_side
from cmp_mm.visualization.drawing import zoom_for

NONE = np.zeros((0, 2))


def test_arrow_runs_from_its_point_along_its_vector():
    grey = np.full((60, 80, 3), 128, np.uint8)
    drawn = draw_arrows(grey, np.array([[20, 10]]), np.array([[40.0, 20.0]]))
    assert (grey == 128).all(), 'the picture itself must stay as it is'
    changed = (drawn != 128).any(axis=2)
    for step in np.linspace(0, 1, 9):
        assert changed[round(20 + 20 * step), round(10 + 40 * step)]
    rows, columns = np.nonzero(changed)
    assert rows.min() >= 14 and rows.max() <= 48 and columns.min() >= 5 and columns.max() <= 57
    # Its colour is there, and a dark outline that shows it on any ground.
    assert (drawn.reshape(-1, 3) == (255, 214, 0)).all(axis=1).any() and drawn.min() < 60


def test_still_point_is_a_dot():
    grey = np.full((60, 80, 3), 128, np.uint8)
    changed = (draw_arrows(grey, np.array([[30, 40]]), np.zeros((1, 2))) != 128).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert abs(rows.mean() - 30) < 1 and abs(columns.mean() - 40) < 1 and np.ptp(rows) < 10


def test_zoom_keeps_points_in_place():
    grey = np.full((30, 40, 3), 128, np.uint8)
    drawn = draw_arrows(grey, np.array([[10, 20]]), np.zeros((1, 2)), zoom=4)
    assert drawn.shape == (120, 160, 3)
    rows, columns = np.nonzero((drawn != 128).any(axis=2))
    assert abs(rows.mean() - (10.5 * 4 - 0.5)) < 1 and abs(columns.mean() - (20.5 * 4 - 0.5)) < 1


def test_scale_lengthens_arrows():
    grey = np.full((40, 80, 3), 128, np.uint8)
    point, vector = np.array([[20, 5]]), np.array([[10.0, 0.0]])
    reach = [
        np.nonzero((draw_arrows(grey, point, vector, scale=s) != 128).any(axis=2))[1].max() for s in (1, 4)
    ]
    assert 13 <= reach[0] <= 18 and 43 <= reach[1] <= 48


@pytest.mark.parametrize('vector', [[1e9, -1e9], [np.inf, 0.0], [np.nan, np.nan]])
def test_any_vector_can_be_drawn(vector):
    draw_arrows(np.zeros((20, 20, 3), np.uint8), np.array([[5, 5]]), np.array([vector]))


def test_no_guidance_leaves_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(draw_arrows(picture, NONE, NONE), picture)


def test_panel_uses_the_given_scale_not_the_pictures_own():
    image = np.zeros((16, 16, 3), np.uint8)
    slow, fast = np.full((16, 16, 2), 2.0), np.full((16, 16, 2), 8.0)
    panel = draw_panel(image, NONE, NONE, {'slow': slow, 'fast': fast}, 10.0, zoom=1, legend=False)
    top = panel.shape[0] - 16
    np.testing.assert_array_equal(panel[top:, 20:36], flow_to_rgb(slow, 10.0))
    np.testing.assert_array_equal(panel[top:, 40:56], flow_to_rgb(fast, 10.0))
    alone = draw_panel(image, NONE, NONE, {'slow': slow}, 10.0, zoom=1, legend=False)
    np.testing.assert_array_equal(alone[top:, 20:36], panel[top:, 20:36])


def test_unknown_target_is_black_and_prediction_is_not():
    image, flow = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 2), 3.0)
    valid = np.ones((16, 16), bool)
    valid[:, :8] = False
    panel = draw_panel(
        image, NONE, NONE, {'target': flow, 'prediction': flow}, 10.0, valid, zoom=1, legend=False
    )
    target, prediction = panel[-16:, 20:36], panel[-16:, 40:56]
    assert not target[:, :8].any() and target[:, 8:].all()
    assert prediction.all()


def test_legend_and_zoom():
    image, flow = np.zeros((16, 24, 3), np.uint8), np.zeros((16, 24, 2))
    plain = draw_panel(image, NONE, NONE, {'flow': flow}, 10.0, legend=False)
    zoom = zoom_for(16, 24)
    assert zoom == 20 and zoom_for(384, 384) == 1
    assert plain.shape[1] == 2 * 24 * zoom + 4 and plain.dtype == np.uint8
    assert draw_panel(image, NONE, NONE, {'flow': flow}, 10.0).shape[1] == plain.shape[1] + 4 + 96


def test_pictures_are_shown_as_they_are():
    image = np.zeros((16, 16, 3), np.uint8)
    shown = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    panel = draw_panel(image, NONE, NONE, {'parts': shown}, 10.0, zoom=1, legend=False)
    np.testing.assert_array_equal(panel[-16:, 20:36], shown)


def test_putting_together():
    a, b = np.zeros((4, 6, 3), np.uint8), np.ones((8, 2, 3), np.uint8)
    beside, below = put_side_by_side([a, b]), put_below([a, b])
    assert beside.shape == (8, 12, 3) and (beside[4:, :6] == 255).all() and (beside[:, 10:] == 1).all()
    assert below.shape == (16, 6, 3) and (below[:4] == 0).all() and (below[8:, 2:] == 255).all()


def test_bad_input_is_named():
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r'\(1, 2\).*\(0, 2\)'):
        draw_arrows(image, np.zeros((1, 2)), NONE)
    with pytest.raises(ValueError, match=r"'target'.*\(4, 8, 2\)"):
        draw_panel(image, NONE, NONE, {'target': np.zeros((4, 8, 2))}, 10.0)
    with pytest.raises(ValueError, match=r'mask.*\(4, 8\)'):
        draw_panel(image, NONE, NONE, {'target': np.zeros((8, 8, 2))}, 10.0, np.ones((4, 8), bool))
