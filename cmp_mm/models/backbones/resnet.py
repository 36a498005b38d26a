"""mmcv's ResNet, registered, with the stride-8 dilation that CMP pretrains with."""

from collections.abc import Sequence

from mmcv.cnn import ResNet as MMCVResNet
from mmcv.cnn.resnet import BasicBlock
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cmp_mm.registry import MODELS


def zero_last_norms(network: nn.Module) -> None:
    """Set the last batch normalisation of every residual block to zero, mmcv's blocks as mmseg's."""
    for block in network.modules():
        names = ('norm3', 'bn3', 'norm2', 'bn2')
        last = next((getattr(block, name) for name in names if getattr(block, name, None) is not None), None)
        # Not of HRNet's stem, which has a conv1 and a norm2 too.
        if last is not None and hasattr(block, 'downsample'):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)


@MODELS.register_module()
class ResNet(MMCVResNet, BaseModule):
    """ResNet-18/34/50/101/152 in torchvision's layout and key names.

    Beside what mmcv's class does, this one dilates *every* 3x3 convolution of a dilated stage (mmcv leaves
    the second one of a basic block undilated), keeps batch normalisation in training mode unless asked
    (mmcv freezes its statistics by default), can return the stem, always returns a tuple, and follows
    ``init_cfg`` like the rest of the zoo.

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_stages: how many of the four stages there are, from the first on; for small images fewer do.
        strides: stride of each of the four stages; the default gives a total stride of 8.
        dilations: dilation of the 3x3 convolutions of each stage.
        out_indices: stages to return, 0 to 3.
        out_stem: return the stem first: conv1, BN and ReLU, 64 channels at stride 2.
        bn_eval: keep the running statistics of the batch normalisation as they are.
        bn_frozen: with ``bn_eval``, freeze its weights and biases too.
        frozen_stages: stages up to this one are not trained; 0 is the stem alone, -1 none.
        zero_init_residual: start the last batch normalisation of each block at zero, so that a deep network
            begins as its shortcuts (Goyal et al. 2017, section 5.1). mmseg's, mmpose's and mmdet's own
            ResNets do so where they start at random.
        init_cfg: mmengine init config.

    Raises:
        ValueError: unknown depth, or out_indices that name no stage.
    """

    def __init__(
        self,
        depth: int = 50,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 1, 1),
        dilations: Sequence[int] = (1, 1, 2, 4),
        out_indices: Sequence[int] = (3,),
        out_stem: bool = False,
        bn_eval: bool = False,
        bn_frozen: bool = False,
        frozen_stages: int = -1,
        zero_init_residual: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        if depth not in self.arch_settings:
            raise ValueError(f'ResNet: depth must be one of {sorted(self.arch_settings)}; got {depth!r}.')
        if num_stages not in (1, 2, 3, 4):
            raise ValueError(f'ResNet: num_stages must be 1 to 4; got {num_stages!r}.')
        if not out_indices or any(not 0 <= index < num_stages for index in out_indices):
            raise ValueError(
                f'ResNet: out_indices must name stages 0 to {num_stages - 1}; got {tuple(out_indices)}.'
            )
        if not -1 <= frozen_stages <= num_stages:
            raise ValueError(
                f'ResNet: frozen_stages must be -1 (none) to {num_stages}, the number of stages; got '
                f'{frozen_stages!r}.'
            )
        if min(len(strides), len(dilations)) < num_stages:
            raise ValueError(
                f'ResNet: strides and dilations need one value for each of {num_stages} stages; got '
                f'{tuple(strides)} and {tuple(dilations)}.'
            )
        super().__init__(
            depth,
            num_stages=num_stages,
            strides=tuple(strides)[:num_stages],
            dilations=tuple(dilations)[:num_stages],
            out_indices=tuple(out_indices),
            frozen_stages=frozen_stages,
            bn_eval=bn_eval,
            bn_frozen=bn_frozen,
        )
        self.depth = depth
        self.init_cfg = init_cfg
        self.out_stem = out_stem
        self.zero_init_residual = zero_init_residual
        for block in self.modules():
            if isinstance(block, BasicBlock):
                block.conv2.dilation = (block.dilation, block.dilation)
                block.conv2.padding = (block.dilation, block.dilation)
        # What is frozen must be so before a distributed wrapper looks which weights to wait for.
        self.train()

    def init_weights(self) -> None:
        """Follow ``init_cfg``; mmcv's own version would overwrite what the parent module has set."""
        is_first = not self.is_init
        BaseModule.init_weights(self)
        entries = self.init_cfg if isinstance(self.init_cfg, (list, tuple)) else [self.init_cfg]
        kinds = [entry.get('type') for entry in entries if entry]
        names = [getattr(kind, '__name__', str(kind)).rpartition('.')[2] for kind in kinds]
        loads = not {'Pretrained', 'PretrainedInit'}.isdisjoint(names)
        # BackboneInit turns it off where it loads.
        if is_first and self.zero_init_residual and not loads:
            zero_last_norms(self)

    def train(self, mode: bool = True) -> 'ResNet':
        """As ``nn.Module.train``, with what ``bn_eval`` and ``frozen_stages`` keep out of it."""
        super().train(mode)
        if self.bn_eval:
            # mmcv's looks for BatchNorm2d, which synchronised normalisation is not.
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
                    if self.bn_frozen:
                        module.requires_grad_(False)
        return self  # mmcv's returns nothing, which breaks ``model.eval()`` in an expression

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Feature maps, shallow to deep.

        Args:
            image: (N, 3, H, W) normalised RGB.

        Returns:
            Tuple of (N, C, h, w): the stem if ``out_stem``, then the stages of ``out_indices``.
        """
        x = self.relu(self.bn1(self.conv1(image)))
        outputs = [x] if self.out_stem else []
        x = self.maxpool(x)
        for index, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)
