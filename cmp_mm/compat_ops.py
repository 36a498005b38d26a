"""The three compiled ops of mmcv that Mask R-CNN calls, through torchvision's, for use with mmcv-lite.

Called by the stand-in for ``mmcv._ext`` (:mod:`cmp_mm.compat`) with the arguments of the compiled ops: the
results go into the tensors given. Needless with the compiled mmcv. Imports torchvision, so only where it is
whole.
"""

import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms
from torchvision.ops import roi_align as torchvision_roi_align


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes kept, by falling score.

    Args:
        boxes: (N, 4) corners x0, y0, x1, y1.
        scores: (N,).
        iou_threshold: a box that overlaps a better one by more than this is dropped.
        offset: 0, or 1 where a box from x0 to x1 is x1 - x0 + 1 wide.
    """
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return torchvision_nms(boxes, scores, iou_threshold)


def _require_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise RuntimeError(
            f'RoIAlign with pool_mode {pool_mode} (maximum) needs the compiled mmcv; average works'
        )


def roi_align_forward(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign by average of ``features`` (N, C, H, W) at ``rois`` (R, 5) into ``output`` (R, C, h, w)."""
    _require_average(pool_mode)
    size = (aligned_height, aligned_width)
    sampling = sampling_ratio if sampling_ratio > 0 else -1
    output.copy_(torchvision_roi_align(features, rois, size, spatial_scale, sampling, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of :func:`roi_align_forward` with respect to its features, added to ``grad_input``."""
    _require_average(pool_mode)
    sampling = sampling_ratio if sampling_ratio > 0 else -1
    grad_input += torch.ops.torchvision._roi_align_backward(
        grad_output,
        rois,
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling,
        aligned,
    )
