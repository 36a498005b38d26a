"""The 1x1 projection between an image encoder and the decoder."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from cmp_mm.registry import MODELS


@MODELS.register_module()
class ConvNeck(BaseModule):
    """Projects the deepest feature map by a 1x1 convolution; shallower ones pass unchanged.

    It is conv8 of the reference's AlexNet and conv5 of its ResNets. It is kept out of the backbone, so
    that ``prefix='backbone.'`` of a checkpoint is exactly what a downstream model needs.

    Args:
        in_channels: width of the backbone's deepest feature map.
        out_channels: width the decoder reads beside the guidance features.
        init_cfg: mmengine init config.
    """

    def __init__(
        self, in_channels: int, out_channels: int = 256, init_cfg: dict | list | None = None
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Project the last of ``features``.

        Args:
            features: feature maps (N, C, h, w), shallow to deep.

        Returns:
            The same maps, the last one projected to (N, out_channels, h, w).

        Raises:
            ValueError: the last one is no map, or not ``in_channels`` wide.
        """
        *shallow, deepest = features
        if deepest.dim() != 4:
            raise ValueError(
                f'ConvNeck: the backbone gives {tuple(deepest.shape)}, expected a feature map (N, C, h, w); '
                'set its out_indices (and for mmpretrain ConvNeXt gap_before_final_norm=False).'
            )
        if deepest.shape[1] != self.in_channels:
            raise ValueError(
                f'ConvNeck: in_channels is {self.in_channels}, but the last feature map of the backbone is '
                f'{deepest.shape[1]} channels wide.'
            )
        return (*shallow, self.conv(deepest))
