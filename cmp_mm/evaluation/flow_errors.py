"""Errors of a flow field as sums over its pixels, so that sets are averaged pixel by pixel."""

import numpy as np
import torch

ERROR_NAMES = ('epe', 'fl', 'angular', 'bin_acc')


def flow_error_sums(
    flow: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor | None = None,
    bins: torch.Tensor | None = None,
    target_bins: torch.Tensor | None = None,
) -> np.ndarray:
    """Sum the errors over the valid pixels.

    - ``epe``: length of the difference, pixels (end-point error).
    - ``fl``: 100 where the end-point error is over 3 px and over 5 % of the target's length (KITTI 2015).
    - ``angular``: angle in degrees between (u, v, 1) and the target's (Barron et al., 1994; Middlebury).
    - ``bin_acc``: 100 where the bin is right, the mean of both axes; NaN without bins.

    Args:
        flow: (2, H, W) pixels.
        target: (2, H, W) pixels.
        valid: (H, W) bool, where the target is known; None means everywhere.
        bins: (2, H, W) whole numbers, the bins of ``flow``.
        target_bins: (2, H, W) whole numbers, the bins of ``target``.

    Returns:
        (4,) float64 sums in the order of ``ERROR_NAMES``.
    """
    if valid is not None:
        flow, target = flow[:, valid], target[:, valid]
        if bins is not None and target_bins is not None:
            bins, target_bins = bins[:, valid], target_bins[:, valid]
    flow, target = flow.flatten(1).double(), target.flatten(1).double()
    error = torch.linalg.vector_norm(flow - target, dim=0)
    wrong = (error > 3) & (error > 0.05 * torch.linalg.vector_norm(target, dim=0))
    # atan2 of cross and dot product: acos would lose small angles to rounding.
    dot = 1 + (flow * target).sum(dim=0)
    cross = torch.sqrt(
        (flow - target).square().sum(dim=0) + (flow[0] * target[1] - flow[1] * target[0]).square()
    )
    angle = torch.rad2deg(torch.atan2(cross, dot))
    right = float('nan')
    if bins is not None and target_bins is not None:
        right = float((bins == target_bins).double().sum()) * 50.0
    return np.array([float(error.sum()), 100.0 * float(wrong.sum()), float(angle.sum()), right])
