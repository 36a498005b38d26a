from .flow_errors import ERROR_NAMES, flow_error_sums
from .flow_metric import FlowMetric
from .interpolation import INTERPOLATIONS, correct_at_points, interpolate_guidance

__all__ = [
    'ERROR_NAMES',
    'INTERPOLATIONS',
    'FlowMetric',
    'correct_at_points',
    'flow_error_sums',
    'interpolate_guidance',
]
