"""The propagation nets that every decoder begins with."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

# Of every convolution of a propagation net.
WIDTH = 128


class ConvBNReLU(nn.Sequential):
    """3x3 convolution with bias, batch normalisation, ReLU; the size stays.

    Args:
        in_channels: width of the parts together.
        out_channels: width of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, *parts: Tensor) -> Tensor:
        """The block on ``parts``, as of :func:`convolve_joined`."""
        conv, norm, relu = self
        return relu(norm(convolve_joined(conv, parts)))


def convolve_joined(conv: nn.Conv2d | nn.ConvTranspose2d, parts: Sequence[Tensor]) -> Tensor:
    """Convolve parts joined along their channels; a part of one image serves all guidance sets.

    A convolution is linear: where some parts are of one image and others of N guidance sets, each kind meets
    its own share of the weights, the image once instead of N times, and the results are added. Up to rounding
    this is the convolution of everything repeated and concatenated.

    Args:
        conv: without groups.
        parts: each (1, C, h, w) or (N, C, h, w); the widths C make the convolution's input together.

    Returns:
        (N, out_channels, ...).
    """
    many = [len(part) > 1 for part in parts]
    if all(many) or not any(many):
        return conv(_concatenate(parts, 1))
    transposed = isinstance(conv, nn.ConvTranspose2d)
    axis = 0 if transposed else 1
    shares = conv.weight.split([part.shape[1] for part in parts], dim=axis)

    def convolve(of_many: bool, bias: Tensor | None) -> Tensor:
        x = _concatenate([part for part, one in zip(parts, many, strict=True) if one is of_many], 1)
        weight = _concatenate(
            [share for share, one in zip(shares, many, strict=True) if one is of_many], axis
        )
        if transposed:
            return F.conv_transpose2d(x, weight, bias, conv.stride, conv.padding, conv.output_padding)
        return F.conv2d(x, weight, bias, conv.stride, conv.padding)

    total = convolve(True, None)
    total += convolve(False, conv.bias)  # in place: a new array of this size costs more than the addition
    return total


def _concatenate(tensors: Sequence[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors), dim)


def resize_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with aligned corners, the rule everywhere in CMP."""
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=True)


class PropagationNets(BaseModule):
    """One small network per scale; scale s sees the features max-pooled by s (CMP, section 3.2).

    Args:
        in_channels: width of image and motion features together.
        combo: scales, in the order their outputs are concatenated.
        num_convs: convolutions of each net.

    Raises:
        ValueError: ``combo`` is empty or holds something else than distinct positive integers.
    """

    def __init__(self, in_channels: int, combo: Sequence[int], num_convs: int) -> None:
        super().__init__()
        combo = tuple(combo)
        if not combo or len(set(combo)) < len(combo) or any(not isinstance(s, int) or s < 1 for s in combo):
            raise ValueError(
                f'decoder: combo must hold distinct positive integers, such as (1, 2, 4); got {combo}.'
            )
        self.in_channels = in_channels
        self.combo = combo
        self.out_channels = WIDTH * len(combo)
        self.nets = nn.ModuleDict(
            {
                f'scale{scale}': nn.Sequential(
                    *(ConvBNReLU(WIDTH if i else in_channels, WIDTH) for i in range(num_convs))
                )
                for scale in combo
            }
        )

    def forward(self, features: Tensor, motion: Tensor) -> Tensor:
        """Propagate motion over the image features, at every scale.

        Args:
            features: (N, C, h, w) projected image features, or (1, C, h, w) of one image for all motion.
            motion: (N, M, h, w) motion features, C + M = ``in_channels``.

        Returns:
            (N, out_channels, h, w), the scales concatenated in the order of ``combo``.

        Raises:
            ValueError: sizes or widths do not fit, the map is smaller than the largest pooling, or a batch of
                one that is trained on is pooled to one pixel.
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
        height, width = (side // max(self.combo) for side in features.shape[-2:])
        one_value = self.training and len(features) == len(motion) == height * width == 1
        # One kept in evaluation mode, or synchronised, has other values to go by.
        if one_value and any(type(m) is nn.BatchNorm2d and m.training for m in self.modules()):
            raise ValueError(
                f'decoder: a feature map of {_size(features)}, max-pooled by {max(self.combo)}, is one '
                'pixel, too few for batch normalisation with a batch of one; use a larger batch, larger '
                f'inputs, or a combo of smaller scales than {self.combo}.'
            )
        outputs = []
        for scale, net in zip(self.combo, self.nets.values(), strict=True):
            first, *others = net
            y = first(*(F.max_pool2d(x, scale) if scale > 1 else x for x in (features, motion)))
            for block in others:
                y = block(y)
            outputs.append(resize_to(y, motion.shape[-2:]) if scale > 1 else y)
        return torch.cat(outputs, dim=1)


def _size(x: Tensor) -> str:
    return 'x'.join(map(str, x.shape[-2:]))
