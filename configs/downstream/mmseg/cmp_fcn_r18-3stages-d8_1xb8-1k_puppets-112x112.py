_base_ = [
    'mmseg::_base_/models/fcn_r50-d8.py',
    './_base_/puppets.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/schedule_1k.py',
]
custom_imports = dict(imports=['cmp_mm.downstream', 'cmp_mm.downstream.small_sets'])

# How the backbone starts: random | imagenet | cmp | FILE, by
# --cfg-options model.backbone.init_cfg.source=...
model = dict(
    # Beside an image is background: mmseg's loss with weights of the classes cannot leave pixels out.
    data_preprocessor=dict(size=(112, 112), seg_pad_val=0),
    pretrained=None,
    # The backbone of the quick pretraining config: three stages, and cmp_mm's own ResNet, as mmseg leaves
    # every second 3x3 of a basic block undilated.
    backbone=dict(
        _delete_=True,
        type='cmp_mm.ResNet',
        depth=18,
        num_stages=3,
        out_indices=(1, 2),
        init_cfg=dict(type='cmp_mm.BackboneInit', source='cmp'),
    ),
    decode_head=dict(
        in_channels=256,
        in_index=1,
        channels=128,
        num_convs=1,
        concat_input=False,
        num_classes=8,
        # Five pixels of six are background.
        loss_decode=dict(class_weight=[0.15, *[1.0] * 7]),
    ),
    auxiliary_head=dict(in_channels=128, in_index=0, channels=64, num_classes=8),
)
default_hooks = dict(checkpoint=dict(type='cmp_mm.AtomicCheckpointHook'))
