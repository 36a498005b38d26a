"""The propagation nets that every decoder begins with."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn


def conv_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution with bias, batch normalisation, ReLU; the size stays."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def resize_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with aligned corners, the rule everywhere in CMP."""
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=True)


class PropagationNets(BaseModule):
    """One small network per scale; scale s sees the features max-pooled by s (CMP, section 3.2).

    Args:
        in_channels: width of image and motion features together.
        combo: scales, in the order their outputs are concatenated.
        num_convs: convolutions of each net.
        channels: width of each convolution.

    Raises:
        ValueError: ``combo`` is empty or holds something else than distinct positive integers.
    """

    def __init__(self, in_channels: int, combo: Sequence[int], num_convs: int, channels: int = 128) -> None:
        super().__init__()
        combo = tuple(combo)
        if not combo or len(set(combo)) < len(combo) or any(not isinstance(s, int) or s < 1 for s in combo):
            raise ValueError(
                f'decoder: combo must hold distinct positive integers, such as (1, 2, 4); got {combo}.'
            )
        self.in_channels = in_channels
        self.combo = combo
        self.out_channels = channels * len(combo)
        self.nets = nn.ModuleDict(
            {
                f'scale{scale}': nn.Sequential(
                    *(conv_bn_relu(channels if i else in_channels, channels) for i in range(num_convs))
                )
                for scale in combo
            }
        )

    def forward(self, features: Tensor, motion: Tensor) -> Tensor:
        """Propagate motion over the image features, at every scale.

        Args:
            features: (N, C, h, w) projected image features.
            motion: (N, M, h, w) motion features, C + M = ``in_channels``.

        Returns:
            (N, out_channels, h, w), the scales concatenated in the order of ``combo``.

        Raises:
            ValueError: sizes or widths do not fit, or the map is smaller than the largest pooling.
        """
        if features.shape[-2:] != motion.shape[-2:]:
            raise ValueError(
                f'decoder: image features are {_size(features)} but motion features are {_size(motion)}; the '
                'strides of backbone and guidance encoder must be equal.'
            )
        width = features.shape[1] + motion.shape[1]
        if width != self.in_channels:
            raise ValueError(
                f'decoder: in_channels is {self.in_channels}, but image features of {features.shape[1]} and '
                f'motion features of {motion.shape[1]} channels make {width}.'
            )
        if min(features.shape[-2:]) < max(self.combo):
            raise ValueError(
                f'decoder: a feature map of {_size(features)} cannot be max-pooled by {max(self.combo)}; use '
                f'larger inputs, or a combo of smaller scales than {self.combo}.'
            )
        x = torch.cat([features, motion], dim=1)
        outputs = []
        for scale, net in zip(self.combo, self.nets.values(), strict=True):
            pooled = F.max_pool2d(x, scale) if scale > 1 else x
            y = net(pooled)
            outputs.append(resize_to(y, x.shape[-2:]) if scale > 1 else y)
        return torch.cat(outputs, dim=1)


def _size(x: Tensor) -> str:
    return 'x'.join(map(str, x.shape[-2:]))
