"""Optical flow as plain functions on arrays.

A flow field is a numpy array (H, W, 2) of float32, [..., 0] = u pixels to the right, [..., 1] = v pixels
down; as a torch tensor it is (N, 2, H, W).
"""

from .files import read_flow, write_flow, write_whole
from .formats import FLOW_FORMATS, FlowFormatError, decode_flow, encode_flow

__all__ = [
    'FLOW_FORMATS',
    'FlowFormatError',
    'decode_flow',
    'encode_flow',
    'read_flow',
    'write_flow',
    'write_whole',
]
