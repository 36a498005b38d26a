"""Drawing of guided flow as plain functions: arrows, panels and the legend, at one fixed colour scale."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from cmp_mm.flow import color_wheel_legend, flow_to_rgb

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GAP = 4  # white pixels between the pictures of a panel
_SHIFT = 4  # fixed-point digits of OpenCV's drawing functions: 1/16 pixel
# Longer arrows than this tell nothing more, and OpenCV's drawing takes 32-bit coordinates.
_FAR = 1e5
# No picture is enlarged beyond this long side, however short the other one is.
_LARGEST = 2048


def enlarge(image: np.ndarray, zoom: int) -> np.ndarray:
    """Repeat every pixel of an (H, W, 3) picture or (H, W) mask ``zoom`` times each way."""
    return image if zoom == 1 else image.repeat(zoom, axis=0).repeat(zoom, axis=1)


def zoom_for(height: int, width: int, side: int = 320) -> int:
    """The whole factor that brings the short side of a small picture to about ``side``; at least 1.

    Less where the long side would come beyond 2048.
    """
    return max(1, min(round(side / min(height, width)), _LARGEST // max(height, width)))


def draw_arrows(
    image: np.ndarray,
    points: np.ndarray,
    vectors: np.ndarray,
    scale: float = 1.0,
    zoom: int = 1,
    colour: tuple[int, int, int] = (255, 214, 0),
) -> np.ndarray:
    """Draw guidance vectors over a picture: an arrow each, a dot where a vector is shorter than half a pixel.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        points: (P, 2) (row, column); whole numbers are pixel centres.
        vectors: (P, 2) (u, v) in pixels.
        scale: length of an arrow in pixels per pixel of motion.
        zoom: the returned picture is this many times larger than ``image``.
        colour: RGB of the arrows; their outline is black.

    Returns:
        (H * zoom, W * zoom, 3) uint8 RGB.

    Raises:
        ValueError: points and vectors are not both (P, 2).
    """
    points, vectors = np.asarray(points, np.float64), np.asarray(vectors, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or points.shape != vectors.shape:
        raise ValueError(
            f'guidance points have shape {points.shape} and vectors {vectors.shape}; expected (P, 2) for both'
        )
    canvas = np.ascontiguousarray(enlarge(image, zoom)).copy()
    thickness = max(1, round(min(canvas.shape[:2]) / 240))
    start = (points[:, ::-1] + 0.5) * zoom - 0.5
    with np.errstate(invalid='ignore'):
        end = start + np.clip(np.nan_to_num(vectors * (scale * zoom)), -_FAR, _FAR)
    start_fixed, end_fixed = (np.round(p * 2**_SHIFT).astype(np.int64) for p in (start, end))
    moving = np.hypot(vectors[:, 0], vectors[:, 1]) >= 0.5
    for width, rgb in ((thickness + 2, (0, 0, 0)), (thickness, colour)):
        for p, q, moves in zip(start_fixed, end_fixed, moving, strict=True):
            p, q = tuple(int(v) for v in p), tuple(int(v) for v in q)
            # The dot tells where an arrow starts.
            radius = (thickness + 0.5) * 2**_SHIFT + (width - thickness) * 2 ** (_SHIFT - 1)
            cv2.circle(canvas, p, int(radius), rgb, -1, cv2.LINE_AA, _SHIFT)
            if moves:
                length = float(np.hypot(q[0] - p[0], q[1] - p[1])) / 2**_SHIFT
                tip = min(1.0, (3.0 + 2.0 * thickness) / max(length, 1e-6))
                cv2.arrowedLine(canvas, p, q, rgb, width, cv2.LINE_AA, _SHIFT, tip)
    return canvas


def text_strip(text: str, width: int, height: int = 18) -> np.ndarray:
    """A white strip with black text, (height, width, 3) uint8; text that is too long is drawn narrower."""
    strip = np.full((height, width, 3), 255, np.uint8)
    scale = cv2.getFontScaleFromHeight(_FONT, int(height * 0.5))
    length = cv2.getTextSize(text, _FONT, scale, 1)[0][0]
    scale *= min(1.0, (width - 4) / max(length, 1))
    cv2.putText(strip, text, (2, int(height * 0.72)), _FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def put_side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Put pictures next to one another, white between and below them: (max H, sum of W and gaps, 3) uint8."""
    height = max(picture.shape[0] for picture in pictures)
    columns = []
    for picture in pictures:
        column = np.full((height, picture.shape[1] + _GAP, 3), 255, np.uint8)
        column[: picture.shape[0], : picture.shape[1]] = picture
        columns.append(column)
    return np.concatenate(columns, axis=1)[:, :-_GAP]


def put_below(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Put pictures below one another, white between and beside them: (sum of H and gaps, max W, 3) uint8."""
    turned = [picture.transpose(1, 0, 2) for picture in pictures]
    return np.ascontiguousarray(put_side_by_side(turned).transpose(1, 0, 2))


def draw_panel(
    image: np.ndarray,
    points: np.ndarray,
    vectors: np.ndarray,
    flows: Mapping[str, np.ndarray],
    max_radius: float,
    valid: np.ndarray | None = None,
    arrow_scale: float = 1.0,
    zoom: int | None = None,
    legend: bool = True,
) -> np.ndarray:
    """Draw an image with its guidance beside flow fields, all at the same colour scale.

    Args:
        image: (H, W, 3) uint8 RGB.
        points: (P, 2) (row, column) of the guidance.
        vectors: (P, 2) (u, v) of the guidance, pixels.
        flows: title -> (H, W, 2) flow in pixels, or an (H, W, 3) uint8 RGB picture that is shown as it is;
            drawn from left to right.
        max_radius: speed of full saturation in pixels: the same number for all pictures to be compared.
        valid: (H, W) bool, where the first of ``flows`` is known (black elsewhere); None means everywhere.
        arrow_scale: length of an arrow in pixels per pixel of motion.
        zoom: whole factor of enlargement; None enlarges small images.
        legend: whether the colour wheel with the scale is put at the right.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        ValueError: a flow or mask is not of the image's size.
    """
    height, width = image.shape[:2]
    zoom = zoom_for(height, width) if zoom is None else zoom
    count = f'{len(points)} guidance vector{"" if len(points) == 1 else "s"}'
    pictures = [(count, draw_arrows(image, points, vectors, arrow_scale, zoom))]
    if valid is not None and valid.shape != (height, width):
        raise ValueError(f'the valid mask has shape {valid.shape}; expected {(height, width)} as the image')
    for number, (title, flow) in enumerate(flows.items()):
        if flow.shape not in ((height, width, 2), (height, width, 3)):
            raise ValueError(
                f"flow '{title}' has shape {flow.shape}; expected {(height, width, 2)} as the image"
            )
        if flow.shape[2] == 2:
            flow = flow_to_rgb(flow, max_radius, valid if number == 0 else None)
        pictures.append((title, enlarge(flow, zoom)))
    columns = [np.concatenate([text_strip(title, picture.shape[1]), picture]) for title, picture in pictures]
    if legend:
        wheel = color_wheel_legend(96, max_radius)
        columns.append(np.concatenate([text_strip('', wheel.shape[1]), wheel]))
    return put_side_by_side(columns)
