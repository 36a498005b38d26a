"""The FlowNet decoder: propagation at stride 8, refined to full size over four scales."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from cmp_mm.registry import MODELS

from .propagation import ConvBNReLU, PropagationNets, convolve_joined
from .skip_decoder import skip_features


@MODELS.register_module()
class FlowNetDecoder(BaseModule):
    """Propagation nets of three convolutions, fused, then FlowNet's ladder (Dosovitskiy et al. 2015).

    Each rung predicts flow, upsamples the prediction and the features by deconvolutions, and concatenates
    them with the encoder's map of that size: layer1, the stem, the image.

    Args:
        in_channels: width of image and motion features together: 256 + 16.
        skip_channels: widths of the image, the stem (stride 2) and layer1 (stride 4). (3, 64, 256) for
            bottleneck ResNets, (3, 64, 64) for ResNet-18 and -34.
        combo: scales of the propagation nets; always (1, 2, 4, 8) in the reference.
        out_channels: 2 * bins of the codec, or 2 for raw flow; of every scale.
        init_cfg: mmengine init config.
    """

    uses_image = True

    def __init__(
        self,
        in_channels: int = 272,
        skip_channels: Sequence[int] = (3, 64, 256),
        combo: Sequence[int] = (1, 2, 4, 8),
        out_channels: int = 198,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(skip_channels) != 3:
            raise ValueError(
                'FlowNetDecoder: skip_channels needs 3 widths, of the image, the stem and layer1; got '
                f'{tuple(skip_channels)}.'
            )
        image_channels, stem_channels, layer1_channels = skip_channels
        self.out_channels = out_channels
        self.propagation = PropagationNets(in_channels, combo, num_convs=3)
        self.fusion8 = ConvBNReLU(self.propagation.out_channels, 256)

        self.predict_flow8 = self._predict(256)
        self.deconv8 = _Deconv(256, 128)
        self.upsample_flow8 = self._upsample()
        width4 = layer1_channels + 128 + out_channels
        self.predict_flow4 = self._predict(width4)
        self.deconv4 = _Deconv(width4, 128)
        self.upsample_flow4 = self._upsample()
        width2 = stem_channels + 128 + out_channels
        self.predict_flow2 = self._predict(width2)
        self.deconv2 = _Deconv(width2, 64)
        self.upsample_flow2 = self._upsample()
        self.predict_flow1 = self._predict(image_channels + 64 + out_channels)

    def _predict(self, in_channels: int) -> nn.Conv2d:
        return nn.Conv2d(in_channels, self.out_channels, 3, padding=1)

    def _upsample(self) -> nn.ConvTranspose2d:
        return nn.ConvTranspose2d(self.out_channels, self.out_channels, 4, stride=2, padding=1, bias=False)

    def forward(self, features: Sequence[Tensor], motion: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode at four resolutions.

        Args:
            features: image (N, 3, H, W), stem (N, 64, H/2, W/2), layer1 (N, C, H/4, W/4) and the projected
                (N, 256, H/8, W/8); or those of one image for all motion.
            motion: (N, 16, H/8, W/8).

        Returns:
            Four (N, out_channels, H/s, W/s), s = 1, 2, 4, 8: logits, u's bins first, or raw flow in pixels.

        Raises:
            ValueError: not four feature maps.
        """
        names = ('image', 'stem', 'layer1', 'neck')
        image, stem, layer1, deepest = skip_features('FlowNetDecoder', features, names)
        x = self.fusion8(self.propagation(deepest, motion))
        flow8 = self.predict_flow8(x)
        parts = _join(layer1, self.deconv8(x), self.upsample_flow8(flow8))
        flow4 = convolve_joined(self.predict_flow4, parts)
        parts = _join(stem, self.deconv4(*parts), self.upsample_flow4(flow4))
        flow2 = convolve_joined(self.predict_flow2, parts)
        parts = _join(image, self.deconv2(*parts), self.upsample_flow2(flow2))
        flow1 = convolve_joined(self.predict_flow1, parts)
        return flow1, flow2, flow4, flow8


def _join(skip: Tensor, *others: Tensor) -> list[Tensor]:
    """The parts of one batch size in one tensor, which several convolutions read."""
    rest = torch.cat(others, dim=1)
    return [torch.cat([skip, rest], dim=1)] if len(skip) == len(rest) else [skip, rest]


class _Deconv(nn.Sequential):
    """Transposed convolution to twice the size, and LeakyReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.1, inplace=True),
        )

    def forward(self, *parts: Tensor) -> Tensor:
        conv, activation = self
        return activation(convolve_joined(conv, parts))
