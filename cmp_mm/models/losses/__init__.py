from .base import FlowLoss
from .quantized_flow_loss import QuantizedFlowLoss
from .raw_flow_loss import MSEFlowLoss, SmoothL1FlowLoss

__all__ = ['FlowLoss', 'MSEFlowLoss', 'QuantizedFlowLoss', 'SmoothL1FlowLoss']
