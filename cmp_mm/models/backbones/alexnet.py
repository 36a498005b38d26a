"""AlexNet with batch normalisation, fully convolutional, as CMP pretrains it."""

from collections.abc import Sequence

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from cmp_mm.registry import MODELS

# Strides of conv1, pool1, pool2 and pool5 for each total stride (the reference's 32x and 8x encoders).
_STRIDES = {32: (4, 2, 2, 2), 8: (2, 2, 2, 1)}
_STAGES = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7')


@MODELS.register_module()
class AlexNetFCN(BaseModule):
    """BN-AlexNet whose fully connected layers are convolutions (Krizhevsky et al. 2012; CMP, section 4).

    Each stage is a convolution with bias, a batch normalisation and a ReLU; stages conv1, conv2 and
    conv5 are followed by a 3x3 max-pooling, fc6 and fc7 by dropout. It holds no projection, so the same
    weights serve segmentation and pose heads.

    Args:
        stride: input pixels per pixel of the last feature map, 32 or 8.
        out_indices: stages to return, counted from 0 = conv1 to 6 = fc7; before pooling, after dropout.
            Their widths are 96, 256, 384, 384, 256, 4096, 4096.
        dropout: probability after fc6 and fc7, while training.
        norm_cfg: mmcv norm layer config, for example ``dict(type='SyncBN')``.
        frozen_stages: how many stages, from conv1 on, are not trained and stay in evaluation mode; 7
            freezes the whole backbone, -1 or 0 nothing.
        init_cfg: mmengine init config.

    Raises:
        ValueError: unknown stride or out_indices, or frozen_stages that there are not.
    """

    def __init__(
        self,
        stride: int = 32,
        out_indices: Sequence[int] = (6,),
        dropout: float = 0.5,
        norm_cfg: dict | None = None,
        frozen_stages: int = -1,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if stride not in _STRIDES:
            raise ValueError(f'AlexNetFCN: stride must be 32 or 8; got {stride!r}.')
        if not out_indices or any(not 0 <= index < len(_STAGES) for index in out_indices):
            raise ValueError(
                f'AlexNetFCN: out_indices must name stages 0 (conv1) to 6 (fc7); got {tuple(out_indices)}.'
            )
        if not -1 <= frozen_stages <= len(_STAGES):
            raise ValueError(
                f'AlexNetFCN: frozen_stages must be -1 (none) to {len(_STAGES)}, the number of stages; got '
                f'{frozen_stages!r}.'
            )
        self.stride = stride
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        norm_cfg = norm_cfg or dict(type='BN')
        conv1_stride, pool1_stride, pool2_stride, pool5_stride = _STRIDES[stride]

        def stage(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2),
                build_norm_layer(norm_cfg, out_channels)[1],
                nn.ReLU(inplace=True),
            )

        self.conv1 = stage(3, 96, 11, conv1_stride)
        self.conv2 = stage(96, 256, 5)
        self.conv3 = stage(256, 384, 3)
        self.conv4 = stage(384, 384, 3)
        self.conv5 = stage(384, 256, 3)
        self.fc6 = stage(256, 4096, 3).append(nn.Dropout(dropout))
        self.fc7 = stage(4096, 4096, 1).append(nn.Dropout(dropout))
        self.pool1 = nn.MaxPool2d(3, pool1_stride, padding=1)
        self.pool2 = nn.MaxPool2d(3, pool2_stride, padding=1)
        self.pool5 = nn.MaxPool2d(3, pool5_stride, padding=1)
        for name in self._frozen_names():
            getattr(self, name).requires_grad_(False)
        self.train()  # modules begin in training mode, the frozen ones too

    def _frozen_names(self) -> tuple[str, ...]:
        return _STAGES[: max(self.frozen_stages, 0)]

    def train(self, mode: bool = True) -> 'AlexNetFCN':
        """Switch to training mode, except for what is frozen."""
        super().train(mode)
        for name in self._frozen_names():
            getattr(self, name).eval()
        return self

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of ``out_indices``, in their order of depth.

        Args:
            image: (N, 3, H, W) normalised RGB.

        Returns:
            Tuple of (N, C, h, w); the last stage is (N, 4096, H / stride, W / stride).
        """
        pools = {'conv1': self.pool1, 'conv2': self.pool2, 'conv5': self.pool5}
        outputs = []
        x = image
        for index, name in enumerate(_STAGES):
            if index > max(self.out_indices):
                break
            x = getattr(self, name)(x)
            if index in self.out_indices:
                outputs.append(x)
            if name in pools:
                x = pools[name](x)
        return tuple(outputs)
