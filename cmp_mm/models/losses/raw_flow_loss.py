"""Regression losses on raw flow, the reference's other criteria."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from cmp_mm.registry import MODELS

from ..decoders.propagation import resize_to
from ..flow_codec import QuantizedFlowCodec
from .base import FlowLoss


class _RawFlowLoss(FlowLoss):
    """Mean over valid pixels and both axes of an element-wise criterion, on the upsampled prediction."""

    criterion: Callable[..., Tensor]

    def scale_loss(
        self, prediction: Tensor, codec: QuantizedFlowCodec | None, target: Tensor, valid: Tensor | None
    ) -> Tensor:
        """Criterion between (N, 2, h, w) and (N, 2, H, W), both in full-size pixels."""
        if prediction.shape[1] != 2:
            raise ValueError(
                f'{type(self).__name__}: the decoder gives {prediction.shape[1]} channels, expected 2 of raw '
                'flow; set out_channels=2 and codec=None.'
            )
        upsampled = resize_to(prediction, target.shape[-2:])
        if valid is None:
            return self.criterion(upsampled, target)
        mask = valid[:, None].expand_as(target)
        # Selected, not multiplied: unknown flow may be not-a-number.
        total = self.criterion(upsampled[mask], target[mask], reduction='sum')
        return total / mask.sum().clamp(min=1)


@MODELS.register_module()
class SmoothL1FlowLoss(_RawFlowLoss):
    """Smooth L1 with its corner at one pixel."""

    criterion = staticmethod(F.smooth_l1_loss)


@MODELS.register_module()
class MSEFlowLoss(_RawFlowLoss):
    """Mean squared error."""

    criterion = staticmethod(F.mse_loss)
