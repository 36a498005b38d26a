"""The sparse motion encoder: guidance map to motion features."""

from mmengine.model import BaseModule
from torch import Tensor, nn

from cmp_mm.registry import MODELS


@MODELS.register_module()
class GuidanceEncoder(BaseModule):
    """Two small convolutions over the guidance map (CMP, section 3.2).

    Args:
        stride: input pixels per pixel of the features, the image encoder's. The reference has 8 and 32;
            other multiples of 4 serve other backbones.
        out_channels: width of the motion features.
        init_cfg: mmengine init config.

    Raises:
        ValueError: ``stride`` is no positive multiple of 4.
    """

    def __init__(
        self,
        stride: int = 8,
        out_channels: int = 16,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if stride < 4 or stride % 4:
            raise ValueError(
                'GuidanceEncoder: stride must be a positive multiple of 4, the stride of the image encoder; '
                f'got {stride!r}.'
            )
        self.stride = stride
        self.features = nn.Sequential(
            # u, v, mask, mask: the paper counts one mask; its code feeds it twice.
            nn.Conv2d(4, 16, 5, stride=2, padding=2),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(16, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            # The layers before halve the map twice; this makes the rest of the stride.
            nn.AvgPool2d(stride // 4),
        )

    def forward(self, guidance: Tensor) -> Tensor:
        """(N, 4, H, W) = u, v in pixels, mask, mask; to (N, out_channels, H / stride, W / stride)."""
        return self.features(guidance)
