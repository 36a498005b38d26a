"""Motion propagation for anyone's images, and what is built on it: guided video and annotation."""

from .annotation import PointAnnotator, PointMask
from .arrows import parse_arrows, trajectories_to_arrows
from .clicks import AnnotationSession, Clicks
from .errors import InputError, InputWarning
from .guided_video import animate
from .images import read_image, to_rgb_array
from .inferencer import CMPInferencer, EncodedImage, flow_to_array
from .loading import find_config
from .pictures import overlay_flow, overlay_mask
from .video_files import write_video

__all__ = [
    'AnnotationSession',
    'CMPInferencer',
    'Clicks',
    'EncodedImage',
    'InputError',
    'InputWarning',
    'PointAnnotator',
    'PointMask',
    'animate',
    'find_config',
    'flow_to_array',
    'overlay_flow',
    'overlay_mask',
    'parse_arrows',
    'read_image',
    'to_rgb_array',
    'trajectories_to_arrows',
    'write_video',
]
