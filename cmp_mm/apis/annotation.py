"""Point to mask: what moves along with a few points is taken for one object."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from .arrows import to_working_size
from .errors import InputError, check_choice
from .images import ImageLike, to_rgb_array
from .inferencer import CMPInferencer, EncodedImage

# Right, down, left, up.
DIRECTIONS = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))


@dataclass(frozen=True)
class PointMask:
    """A mask and what it was made from.

    Attributes:
        mask: (H, W) bool.
        score: (H, W) float32 in 0..1; the mask is where it exceeds the threshold. 0 outside the box.
        flows: (4, h, w, 2) float32, the flow for each of `DIRECTIONS`, in pixels of the working size; of the
            box only.
        box: (top, left, bottom, right) that was looked at; the whole image unless zoomed.
    """

    mask: np.ndarray
    score: np.ndarray
    flows: np.ndarray
    box: tuple[int, int, int, int]


class PointAnnotator:
    """Masks of one image from positive points, which are pulled, and static points, which are held.

    Args:
        inferencer: the network; its ``correction`` is not used.
        image: see `CMPInferencer.encode`; it is encoded once.
        velocity: pixels of the working size that the positive points are pulled by, in each of four
            directions.
        threshold: share of the strongest response above which a pixel belongs to the object.
        method: 'reference': mean of |flow| over the four flows and both channels, divided by its maximum.
            'aligned': mean of the flow along the pull, divided by its mean at the positive points; then only
            the connected parts that hold a positive point.
        zoom_factor: with several positive points, look at a square of this many times their extent around
            their centre, enlarged to ``crop_size``, where that is smaller than the image; 0 never zooms.
        crop_size: side in pixels of the enlarged square; best the one the network was trained with.
        color_order: see `CMPInferencer.encode`.
        value_range: likewise.
        encoded: the image as ``inferencer`` has encoded it already; None encodes it.

    Raises:
        InputError: an option or the image cannot be used, the inferencer takes no pictures (normalization
            'none'), or ``encoded`` is of another size than the image.
    """

    def __init__(
        self,
        inferencer: CMPInferencer,
        image: ImageLike,
        velocity: float = 10.0,
        threshold: float = 0.5,
        method: str = 'reference',
        zoom_factor: float = 0.0,
        crop_size: int = 384,
        color_order: str | None = None,
        value_range: Sequence[float] | None = None,
        encoded: EncodedImage | None = None,
    ) -> None:
        check_choice('method', method, tuple(SCORES))
        for name, value, fits, expected in (
            ('velocity', velocity, 0 < velocity < float('inf'), 'pixels above 0'),
            ('threshold', threshold, 0 <= threshold < 1, 'a share from 0 to below 1'),
            (
                'zoom_factor',
                zoom_factor,
                zoom_factor == 0 or 1 <= zoom_factor < float('inf'),
                '0 or at least 1',
            ),
            ('crop_size', crop_size, crop_size >= 1, 'pixels, at least 1'),
        ):
            if not fits:
                raise InputError(f'{name} is {value}; expected {expected}')
        self.inferencer = inferencer
        self.image = to_rgb_array(image, color_order, value_range)
        self.velocity, self.threshold, self.method = velocity, threshold, method
        self.zoom_factor, self.crop_size = zoom_factor, crop_size
        if encoded is None:
            inferencer.check_takes_pictures()
            encoded = inferencer.encode(self.image, color_order='rgb')
        if encoded.size != self.image.shape[:2]:
            raise InputError(
                f'the encoded image has {encoded.size[1]} x {encoded.size[0]} pixels, the image '
                f'{self.image.shape[1]} x {self.image.shape[0]}; expected one image'
            )
        self._encoded = encoded

    def mask(self, positive: Any, static: Any = ()) -> PointMask:
        """Segment what moves along with the positive points.

        Args:
            positive: (P, 2) x, y in pixels, on the object; at least one.
            static: (S, 2) x, y, beside it.

        Returns:
            The mask at the image's size.

        Raises:
            InputError: no positive point, or a point that is not finite or outside the image.
        """
        size = self.image.shape[:2]
        positive = _check_points(positive, 'positive', size)
        static = _check_points(static, 'static', size)
        if len(positive) == 0:
            raise InputError('no positive points were given; expected at least one, on the object')
        box = self._box(positive)
        top, left, bottom, right = box
        if box == (0, 0, *size):
            encoded: EncodedImage = self._encoded
            held = static
        else:
            encoded = self._encode_crop(box)
            inside = (static >= (left, top)).all(1) & (static < (right, bottom)).all(1)
            held = static[inside] - (left, top)
        flows = self._pull(encoded, positive - (left, top), held)
        places = torch.from_numpy(positive - (left, top)).round().long().to(flows.device)
        response = SCORES[self.method](flows, places).clamp(0, 1).cpu().numpy()
        score = np.zeros(size, np.float32)
        score[top:bottom, left:right] = response
        mask = score > self.threshold
        if self.method == 'aligned':
            mask = _connected(mask, positive)
        return PointMask(mask, score, flows.movedim(1, -1).cpu().numpy(), box)

    def _pull(self, encoded: EncodedImage, positive: np.ndarray, static: np.ndarray) -> Tensor:
        """(4, 2, h, w) flows; one encoding serves them all."""
        # The dummy velocity is one of the working size; the API takes vectors in pixels of the image.
        ratio = np.array(encoded.size[::-1]) / np.array(encoded.working_size[::-1])
        places = np.vstack([static, positive])
        rows = np.hstack([places, np.zeros_like(places)]).astype(np.float32)
        # Where points meet in a pixel of the network's, the last counts, positive after static: whatever the
        # inferencer does of arrows that meet.
        at = to_working_size(torch.from_numpy(rows), encoded.size, encoded.working_size)[:, :2].numpy()
        kept = np.sort(len(at) - 1 - np.unique(at[::-1], axis=0, return_index=True)[1])
        sets = []
        for direction in DIRECTIONS:
            rows[len(static) :, 2:] = np.array(direction) * self.velocity * ratio
            sets.append(rows[kept])
        # Without a correction, which pulls along by distance what the network does not.
        flows = self.inferencer.propagate(encoded, sets, batch_size=len(sets), correction='none')
        return flows / flows.new_tensor(ratio)[:, None, None]

    def _box(self, positive: np.ndarray) -> tuple[int, int, int, int]:
        height, width = self.image.shape[:2]
        low, high = positive.min(axis=0), positive.max(axis=0)
        extent = float((high - low).max())
        # Large enough to hold the points, and something to see when they are neighbours.
        side = max(round(extent * self.zoom_factor), round(extent) + 3, 16)
        if len(positive) < 2 or self.zoom_factor == 0 or side >= max(height, width):
            return 0, 0, height, width
        x, y = (low + high) / 2
        rows, columns = min(side, height), min(side, width)
        # Shifted rather than cut where it would leave the image.
        top = int(np.clip(round(y - rows / 2), 0, height - rows))
        left = int(np.clip(round(x - columns / 2), 0, width - columns))
        return top, left, top + rows, left + columns

    def _encode_crop(self, box: tuple[int, int, int, int]) -> EncodedImage:
        top, left, bottom, right = box
        crop = self.image[top:bottom, left:right]
        ratio = self.crop_size / max(crop.shape[:2])
        working = tuple(max(1, round(side * ratio)) for side in crop.shape[:2])
        return self.inferencer.encode(crop, color_order='rgb', working_size=working)


def _reference_score(flows: Tensor, positive: Tensor) -> Tensor:
    response = flows.abs().mean(dim=(0, 1))
    # A network that moves nothing must not have its noise blown up to a mask.
    return response / response.max().clamp(min=1e-3)


def _aligned_score(flows: Tensor, positive: Tensor) -> Tensor:
    directions = flows.new_tensor(DIRECTIONS)[:, :, None, None]
    along = (flows * directions).sum(dim=1).mean(dim=0).clamp(min=0)
    # A point's response is that around it: single pixels of an upsampled flow say little.
    around = F.avg_pool2d(along[None, None], 5, 1, 2, count_include_pad=False)[0, 0]
    return along / around[positive[:, 1], positive[:, 0]].mean().clamp(min=1e-3)


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'reference': _reference_score,
    'aligned': _aligned_score,
}


def _connected(mask: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The parts of a mask that hold a positive point."""
    parts, _ = ndimage.label(mask)
    x, y = positive.round().astype(int).T
    kept = np.unique(parts[y, x])
    return np.isin(parts, kept[kept > 0])


def _check_points(points: Any, name: str, size: tuple[int, int]) -> np.ndarray:
    try:
        array = np.asarray(points, dtype=np.float64) if len(points) else np.zeros((0, 2))
        if array.ndim != 2 or array.shape[1] != 2:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise InputError(f'{name} points are something else than rows of 2 numbers, x and y') from None
    for number, (x, y) in enumerate(array):
        # Written so that NaN, which compares False, is refused.
        if not (0 <= np.round(x) < size[1] and 0 <= np.round(y) < size[0]):
            raise InputError(
                f'{name} point {number} is at x {x:g}, y {y:g}; expected finite numbers inside the image of '
                f'{size[1]} x {size[0]} pixels (width x height)'
            )
    # Whole pixels, as the network takes them: a square cut out of the image then holds them or does not.
    return array.round()
