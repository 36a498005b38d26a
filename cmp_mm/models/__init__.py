"""Networks, losses and the flow codec; importing this registers them all."""

from .algorithms import CMP
from .backbones import AlexNetFCN, ResNet
from .data_preprocessor import FlowDataPreprocessor
from .decoders import PlainDecoder
from .flow_codec import QuantizedFlowCodec
from .guidance_encoders import GuidanceEncoder
from .losses import MSEFlowLoss, QuantizedFlowLoss, SmoothL1FlowLoss
from .necks import ConvNeck

__all__ = [
    'AlexNetFCN',
    'CMP',
    'ConvNeck',
    'FlowDataPreprocessor',
    'GuidanceEncoder',
    'MSEFlowLoss',
    'PlainDecoder',
    'QuantizedFlowCodec',
    'QuantizedFlowLoss',
    'ResNet',
    'SmoothL1FlowLoss',
]
