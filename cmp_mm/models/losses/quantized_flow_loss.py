"""Cross-entropy over the bins of quantised flow: the loss CMP trains with."""

from collections.abc import Sequence

from torch import Tensor

from cmp_mm.ops import upsample_cross_entropy
from cmp_mm.registry import MODELS

from ..flow_codec import QuantizedFlowCodec
from .base import FlowLoss


@MODELS.register_module()
class QuantizedFlowLoss(FlowLoss):
    """Cross-entropy of u plus cross-entropy of v at the flow's full size (CMP, section 3.3).

    Logits are upsampled bilinearly with aligned corners, each axis is a mean over pixels and batch.

    Args:
        loss_weight: factor of the whole loss.
        scale_weights: factor of each scale, finest first; None is the mean over the scales.
        impl: path of :func:`cmp_mm.ops.upsample_cross_entropy`: ``'auto'``, ``'reference'`` (full-size
            logits in memory), ``'blocked'`` or ``'triton'``.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        scale_weights: Sequence[float] | None = None,
        impl: str = 'auto',
    ) -> None:
        super().__init__(loss_weight, scale_weights)
        self.impl = impl

    def encode_target(self, codec: QuantizedFlowCodec | None, flow: Tensor) -> Tensor:
        """(N, 2, H, W) pixels to int64 bins."""
        if codec is None:
            raise ValueError('QuantizedFlowLoss: the model has no codec; set codec=QuantizedFlowCodec.')
        return codec.encode(flow)

    def scale_loss(
        self, prediction: Tensor, codec: QuantizedFlowCodec, target: Tensor, valid: Tensor | None
    ) -> Tensor:
        """Upsampled cross-entropy of (N, 2 * num_bins, h, w) logits with (N, 2, H, W) bins."""
        return upsample_cross_entropy(prediction, target, codec.num_bins, valid=valid, impl=self.impl)
