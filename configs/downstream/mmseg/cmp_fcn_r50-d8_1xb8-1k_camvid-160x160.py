_base_ = [
    'mmseg::_base_/models/fcn_r50-d8.py',
    './_base_/camvid.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/schedule_1k.py',
]
custom_imports = dict(imports=['cmp_mm.downstream', 'cmp_mm.downstream.small_sets'])

# How the backbone starts: random | imagenet | cmp | FILE, by
# --cfg-options model.backbone.init_cfg.source=...
model = dict(
    pretrained=None,
    backbone=dict(
        type='ResNet',
        contract_dilation=False,  # every 3x3 of a dilated stage, as in pretraining
        init_cfg=dict(type='cmp_mm.BackboneInit', source='cmp'),
    ),
    decode_head=dict(num_classes=11),
    auxiliary_head=dict(num_classes=11),
    data_preprocessor=dict(size=(160, 160)),
)
default_hooks = dict(checkpoint=dict(type='cmp_mm.AtomicCheckpointHook'))
