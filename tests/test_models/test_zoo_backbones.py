"""Encoders of other packages; run where mmsegmentation and mmdetection are installed."""

import importlib.util

import pytest
import torch

SWIN = dict(embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), out_indices=(3,))
RESNET = dict(
    depth=18,
    strides=(1, 2, 1, 1),
    dilations=(1, 1, 2, 4),
    norm_cfg=dict(type='BN'),
    norm_eval=False,
)
ZOO = [
    ('mmseg', dict(type='mmseg.SwinTransformer', **SWIN), 192, 32),
    ('mmseg', dict(type='mmseg.ResNet', out_indices=(3,), **RESNET), 512, 8),
    ('mmdet', dict(type='mmdet.SwinTransformer', **SWIN), 192, 32),
    ('mmdet', dict(type='mmdet.ResNet', out_indices=(0, 3), **RESNET), 512, 8),
]


@pytest.mark.parametrize(
    ('package', 'backbone', 'width', 'stride'), ZOO, ids=lambda v: getattr(v, 'type', None)
)
def test_a_zoo_backbone_pretrains_by_config(build, flow_batch, package, backbone, width, stride):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f'needs {package}')
    model = build(
        backbone=dict(_delete_=True, **backbone),
        neck=dict(in_channels=width),
        guidance_encoder=dict(stride=stride),
    )
    model.init_weights()
    batch = flow_batch((128, 130), (140, 128))
    model(**model.data_preprocessor(batch, True), mode='loss')['loss'].backward()
    gradients = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert len(gradients) > 20
    assert all(g.isfinite().all() for g in gradients)
    with torch.no_grad():
        samples = model.eval().val_step(batch)
    assert samples[1].pred_flow.shape == (2, 140, 128)


def test_a_skip_decoder_reads_a_zoo_stem_free_backbone_only_with_a_clear_sentence(build, flow_batch):
    if importlib.util.find_spec('mmseg') is None:
        pytest.skip('needs mmseg')
    model = build(
        'cmp_resnet50_skip', backbone=dict(_delete_=True, type='mmseg.ResNet', out_indices=(0, 3), **RESNET)
    )
    with pytest.raises(ValueError, match='expected 3 feature maps'):
        model.val_step(flow_batch((64, 64)))
