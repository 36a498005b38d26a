"""Flow estimators behind one small interface, by name."""

import inspect
from typing import Any

from .base import FlowEstimator
from .dis import DISFlow
from .precomputed import PrecomputedFlow
from .ptlflow import PTLFlow
from .raft import RAFTFlow

FLOW_ESTIMATORS = {'dis': DISFlow, 'raft': RAFTFlow, 'precomputed': PrecomputedFlow}
PTLFLOW_PREFIX = 'ptlflow:'

__all__ = ['FLOW_ESTIMATORS', 'FlowEstimator', 'build_flow_estimator']


def build_flow_estimator(name: str, **kwargs: Any) -> FlowEstimator:
    """Build a flow estimator.

    Args:
        name: 'dis' (OpenCV, CPU, no weights), 'raft' (torchvision, extra), 'ptlflow:<model>' (extra) or
            'precomputed' (reads files).
        **kwargs: its options: `DISFlow` preset; `RAFTFlow` model, weights, device, num_flow_updates;
            `PTLFlow` weights, device; `PrecomputedFlow` root, fmt, bound.

    Raises:
        ValueError: unknown name or option.
        ImportError: an extra is missing; the message holds the command that installs it.
    """
    if name.startswith(PTLFLOW_PREFIX) and len(name) > len(PTLFLOW_PREFIX):
        cls, kwargs = PTLFlow, {'model': name[len(PTLFLOW_PREFIX) :], **kwargs}
    elif name in FLOW_ESTIMATORS:
        cls = FLOW_ESTIMATORS[name]
    else:
        names = ', '.join([*FLOW_ESTIMATORS, f'{PTLFLOW_PREFIX}<model>'])
        raise ValueError(f'flow estimator {name!r} is unknown; expected one of {names}')
    signature = inspect.signature(cls)
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        raise ValueError(
            f'flow estimator {name!r}: {error}; it takes {", ".join(signature.parameters)}'
        ) from None
    return cls(**kwargs)
