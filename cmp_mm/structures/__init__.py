from .flow_batch import FlowBatch
from .flow_data_sample import FlowDataSample

__all__ = ['FlowBatch', 'FlowDataSample']
