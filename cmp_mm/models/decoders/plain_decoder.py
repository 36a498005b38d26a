"""The plain decoder: propagation nets and a 1x1 head."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from cmp_mm.registry import MODELS

from .propagation import PropagationNets


@MODELS.register_module()
class PlainDecoder(BaseModule):
    """Propagation nets of two convolutions per scale, then a 1x1 head, at the features' resolution.

    Args:
        in_channels: width of image and motion features together: 256 + 16.
        combo: scales of the propagation nets; (1, 2, 4) or (1, 2, 4, 8) in the reference.
        out_channels: 2 * bins of the codec, or 2 for raw flow.
        init_cfg: mmengine init config.
    """

    uses_image = False

    def __init__(
        self,
        in_channels: int = 272,
        combo: Sequence[int] = (1, 2, 4),
        out_channels: int = 198,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.out_channels = out_channels
        self.propagation = PropagationNets(in_channels, combo, num_convs=2)
        self.head = nn.Conv2d(self.propagation.out_channels, out_channels, 1)

    def forward(self, features: Sequence[Tensor], motion: Tensor) -> Tensor:
        """Decode the last of ``features`` and ``motion``.

        Args:
            features: feature maps, shallow to deep; the last one is (N, 256, h, w), or (1, 256, h, w) of
                one image for all motion.
            motion: (N, 16, h, w).

        Returns:
            (N, out_channels, h, w) logits, u's bins first, or raw flow in pixels.
        """
        return self.head(self.propagation(features[-1], motion))
