"""Quantised flow: one object that the loss, the prediction and the metric share."""

import math

import torch
from torch import Tensor

from cmp_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
class QuantizedFlowCodec:
    """Turns flow into per-axis bins for the loss, and logits back into flow for the prediction.

    Each axis of the flow is cut into ``num_bins`` equal bins over [-max_flow, max_flow). Everything is
    computed in float32, whatever the dtype of the input: half precision has no room for the edges of bins.

    Args:
        num_bins: bins per axis; odd, so that zero flow is the centre of a bin. The paper's is 99.
        max_flow: pixels; larger components are clamped. A decoded component never exceeds
            ``max_flow * (1 - 1 / num_bins)``, the centre of the last bin (49.49 for 99 bins of 50 px).

    Raises:
        ValueError: ``num_bins`` is not an odd integer of at least 3, or ``max_flow`` is not positive
            and finite.
    """

    def __init__(self, num_bins: int = 99, max_flow: float = 50.0) -> None:
        if not isinstance(num_bins, int) or isinstance(num_bins, bool) or num_bins < 3 or num_bins % 2 == 0:
            raise ValueError(
                'QuantizedFlowCodec: num_bins must be an odd integer of at least 3, so that zero flow is '
                f'the centre of a bin; got {num_bins!r}.'
            )
        if not 0 < max_flow < math.inf:
            raise ValueError(
                f'QuantizedFlowCodec: max_flow must be a positive, finite number of pixels; got {max_flow!r}.'
            )
        self.num_bins = num_bins
        self.max_flow = float(max_flow)
        self.step = 2 * self.max_flow / num_bins

    @property
    def channels(self) -> int:
        """Channels of the logits this codec reads: those of x (u) first, then those of y (v)."""
        return 2 * self.num_bins

    def centers(self, device: torch.device | str | None = None) -> Tensor:
        """(num_bins,) float32 pixels: the centre of each bin, ascending."""
        index = torch.arange(self.num_bins, device=device, dtype=torch.float32)
        return (index + 0.5) * self.step - self.max_flow

    def encode(self, flow: Tensor) -> Tensor:
        """Quantise flow.

        Args:
            flow: (N, 2, H, W) pixels, of any floating dtype and any range. Not-a-number goes to bin 0;
                such pixels are for the caller to mask.

        Returns:
            (N, 2, H, W) int64 in [0, num_bins - 1].
        """
        # By a tensor: a GPU divides by a number through its reciprocal, and what lies on the edge of a bin,
        # as some values of jpg flow do, would there fall into the bin beside.
        step = torch.full((), self.step, dtype=torch.float32, device=flow.device)
        scaled = (flow.float().clamp(-self.max_flow, self.max_flow) + self.max_flow) / step
        return scaled.floor().nan_to_num(0.0).long().clamp(0, self.num_bins - 1)

    def decode(self, logits: Tensor) -> Tensor:
        """Expected flow under the softmax of each axis.

        Args:
            logits: (N, 2 * num_bins, h, w), of any floating dtype.

        Returns:
            (N, 2, h, w) float32, in pixels of the full-size flow rather than of the (h, w) grid, under
            autocast too.
        """
        axes, centers = self._split_axes(logits), self.centers(logits.device)
        # On the CPU image by image: the memory that the probabilities of one need is still in the cache for
        # the next.
        parts = axes.split(1) if logits.device.type == 'cpu' else (axes,)
        with torch.autocast(logits.device.type, enabled=False):
            flow = torch.cat([centers @ part.float().softmax(dim=2).flatten(3) for part in parts])
        return flow.unflatten(2, logits.shape[-2:])

    def most_likely(self, logits: Tensor) -> Tensor:
        """(N, 2 * num_bins, h, w) logits to the (N, 2, h, w) int64 bins of highest logit."""
        return self._split_axes(logits).argmax(dim=2)

    def _split_axes(self, logits: Tensor) -> Tensor:
        if logits.shape[1] != self.channels:
            raise ValueError(
                f'QuantizedFlowCodec: logits have {logits.shape[1]} channels, expected {self.channels}, '
                f'2 axes of {self.num_bins} bins.'
            )
        return logits.unflatten(1, (2, self.num_bins))
