"""What the downstream configs need: guarded initialisation, data sets, checks.

Named in their ``custom_imports``, so that it is also there when mmsegmentation's, mmpose's or mmdetection's
own tools run them. The data sets import mmsegmentation and are named apart (``cmp_mm.downstream.parsing``).
"""

import cmp_mm.engine  # noqa: F401  checkpoints are read as data from here on

from .backbone_init import BackboneInit, BackboneMismatchError
from .backbone_statistics import BackboneStatisticsHook
from .checks import check_config, check_data, check_package

__all__ = [
    'BackboneInit',
    'BackboneMismatchError',
    'BackboneStatisticsHook',
    'check_config',
    'check_data',
    'check_package',
]
