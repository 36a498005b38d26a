"""Renaming of the reference's weights; their outputs are compared in tests/test_tools."""

import json
from pathlib import Path

import pytest
import torch

from cmp_mm.models.official import OfficialFormatError, convert_official
from cmp_mm.registry import MODELS

SHAPES = json.loads(
    (Path(__file__).parents[1] / 'data' / 'model' / 'official_state_dict_shapes.json').read_text()
)
RECOGNISED = {
    'alexnet_plain': ('AlexNetFCN', None, 'PlainDecoder', (1, 2, 4)),
    'resnet50_plain': ('ResNet', 50, 'PlainDecoder', (1, 2, 4)),
    'resnet50_plain8': ('ResNet', 50, 'PlainDecoder', (1, 2, 4, 8)),
    'resnet50_skip': ('ResNet', 50, 'SkipDecoder', (1, 2, 4, 8)),
    'resnet50_flownet': ('ResNet', 50, 'FlowNetDecoder', (1, 2, 4, 8)),
}


@pytest.fixture(autouse=True)
def no_memory():
    """Keys and shapes are all that counts here."""
    with torch.device('meta'):
        yield


def weights(variant, keep=lambda key: True, strip=''):
    return {
        key.removeprefix(strip): torch.empty(shape) for key, shape in SHAPES[variant].items() if keep(key)
    }


@pytest.mark.parametrize(('variant', 'expected'), RECOGNISED.items())
def test_the_network_is_recognised_from_its_keys(variant, expected):
    config, state = convert_official(weights(variant))
    decoder = config['decoder']
    assert (
        config['backbone']['type'],
        config['backbone'].get('depth'),
        decoder['type'],
        decoder['combo'],
    ) == expected
    assert len(state) == len(SHAPES[variant])


@pytest.mark.parametrize('variant', RECOGNISED)
def test_prefix_and_batch_counters_may_be_absent(variant):
    _, state = convert_official(weights(variant))
    older = weights(variant, lambda key: not key.endswith('num_batches_tracked'), strip='module.')
    _, from_older = convert_official(older)
    assert {k: v.shape for k, v in from_older.items()} == {k: v.shape for k, v in state.items()}


@pytest.mark.parametrize('prefix', ['module.', 'module.image_encoder.'])
@pytest.mark.parametrize('projection', [True, False])
@pytest.mark.parametrize(('variant', 'name'), [('alexnet_plain', 'conv8.'), ('resnet50_skip', '.conv5.')])
def test_an_extracted_encoder_gives_the_backbone(variant, name, projection, prefix):
    def keep(key):
        return 'image_encoder' in key and (projection or name not in key)

    config, state = convert_official(weights(variant, keep, strip=prefix))
    assert config['type'] == ('AlexNetFCN' if variant == 'alexnet_plain' else 'ResNet')
    assert {key.split('.')[0] for key in state} == ({'backbone', 'neck'} if projection else {'backbone'})


@pytest.mark.parametrize(('depth', 'blocks'), [(101, (3, 4, 23, 3)), (152, (3, 8, 36, 3))])
def test_other_depths_are_recognised(depth, blocks):
    state = {}
    for stage, count in enumerate(blocks, 1):
        source = [key for key in SHAPES['resnet50_plain'] if f'image_encoder.layer{stage}.' in key]
        for block in range(count):
            for key in source:
                if f'layer{stage}.{min(block, 1)}.' in key:
                    name = key.split('image_encoder.')[1].replace(
                        f'layer{stage}.{min(block, 1)}.', f'layer{stage}.{block}.'
                    )
                    state[name] = torch.empty(SHAPES['resnet50_plain'][key])
    for key in ('conv1.weight', *(f'bn1.{n}' for n in ('weight', 'bias', 'running_mean', 'running_var'))):
        state[key] = torch.empty(SHAPES['resnet50_plain'][f'module.image_encoder.{key}'])
    assert convert_official(state)[0] == dict(type='ResNet', depth=depth)


@pytest.mark.parametrize('depth', [18, 34])
def test_encoders_of_basic_blocks_are_recognised(depth):
    state = MODELS.build(dict(type='cmp_mm.ResNet', depth=depth)).state_dict()
    config, converted = convert_official(state)
    assert config == dict(type='ResNet', depth=depth)
    assert converted.keys() == {f'backbone.{key}' for key in state}


def test_alexnet_s_stride_is_told_not_read():
    config, _ = convert_official(weights('alexnet_plain'), alexnet_stride=8)
    assert (config['backbone']['stride'], config['guidance_encoder']['stride']) == (8, 8)


def test_raw_flow_heads_get_no_codec():
    state = weights('resnet50_plain')
    state['module.flow_decoder.head.weight'] = torch.empty(2, 384, 1, 1)
    state['module.flow_decoder.head.bias'] = torch.empty(2)
    config, _ = convert_official(state)
    assert config['codec'] is None
    assert config['decoder']['out_channels'] == 2


def remove(key):
    return lambda state: state.pop(key)


def put(key, *shape):
    return lambda state: state.update({key: torch.empty(shape)})


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (remove('module.image_encoder.layer4.2.bn3.bias'), r'1 keys missing \(backbone.layer4.2.bn3.bias\)'),
        (
            remove('module.flow_encoder.features.0.bias'),
            r'1 keys missing \(guidance_encoder.features.0.bias\)',
        ),
        (put('module.flow_decoder.extra.weight', 3), r'1 keys unknown \(decoder.extra.weight\)'),
        (put('module.image_encoder.fc.weight', 3), r'1 keys unknown \(backbone.fc.weight\)'),
        (
            put('module.image_encoder.conv1.weight', 64, 4, 7, 7),
            r'1 keys of another shape \(backbone.conv1.weight\)',
        ),
        (remove('module.flow_decoder.head.weight'), 'no propagation nets or no head'),
    ],
)
def test_a_damaged_model_is_refused_with_the_keys(damage, message):
    state = weights('resnet50_plain')
    damage(state)
    with pytest.raises(OfficialFormatError, match=message + '.*expected a checkpoint of the reference'):
        convert_official(state)


@pytest.mark.parametrize('shape', [(), (0, 128, 1, 1), (3, 128, 1, 1), (200, 128, 1, 1), (198,)])
@pytest.mark.parametrize('variant', ['alexnet_plain', 'resnet50_plain'])
def test_a_head_that_is_none_is_refused(variant, shape):
    state = weights(variant)
    state['module.flow_decoder.head.weight'] = torch.empty(shape)
    with pytest.raises(OfficialFormatError, match=r'head.weight is of shape \(.*expected a checkpoint'):
        convert_official(state)


def test_a_head_of_a_huge_claimed_width_takes_no_memory():
    """A tensor without strides has any size in a file of a few bytes."""
    state = weights('resnet50_plain')
    with torch.device('cpu'):
        state['module.flow_decoder.head.weight'] = torch.zeros(1).expand(10**9 + 2, 128, 1, 1)
        with pytest.raises(OfficialFormatError, match='is of shape'):
            convert_official(state)


def test_alexnet_with_skip_connections_is_refused():
    state = weights('alexnet_plain')
    state['module.flow_decoder.fusion8.0.weight'] = torch.empty(1)
    with pytest.raises(OfficialFormatError, match='AlexNet has no skip connections'):
        convert_official(state)


@pytest.mark.parametrize('number', ['0', '64000', '9' * 5000])
def test_a_propagation_net_of_an_impossible_scale_is_refused(number):
    state = weights('resnet50_plain')
    state[f'module.flow_decoder.decoder{number}.0.weight'] = torch.empty(1)
    with pytest.raises(OfficialFormatError, match='1 keys unknown'):
        convert_official(state)


def test_weights_that_are_checked_take_no_memory_and_no_random_numbers():
    with torch.device('cpu'):
        state = {key: torch.zeros(()).expand(shape) for key, shape in SHAPES['resnet50_plain'].items()}
        before = torch.get_rng_state()
        convert_official(state)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    'state', [{}, {'backbone.conv1.weight': 0}, {'features.0.weight': 0}, {'layer1.0.conv1.weight': 0}]
)
def test_something_else_is_refused_with_what_was_expected(state):
    with pytest.raises(OfficialFormatError, match='no reference weights: found .*expected a checkpoint of'):
        convert_official({key: torch.empty(1) for key in state})


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_strange_names_are_shown_on_one_short_line(prefix):
    state = {prefix + name: torch.zeros(1) for name in ('a\nb', 'c' * 5000, '\x1b[31m', 'd')}
    with pytest.raises(OfficialFormatError, match=r'found \\x1b\[31m, a\\nb, c{77}\.\.\., \.\.\.;') as caught:
        convert_official(state)
    assert '\n' not in str(caught.value)
    whole = weights('alexnet_plain')
    whole['module.flow_decoder.head.we\night'] = torch.zeros(1)
    with pytest.raises(OfficialFormatError, match=r'1 keys unknown \(decoder.head.we\\night\)'):
        convert_official(whole)


def test_an_imagenet_classifier_is_refused():
    state = weights(
        'resnet50_plain', lambda k: 'image_encoder' in k and 'conv5' not in k, 'module.image_encoder.'
    )
    state['fc.weight'] = torch.empty(1000, 2048)
    with pytest.raises(OfficialFormatError, match=r'1 keys unknown \(backbone.fc.weight\)'):
        convert_official(state)


def test_the_config_decodes_and_normalises_as_the_reference_does():
    config, _ = convert_official(weights('resnet50_plain'))
    assert config['codec'] == dict(type='QuantizedFlowCodec', num_bins=99, max_flow=50.0)
    assert config['data_preprocessor'] == dict(type='FlowDataPreprocessor')
    assert config['loss'] == dict(type='QuantizedFlowLoss')
