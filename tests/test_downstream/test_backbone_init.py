"""A backbone is filled completely or training stops, and what was loaded stays."""

import pytest
import torch
from mmengine.model import BaseModule

from cmp_mm.downstream import BackboneInit, BackboneMismatchError, backbone_init
from cmp_mm.downstream.backbone_init import architecture, read_weights
from cmp_mm.downstream.checks import PackageError
from cmp_mm.engine import CheckpointError
from cmp_mm.models import AlexNetFCN, ResNet


def saved(path, state):
    torch.save(state, path)
    return str(path)


def weights(file):
    state = torch.load(file, weights_only=True)['state_dict']
    return {key.removeprefix('backbone.'): value for key, value in state.items()}


def assert_holds(module, file):
    for key, value in weights(file).items():
        assert torch.equal(module.state_dict()[key], value), key


@pytest.mark.parametrize('package', ['mmseg', 'mmpose', 'mmdet', 'cmp_mm'])
def test_fills_the_resnet_of_every_package_and_stays(need, package, resnet18_file):
    need(package)
    module = pytest.importorskip(f'{package}.models.backbones.resnet')
    cfg = dict(type='cmp_mm.BackboneInit', source=str(resnet18_file))
    model = module.ResNet(depth=18, init_cfg=cfg)
    model.init_weights()
    assert_holds(model, resnet18_file)


@pytest.mark.parametrize('package', ['mmseg', 'mmpose', 'mmdet'])
def test_random_is_what_the_package_does_itself(need, package):
    need(package)
    resnet = pytest.importorskip(f'{package}.models.backbones.resnet').ResNet
    states = []
    for options in ({}, dict(init_cfg=dict(type='cmp_mm.BackboneInit', source='random'))):
        torch.manual_seed(0)
        model = resnet(depth=18, **options)
        torch.manual_seed(7)
        model.init_weights()
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_from_within_a_model_of_another_scope(resnet18_file):
    class Model(BaseModule):
        def __init__(self):
            super().__init__()
            self.backbone = ResNet(18, init_cfg=dict(type='cmp_mm.BackboneInit', source=str(resnet18_file)))

    model = Model()
    model.init_weights()
    assert_holds(model.backbone, resnet18_file)


def test_takes_bare_prefixed_and_torchvision_files(tmp_path, resnet18_file):
    state = weights(resnet18_file)
    files = [
        saved(tmp_path / 'bare.pth', state),
        saved(tmp_path / 'fc.pth', {**state, 'fc.weight': torch.zeros(2, 512), 'fc.bias': torch.zeros(2)}),
        saved(tmp_path / 'old.pth', {k: v for k, v in state.items() if 'num_batches' not in k}),
        saved(tmp_path / 'cmp.pth', dict(state_dict={f'backbone.{k}': v for k, v in state.items()}, step=3)),
        saved(
            tmp_path / 'whole.pth',
            {**{f'backbone.{k}': v for k, v in state.items()}, 'neck.conv.weight': torch.zeros(1)},
        ),
    ]
    for file in files:
        model = ResNet(18)
        BackboneInit(file)(model)
        assert torch.equal(model.layer4[1].conv2.weight, state['layer4.1.conv2.weight']), file


def test_safetensors(tmp_path, resnet18_file, monkeypatch):
    safetensors = pytest.importorskip('safetensors.torch')
    safetensors.save_file(weights(resnet18_file), tmp_path / 'r18.safetensors')
    model = ResNet(18)
    BackboneInit(str(tmp_path / 'r18.safetensors'))(model)
    assert_holds(model, resnet18_file)
    monkeypatch.setenv('HOME', str(tmp_path))
    model = ResNet(18)
    BackboneInit('~/r18.safetensors')(model)
    assert_holds(model, resnet18_file)


def test_a_damaged_safetensors_file_is_one_line(tmp_path):
    pytest.importorskip('safetensors')
    (tmp_path / 'cut.safetensors').write_bytes(b'\xff' * 20)
    with pytest.raises(CheckpointError, match='cut.safetensors: not a whole safetensors file') as error:
        read_weights(str(tmp_path / 'cut.safetensors'))
    assert '\n' not in str(error.value)


def test_another_stem_stops_with_the_list(need, resnet18_file):
    need('mmseg')
    from mmseg.models.backbones import ResNetV1c

    model = ResNetV1c(depth=18, init_cfg=dict(type='cmp_mm.BackboneInit', source=str(resnet18_file)))
    with pytest.raises(
        BackboneMismatchError, match=r"(?s)ResNetV1c: use type='ResNet'.*stem\.0\.weight"
    ) as info:
        model.init_weights()
    missing = [key for key in model.state_dict() if key.startswith('stem.') and 'num_batches' not in key]
    assert all(key in str(info.value) for key in [*missing, 'conv1.weight', 'bn1.running_var'])


@pytest.mark.parametrize('depth', [34, 50])
def test_another_depth_stops(resnet18_file, depth):
    with pytest.raises(BackboneMismatchError, match='another depth'):
        BackboneInit(str(resnet18_file))(ResNet(depth))


def test_shallower_model_than_checkpoint_stops(tmp_path):
    file = saved(tmp_path / 'r34.pth', ResNet(34).state_dict())
    with pytest.raises(BackboneMismatchError, match=r'left over: .*layer1\.2\.conv1\.weight'):
        BackboneInit(file)(ResNet(18))


@pytest.mark.parametrize('prefix', ['encoder', 'image_encoder.'])
def test_empty_prefix_stops(resnet18_file, prefix):
    with pytest.raises(BackboneMismatchError, match=r'no key begins with .*the keys begin with backbone\.'):
        BackboneInit(str(resnet18_file), prefix=prefix)(ResNet(18))


def test_what_would_write_over_it_is_refused(resnet18_file):
    after = dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm'])
    start = dict(type='cmp_mm.BackboneInit', source=str(resnet18_file))
    with pytest.raises(
        BackboneMismatchError, match='Constant comes after BackboneInit .* put BackboneInit last'
    ):
        ResNet(18, init_cfg=[start, after]).init_weights()
    part = dict(type='Constant', val=2, override=dict(name='layer4'))
    ResNet(18, init_cfg=[start, part]).init_weights()
    backbone = ResNet(18, init_cfg=[after, start])
    backbone.init_weights()
    state = torch.load(resnet18_file, weights_only=True)['state_dict']
    assert torch.equal(backbone.bn1.weight, state['backbone.bn1.weight'])


def test_wrong_shape_stops_and_changes_nothing(tmp_path, resnet18_file):
    state = weights(resnet18_file)
    state['conv1.weight'] = state['conv1.weight'][:, :1]
    model = ResNet(18)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(
        BackboneMismatchError, match=r'conv1\.weight is \(64, 1, 7, 7\) there, \(64, 3, 7, 7\) here'
    ):
        BackboneInit(saved(tmp_path / 'shape.pth', state))(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_reference_checkpoint_names_the_converter(tmp_path):
    file = saved(tmp_path / 'ref.pth', {'module.image_encoder.conv1.weight': torch.zeros(1)})
    with pytest.raises(BackboneMismatchError, match='official2cmp_mm'):
        BackboneInit(file)(ResNet(18))


def test_missing_files_and_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'checkpoints/cmp_resnet18_backbone\.pth.*extract_backbone'):
        BackboneInit('cmp')(ResNet(18))
    alexnet = AlexNetFCN.__new__(AlexNetFCN)
    with pytest.raises(CheckpointError, match='no ImageNet weights for AlexNetFCN'):
        BackboneInit('imagenet').locate(alexnet)
    assert architecture(alexnet) == 'alexnet'
    assert BackboneInit('imagenet').locate(ResNet(18)) == 'torchvision://resnet18'


@pytest.mark.parametrize(
    ('package', 'kind', 'options'),
    [
        ('mmseg', 'MobileNetV2', {}),
        ('mmseg', 'DDRNet', dict(channels=8)),
        ('mmpose', 'MobileNetV3', {}),
        ('mmdet', 'Darknet', dict(depth=53)),
    ],
)
def test_parts_that_initialise_themselves_do_not_do_so_afterwards(need, tmp_path, package, kind, options):
    """mmengine asks them to after every initialiser but its own 'Pretrained'."""
    need(package)
    module = pytest.importorskip(f'{package}.models.backbones')
    state = getattr(module, kind)(**options).state_dict()
    for value in state.values():
        if value.is_floating_point():
            value.uniform_(0.3, 0.4)
    file = saved(tmp_path / 'other.pth', state)
    model = getattr(module, kind)(**options, init_cfg=dict(type='cmp_mm.BackboneInit', source=file))
    model.init_weights()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_imagenet_fills_a_network_of_three_stages(tmp_path, monkeypatch):
    pytest.importorskip('torchvision')
    whole = ResNet(18).state_dict()
    monkeypatch.setattr('cmp_mm.downstream.backbone_init.read_weights', lambda path: (whole, None))
    model = ResNet(18, num_stages=3, out_indices=(2,))
    BackboneInit('imagenet')(model)
    assert all(torch.equal(value, whole[key]) for key, value in model.state_dict().items())
    with pytest.raises(BackboneMismatchError, match='another depth'):
        BackboneInit(saved(tmp_path / 'whole.pth', whole))(ResNet(18, num_stages=3, out_indices=(2,)))


def test_imagenet_without_torchvision_is_one_line(monkeypatch):
    monkeypatch.setattr('cmp_mm.downstream.backbone_init.find_spec', lambda name: None)
    with pytest.raises(PackageError, match="needs torchvision.*pip install 'torch===") as error:
        BackboneInit('imagenet')(ResNet(18))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('source', ['imagenet', 'cmp'])
def test_a_deep_stem_is_told_before_its_file_is_missing(need, source):
    need('mmseg')
    from mmseg.models.backbones import ResNetV1c

    with pytest.raises(BackboneMismatchError, match=r"deep stem of ResNetV1c: use type='ResNet'"):
        BackboneInit(source)(ResNetV1c(depth=18))


def test_an_encoder_of_the_reference_names_the_converter(tmp_path):
    state = {**ResNet(18).state_dict(), 'conv5.weight': torch.zeros(256, 512, 1, 1)}
    with pytest.raises(BackboneMismatchError, match='official2cmp_mm'):
        BackboneInit(saved(tmp_path / 'encoder.pth', state))(ResNet(18))


def test_payload_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / 'ran'), 'w'))

    torch.save({'state_dict': {'conv1.weight': Payload()}}, tmp_path / 'evil.pth')
    with pytest.raises(RuntimeError, match='refused'):
        BackboneInit(str(tmp_path / 'evil.pth'))(ResNet(18))
    assert not (tmp_path / 'ran').exists()


def test_an_alexnet_and_a_resnet_are_told_apart(tmp_path):
    alexnet, resnet = AlexNetFCN(stride=8), ResNet(18)
    for given, wanted, guess in ((alexnet, resnet, 'an AlexNet'), (resnet, alexnet, 'not an AlexNet')):
        torch.save(dict(state_dict=given.state_dict()), tmp_path / 'other.pth')
        with pytest.raises(BackboneMismatchError, match=rf'does not fill \w+ \({guess}\?\)'):
            BackboneInit(str(tmp_path / 'other.pth'))(wanted)


@pytest.mark.parametrize('part', ['backbone', 'model', None])
def test_another_stride_than_it_was_trained_at_is_told(tmp_path, monkeypatch, part):
    told = []
    monkeypatch.setattr(backbone_init, 'print_log', lambda message, **options: told.append(message))
    backbone = dict(type='AlexNetFCN', stride=8)
    meta = dict(backbone=backbone) if part == 'backbone' else dict(model=dict(type='CMP', backbone=backbone))
    path = str(tmp_path / 'a.pth')
    state = {f'backbone.{key}': value for key, value in AlexNetFCN(stride=8).state_dict().items()}
    torch.save(dict(meta=meta, state_dict=state) if part else state, path)
    for stride, count in ((8, 1), (32, 2 if part else 1)):
        told.clear()
        BackboneInit(path)(AlexNetFCN(stride=stride))
        assert len(told) == count, told
    if part:
        assert told[1].startswith(f'{path} was trained at stride 8, and the backbone has stride 32: where')
    # Other tools name a backbone there.
    for other in (dict(backbone='alexnet'), dict(model=dict(backbone=None)), dict(model='x'), 'x'):
        torch.save(dict(meta=other, state_dict=state), path)
        BackboneInit(path)(AlexNetFCN())


def test_frozen_alexnet_does_not_learn_or_move():
    model = AlexNetFCN(frozen_stages=5).train()
    assert not any(p.requires_grad for p in model.conv5.parameters())
    assert all(p.requires_grad for p in model.fc6.parameters())
    assert not model.conv5.training and model.fc6.training
