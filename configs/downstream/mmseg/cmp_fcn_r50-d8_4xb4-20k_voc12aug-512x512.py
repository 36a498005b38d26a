_base_ = 'mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py'
custom_imports = dict(imports=['cmp_mm.downstream'])

# How the backbone starts: random | imagenet | cmp | FILE, by
# --cfg-options model.backbone.init_cfg.source=...
model = dict(
    pretrained=None,
    backbone=dict(
        type='ResNet',
        contract_dilation=False,  # every 3x3 of a dilated stage, as in pretraining
        init_cfg=dict(type='cmp_mm.BackboneInit', source='cmp'),
    ),
)
default_hooks = dict(checkpoint=dict(type='cmp_mm.AtomicCheckpointHook'))
