"""Optical flow as plain functions on arrays.

A flow field is a numpy array (H, W, 2) of float32, [..., 0] = u pixels to the right, [..., 1] = v pixels
down; as a torch tensor it is (N, 2, H, W). `backward_warp` and `forward_splat` work on tensors; torch is
imported when one of them is first asked for, so that workers that only read or estimate flow start fast.
"""

from typing import Any

from .colour import add_legend, color_wheel_legend, flow_to_rgb
from .estimators import FLOW_ESTIMATORS, FlowEstimator, build_flow_estimator
from .files import read_flow, write_flow, write_whole
from .formats import FLOW_FORMATS, FlowFormatError, decode_flow, encode_flow
from .geometry import flip_flow, move_camera, resize_flow, resize_mask, reverse_flow, rotate_flow, scale_flow
from .listing import FlowFile, find_flow_files

_TORCH_NAMES = ('backward_warp', 'forward_splat')

__all__ = [
    'FLOW_ESTIMATORS',
    'FLOW_FORMATS',
    'FlowEstimator',
    'FlowFile',
    'FlowFormatError',
    'add_legend',
    'backward_warp',
    'build_flow_estimator',
    'color_wheel_legend',
    'decode_flow',
    'encode_flow',
    'find_flow_files',
    'flip_flow',
    'flow_to_rgb',
    'forward_splat',
    'move_camera',
    'read_flow',
    'resize_flow',
    'resize_mask',
    'reverse_flow',
    'rotate_flow',
    'scale_flow',
    'write_flow',
    'write_whole',
]


def __getattr__(name: str) -> Any:
    if name in _TORCH_NAMES:
        from . import warp

        return getattr(warp, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
