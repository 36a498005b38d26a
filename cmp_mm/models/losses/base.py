"""What every flow loss shares: scales, and a mean that is the joint batch's on many processes."""

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from ..flow_codec import QuantizedFlowCodec


class FlowLoss(nn.Module, metaclass=ABCMeta):
    """A loss between a prediction at any resolution and the flow at full size.

    The prediction is upsampled to the flow, never the flow shrunk to the prediction. Where a decoder gives
    several scales, each is compared with the full-size flow.

    Args:
        loss_weight: factor of the whole loss.
        scale_weights: factor of each scale, finest first; None is the mean over the scales, as in the
            reference's losses of several scales (which none of its models uses).
    """

    def __init__(self, loss_weight: float = 1.0, scale_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.scale_weights = tuple(scale_weights) if scale_weights is not None else None

    def forward(
        self,
        prediction: Tensor | Sequence[Tensor],
        codec: QuantizedFlowCodec | None,
        flow: Tensor,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Mean over valid pixels and batch, weighted sum over scales.

        Args:
            prediction: (N, C, h, w), or a sequence of them, finest first.
            codec: quantises ``flow``; not used by losses on raw flow.
            flow: (N, 2, H, W) pixels at full size.
            valid: (N, H, W) bool, where ``flow`` counts; None is everywhere.

        Returns:
            Scalar float32, computed in float32 under autocast too. On many processes it is weighted such
            that its mean over them, which is what data-parallel training takes of its gradients, is the
            mean over the valid pixels of the joint batch.

        Raises:
            ValueError: ``scale_weights`` and the number of scales differ.
        """
        predictions = [prediction] if isinstance(prediction, Tensor) else list(prediction)
        weights = self.scale_weights or (1 / len(predictions),) * len(predictions)
        if len(weights) != len(predictions):
            raise ValueError(
                f'{type(self).__name__}: scale_weights has {len(weights)} entries, but the decoder gives '
                f'{len(predictions)} scales.'
            )
        # Half precision cannot tell 50 - 1e-3 from 50, nor sum a frame of pixels.
        with torch.autocast(flow.device.type, enabled=False):
            target = self.encode_target(codec, flow.float())
            losses = [
                weight * self.scale_loss(scale.float(), codec, target, valid)
                for weight, scale in zip(weights, predictions, strict=True)
            ]
            return self.loss_weight * _rank_weight(flow, valid) * sum(losses)

    def encode_target(self, codec: QuantizedFlowCodec | None, flow: Tensor) -> Tensor:
        """What ``scale_loss`` compares with, computed once for all scales."""
        return flow

    @abstractmethod
    def scale_loss(
        self, prediction: Tensor, codec: QuantizedFlowCodec | None, target: Tensor, valid: Tensor | None
    ) -> Tensor:
        """Mean loss of one (N, C, h, w) prediction over the valid pixels of this process."""


def _rank_weight(flow: Tensor, valid: Tensor | None) -> Tensor | float:
    """This process's share of all valid pixels, times the number of processes."""
    world_size = get_world_size()
    if world_size == 1:
        return 1.0
    if valid is None:
        count = flow.new_tensor(flow[:, 0].numel(), dtype=torch.float64)
    else:
        count = valid.sum(dtype=torch.float64)
    total = count.clone()
    all_reduce(total)
    return (count * world_size / total.clamp(min=1)).float()
