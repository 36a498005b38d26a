"""Guidance: which pixels tell the network their motion, and the map it reads. Plain functions on arrays."""

from .batched import (
    check_batchable,
    sample_guidance_batched,
    watershed_candidates_batched,
)
from .points import drop_close_points, grid_points, grid_stride, guidance_map
from .strategies import STRATEGIES, check_strategies, sample_points
from .watershed import watershed_candidates, watershed_candidates_reference

__all__ = [
    'STRATEGIES',
    'check_batchable',
    'check_strategies',
    'drop_close_points',
    'grid_points',
    'grid_stride',
    'guidance_map',
    'sample_guidance_batched',
    'sample_points',
    'watershed_candidates',
    'watershed_candidates_batched',
    'watershed_candidates_reference',
]
