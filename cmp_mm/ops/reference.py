"""The plain path: upsample the logits to full size, then cross-entropy."""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100


def reference(logits: Tensor, target: Tensor, num_bins: int, valid: Tensor | None) -> Tensor:
    """Loss of :func:`cmp_mm.ops.upsample_cross_entropy` by torch's own operators."""
    height, width = target.shape[-2:]
    full = F.interpolate(logits, size=(height, width), mode='bilinear', align_corners=True)
    full = full.reshape(-1, num_bins, height, width)
    if valid is None:
        count = target.shape[0] * height * width
    else:
        target = torch.where(valid[:, None], target, IGNORED)
        count = valid.sum().clamp(min=1)
    total = F.cross_entropy(full, target.reshape(-1, height, width), ignore_index=IGNORED, reduction='sum')
    return total / count
