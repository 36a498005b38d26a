from .annotations import AnnotationError
from .bad_samples import BadSampleError, TooManyBadSamplesError
from .files import OutsideRootError
from .image_flow_dataset import ImageFlowDataset
from .samplers import ResumableSampler
from .transforms import (
    FlowCenterCrop,
    FlowRandomCrop,
    FlowRandomFlip,
    FlowRandomReverse,
    FlowRandomRotate,
    FlowRandomScale,
    FlowResize,
    LoadFlow,
    LoadImage,
    PackFlowInputs,
    SampleGuidance,
)

__all__ = [
    'AnnotationError',
    'BadSampleError',
    'FlowCenterCrop',
    'FlowRandomCrop',
    'FlowRandomFlip',
    'FlowRandomReverse',
    'FlowRandomRotate',
    'FlowRandomScale',
    'FlowResize',
    'ImageFlowDataset',
    'LoadFlow',
    'LoadImage',
    'OutsideRootError',
    'PackFlowInputs',
    'ResumableSampler',
    'SampleGuidance',
    'TooManyBadSamplesError',
]
