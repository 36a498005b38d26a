"""Choosing the guidance vectors of a sample."""

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform

from cmp_mm.guidance import check_strategies, sample_points
from cmp_mm.registry import TRANSFORMS


def refuse_sampled(results: dict, step: object) -> None:
    """Refuse to move pixels or vectors once guidance was chosen among them: it would stay behind.

    Args:
        results: what the pipeline has so far.
        step: the transform that is about to.

    Raises:
        ValueError: ``results`` holds guidance points.
    """
    if 'guidance_points' in results:
        raise ValueError(
            f'{type(step).__name__} comes after SampleGuidance in the pipeline, whose points it would leave '
            'where they were; expected it before'
        )


@TRANSFORMS.register_module()
class SampleGuidance(BaseTransform):
    """Choose guidance points on the flow and take its vectors there (paper, section 3.2).

    Sets ``guidance_points`` (P, 2) int64 (row, column) and ``guidance_vectors`` (P, 2) float32 (u, v)
    pixels; P may be 0. Pixels that ``flow_valid`` marks as unknown are never chosen. Leave this step out
    where the points are chosen on the accelerator.

    Args:
        strategies: dicts as of `cmp_mm.guidance.sample_points`, for example
            ``[dict(type='watershed', kernel_size=81), dict(type='grid', stride=200)]``.
        max_points: the most points to keep, chosen at random; -1 for no limit; (low, high) draws the limit
            anew for each sample; with a low of 0 some samples have no guidance.

    Raises:
        ValueError: an unknown strategy or option, or a bad value.
    """

    def __init__(self, strategies: Sequence[dict], max_points: int | Sequence[int] = -1) -> None:
        check_strategies(strategies, max_points)
        # Configs bring ConfigDicts; plain dicts pickle to workers without mmengine's help.
        self.strategies = [dict(strategy) for strategy in strategies]
        self.max_points = tuple(max_points) if isinstance(max_points, (list, tuple)) else max_points

    def transform(self, results: dict) -> dict:
        flow = results['flow']
        # The dataset seeds the global numbers per sample; the guidance functions take a generator.
        rng = np.random.default_rng(np.random.randint(2**31, size=4))
        points = sample_points(flow, self.strategies, self.max_points, rng, results.get('flow_valid'))
        results['guidance_points'] = points.astype(np.int64)
        results['guidance_vectors'] = flow[points[:, 0], points[:, 1]].astype(np.float32)
        return results

    def __repr__(self) -> str:
        return f'SampleGuidance(strategies={self.strategies}, max_points={self.max_points})'
