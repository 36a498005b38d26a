_base_ = 'mmpose::body_2d_keypoint/topdown_heatmap/mpii/td-hm_res50_8xb64-210e_mpii-256x256.py'
custom_imports = dict(imports=['cmp_mm.downstream'])

# How the backbone starts: random | cmp | FILE, by
# --cfg-options model.backbone.init_cfg.source=...
model = dict(
    backbone=dict(
        _delete_=True,
        type='cmp_mm.AlexNetFCN',
        stride=32,
        init_cfg=dict(type='cmp_mm.BackboneInit', source='cmp'),
    ),
    head=dict(in_channels=4096),
)
default_hooks = dict(checkpoint=dict(type='cmp_mm.AtomicCheckpointHook'))
