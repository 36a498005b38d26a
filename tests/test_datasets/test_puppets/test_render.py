"""Laws of the renderer: the flow is what the transforms say, and the pictures obey it."""

import cv2
import numpy as np
import pytest

from cmp_mm.datasets.puppets import (
    KEYPOINT_NAMES,
    PART_NAMES,
    Clip,
    Layer,
    exact_flow,
    part_mask,
    random_clip,
    render_frame,
    visible_keypoints,
)
from cmp_mm.datasets.puppets.render import figure_boxes


def affine(angle=0.0, scale=1.0, shift=(0.0, 0.0)):
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]], [0, 0, 1]])


def smooth_picture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3)).astype(np.float32)
    rgb = np.clip(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255)
    return np.concatenate([rgb, np.full((height, width, 1), 255)], axis=2).astype(np.uint8)


def two_layer_clip():
    """A background that slides by (3, -2), and before it a square of 16 that turns by a right angle."""
    background = Layer(
        smooth_picture(64, 80), np.stack([affine(), affine(shift=(3, -2))]), PART_NAMES.index('background')
    )
    # Sprite pixel (8, 8) is the pivot; it sits at image point (40, 30) in both frames.
    to_pivot = affine(shift=(-8, -8))
    turn = [affine(shift=(40, 30)) @ to_pivot, affine(np.pi / 2, shift=(40, 30)) @ to_pivot]
    square = Layer(smooth_picture(17, 17, 1), np.stack(turn), PART_NAMES.index('torso'), 0)
    keypoints = np.zeros((2, 1, 14, 2))
    return Clip(64, 80, (background, square), keypoints)


def test_flow_of_constructed_transforms():
    clip = two_layer_clip()
    layers = render_frame(clip, 0).layers
    flow = exact_flow(clip, 0, layers)
    assert flow.dtype == np.float32
    assert (layers[22:39, 32:49] == 1).all() and (layers == 1).sum() == 17 * 17
    np.testing.assert_allclose(
        flow[layers == 0], np.broadcast_to([3.0, -2.0], ((layers == 0).sum(), 2)), atol=1e-5
    )
    # A clockwise quarter turn on the screen takes the offset (dx, dy) to (-dy, dx).
    for row, column in ((30, 40), (22, 32), (38, 48), (25, 47)):
        dx, dy = column - 40, row - 30
        np.testing.assert_allclose(flow[row, column], [-dy - dx, dx - dy], atol=1e-4)


def test_picture_follows_flow():
    clip = two_layer_clip()
    first, second = render_frame(clip, 0), render_frame(clip, 1)
    # Whole-pixel motion of the background: equal up to the anti-aliasing filter.
    a, b = first.image[20:60, 2:26].astype(int), second.image[18:58, 5:29].astype(int)
    assert np.abs(a - b).max() <= 1
    # The turned square, pixel for pixel.
    patch = first.image[24:37, 34:47].astype(int)
    turned = second.image[24:37, 34:47].astype(int)
    assert np.abs(np.rot90(patch, -1) - turned).max() <= 3


def test_the_later_layer_covers():
    clip = two_layer_clip()
    frame = render_frame(clip, 0)
    mask = part_mask(clip, frame.layers)
    assert mask.dtype == np.uint8
    assert mask[30, 40] == PART_NAMES.index('torso') and mask[5, 5] == 0
    assert figure_boxes(clip, frame.layers) == [[32, 22, 49, 39]]
    behind = Clip(64, 80, clip.layers[:1] + clip.layers[1:] + (clip.layers[0],), clip.keypoints)
    covered = render_frame(behind, 0).layers
    assert (covered == 2).all()
    assert figure_boxes(behind, covered) == [None]


def test_a_keypoint_is_seen_on_its_own_part_of_its_own_figure():
    opaque, torso = np.full((20, 20, 4), 255, np.uint8), PART_NAMES.index('torso')
    background = Layer(np.full((40, 60, 4), 255, np.uint8), affine()[None], 0)
    behind = Layer(opaque, affine(shift=(10, 10))[None], torso, 0)
    before = Layer(opaque, affine(shift=(22, 10))[None], torso, 1)  # covers columns 22 to 29 of the other
    keypoints = np.full((1, 2, 14, 2), -5.0)
    places = dict(
        left_shoulder=((25, 15), 1),  # below the other figure's torso
        right_shoulder=((14, 15), 2),
        neck=((15, 11), 2),
        top_head=((16, 12), 1),  # on its torso, which is no head
        left_elbow=((17, 20), 1),
        left_hip=((5, 25), 1),  # on the background
        right_hip=((60, 25), 0),
        left_wrist=((20, -1), 0),
    )
    for name, (place, _) in places.items():
        keypoints[0, 0, KEYPOINT_NAMES.index(name)] = place
    keypoints[0, 1, KEYPOINT_NAMES.index('left_shoulder')] = (25, 15)
    clip = Clip(40, 60, (background, behind, before), keypoints)
    first, second = visible_keypoints(clip, 0, render_frame(clip, 0).layers)
    assert {name: first[KEYPOINT_NAMES.index(name), 2] for name in places} == {
        name: seen for name, (_, seen) in places.items()
    }
    assert second[:, 2].tolist() == [2] + [0] * 13


def test_half_transparent_edges_mix():
    background = Layer(np.full((40, 40, 4), 255, np.uint8), affine()[None], 0)
    black = np.zeros((10, 10, 4), np.uint8)
    black[..., 3] = 255
    # The square's left edge runs through the middle of column 15.
    square = Layer(black, affine(shift=(15.5, 10))[None], 1, 0)
    clip = Clip(40, 40, (background, square), np.zeros((1, 1, 14, 2)))
    image = render_frame(clip, 0).image
    assert (image[12:18, 18:23] == 0).all() and (image[12:18, :14] == 255).all()
    assert 60 < image[15, 15, 0] < 195


def noiseless(clip):
    return Clip(clip.height, clip.width, clip.layers, clip.keypoints)


def photometric_error(first, second, flow, visible):
    height, width = visible.shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    warped = cv2.remap(second.image.astype(np.float32), grid + flow, None, cv2.INTER_LINEAR)
    return float(np.abs(warped - first.image)[visible].mean())


def still_visible(flow: np.ndarray, layers: np.ndarray, next_layers: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixel's content lies inside the next frame, and the same layer is seen there.

    Args:
        flow: (H, W, 2) flow from this frame to the next.
        layers: (H, W) layer map of this frame.
        next_layers: (H, W) layer map of the next frame.
    """
    height, width = layers.shape
    column = np.round(np.arange(width)[None] + flow[..., 0]).astype(np.int64)
    row = np.round(np.arange(height)[:, None] + flow[..., 1]).astype(np.int64)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    landed = next_layers[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    return inside & (landed == layers)


@pytest.mark.parametrize('index', range(6))
def test_backward_warping_reproduces_the_frame(index):
    clip = noiseless(random_clip(7, index, 4, 96, 128))
    for t in range(3):
        first, second = render_frame(clip, t), render_frame(clip, t + 1)
        flow = exact_flow(clip, t, first.layers)
        visible = still_visible(flow, first.layers, second.layers)
        assert visible.mean() > 0.6
        # Rims mix two layers, so they obey neither flow.
        rim = cv2.morphologyEx(first.layers, cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
        inner = visible & ~rim
        good = photometric_error(first, second, flow, inner)
        assert good < 4.0
        still = photometric_error(first, second, 0 * flow, inner)
        assert good < 0.5 * still or still < 2.0


@pytest.mark.parametrize('index', range(6))
def test_keypoints_move_with_the_flow(index):
    """A joint belongs to both parts that meet there, so whichever is seen, its flow carries the joint."""
    clip = random_clip(3, index, 3, 128, 160)
    checked = 0
    for t in range(2):
        layers = render_frame(clip, t).layers
        flow = exact_flow(clip, t, layers)
        for figure, points in enumerate(visible_keypoints(clip, t, layers)):
            for k, (x, y, seen) in enumerate(points):
                column, row = int(round(x)), int(round(y))
                assert (seen == 0) == (not (0 <= column < 160 and 0 <= row < 128))
                if seen == 2:
                    moved = clip.keypoints[t + 1, figure, k] - clip.keypoints[t, figure, k]
                    # The pixel's centre is up to .7 px from the joint, on a part that turns by < .5 rad.
                    assert np.abs(flow[row, column] - moved).max() < 0.45
                    checked += 1
    assert checked >= 5


def test_left_and_right_are_the_figures_own():
    """In a front view the figure's left shoulder is on the right of the picture."""
    from cmp_mm.datasets.puppets.figure import keypoint_positions, pose_transforms, random_figure

    rng, seen = np.random.default_rng(0), set()
    for _ in range(30):
        figure = random_figure(rng, 60)
        root = affine(scale=60, shift=(50, 50))[None]
        points = keypoint_positions(figure, pose_transforms(figure, root, {}))[0]
        left, right, top, ankle = points[0], points[1], points[12], points[10]
        assert top[1] < left[1] < ankle[1]
        if figure.view != 'side':
            assert (left[0] > right[0]) == (figure.view == 'front')
        seen.add((figure.view, figure.facing))
    assert seen == {('front', 1), ('back', 1), ('side', 1), ('side', -1)}


def test_bones_keep_their_length():
    clip = random_clip(5, 1, 6, 96, 96)
    points = clip.keypoints[:, 0]
    upper, lower = (np.linalg.norm(points[:, a] - points[:, b], axis=1) for a, b in ((0, 2), (2, 4)))
    ratio = upper / lower
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_same_numbers_same_clip():
    first = random_clip(11, 4, 3, 64, 80)
    random_clip(11, 5, 3, 64, 80)
    again, other, reseeded = (random_clip(s, i, 3, 64, 80) for s, i in ((11, 4), (11, 5), (12, 4)))
    picture = render_frame(first, 1).image
    np.testing.assert_array_equal(picture, render_frame(again, 1).image)
    assert (picture != render_frame(other, 1).image).mean() > 0.5
    assert (picture != render_frame(reseeded, 1).image).mean() > 0.5


def test_limbs_move_differently():
    """The set is no use if a whole figure moves as one."""
    spread = []
    for index in range(10):
        clip = random_clip(0, index, 2, 96, 128)
        layers = render_frame(clip, 0).layers
        flow = exact_flow(clip, 0, layers)
        figure = np.array([layer.figure for layer in clip.layers])[layers] >= 0
        spread.append(flow[figure].std(axis=0).sum())
    assert np.median(spread) > 0.5
