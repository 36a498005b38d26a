import copy
import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from cmp_mm.apis import CMPInferencer, InputError, InputWarning, find_config, loading
from cmp_mm.apis.loading import load_network
from cmp_mm.engine import CheckpointError
from cmp_mm.engine.export import build_module
from cmp_mm.registry import MODELS

DATA = Path(__file__).parents[1] / 'data' / 'model'


def official(state: dict) -> dict:
    """The plain network's weights under the reference's names, as its files hold them."""
    renamed = {}
    for key, value in state.items():
        part, _, name = key.partition('.')
        if part == 'backbone':
            name = f'image_encoder.{name}'
        elif part == 'neck':
            name = f'image_encoder.conv5.{name.removeprefix("conv.")}'
        elif part == 'guidance_encoder':
            name = f'flow_encoder.{name}'
        elif name.startswith('propagation'):
            scale, number, layer, leaf = name.removeprefix('propagation.nets.scale').split('.')
            place = int(scale != '1') + 3 * int(number) + int(layer)
            name = f'flow_decoder.decoder{scale}.{place}.{leaf}'
        else:
            name = f'flow_decoder.{name}'
        renamed[f'module.{name}'] = value
    return renamed


@pytest.fixture(scope='module')
def resnet18():
    """A plain network of a depth the reference has, few bins."""
    torch.manual_seed(0)
    return dict(
        type='CMP',
        backbone=dict(type='ResNet', depth=18),
        neck=dict(type='ConvNeck', in_channels=512),
        guidance_encoder=dict(type='GuidanceEncoder', stride=8),
        decoder=dict(type='PlainDecoder', in_channels=272, combo=(1, 2), out_channels=42),
        codec=dict(type='QuantizedFlowCodec', num_bins=21),
        loss=dict(type='QuantizedFlowLoss'),
    )


@pytest.mark.parametrize('how', ['config', 'weights alone'])
def test_reference_checkpoints_are_recognised(resnet18, how, tmp_path):
    model = MODELS.build({'_scope_': 'cmp_mm', **resnet18})
    path = tmp_path / 'reference.pth.tar'
    torch.save(dict(step=1, state_dict=official(model.state_dict()), optimizer={}), path)
    loaded = load_network(resnet18 if how == 'config' else None, path)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_checkpoint_trained_with_guidance_on_the_device_tells_its_network(resnet18, tmp_path):
    """Its strategies have a type too, which names no module."""
    points = dict(strategies=[dict(type='watershed', kernel_size=41), dict(type='grid', stride=60)])
    described = dict(resnet18, data_preprocessor=dict(type='FlowDataPreprocessor', guidance=points))
    model = MODELS.build({'_scope_': 'cmp_mm', **copy.deepcopy(described)})
    path = tmp_path / 'device.pth'
    torch.save(dict(meta=dict(model=described), state_dict=model.state_dict()), path)
    for loaded in (load_network(None, path), build_module(described)):
        assert loaded.state_dict().keys() == model.state_dict().keys()
    normed = dict(type='AlexNetFCN', norm_cfg=dict(type='SyncBN'))
    assert loading._plain_config(dict(described, backbone=normed))['backbone'] == normed
    described['neck'] = dict(type='os.system')
    torch.save(dict(meta=dict(model=described), state_dict=model.state_dict()), path)
    with pytest.raises(InputError, match='does not tell its network'):
        load_network(None, path)


def test_own_checkpoint_by_config_object_part_and_file(tiny_config, weights, tmp_path):
    path = tmp_path / 'tiny.py'
    tiny_config.dump(str(path))
    wanted = torch.load(weights, weights_only=True)['state_dict']
    for model in (tiny_config, tiny_config.model, path, str(path)):
        state = CMPInferencer(model, weights, 'cpu').model.state_dict()
        assert all(torch.equal(state[key], value) for key, value in wanted.items())


def test_saved_from_parallel_training(tiny_config, weights, tmp_path):
    state = torch.load(weights, weights_only=True)['state_dict']
    torch.save({f'module.{key}': value for key, value in state.items()}, tmp_path / 'bare.pth')
    loaded = load_network(tiny_config, tmp_path / 'bare.pth')
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in state.items())


def test_built_network_needs_no_weights(tiny_config):
    model = MODELS.build(tiny_config.model)
    inferencer = CMPInferencer(model)
    assert inferencer.model is model
    assert all(parameter.requires_grad for parameter in model.parameters())


def _trained_at(*sides, wrapped=False):
    """A training config's data part that resizes to each of the short sides."""
    steps = [dict(type='FlowResize', short_side=side, interpolation='area') for side in sides]
    if wrapped:
        steps = [dict(type='RandomChoice', transforms=[[step] for step in steps])]
    dataset = dict(type='RepeatDataset', times=2, dataset=dict(type='ImageFlowDataset', pipeline=steps))
    return dict(batch_size=16, dataset=dataset)


@pytest.mark.parametrize(
    ('data', 'wanted'),
    [
        (_trained_at(112), 112),
        (_trained_at(112, wrapped=True), 112),
        (_trained_at(112, 240, wrapped=True), None),  # not one size
        (_trained_at(), None),
        (None, None),
    ],
)
def test_the_side_of_training_images_is_known(tiny_config, weights, tmp_path, data, wanted):
    others = dict(val_dataloader=_trained_at(333), test_dataloader=_trained_at(333))
    whole = Config(dict(tiny_config.to_dict(), train_dataloader=data, **others))
    whole.dump(str(tmp_path / 'whole.py'))
    for config in (whole, tmp_path / 'whole.py'):
        assert CMPInferencer(config, weights, 'cpu').trained_side == wanted
    # As a checkpoint holds it, which knows better than a config given with it.
    stored = torch.load(weights, weights_only=True)
    stored['meta'].update(cfg=whole.pretty_text, model=tiny_config.model.to_dict())
    torch.save(stored, tmp_path / 'told.pth')
    assert CMPInferencer(None, tmp_path / 'told.pth', 'cpu').trained_side == wanted
    other = Config(dict(tiny_config.to_dict(), train_dataloader=_trained_at(64)))
    assert CMPInferencer(other, tmp_path / 'told.pth', 'cpu').trained_side == (wanted or 64)
    network = MODELS.build(tiny_config.model)
    assert CMPInferencer(network, tmp_path / 'told.pth', 'cpu').trained_side == wanted
    assert CMPInferencer(network).trained_side is None


@pytest.mark.parametrize('text', [3, None, 'train_dataloader = dict(', "model = dict(type='FlowResize')"])
def test_a_stored_config_of_another_kind_tells_no_side(tiny_config, weights, tmp_path, text):
    stored = torch.load(weights, weights_only=True)
    torch.save({**stored, 'meta': dict(cfg=text)}, tmp_path / 'told.pth')
    assert CMPInferencer(tiny_config, tmp_path / 'told.pth', 'cpu').trained_side is None


def test_configs_are_found_by_name():
    assert find_config('cmp_resnet50_plain').parts[-2:] == ('models', 'cmp_resnet50_plain.py')
    assert find_config('cmp_resnet50-skip_8xb8-42k_vip-mpii-384x384.py').parent.name == 'cmp'
    with pytest.raises(InputError, match=r"'cmp_resnet50_plane' is neither .* cmp_resnet50_plain"):
        find_config('cmp_resnet50_plane')


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (dict(model=dict(type='EncoderDecoder')), "'EncoderDecoder'; expected 'CMP'"),
        (dict(type='CMP'), 'cannot be built'),
        (3, 'int'),
        ('no/such/config.py', 'neither a file'),
    ],
)
def test_unusable_configs_are_named(model, message, weights):
    with pytest.raises(InputError, match=message) as caught:
        CMPInferencer(model, weights)
    assert '\n' not in str(caught.value)


def test_without_weights_it_says_how_to_make_them(tiny_config):
    with pytest.raises(InputError, match='quickstart'):
        CMPInferencer(tiny_config)


def test_a_config_that_is_no_python(weights, tmp_path):
    path = tmp_path / 'broken.py'
    path.write_text('model = dict(')
    with pytest.raises(InputError, match='cannot be read'):
        CMPInferencer(path, weights)


class Payload:
    """Makes a folder when unpickled carelessly."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_checkpoints_cannot_run_code(tiny_config, weights, tmp_path):
    proof = tmp_path / 'proof'
    state = torch.load(weights, weights_only=True)['state_dict']
    torch.save(dict(state_dict=state, meta=Payload(proof)), tmp_path / 'pickle.pth')
    with pytest.raises(CheckpointError, match='refused'):
        CMPInferencer(tiny_config, tmp_path / 'pickle.pth')
    # A registry imports whatever dotted name it meets.
    planted = dict(type='CMP', backbone=dict(type='os.mkdir', path=str(proof)))
    torch.save(dict(state_dict=state, meta=dict(model=planted)), tmp_path / 'type.pth')
    with pytest.raises(InputError, match='name the config'):
        CMPInferencer(None, tmp_path / 'type.pth')
    assert not proof.exists()


def test_how_training_began_is_no_part_of_the_network(tiny_config, weights, tmp_path):
    state = torch.load(weights, weights_only=True)['state_dict']
    config = copy.deepcopy(tiny_config.model.to_dict())
    config.update(type='cmp_mm.CMP', init_cfg=dict(type='ReferenceInit'))
    config['backbone']['init_cfg'] = [dict(type='Kaiming', layer='Conv2d')]
    config['decoder']['init_cfg'] = dict(type='os.mkdir', path=str(tmp_path / 'proof'))
    torch.save(dict(state_dict=state, meta=dict(model=config)), tmp_path / 'own.pth')
    loaded = CMPInferencer(weights=tmp_path / 'own.pth').model
    assert not (tmp_path / 'proof').exists()
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, state[key])


def test_a_checkpoint_for_a_config_is_told(weights):
    for given in (dict(model=weights), dict(model=str(weights), weights='config.py')):
        with pytest.raises(InputError, match=r'tiny.pth is a checkpoint; give it as weights'):
            CMPInferencer(**given)


def test_network_told_by_a_converted_checkpoint(tiny_config, weights, tmp_path):
    state = torch.load(weights, weights_only=True)['state_dict']
    config = tiny_config.model.to_dict()
    torch.save(dict(state_dict=state, meta=dict(model=config)), tmp_path / 'told.pth')
    assert CMPInferencer(None, tmp_path / 'told.pth').model.codec.num_bins == 21


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: {k: v for k, v in s.items() if not k.startswith('decoder.head')}, 'missing'),
        (lambda s: {**s, 'decoder.other.weight': torch.zeros(1)}, 'unexpected'),
        (lambda s: {**s, 'decoder.head.weight': torch.zeros(3, 3, 1, 1)}, 'another shape'),
        (lambda s: {k: v for k, v in s.items() if k.startswith('backbone.')}, 'image encoder alone'),
        (lambda s: {}, 'no weights'),
        (lambda s: {**s, 'step': 3}, 'no weights'),
    ],
)
def test_weights_of_another_network(tiny_config, weights, tmp_path, change, message):
    state = torch.load(weights, weights_only=True)['state_dict']
    path = tmp_path / 'other.pth'
    torch.save(dict(state_dict=change(dict(state))), path)
    with pytest.raises(CheckpointError, match=message) as caught:
        CMPInferencer(tiny_config, path)
    assert '\n' not in str(caught.value)
    assert 'other.pth' in str(caught.value)


def test_the_stride_that_weights_of_an_alexnet_do_not_tell_is_told(tmp_path):
    shapes = json.loads((DATA / 'official_state_dict_shapes.json').read_text())['alexnet_plain']
    state = {key: torch.zeros(shape) for key, shape in shapes.items()}
    torch.save(dict(state_dict=state), tmp_path / 'reference.pth.tar')
    config = Config.fromfile(find_config('cmp_alexnet_plain')).model
    with pytest.warns(InputWarning, match=r'stride 32 or 8.* 32 is taken: .*--alexnet-stride 8'):
        network = load_network(None, tmp_path / 'reference.pth.tar')
    assert network.guidance_encoder.stride == 32
    config.backbone.stride = config.guidance_encoder.stride = 8
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert load_network(config, tmp_path / 'reference.pth.tar').guidance_encoder.stride == 8


def test_reference_checkpoint_of_another_network(tiny_config, resnet18, tmp_path):
    state = official(MODELS.build({'_scope_': 'cmp_mm', **resnet18}).state_dict())
    torch.save(dict(state_dict=state), tmp_path / 'reference.pth')
    with pytest.raises(CheckpointError, match='not one of this config'):
        CMPInferencer(tiny_config, tmp_path / 'reference.pth')
    del state['module.flow_decoder.head.weight']
    torch.save(dict(state_dict=state), tmp_path / 'reference.pth')
    with pytest.raises(CheckpointError, match='no head'):
        CMPInferencer(tiny_config, tmp_path / 'reference.pth')


def test_configs_of_an_installed_package(monkeypatch, tmp_path):
    package = tmp_path / 'site-packages' / 'cmp_mm'
    models = package / '.mim' / 'configs' / '_base_' / 'models'
    models.mkdir(parents=True)
    (models / 'some_network.py').write_text('model = dict()')
    # Somebody else's folder beside the package.
    (package.parent / 'configs').mkdir()
    (package.parent / 'configs' / 'other.py').write_text('')
    monkeypatch.setattr('cmp_mm.__file__', str(package / '__init__.py'))
    assert find_config('some_network') == models / 'some_network.py'
    with pytest.raises(InputError, match='neither'):
        find_config('other')
