import pytest
import torch
from mmengine.model import BaseModule
from torch import nn

from cmp_mm.models import ReferenceInit
from cmp_mm.registry import MODELS


@MODELS.register_module()
class _LoadedWhenBuilt(BaseModule):
    """Stands for timm's backbones: weights are loaded by the constructor, init_cfg knows nothing of it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, stride=8, padding=1)
        nn.init.constant_(self.conv.weight, 0.25)

    def forward(self, image):
        return (self.conv(image),)


def test_every_convolution_is_xavier_normal_and_every_bn_gamma_is_around_one(build):
    model = build('cmp_resnet50_flownet')
    model.init_weights()
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(module.weight)
            expected = 0.02 * (2 / (fan_in + fan_out)) ** 0.5
            tolerance = 5 / module.weight.numel() ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=tolerance), name
            assert abs(module.weight.mean().item()) < expected * tolerance, name
            if module.weight.numel() > 10_000:  # an even distribution ends at 1.7 standard deviations
                assert module.weight.abs().max().item() > 3 * expected, name
            assert module.bias is None or not module.bias.any(), name
        elif isinstance(module, nn.BatchNorm2d):
            tolerance = 5 / module.weight.numel() ** 0.5
            assert module.weight.std().item() == pytest.approx(0.02, rel=max(tolerance, 0.2) * 2), name
            assert abs(module.weight.mean().item() - 1) < 0.02 * tolerance, name
            assert not module.bias.any(), name


def test_a_pretrained_encoder_stays_bit_for_bit(build, tmp_path):
    pretrained = build().backbone.state_dict()
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in pretrained.items()}), tmp_path / 'encoder.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'encoder.pth'), prefix='backbone.')
    model = build(backbone=dict(init_cfg=init_cfg))
    for parameter in model.backbone.parameters():
        nn.init.zeros_(parameter)
    model.init_weights()
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, pretrained[key]), key
    assert model.neck.conv.weight.std() < 0.01


def test_an_encoder_of_another_package_keeps_what_its_constructor_loaded(build):
    model = build(
        backbone=dict(_delete_=True, type='_LoadedWhenBuilt'), neck=dict(in_channels=32), use_guidance=True
    )
    model.init_weights()
    assert (model.backbone.conv.weight == 0.25).all()
    assert not (model.neck.conv.weight == 0.25).any()


def test_the_gain_is_a_setting():
    conv = nn.Sequential(nn.Conv2d(64, 64, 3))
    ReferenceInit(gain=1.0)(conv)
    assert conv[0].weight.std().item() == pytest.approx((2 / (2 * 64 * 9)) ** 0.5, rel=0.05)


def test_synchronised_batch_normalisation_is_initialised_too():
    network = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(4096)))
    ReferenceInit()(network)
    assert isinstance(network[0], nn.SyncBatchNorm)
    assert network[0].weight.std().item() == pytest.approx(0.02, rel=0.1)
