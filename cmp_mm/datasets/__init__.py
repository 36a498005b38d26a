"""Data of conditional motion propagation: data set, sampler, transforms; and how pairs are prepared.

What is named here is imported when it is first asked for: the processes that prepare pairs live in this
package too, and start without torch and mmengine.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    'annotations': ['AnnotationError'],
    'bad_samples': ['BadSampleError', 'TooManyBadSamplesError'],
    'collate': ['collate_flow'],
    'files': ['OutsideRootError'],
    'image_flow_dataset': ['ImageFlowDataset'],
    'samplers': ['ResumableSampler'],
    'transforms': [
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
    ],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f'{__name__}.{_HOME_OF[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
