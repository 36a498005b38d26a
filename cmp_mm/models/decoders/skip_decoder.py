"""The skip-layer decoder: propagation at stride 8, refined over layer1 and the stem."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from cmp_mm.registry import MODELS

from .propagation import ConvBNReLU, PropagationNets, resize_to


@MODELS.register_module()
class SkipDecoder(BaseModule):
    """Propagation nets of three convolutions, fused, then upsampled twice with skip connections.

    Args:
        in_channels: width of image and motion features together: 256 + 16.
        skip_channels: widths of the two shallower maps: stem (stride 2) and layer1 (stride 4). (64, 256) for
            bottleneck ResNets, (64, 64) for ResNet-18 and -34.
        combo: scales of the propagation nets; always (1, 2, 4, 8) in the reference.
        out_channels: 2 * bins of the codec, or 2 for raw flow.
        init_cfg: mmengine init config.
    """

    uses_image = False

    def __init__(
        self,
        in_channels: int = 272,
        skip_channels: Sequence[int] = (64, 256),
        combo: Sequence[int] = (1, 2, 4, 8),
        out_channels: int = 198,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(skip_channels) != 2:
            raise ValueError(
                'SkipDecoder: skip_channels needs 2 widths, of the stem and of layer1; got '
                f'{tuple(skip_channels)}.'
            )
        stem_channels, layer1_channels = skip_channels
        self.out_channels = out_channels
        self.propagation = PropagationNets(in_channels, combo, num_convs=3)
        self.fusion8 = ConvBNReLU(self.propagation.out_channels, 256)
        self.skipconv4 = ConvBNReLU(layer1_channels, 128)
        self.fusion4 = ConvBNReLU(256 + 128, 128)
        self.skipconv2 = ConvBNReLU(stem_channels, 32)
        self.fusion2 = ConvBNReLU(128 + 32, 64)
        self.head = nn.Conv2d(64, out_channels, 1)

    def forward(self, features: Sequence[Tensor], motion: Tensor) -> Tensor:
        """Decode at half the input's resolution.

        Args:
            features: stem (N, 64, H/2, W/2), layer1 (N, C, H/4, W/4) and the projected (N, 256, H/8, W/8);
                or those of one image for all motion.
            motion: (N, 16, H/8, W/8).

        Returns:
            (N, out_channels, H/2, W/2) logits, u's bins first, or raw flow in pixels.

        Raises:
            ValueError: not three feature maps.
        """
        stem, layer1, deepest = skip_features('SkipDecoder', features, ('stem', 'layer1', 'neck'))
        x = self.fusion8(self.propagation(deepest, motion))
        x = resize_to(x, layer1.shape[-2:])
        x = self.fusion4(x, self.skipconv4(layer1))
        x = resize_to(x, stem.shape[-2:])
        x = self.fusion2(x, self.skipconv2(stem))
        return self.head(x)


def skip_features(decoder: str, features: Sequence[Tensor], names: Sequence[str]) -> Sequence[Tensor]:
    """``features``, checked to be as many as ``names``.

    Raises:
        ValueError: too few or too many maps, with the backbone setting that gives the right ones.
    """
    if len(features) != len(names):
        raise ValueError(
            f'{decoder}: expected {len(names)} feature maps ({", ".join(names)}), got {len(features)}; with '
            'a ResNet set out_stem=True and out_indices=(0, 3).'
        )
    return features
