"""Weights of the reference implementation (XiaohangZhan/conditional-motion-propagation) under our names.

Its keys are ``image_encoder.*``, ``flow_encoder.features.*`` and ``flow_decoder.*``, each after ``module.``;
extracted image encoders have none of these prefixes. The network a file holds is recognised from its keys and
shapes, except the stride of AlexNet, which leaves no trace in the weights.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from cmp_mm.registry import MODELS

_EXPECTED = (
    'expected a checkpoint of the reference implementation (image_encoder.*, flow_encoder.*, flow_decoder.*) '
    'or an image encoder extracted from one (AlexNet: conv1.0.*, ..., fc7.*; ResNet: conv1.*, layer1.*, ...)'
)
_DEPTHS = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
# Of a head; the reference's widest is 2 x 99.
MAX_WIDTH = 1998
# The names that differ inside the decoders; the propagation nets are handled by _propagation_key.
_DECODER_NAMES = {
    'upsampled_flow8_to_4': 'upsample_flow8',
    'upsampled_flow4_to_2': 'upsample_flow4',
    'upsampled_flow2_to_1': 'upsample_flow2',
}


class OfficialFormatError(ValueError):
    """Weights that are not those of the reference implementation; the message is one sentence."""


def convert_official(state_dict: Mapping[str, Tensor], alexnet_stride: int = 32) -> tuple[dict, dict]:
    """Rename the reference's weights to ours.

    Args:
        state_dict: with or without ``module.`` before each key and ``num_batches_tracked`` beside each batch
            normalisation; all of a model, or its image encoder alone.
        alexnet_stride: 32 or 8, for the model config only: both have the same weights.

    Returns:
        The config of the model, or of the backbone alone where that is all there is; and the state dict,
        whose keys fit the config exactly and begin with ``backbone.`` (and ``neck.`` where the extracted
        encoder kept its projection) in the second case too.

    Raises:
        OfficialFormatError: keys or shapes are not the reference's; says which, and what was expected.
    """
    state = {re.sub(r'^module\.', '', key): value for key, value in state_dict.items()}
    whole = any(key.startswith(('flow_encoder.', 'flow_decoder.')) for key in state)
    if not whole:
        state = {'image_encoder.' + re.sub(r'^image_encoder\.', '', key): v for key, v in state.items()}
    backbone, neck = _encoder_configs(state, alexnet_stride)
    renamed = {_rename(key, backbone['type']): value for key, value in state.items()}
    for key in [key for key in renamed if key.endswith('.running_var')]:
        # Files older than torch 0.4.1 lack the counter; it has no effect at the reference's momentum.
        renamed.setdefault(key.removesuffix('running_var') + 'num_batches_tracked', torch.tensor(0))
    if not whole:
        _check(backbone, renamed, 'backbone.')
        return backbone, renamed
    config = _model_config(state, backbone, neck)
    _check(config, renamed)
    return config, renamed


def _encoder_configs(state: dict[str, Tensor], alexnet_stride: int) -> tuple[dict, dict]:
    keys = {key.removeprefix('image_encoder.') for key in state if key.startswith('image_encoder.')}
    if 'conv1.0.weight' in keys:
        return dict(type='AlexNetFCN', stride=alexnet_stride), dict(type='ConvNeck', in_channels=4096)
    blocks = tuple(
        len({key.split('.')[1] for key in keys if key.startswith(f'layer{stage}.')}) for stage in (1, 2, 3, 4)
    )
    bottleneck = 'layer1.0.conv3.weight' in keys
    depth = _DEPTHS.get((bottleneck, blocks))
    if depth is None:
        found = _listed(sorted(keys) or sorted(state)) or 'no weights'
        raise OfficialFormatError(f'no reference weights: found {found}; {_EXPECTED}.')
    return dict(type='ResNet', depth=depth), dict(type='ConvNeck', in_channels=2048 if bottleneck else 512)


def _model_config(state: dict[str, Tensor], backbone: dict, neck: dict) -> dict:
    """The rest of the model, by the keys of its decoder."""
    combo = sorted(
        {int(m[1]) for m in (re.match(r'flow_decoder\.decoder([1-9]\d?)\.', key) for key in state) if m}
    )
    heads = [key for key in ('flow_decoder.head.weight', 'flow_decoder.predict_flow8.weight') if key in state]
    if not combo or not heads:
        raise OfficialFormatError(
            f'no reference weights: the flow decoder has no propagation nets or no head; {_EXPECTED}.'
        )
    shape = tuple(state[heads[0]].shape)
    width = shape[0] if len(shape) == 4 else 0
    # Raw flow, or an odd number of bins for each of x and y.
    if width != 2 and (width % 4 != 2 or width > MAX_WIDTH):
        raise OfficialFormatError(f'no reference weights: {heads[0]} is of shape {shape}; {_EXPECTED}.')
    decoder = dict(combo=tuple(combo), out_channels=width)
    if any(key.startswith('flow_decoder.fusion8.') for key in state):
        if backbone['type'] != 'ResNet':
            raise OfficialFormatError(f'no reference weights: AlexNet has no skip connections; {_EXPECTED}.')
        skip = (64, 256 if neck['in_channels'] == 2048 else 64)
        backbone.update(out_stem=True, out_indices=(0, 3))
        if heads[0].startswith('flow_decoder.predict_flow8'):
            decoder.update(type='FlowNetDecoder', skip_channels=(3, *skip))
        else:
            decoder.update(type='SkipDecoder', skip_channels=skip)
    else:
        decoder.update(type='PlainDecoder')
    quantized = width > 2
    return dict(
        type='CMP',
        data_preprocessor=dict(type='FlowDataPreprocessor'),
        backbone=backbone,
        neck=neck,
        guidance_encoder=dict(type='GuidanceEncoder', stride=backbone.get('stride', 8)),
        decoder=decoder,
        codec=dict(type='QuantizedFlowCodec', num_bins=width // 2, max_flow=50.0) if quantized else None,
        loss=dict(type='QuantizedFlowLoss' if quantized else 'SmoothL1FlowLoss'),
    )


def _rename(key: str, encoder: str) -> str:
    part, _, name = key.partition('.')
    if part == 'image_encoder':
        projection = 'conv8.' if encoder == 'AlexNetFCN' else 'conv5.'
        if name.startswith(projection):
            return 'neck.conv.' + name.removeprefix(projection)
        return 'backbone.' + name
    if part == 'flow_encoder':
        return 'guidance_encoder.' + name
    if part == 'flow_decoder':
        net = re.fullmatch(r'decoder(\d{1,3})\.(\d{1,3})\.(\w+)', name)
        if net:
            return _propagation_key(int(net[1]), int(net[2]), net[3])
        first, _, rest = name.partition('.')
        return f'decoder.{_DECODER_NAMES.get(first, first)}.{rest}'
    return key


def _propagation_key(scale: int, index: int, name: str) -> str:
    """The reference counts [pool], conv, BN, ReLU, conv, ... in one list; here each conv-BN-ReLU is one."""
    index -= scale > 1
    return f'decoder.propagation.nets.scale{scale}.{index // 3}.{index % 3}.{name}'


def _listed(keys: list[str]) -> str:
    """The first three, each on one line and of bounded length, whatever a file calls its weights."""
    some = [key.encode('unicode_escape').decode() for key in keys[:3]]
    some = [key if len(key) <= 80 else f'{key[:77]}...' for key in some]
    return ', '.join(some) + (', ...' if len(keys) > 3 else '')


def _check(config: dict, state: dict[str, Tensor], prefix: str = '') -> None:
    """Hold ``state`` against what ``config`` builds; only the part ``prefix`` is expected in full."""
    # Names and shapes are enough: no memory is taken and no random number drawn for the weights.
    with torch.device('meta'):
        module = MODELS.build({'_scope_': 'cmp_mm', **config})
    expected = {prefix + key: value.shape for key, value in module.state_dict().items()}
    given = {key: value.shape for key, value in state.items() if not (prefix and key.startswith('neck.'))}
    missing = sorted(expected.keys() - given.keys())
    unexpected = sorted(given.keys() - expected.keys())
    reshaped = sorted(key for key in expected.keys() & given.keys() if expected[key] != given[key])
    if missing or unexpected or reshaped:
        found = '; '.join(
            f'{len(keys)} keys {what} ({_listed(keys)})'
            for keys, what in ((missing, 'missing'), (unexpected, 'unknown'), (reshaped, 'of another shape'))
            if keys
        )
        raise OfficialFormatError(f'no reference weights: {found}; {_EXPECTED}.')
