from .figure import KEYPOINT_NAMES, PART_NAMES
from .render import Clip, Frame, Layer, exact_flow, part_mask, render_frame, visible_keypoints
from .scene import random_clip

__all__ = [
    'KEYPOINT_NAMES',
    'PART_NAMES',
    'Clip',
    'Frame',
    'Layer',
    'exact_flow',
    'part_mask',
    'random_clip',
    'render_frame',
    'visible_keypoints',
]
