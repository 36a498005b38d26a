"""Random changes of the motion. The paper's experiments use none of them."""

from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from cmp_mm.flow import flip_flow, move_camera, reverse_flow, rotate_flow, scale_flow
from cmp_mm.registry import TRANSFORMS

from .guidance import refuse_sampled

FLIPS = {'horizontal': 1, 'vertical': 0}


def _check_prob(prob: float, name: str) -> float:
    if isinstance(prob, bool) or not isinstance(prob, (int, float)) or not 0 <= prob <= 1:
        raise ValueError(f'prob of {name} is {prob!r}; expected a number in [0, 1]')
    return float(prob)


def _check_range(limits: Sequence[float], name: str) -> tuple[float, float]:
    if len(limits) != 2 or not np.isfinite(limits).all() or limits[0] > limits[1]:
        raise ValueError(f'range of {name} is {limits!r}; expected (low, high) with low <= high')
    return float(limits[0]), float(limits[1])


@TRANSFORMS.register_module()
class FlowRandomFlip(BaseTransform):
    """Mirror image, flow and mask; the flow's component along the mirrored axis changes sign.

    Args:
        prob: of a flip, in [0, 1].
        direction: 'horizontal' (left and right change places) or 'vertical'.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, prob: float = 0.5, direction: str = 'horizontal') -> None:
        if direction not in FLIPS:
            raise ValueError(f'direction of FlowRandomFlip is {direction!r}; expected {" or ".join(FLIPS)}')
        self.prob = _check_prob(prob, 'FlowRandomFlip')
        self.direction = direction

    def transform(self, results: dict) -> dict:
        refuse_sampled(results, self)
        if np.random.random() >= self.prob:
            return results
        results['img'] = cv2.flip(results['img'], FLIPS[self.direction])
        if 'flow' in results:
            results['flow'] = flip_flow(results['flow'], self.direction)
        if 'flow_valid' in results:
            axis = 1 if self.direction == 'horizontal' else 0
            results['flow_valid'] = np.flip(results['flow_valid'], axis).copy()
        return results

    def __repr__(self) -> str:
        return f'FlowRandomFlip(prob={self.prob}, direction={self.direction!r})'


@TRANSFORMS.register_module()
class FlowRandomReverse(BaseTransform):
    """Negate all vectors where they stand: everything moves the other way. The image stays.

    Args:
        prob: of a reversal, in [0, 1].
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = _check_prob(prob, 'FlowRandomReverse')

    def transform(self, results: dict) -> dict:
        refuse_sampled(results, self)
        if np.random.random() < self.prob:
            results['flow'] = reverse_flow(results['flow'])
        return results

    def __repr__(self) -> str:
        return f'FlowRandomReverse(prob={self.prob})'


@TRANSFORMS.register_module()
class FlowRandomScale(BaseTransform):
    """Multiply all vectors by one random factor: everything moves faster or slower. The image stays.

    Args:
        range: (low, high) of the factor, drawn uniformly.
        prob: of a change, in [0, 1].

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, range: Sequence[float] = (0.5, 2.0), prob: float = 1.0) -> None:
        self.range = _check_range(range, 'FlowRandomScale')
        self.prob = _check_prob(prob, 'FlowRandomScale')

    def transform(self, results: dict) -> dict:
        refuse_sampled(results, self)
        if np.random.random() < self.prob:
            results['flow'] = scale_flow(results['flow'], np.random.uniform(*self.range))
        return results

    def __repr__(self) -> str:
        return f'FlowRandomScale(range={self.range}, prob={self.prob})'


@TRANSFORMS.register_module()
class FlowRandomRotate(BaseTransform):
    """Turn all vectors by one random angle where they stand: everything moves in another direction.

    The image stays, as in the reference. Unlike there, all quadrants are right and zero flow stays zero.

    Args:
        range: (low, high) of the angle in degrees, drawn uniformly; positive turns right into down.
        prob: of a change, in [0, 1].

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, range: Sequence[float] = (0.0, 360.0), prob: float = 0.5) -> None:
        self.range = _check_range(range, 'FlowRandomRotate')
        self.prob = _check_prob(prob, 'FlowRandomRotate')

    def transform(self, results: dict) -> dict:
        refuse_sampled(results, self)
        if np.random.random() < self.prob:
            results['flow'] = rotate_flow(results['flow'], np.random.uniform(*self.range))
        return results

    def __repr__(self) -> str:
        return f'FlowRandomRotate(range={self.range}, prob={self.prob})'


@TRANSFORMS.register_module()
class FlowRandomCamera(BaseTransform):
    """Have the camera move on between the frames of a pair: a pan, a zoom and a roll, drawn. The image stays.

    It is the first frame, which is the same whatever the camera does next, as if the scene were far away:
    so videos of standing cameras teach what an arrow on the background means.

    Args:
        pan: standard deviation of each component, as a share of the field's shorter side.
        zoom: standard deviation, as a share by which everything moves away from the centre.
        roll: standard deviation in degrees.
        prob: of a change, in [0, 1].

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, pan: float = 0.03, zoom: float = 0.02, roll: float = 1.0, prob: float = 0.5) -> None:
        for name, value in (('pan', pan), ('zoom', zoom), ('roll', roll)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < np.inf:
                raise ValueError(f'{name} of FlowRandomCamera is {value!r}; expected a number of at least 0')
        self.pan, self.zoom, self.roll = float(pan), float(zoom), float(roll)
        self.prob = _check_prob(prob, 'FlowRandomCamera')

    def transform(self, results: dict) -> dict:
        refuse_sampled(results, self)
        if np.random.random() < self.prob:
            draws = np.random.standard_normal(4)
            pan = tuple(draws[:2] * self.pan * min(results['flow'].shape[:2]))
            results['flow'] = move_camera(results['flow'], pan, draws[2] * self.zoom, draws[3] * self.roll)
        return results

    def __repr__(self) -> str:
        return f'FlowRandomCamera(pan={self.pan}, zoom={self.zoom}, roll={self.roll}, prob={self.prob})'
