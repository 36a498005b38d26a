"""Guided video generation: an image and a few arrows to frames."""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cmp_mm.flow import backward_warp, forward_splat

from .arrows import parse_arrows, trajectories_to_arrows
from .errors import InputError, check_choice, check_count
from .images import ImageLike, to_rgb_array
from .inferencer import CMPInferencer

HOLE_FILLINGS = ('nearest', 'inpaint', 'none')
MOTIONS = ('straight', 'stepwise')


def animate(
    inferencer: CMPInferencer,
    image: ImageLike,
    arrows: Any = None,
    trajectories: Any = None,
    num_frames: int = 16,
    motion: str = 'straight',
    fill: str = 'nearest',
    color_order: str | None = None,
    value_range: Sequence[float] | None = None,
    correction: str | None = None,
) -> Iterator[np.ndarray]:
    """Move an image along arrows, frame by frame.

    Pixels are splatted forward to the nearest place, slow ones first, so that fast ones cover them; the
    holes behind them are filled plainly, for nothing here knows what was hidden.

    Args:
        inferencer: the network.
        image: see `CMPInferencer.encode`.
        arrows: one set, rows x, y, u, v: the motion from the first frame to the last, in pixels.
        trajectories: instead of arrows: (N, T, 2) positions x, y in each of T frames. Every frame has its
            own guidance set then, and the image is encoded once for all.
        num_frames: frames of an animation by arrows, the unmoved image among them; trajectories tell it
            themselves.
        motion: with arrows, 'straight' predicts one flow, of which frame k moves its share, always from the
            unmoved image. 'stepwise' predicts a flow on every new frame, from where the arrows have arrived,
            and follows it pixel by pixel: things can turn. Its frames too are made of the unmoved image.
        fill: 'nearest' repeats the nearest pixel that is known, 'inpaint' uses OpenCV's (Telea, 2004),
            'none' leaves holes black.
        color_order: see `CMPInferencer.encode`.
        value_range: likewise.
        correction: overrides the inferencer's.

    Yields:
        (H, W, 3) uint8 RGB frames, the image itself first.

    Raises:
        InputError: wrong input, a network without guidance, or an inferencer with normalization 'none', which
            takes no pictures; raised before the first frame. Only vectors beyond the codec, and arrows that
            meet on their way, are found after it where they are an error.
    """
    check_choice('motion', motion, MOTIONS)
    check_choice('fill', fill, HOLE_FILLINGS)
    if (arrows is None) == (trajectories is None):
        raise InputError('expected either arrows or trajectories, one of the two')
    picture = to_rgb_array(image, color_order, value_range)
    if trajectories is not None:
        sets = trajectories_to_arrows(trajectories)
        parse_arrows(sets, picture.shape[:2])
        if len(sets) < 2:
            raise InputError('trajectories have one position each; expected at least 2, one per frame')
        inferencer.check_arrows(picture.shape[:2], sets[1], correction)  # all begin where these do
        return _along_trajectories(inferencer, picture, sets[1:], fill, correction)
    num_frames = check_count('num_frames', num_frames, 2)
    (one, *others) = parse_arrows(arrows, picture.shape[:2])
    if others:
        raise InputError(f'{1 + len(others)} sets of arrows were given; an animation takes one')
    inferencer.check_arrows(picture.shape[:2], one, correction)
    moved = _stepwise if motion == 'stepwise' else _straight
    return moved(inferencer, picture, one, num_frames, fill, correction)


def splat_frame(image: np.ndarray, flow: Tensor, fill: str = 'nearest') -> np.ndarray:
    """One frame: an image moved along a flow, its holes filled.

    Args:
        image: (H, W, 3) uint8.
        flow: (2, H, W) pixels.
        fill: see :func:`animate`.

    Returns:
        (H, W, 3) uint8.
    """
    planes = torch.from_numpy(image).to(flow.device).permute(2, 0, 1)[None]
    moved, hole = forward_splat(planes, flow[None])
    frame = moved[0].permute(1, 2, 0).cpu().numpy()
    return fill_holes(frame, hole[0].cpu().numpy(), fill)


def fill_holes(image: np.ndarray, hole: np.ndarray, fill: str = 'nearest') -> np.ndarray:
    """Fill holes of a picture from what surrounds them.

    Args:
        image: (H, W, 3) uint8.
        hole: (H, W) bool.
        fill: 'nearest', 'inpaint' or 'none', see :func:`animate`.

    Returns:
        (H, W, 3) uint8; black where there is nothing but hole.
    """
    check_choice('fill', fill, HOLE_FILLINGS)
    if fill == 'none' or not hole.any() or hole.all():
        return image
    if fill == 'inpaint':
        return cv2.inpaint(np.ascontiguousarray(image), hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    row, column = ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True)
    return image[row, column]


def _straight(
    inferencer: CMPInferencer,
    picture: np.ndarray,
    arrows: Tensor,
    num_frames: int,
    fill: str,
    correction: str | None,
) -> Iterator[np.ndarray]:
    yield picture.copy()  # a frame is the caller's, to draw on
    flow = inferencer.propagate(picture, arrows, color_order='rgb', correction=correction)[0]
    for k in range(1, num_frames):
        yield splat_frame(picture, flow * (k / (num_frames - 1)), fill)


def _along_trajectories(
    inferencer: CMPInferencer, picture: np.ndarray, sets: list[Tensor], fill: str, correction: str | None
) -> Iterator[np.ndarray]:
    yield picture.copy()
    encoded = inferencer.encode(picture, color_order='rgb')
    for one in sets:
        yield splat_frame(picture, inferencer.propagate(encoded, one, correction=correction)[0], fill)


def _stepwise(
    inferencer: CMPInferencer,
    picture: np.ndarray,
    arrows: Tensor,
    num_frames: int,
    fill: str,
    correction: str | None,
) -> Iterator[np.ndarray]:
    yield picture.copy()
    height, width = picture.shape[:2]
    arrows = arrows.clone()
    arrows[:, 2:] /= num_frames - 1
    # How far each pixel of the unmoved image has come: moving the frame itself from step to step would
    # round to whole pixels each time, and steps below half a pixel would never get anywhere.
    total, frame = None, picture
    for _ in range(1, num_frames):
        x, y = arrows[:, 0].round(), arrows[:, 1].round()
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        # What has left the picture pulls no more; once all has, the rest is still.
        if inside.any():
            flow = inferencer.propagate(frame, arrows[inside], color_order='rgb', correction=correction)
            total = flow if total is None else total + backward_warp(flow, total)[0]
            frame = splat_frame(picture, total[0], fill)
        arrows[:, :2] += arrows[:, 2:]
        yield frame.copy()
