"""Most likely bins at full size without the full-size logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cmp_mm.ops.upsampling import axis_positions

from ..decoders.propagation import resize_to
from ..flow_codec import QuantizedFlowCodec


def upsampled_bins(
    logits: Tensor, codec: QuantizedFlowCodec, size: Sequence[int], max_elements: int = 2**24
) -> Tensor:
    """Bin of highest logit at every pixel of the bilinearly upsampled logits.

    Full-size logits of a 4K frame would take 6 GB; here rows are upsampled in blocks.

    Args:
        logits: (N, 2 * num_bins, h, w).
        codec: tells the axes and bins apart.
        size: (height, width) to upsample to, corners aligned.
        max_elements: logits held at a time, at least one row's.

    Returns:
        (N, 2, height, width) int64.
    """
    height, width = size
    batch, channels, rows, _ = logits.shape
    logits = logits.float()
    positions = axis_positions(rows, height, 'float32')
    above, fraction = (torch.from_numpy(array).to(logits.device) for array in positions)
    below = (above + 1).clamp(max=rows - 1)
    block = max(1, max_elements // (batch * channels * width))
    bins = []
    for start in range(0, height, block):
        part = slice(start, start + block)
        lines = torch.lerp(logits[:, :, above[part]], logits[:, :, below[part]], fraction[part, None])
        bins.append(codec.most_likely(resize_to(lines, (lines.shape[2], width))))
    return torch.cat(bins, dim=2)
