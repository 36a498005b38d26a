"""Rendering of layered clips: pictures, layer maps and the exact flow between frames."""

from dataclasses import dataclass

import cv2
import numpy as np

from .figure import KEYPOINTS, PART_NAMES

# Pictures are drawn at this many pixels per pixel, each way, and averaged down: anti-aliasing.
SUPERSAMPLE = 2


@dataclass(frozen=True)
class Layer:
    """One rigid thing in a clip.

    Attributes:
        rgba: (h, w, 4) uint8 picture, RGB multiplied by the coverage in the last channel.
        matrices: (T, 3, 3) float64 affine map from its pixels (x, y) to image pixels in each frame.
        part: index into ``PART_NAMES``.
        figure: index of the figure it belongs to, -1 for none.
    """

    rgba: np.ndarray
    matrices: np.ndarray
    part: int
    figure: int = -1


@dataclass(frozen=True)
class Frame:
    """A rendered frame.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        layers: (H, W) int16, index of the layer seen at each pixel; 0 is the background.
    """

    image: np.ndarray
    layers: np.ndarray


@dataclass(frozen=True)
class Clip:
    """A scene over T frames, ready to be rendered.

    Attributes:
        height: rows of the image.
        width: columns of the image.
        layers: from the back to the front. The first is the background: it fills the frame and is
            continued by reflection beyond its own edges.
        keypoints: (T, F, 14, 2) image positions (x, y) of every figure's ``KEYPOINT_NAMES``.
        noise: standard deviation of the pictures' noise in grey levels.
        noise_seed: seeds that noise.
    """

    height: int
    width: int
    layers: tuple[Layer, ...]
    keypoints: np.ndarray
    noise: float = 0.0
    noise_seed: int = 0

    def __len__(self) -> int:
        return len(self.layers[0].matrices)


def _extent(
    matrix: np.ndarray, sprite: np.ndarray, height: int, width: int
) -> tuple[int, int, int, int] | None:
    """Rows and columns [top, bottom), [left, right) of the frame a sprite can touch; None if outside."""
    h, w = sprite.shape[:2]
    corners = matrix @ np.array([[-1, w, w, -1], [-1, -1, h, h], [1, 1, 1, 1]], np.float64)
    left, top = np.floor(corners[:2].min(axis=1)).astype(int)
    right, bottom = np.ceil(corners[:2].max(axis=1)).astype(int) + 1
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    return (top, bottom, left, right) if top < bottom and left < right else None


def _warp(picture: np.ndarray, matrix: np.ndarray, box: tuple[int, int, int, int], border: int) -> np.ndarray:
    top, bottom, left, right = box
    shifted = matrix[:2].copy()
    shifted[:, 2] -= (left, top)
    return cv2.warpAffine(
        picture, shifted, (right - left, bottom - top), flags=cv2.INTER_LINEAR, borderMode=border
    )


def render_frame(clip: Clip, index: int) -> Frame:
    """Render one frame.

    Args:
        clip: the clip.
        index: frame number, from 0.

    Returns:
        Its picture and layer map. A layer is seen at a pixel of which it covers half or more.
    """
    height, width = clip.height, clip.width
    fine_h, fine_w = height * SUPERSAMPLE, width * SUPERSAMPLE
    # Pixel centres have whole coordinates in both, so a pixel's centre lies between fine pixels.
    shift = 0.5 * (SUPERSAMPLE - 1)
    to_fine = np.array([[SUPERSAMPLE, 0, shift], [0, SUPERSAMPLE, shift], [0, 0, 1]], np.float64)
    background = clip.layers[0]
    whole = (0, fine_h, 0, fine_w)
    fine = _warp(background.rgba, to_fine @ background.matrices[index], whole, cv2.BORDER_REFLECT_101)
    fine = cv2.cvtColor(fine, cv2.COLOR_RGBA2RGB)
    seen = np.zeros((height, width), np.int16)
    for number, layer in enumerate(clip.layers[1:], start=1):
        matrix = layer.matrices[index]
        box = _extent(matrix, layer.rgba, height, width)
        if box is None:
            continue
        top, bottom, left, right = box
        top_f, bottom_f, left_f, right_f = fine_box = tuple(SUPERSAMPLE * v for v in box)
        sprite = _warp(layer.rgba, to_fine @ matrix, fine_box, cv2.BORDER_CONSTANT)
        alpha = cv2.extractChannel(sprite, 3)
        coverage = cv2.resize(alpha, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
        seen[top:bottom, left:right][coverage >= 128] = number
        # Over: sprite + (1 - alpha) * what is behind, in OpenCV's saturating bytes for speed.
        target = fine[top_f:bottom_f, left_f:right_f]
        behind = cv2.multiply(target, cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2RGB), scale=1 / 255)
        target[:] = cv2.add(behind, cv2.cvtColor(sprite, cv2.COLOR_RGBA2RGB))
    image = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    if clip.noise > 0:
        rng = np.random.default_rng([clip.noise_seed, index])
        noisy = image + np.float32(clip.noise) * rng.standard_normal(image.shape, np.float32)
        image = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    return Frame(image, seen)


def exact_flow(clip: Clip, index: int, layers: np.ndarray) -> np.ndarray:
    """Where each pixel's content is one frame later, from the layers' transforms alone.

    Args:
        clip: the clip.
        index: frame number; the frame after it must exist.
        layers: (H, W) layer map of that frame.

    Returns:
        (H, W, 2) float32, u to the right and v down, pixels. Holds for pixels that get hidden, too.
    """
    steps = np.stack(
        [layer.matrices[index + 1] @ np.linalg.inv(layer.matrices[index]) for layer in clip.layers]
    )
    linear = (steps[:, :2] - np.eye(3)[None, :2]).astype(np.float32)[layers]
    column = np.arange(clip.width, dtype=np.float32)[None, :, None]
    row = np.arange(clip.height, dtype=np.float32)[:, None, None]
    return linear[..., 0] * column + linear[..., 1] * row + linear[..., 2]


def part_mask(clip: Clip, layers: np.ndarray) -> np.ndarray:
    """(H, W) uint8 indices into ``PART_NAMES`` for a layer map."""
    return np.array([layer.part for layer in clip.layers], np.uint8)[layers]


def visible_keypoints(clip: Clip, index: int, layers: np.ndarray) -> np.ndarray:
    """Key-points of one frame with COCO's visibility.

    Args:
        clip: the clip.
        index: frame number.
        layers: (H, W) layer map of that frame.

    Returns:
        (F, 14, 3) float64: x, y in pixels, and 2 = seen, 1 = hidden by something, 0 = outside the picture.
    """
    points = clip.keypoints[index]
    result = np.concatenate([points, np.zeros((*points.shape[:2], 1))], axis=2)
    for figure in range(points.shape[0]):
        for k, (_, bone, _, other) in enumerate(KEYPOINTS):
            column, row = np.round(points[figure, k]).astype(int)
            if 0 <= column < clip.width and 0 <= row < clip.height:
                layer = clip.layers[layers[row, column]]
                seen = layer.figure == figure and PART_NAMES[layer.part] in (bone, other)
                result[figure, k, 2] = 2 if seen else 1
    return result


def figure_boxes(clip: Clip, layers: np.ndarray) -> list[list[int] | None]:
    """The box (left, top, right, bottom; right and bottom excluded) of what is seen of each figure.

    None for a figure of which nothing is seen.
    """
    owner = np.array([layer.figure for layer in clip.layers])[layers]
    boxes: list[list[int] | None] = []
    for figure in range(clip.keypoints.shape[1]):
        rows, columns = np.nonzero(owner == figure)
        boxes.append(
            [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
            if len(rows)
            else None
        )
    return boxes
