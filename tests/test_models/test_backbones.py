import pytest
import torch
from mmengine.model.weight_init import PretrainedInit
from torch import nn

from cmp_mm.models import AlexNetFCN, ResNet
from cmp_mm.models.backbones.resnet import zero_last_norms
from cmp_mm.registry import MODELS


@pytest.mark.parametrize('stride', [8, 32])
def test_alexnet_feature_map_is_the_input_over_the_stride(stride):
    backbone = AlexNetFCN(stride).eval()
    with torch.no_grad():
        (fc7,) = backbone(torch.randn(1, 3, 2 * stride, 3 * stride))
    assert fc7.shape == (1, 4096, 2, 3)


def test_alexnet_stages_have_the_reference_widths_and_strides():
    backbone = AlexNetFCN(32, out_indices=range(7)).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == [96, 256, 384, 384, 256, 4096, 4096]
    assert [64 // m.shape[2] for m in maps] == [4, 8, 16, 16, 16, 32, 32]


def test_alexnet_of_stride_8_steps_where_the_reference_does():
    backbone = AlexNetFCN(8, out_indices=range(7)).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 64))
    assert [64 // m.shape[2] for m in maps] == [2, 4, 8, 8, 8, 8, 8]


def test_alexnet_drops_half_after_both_of_its_last_layers():
    backbone = AlexNetFCN()
    assert [(m[-1].p, type(m[-1])) for m in (backbone.fc6, backbone.fc7)] == [(0.5, nn.Dropout)] * 2


def test_alexnet_stops_at_the_deepest_stage_asked_for():
    backbone = AlexNetFCN(32, out_indices=(0, 2), dropout=0.0)
    calls = []
    backbone.conv4.register_forward_hook(lambda *_: calls.append('conv4'))
    assert [m.shape[1] for m in backbone(torch.randn(2, 3, 64, 64))] == [96, 384]
    assert not calls


def test_alexnet_takes_the_zoo_norm_config():
    backbone = AlexNetFCN(32, norm_cfg=dict(type='SyncBN'))
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in backbone.modules()) == 7


@pytest.mark.parametrize('depth', [18, 34, 50])
def test_resnet_is_stride_8_and_of_its_width(depth):
    backbone = ResNet(depth, out_stem=True, out_indices=(0, 1, 2, 3)).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 64))
    widths = [64, 128, 256, 512] if depth < 50 else [256, 512, 1024, 2048]
    assert [m.shape[1] for m in maps] == [64, *widths]
    assert [64 // m.shape[2] for m in maps] == [2, 4, 8, 8, 8]


@pytest.mark.parametrize('depth', [18, 50])
def test_every_3x3_convolution_of_layer3_and_layer4_is_dilated(depth):
    backbone = ResNet(depth)
    for stage, dilation in ((1, 1), (2, 1), (3, 2), (4, 4)):
        convs = [
            m
            for m in getattr(backbone, f'layer{stage}').modules()
            if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
        ]
        assert convs
        assert {(c.dilation, c.padding) for c in convs} == {((dilation,) * 2,) * 2}


@pytest.mark.parametrize(
    ('depth', 'blocks', 'bottleneck'), [(101, (3, 4, 23, 3), True), (152, (3, 8, 36, 3), True)]
)
def test_deep_resnets_have_torchvision_keys(depth, blocks, bottleneck):
    with torch.device('meta'):
        keys = ResNet(depth).state_dict().keys()
    expected = {'conv1.weight'} | {
        f'layer{stage}.{block}.conv{n}.weight'
        for stage, count in enumerate(blocks, 1)
        for block in range(count)
        for n in (1, 2, 3)
    }
    expected |= {f'layer{stage}.0.downsample.0.weight' for stage in (1, 2, 3, 4)}
    assert {key for key in keys if 'bn' not in key and 'downsample.1' not in key} == expected


def test_batch_normalisation_trains_by_default_and_freezes_on_request():
    backbone = ResNet(18).train()
    assert all(m.training for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
    backbone = ResNet(18, bn_eval=True).train()
    assert not any(m.training for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert backbone.layer1.training


def test_frozen_stages_get_no_gradient():
    backbone = ResNet(18, frozen_stages=1).train()
    frozen = {name.split('.')[0] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {'conv1', 'bn1', 'layer1'}


KAIMING = [dict(type='Kaiming', layer='Conv2d'), dict(type='Constant', val=1, layer='BatchNorm2d')]


@pytest.mark.parametrize('depth', [18, 50])
@pytest.mark.parametrize('init_cfg', [None, KAIMING, dict(type='cmp_mm.BackboneInit', source='random')])
def test_zero_init_residual_begins_as_the_shortcuts(depth, init_cfg):
    images, outputs = torch.randn(2, 3, 32, 32), []
    for zero in (True, False):
        network = ResNet(depth, zero_init_residual=zero, init_cfg=init_cfg)
        network.init_weights()
        network.eval()
        x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        for name in network.res_layers:
            for block in getattr(network, name):
                shortcut = block.downsample if block.downsample is not None else nn.Identity()
                x = torch.relu(shortcut(x))
        outputs.append(torch.equal(network(images)[0], x))
    assert outputs == [True, False]


def test_zero_init_residual_keeps_what_is_trained_and_what_is_loaded(tmp_path):
    trained = ResNet(18, zero_init_residual=True, init_cfg=KAIMING)
    trained.init_weights()
    for parameter in trained.parameters():
        nn.init.uniform_(parameter)
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    torch.save(dict(state_dict=state, meta={}), tmp_path / 'w.pth')
    again = [trained]
    loads = dict(checkpoint=str(tmp_path / 'w.pth'))
    for start in (
        dict(type='Pretrained', **loads),
        dict(type='mmengine.Pretrained', **loads),
        dict(type=PretrainedInit, **loads),
        [*KAIMING, dict(type='Pretrained', **loads)],
        dict(type='cmp_mm.BackboneInit', source=str(tmp_path / 'w.pth')),
    ):
        again.append(ResNet(18, zero_init_residual=True, init_cfg=start))
    for network in again:
        network.init_weights()
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize('backbone', [AlexNetFCN, ResNet])
def test_pretrained_weights_load_by_prefix(backbone, tmp_path):
    kwargs = dict(depth=18) if backbone is ResNet else {}
    source = backbone(**kwargs)
    state = {f'backbone.{key}': value for key, value in source.state_dict().items()}
    state['neck.conv.weight'] = torch.zeros(1)
    torch.save(dict(state_dict=state), tmp_path / 'cmp.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'cmp.pth'), prefix='backbone.')
    target = backbone(init_cfg=init_cfg, **kwargs)
    target.init_weights()
    for (name, expected), got in zip(source.state_dict().items(), target.state_dict().values(), strict=True):
        assert torch.equal(expected, got), name


def test_it_builds_from_the_scope_of_another_package(other_package):
    assert isinstance(other_package.build(dict(type='cmp_mm.ResNet', depth=18)), ResNet)


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='AlexNetFCN', stride=16), 'stride must be 32 or 8; got 16'),
        (dict(type='AlexNetFCN', out_indices=(7,)), r'out_indices must name stages .* got \(7,\)'),
        (dict(type='AlexNetFCN', out_indices=()), 'out_indices must name stages'),
        (dict(type='ResNet', depth=42), r'depth must be one of \[18, 34, 50, 101, 152\]; got 42'),
        (dict(type='ResNet', out_indices=(4,)), r'out_indices must name stages 0 to 3; got \(4,\)'),
        (dict(type='ResNet', strides=(1, 2)), r'one value for each of 4 stages; got \(1, 2\)'),
        (dict(type='GuidanceEncoder', stride=6), 'stride must be a positive multiple of 4.* got 6'),
    ],
)
def test_config_errors_are_one_sentence(cfg, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg)


@pytest.mark.parametrize('frozen', [-1, 0, 2])
def test_resnet_is_frozen_as_soon_as_it_is_built(frozen):
    """A distributed wrapper looks before the first ``train()``."""
    backbone = ResNet(18, num_stages=3, out_indices=(2,), frozen_stages=frozen)
    trained = {name.split('.')[0] for name, weight in backbone.named_parameters() if weight.requires_grad}
    stages = ['conv1', 'bn1', 'layer1', 'layer2', 'layer3']
    assert trained == set(stages[{-1: 0, 0: 2, 2: 4}[frozen] :])
    assert backbone.training


def test_alexnet_is_frozen_as_soon_as_it_is_built():
    backbone = AlexNetFCN(stride=8, frozen_stages=7)
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    with torch.no_grad():
        first, second = (backbone(torch.ones(1, 3, 64, 64))[0] for _ in range(2))
    assert torch.equal(first, second)  # no dropout
    assert all(torch.equal(buffer, before[name]) for name, buffer in backbone.named_buffers())
    for frozen in (-2, 8):
        with pytest.raises(ValueError, match=f'frozen_stages must be -1 .none. to 7.*got {frozen}'):
            AlexNetFCN(frozen_stages=frozen)


@pytest.mark.parametrize('frozen', [-2, 4])
def test_resnet_freezes_only_what_there_is(frozen):
    with pytest.raises(ValueError, match='frozen_stages must be -1'):
        ResNet(18, num_stages=3, out_indices=(2,), frozen_stages=frozen)


def test_still_statistics_stay_still_when_they_are_synchronised():
    backbone = ResNet(18, num_stages=1, out_indices=(0,), bn_eval=True, bn_frozen=True)
    backbone = nn.SyncBatchNorm.convert_sync_batchnorm(backbone).train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert norms and not any(module.training or module.weight.requires_grad for module in norms)
    assert backbone.training


def test_blocks_alone_start_at_zero():
    """HRNet's stem has a conv1 and a norm2 as well."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.norm2 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.rest = ResNet(18)

    network = Network()
    zero_last_norms(network)
    assert network.norm2.weight.all() and not network.rest.layer1[0].bn2.weight.any()
