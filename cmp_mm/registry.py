"""Registries of cmp_mm: one child per mmengine registry it uses, all in scope ``cmp_mm``.

``locations`` lists the modules to import when a name is looked up, so that ``type='cmp_mm.CMP'`` is
found from any other scope (mmsegmentation, mmpose, ...) with no ``custom_imports`` in the config.
"""

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import (
    EVALUATOR,
    INFERENCERS,
    LOG_PROCESSORS,
    MODEL_WRAPPERS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    RUNNERS,
    VISBACKENDS,
    Registry,
)
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISUALIZERS as MMENGINE_VISUALIZERS
from mmengine.registry import WEIGHT_INITIALIZERS as MMENGINE_WEIGHT_INITIALIZERS

DATASETS = Registry(
    'dataset', parent=MMENGINE_DATASETS, scope='cmp_mm', locations=['cmp_mm.datasets.image_flow_dataset']
)
TRANSFORMS = Registry(
    'transform', parent=MMENGINE_TRANSFORMS, scope='cmp_mm', locations=['cmp_mm.datasets.transforms']
)
DATA_SAMPLERS = Registry(
    'data sampler', parent=MMENGINE_DATA_SAMPLERS, scope='cmp_mm', locations=['cmp_mm.datasets.samplers']
)
FUNCTIONS = Registry(
    'function', parent=MMENGINE_FUNCTIONS, scope='cmp_mm', locations=['cmp_mm.datasets.collate']
)
MODELS = Registry('model', parent=MMENGINE_MODELS, scope='cmp_mm', locations=['cmp_mm.models'])
# Codecs: one object, built once and shared by the loss, the prediction and the metric.
TASK_UTILS = Registry(
    'task util', parent=MMENGINE_TASK_UTILS, scope='cmp_mm', locations=['cmp_mm.models.flow_codec']
)
METRICS = Registry('metric', parent=MMENGINE_METRICS, scope='cmp_mm', locations=['cmp_mm.evaluation'])
VISUALIZERS = Registry(
    'visualizer', parent=MMENGINE_VISUALIZERS, scope='cmp_mm', locations=['cmp_mm.visualization']
)
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='cmp_mm', locations=['cmp_mm.engine'])
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, scope='cmp_mm', locations=['cmp_mm.engine'])
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper', parent=MMENGINE_OPTIM_WRAPPERS, scope='cmp_mm', locations=['cmp_mm.engine']
)
# What ``init_cfg`` of a pretraining or a downstream config names.
WEIGHT_INITIALIZERS = Registry(
    'weight initializer',
    parent=MMENGINE_WEIGHT_INITIALIZERS,
    scope='cmp_mm',
    locations=['cmp_mm.downstream.backbone_init', 'cmp_mm.models.init'],
)

# cmp_mm adds nothing to these, but with ``default_scope='cmp_mm'`` mmengine looks for the scope in each and
# warns where it is not.
_PASSED_ON = [
    # A location, though nothing is there: without one mmengine looks for cmp_mm.utils and warns.
    Registry(parent.name, parent=parent, scope='cmp_mm', locations=['cmp_mm'])
    for parent in (
        EVALUATOR,
        INFERENCERS,
        LOG_PROCESSORS,
        MODEL_WRAPPERS,
        OPTIM_WRAPPER_CONSTRUCTORS,
        OPTIMIZERS,
        PARAM_SCHEDULERS,
        RUNNERS,
        VISBACKENDS,
    )
]
