"""Networks, losses and the flow codec; importing this registers them all."""

from .algorithms import CMP
from .backbones import AlexNetFCN, ResNet
from .data_preprocessor import FlowDataPreprocessor
from .decoders import FlowNetDecoder, PlainDecoder, SkipDecoder
from .flow_codec import QuantizedFlowCodec
from .guidance_encoders import GuidanceEncoder
from .init import ReferenceInit
from .losses import MSEFlowLoss, QuantizedFlowLoss, SmoothL1FlowLoss
from .necks import ConvNeck

__all__ = [
    'AlexNetFCN',
    'CMP',
    'ConvNeck',
    'FlowDataPreprocessor',
    'FlowNetDecoder',
    'GuidanceEncoder',
    'MSEFlowLoss',
    'PlainDecoder',
    'QuantizedFlowCodec',
    'QuantizedFlowLoss',
    'ReferenceInit',
    'ResNet',
    'SkipDecoder',
    'SmoothL1FlowLoss',
]
