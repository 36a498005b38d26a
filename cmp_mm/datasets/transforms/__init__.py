from .augment import FlowRandomCamera, FlowRandomFlip, FlowRandomReverse, FlowRandomRotate, FlowRandomScale
from .crop import FlowCenterCrop, FlowRandomCrop
from .guidance import SampleGuidance
from .loading import LoadFlow, LoadImage
from .packing import PackFlowInputs
from .resize import FlowResize

__all__ = [
    'FlowCenterCrop',
    'FlowRandomCamera',
    'FlowRandomCrop',
    'FlowRandomFlip',
    'FlowRandomReverse',
    'FlowRandomRotate',
    'FlowRandomScale',
    'FlowResize',
    'LoadFlow',
    'LoadImage',
    'PackFlowInputs',
    'SampleGuidance',
]
