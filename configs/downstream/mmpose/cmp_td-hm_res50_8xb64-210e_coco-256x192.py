_base_ = 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py'
custom_imports = dict(imports=['cmp_mm.downstream'])

# How the backbone starts: random | imagenet | cmp | FILE, by
# --cfg-options model.backbone.init_cfg.source=...
model = dict(
    backbone=dict(type='ResNet', init_cfg=dict(_delete_=True, type='cmp_mm.BackboneInit', source='cmp'))
)
default_hooks = dict(checkpoint=dict(type='cmp_mm.AtomicCheckpointHook'))
