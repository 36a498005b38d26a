"""One switch for how a downstream backbone starts: random, ImageNet, CMP or any file; and a guard on it."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from mmengine.fileio import get_local_path
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import initialize, update_init_info
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from cmp_mm.engine.checkpoint_loading import CheckpointError, compare_keys, state_dict_of
from cmp_mm.flow.estimators.raft import install_command
from cmp_mm.models.backbones.resnet import zero_last_norms
from cmp_mm.registry import WEIGHT_INITIALIZERS

from .checks import PackageError

_DEEP_STEM = "this backbone has the deep stem of ResNetV1c: use type='ResNet' and pretrained=None"
RANDOM_INIT = [
    dict(type='Kaiming', layer='Conv2d'),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
]


class BackboneMismatchError(CheckpointError):
    """A checkpoint that is not one of this backbone; the message lists every key."""


@WEIGHT_INITIALIZERS.register_module()
class BackboneInit:
    """Initialises a backbone and stops where a checkpoint does not fill it completely.

    mmengine's ``Pretrained`` loads what fits and logs the rest; a plain ResNet-50 checkpoint in mmseg's
    ResNetV1c leaves 18 tensors random that way, and an empty prefix all of them. Here every tensor of the
    backbone must be in the checkpoint with its shape, and none may be left over. And mmengine lets parts of
    a backbone that bring an ``init_cfg`` of their own initialise themselves afterwards, unless the type is
    'Pretrained': here what was loaded stays. (A class whose own ``init_weights`` fills the whole network
    after that, as mmpose's ShuffleNetV2, still does; Swin and PVT take nothing but 'Pretrained'.)

    Use as ``model.backbone.init_cfg=dict(type='cmp_mm.BackboneInit', source=...)``; then
    ``--cfg-options model.backbone.init_cfg.source=...`` is the switch.

    Args:
        source: ``'random'`` (Kaiming convolutions, last norm of each residual block zero where the
            backbone asks for it), ``'imagenet'`` (torchvision's weights, ResNets only; of one with fewer
            stages the rest is left over), ``'cmp'``
            (``checkpoints/cmp_ARCH_backbone.pth``, ARCH being alexnet, resnet18, resnet50, ...), or
            anything mmengine loads: a path, a URL, ``torchvision://...``; ``.safetensors`` too.
        prefix: what the backbone's keys begin with. None: ``backbone.`` if there are such keys, else ''.
        ignored: beginnings of keys that may be left over, such as the classifier of an ImageNet network.

    Raises:
        BackboneMismatchError: missing, left-over or mis-shaped keys, no key with the prefix, ImageNet
            weights asked for a backbone that has none, or another initialiser after this one, which would
            write over what was loaded.
        FileNotFoundError: no such checkpoint.
        PackageError: torchvision, which has the ImageNet weights, is not installed.
    """

    def __init__(
        self,
        source: str = 'cmp',
        prefix: str | None = None,
        ignored: Sequence[str] = ('fc.', 'classifier.'),
    ) -> None:
        self.source = os.fspath(source)
        self.prefix = prefix
        self.ignored = tuple(ignored)

    def __call__(self, module: nn.Module) -> None:
        """Initialise ``module``, the backbone."""
        if self.source == 'random':
            initialize_randomly(module)
            return
        self._check_last(module)
        path = self.locate(module)
        weights, stride = read_weights(path)
        state, prefix = part_under_prefix(weights, self.prefix, path)
        ignored = self.ignored
        if self.source == 'imagenet':
            ignored += tuple(f'layer{n}.' for n in (2, 3, 4) if not hasattr(module, f'layer{n}'))
        load_backbone(module, state, path, ignored)
        keep_parts(module)
        # mmpose zeroes the last norms after init_cfg has run, unless its type is 'Pretrained'.
        if hasattr(module, 'zero_init_residual'):
            module.zero_init_residual = False
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'{type(self).__name__}: {path}')
        print_log(
            f'{type(module).__name__}: all {len(module.state_dict())} tensors found in {path}'
            + (f' under {prefix!r}' if prefix else ''),
            logger='current',
        )
        # The same shapes at any stride, and not the same network: its filters see the image at another scale.
        if isinstance(stride, int) and stride != getattr(module, 'stride', stride):
            print_log(
                f'{path} was trained at stride {stride}, and the backbone has stride {module.stride}: '
                f'where the head takes that, --cfg-options model.backbone.stride={stride} keeps its own',
                logger='current',
                level=logging.WARNING,
            )

    def _check_last(self, module: nn.Module) -> None:
        # mmengine moves 'Pretrained' to the end of a list, and nothing else.
        entries = getattr(module, 'init_cfg', None)
        entries = entries if isinstance(entries, (list, tuple)) else []
        # One with an override alone means the part that it names.
        entries = [one for one in entries if 'override' not in one or 'layer' in one]
        names = [str(one.get('type', '')).rpartition('.')[2] for one in entries]
        if type(self).__name__ in names[:-1]:
            after = names[names.index(type(self).__name__) + 1]
            raise BackboneMismatchError(
                f'init_cfg of {type(module).__name__}: {after} comes after BackboneInit and would write over '
                'what it loads; put BackboneInit last'
            )

    def locate(self, module: nn.Module) -> str:
        """The checkpoint that ``source`` stands for with this backbone."""
        arch = architecture(module)
        if self.source in ('imagenet', 'cmp') and arch.startswith('resnetv1'):
            raise BackboneMismatchError(f'init_cfg.source {self.source!r} is of a plain ResNet; {_DEEP_STEM}')
        if self.source == 'imagenet':
            if not re.fullmatch(r'resnet\d+', arch):
                raise BackboneMismatchError(
                    f'there are no ImageNet weights for {type(module).__name__}; set init_cfg.source to '
                    "'random', 'cmp' or a file"
                )
            if find_spec('torchvision') is None:
                raise PackageError(
                    "init_cfg.source 'imagenet' needs torchvision, built for the torch that is installed: "
                    f'{install_command()}'
                )
            return f'torchvision://{arch}'
        path = f'checkpoints/cmp_{arch}_backbone.pth' if self.source == 'cmp' else self.source
        if '://' not in path and not os.path.isfile(os.path.expanduser(path)):
            hint = (
                '; put an exported backbone there (tools/model_converters/extract_backbone.py CKPT OUT) or '
                'name another file: --cfg-options model.backbone.init_cfg.source=FILE'
            )
            raise FileNotFoundError(f'backbone checkpoint {path}: there is no such file{hint}')
        return path


def architecture(module: nn.Module) -> str:
    """Short name of a backbone: ``alexnet``, ``resnet50``, else its class in lower case."""
    name = type(module).__name__.lower()
    if name.startswith('alexnet'):
        return 'alexnet'
    depth = getattr(module, 'depth', None)
    return f'{name}{depth}' if name == 'resnet' and depth else name


def initialize_randomly(module: nn.Module) -> None:
    """What mmseg, mmpose and mmdet do to a ResNet without a checkpoint, for any backbone."""
    initialize(module, RANDOM_INIT)
    if getattr(module, 'zero_init_residual', False):
        zero_last_norms(module)


def keep_parts(module: nn.Module) -> None:
    """Keep mmengine from asking the parts of ``module`` to initialise themselves, as it does next."""
    for part in module.modules():
        if part is module:
            continue
        if isinstance(part, BaseModule):
            part._is_init = True
        elif hasattr(part, 'init_weights'):  # mmcv's ConvModule
            part.is_init = True


def read_weights(path: str) -> tuple[dict[str, Tensor], Any]:
    """The named tensors in a file, and the stride that it tells of its backbone, None if it does not.

    Raises:
        CheckpointError: not a checkpoint of plain data.
        ImportError: a safetensors file where safetensors is not installed.
    """
    if path.endswith('.safetensors'):
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError:
            raise ImportError(f"{path} needs safetensors: pip install 'cmp_mm[safetensors]'") from None
        try:
            with get_local_path(os.path.expanduser(path)) as local:
                return load_file(local), None
        except SafetensorError as error:
            raise CheckpointError(f'checkpoint {path}: not a whole safetensors file ({error})') from None
    checkpoint = CheckpointLoader.load_checkpoint(path, 'cpu')
    node = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    for name in ('model', 'backbone'):  # an exported backbone has the second alone
        node = node.get(name, node) if isinstance(node, Mapping) else {}
    return state_dict_of(checkpoint), node.get('stride') if isinstance(node, Mapping) else None


def part_under_prefix(
    state: Mapping[str, Tensor], prefix: str | None, path: str
) -> tuple[dict[str, Tensor], str]:
    """The backbone's part of a checkpoint, without its prefix, and the prefix.

    Args:
        state: all the weights.
        prefix: see :class:`BackboneInit`.
        path: how to call the file in an error.
    """
    if prefix is None:
        prefix = 'backbone.' if any(key.startswith('backbone.') for key in state) else ''
    if prefix and not prefix.endswith('.'):
        prefix += '.'
    selected = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    if selected:
        return selected, prefix
    beginnings = sorted({key.split('.')[0] + '.' for key in state})
    raise BackboneMismatchError(
        f'{path}: no key begins with {prefix!r}; the keys begin with {", ".join(beginnings)}'
    )


def load_backbone(
    module: nn.Module, state: Mapping[str, Tensor], path: str, ignored: Sequence[str] = ()
) -> None:
    """Load ``state`` into ``module`` if, and only if, it fills it exactly.

    ``num_batches_tracked`` may be absent (older files) and keys that begin with one of ``ignored`` left over.

    Raises:
        BackboneMismatchError: with every key that is missing, left over or of another shape.
    """
    wanted, report = module.state_dict(), compare_keys(module, state)
    extra = [key for key in report.unexpected if not key.startswith(tuple(ignored))]
    shapes = [
        f'{key} is {tuple(state[key].shape)} there, {tuple(wanted[key].shape)} here'
        for key in report.misshapen
    ]
    if report.missing or extra or shapes:
        lists = {'missing': report.missing, 'left over': extra, 'of another shape': shapes}
        lines = [f'{len(keys)} {what}: {", ".join(keys)}' for what, keys in lists.items() if keys]
        raise BackboneMismatchError(
            f'{path} does not fill {type(module).__name__}{_guess(report.missing, extra)}\n'
            + '\n'.join(lines)
        )
    module.load_state_dict({key: value for key, value in state.items() if key in wanted}, strict=False)


def _guess(missing: Sequence[str], extra: Sequence[str]) -> str:
    """The usual reasons, so that the list need not be read first."""
    if any(key.startswith('stem.') for key in missing):
        return f' ({_DEEP_STEM})'
    # The last ones in an encoder on its own; the conv5 of an AlexNet has parts.
    reference = re.compile(r'(module|image_encoder)\.|conv[58]\.(weight|bias)$')
    if any(reference.match(key) for key in extra):
        return ' (a reference checkpoint? convert it: tools/model_converters/official2cmp_mm.py SRC DST)'
    for keys, name in ((extra, 'an AlexNet'), (missing, 'not an AlexNet')):
        if any(key.startswith('fc6.') for key in keys):
            return f' ({name}?)'
    blocks = [key for key in (*missing, *extra) if key.startswith('layer')]
    if blocks and len(blocks) == len(missing) + len(extra):
        return ' (a ResNet of another depth or number of stages?)'
    return ''
