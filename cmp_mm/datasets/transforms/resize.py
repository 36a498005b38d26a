"""Resizing an image together with its flow."""

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from cmp_mm.datasets.bad_samples import BadSampleError
from cmp_mm.flow import resize_flow, resize_mask
from cmp_mm.flow.formats import MAX_PIXELS
from cmp_mm.registry import TRANSFORMS

from .guidance import refuse_sampled

INTERPOLATIONS = {'bicubic': cv2.INTER_CUBIC, 'bilinear': cv2.INTER_LINEAR, 'area': cv2.INTER_AREA}
# Below this ratio OpenCV's bicubic, which does not smooth first, is farther from Pillow's bicubic (what the
# reference used) than the mean over the covered area is.
AREA_BELOW = 0.8


@TRANSFORMS.register_module()
class FlowResize(BaseTransform):
    """Resize image and flow, keeping the aspect ratio; flow is in pixels of the new size afterwards.

    The other side is ``int(new / old * other)`` pixels, as in the reference. Each component of the flow is
    multiplied by the ratio of its own axis (the reference uses one ratio; the two differ by rounding only).
    Flow is interpolated bilinearly; where there is ``flow_valid``, flow and mask both by nearest pixel, so
    that unknown vectors do not leak into known ones.

    Args:
        short_side: new length of the shorter side in pixels (416 in the paper's settings); or
        long_side: of the longer side. Exactly one of the two.
        interpolation: of the image: 'bicubic', 'bilinear', 'area', or 'auto': bicubic, but area when
            shrinking below .8.

    Raises:
        ValueError: not exactly one positive side, or an unknown interpolation.
        BadSampleError: the result would have more pixels than are read, as of an image one pixel wide.
    """

    def __init__(
        self, short_side: int | None = None, long_side: int | None = None, interpolation: str = 'auto'
    ) -> None:
        if (short_side is None) == (long_side is None):
            raise ValueError(
                f'FlowResize got short_side={short_side} and long_side={long_side}; expected one of the two'
            )
        side = long_side if short_side is None else short_side
        if isinstance(side, bool) or not isinstance(side, int) or side < 1:
            raise ValueError(f'side of FlowResize is {side!r}; expected a positive number of pixels')
        if interpolation != 'auto' and interpolation not in INTERPOLATIONS:
            raise ValueError(
                f'interpolation of FlowResize is {interpolation!r}; expected one of auto, '
                f'{", ".join(INTERPOLATIONS)}'
            )
        self.short_side = short_side
        self.long_side = long_side
        self.interpolation = interpolation

    def new_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that an image is resized to."""
        if self.short_side is not None:
            side, by_width = self.short_side, width < height
        else:
            side, by_width = self.long_side, width >= height
        # One ratio, then a product, then a cut: another order of operations can differ by one pixel.
        if by_width:
            return max(1, int(side / width * height)), side
        return side, max(1, int(side / height * width))

    def transform(self, results: dict) -> dict:
        refuse_sampled(results, self)
        old, new = results['img'].shape[:2], self.new_size(*results['img'].shape[:2])
        if new == old:
            return results
        if new[0] * new[1] > MAX_PIXELS:
            raise BadSampleError(
                f'image {results.get("img_path")} of {old[1]} x {old[0]} pixels would be resized to '
                f'{new[1]} x {new[0]}; at most {MAX_PIXELS} pixels are made'
            )
        results['img'] = cv2.resize(results['img'], new[::-1], interpolation=self._pick(old, new))
        if 'flow' in results:
            masked = 'flow_valid' in results
            results['flow'] = resize_flow(results['flow'], new, nearest=masked).astype(np.float32, copy=False)
            if masked:
                results['flow_valid'] = resize_mask(results['flow_valid'], new)
        results['img_shape'] = new
        return results

    def _pick(self, old: tuple[int, int], new: tuple[int, int]) -> int:
        if self.interpolation != 'auto':
            return INTERPOLATIONS[self.interpolation]
        shrinks = min(new[0] / old[0], new[1] / old[1]) < AREA_BELOW
        return cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC

    def __repr__(self) -> str:
        return (
            f'FlowResize(short_side={self.short_side}, long_side={self.long_side}, '
            f'interpolation={self.interpolation!r})'
        )
