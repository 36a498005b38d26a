"""Cutting a window out of an image and its flow; vectors are kept as they are."""

from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from cmp_mm.registry import TRANSFORMS

from .guidance import refuse_sampled


@TRANSFORMS.register_module()
class FlowRandomCrop(BaseTransform):
    """Cut a window of fixed size at a random place; every place is equally likely.

    An image that is too small is padded first, half on each side. As in the reference, padding is black
    (before normalisation) with zero flow, and that zero flow counts in the loss like any other.

    Args:
        size: (height, width) of the window, or one number for both.
        pad_value: of the image where padded, one number or (B, G, R). (104, 116, 124) is about zero after
            normalisation by ImageNet's mean.
        ignore_padding: mark padding as unknown in ``flow_valid``: no loss and no guidance there.

    Raises:
        ValueError: the size is not one or two positive whole numbers.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        pad_value: int | Sequence[int] = 0,
        ignore_padding: bool = False,
    ) -> None:
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if len(sides) != 2 or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sides):
            raise ValueError(
                f'size of {type(self).__name__} is {size!r}; expected (height, width) in positive pixels'
            )
        self.size = sides
        self.pad_value = (pad_value,) * 3 if isinstance(pad_value, int) else tuple(pad_value)
        self.ignore_padding = ignore_padding

    def place(self, room_down: int, room_right: int) -> tuple[int, int]:
        """Choose (top, left) within the room that is left, both ends included."""
        return np.random.randint(room_down + 1), np.random.randint(room_right + 1)

    def transform(self, results: dict) -> dict:
        refuse_sampled(results, self)
        height, width = results['img'].shape[:2]
        if height < self.size[0] or width < self.size[1]:
            self._pad(results)
            height, width = results['img'].shape[:2]
        top, left = self.place(height - self.size[0], width - self.size[1])
        window = np.s_[top : top + self.size[0], left : left + self.size[1]]
        for key in ('img', 'flow', 'flow_valid'):
            if key in results:
                results[key] = np.ascontiguousarray(results[key][window])
        results['img_shape'] = self.size
        return results

    def _pad(self, results: dict) -> None:
        height, width = results['img'].shape[:2]
        down, right = max(self.size[0] - height, 0), max(self.size[1] - width, 0)
        border = (down // 2, down - down // 2, right // 2, right - right // 2)
        results['img'] = cv2.copyMakeBorder(
            results['img'], *border, cv2.BORDER_CONSTANT, value=self.pad_value
        )
        if 'flow' not in results:
            return
        results['flow'] = cv2.copyMakeBorder(results['flow'], *border, cv2.BORDER_CONSTANT, value=(0, 0))
        if 'flow_valid' in results or self.ignore_padding:
            valid = results.get('flow_valid', np.ones((height, width), dtype=bool))
            results['flow_valid'] = np.pad(
                valid, (border[:2], border[2:]), constant_values=not self.ignore_padding
            )

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(size={self.size}, pad_value={self.pad_value}, '
            f'ignore_padding={self.ignore_padding})'
        )


@TRANSFORMS.register_module()
class FlowCenterCrop(FlowRandomCrop):
    """Cut the window out of the middle, for validation; arguments as of `FlowRandomCrop`."""

    def place(self, room_down: int, room_right: int) -> tuple[int, int]:
        return room_down // 2, room_right // 2
