_base_ = 'mmseg::upernet/upernet_r50_4xb2-80k_cityscapes-512x1024.py'
custom_imports = dict(imports=['cmp_mm.downstream'])

# How the backbone starts: random | imagenet | cmp | FILE, by
# --cfg-options model.backbone.init_cfg.source=...
model = dict(
    pretrained=None,
    backbone=dict(type='ResNet', init_cfg=dict(type='cmp_mm.BackboneInit', source='cmp')),
)
default_hooks = dict(checkpoint=dict(type='cmp_mm.AtomicCheckpointHook'))
