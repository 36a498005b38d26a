_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['cmp_mm.downstream'])

# How the backbone starts: random | imagenet | cmp | FILE, by
# --cfg-options model.backbone.init_cfg.source=...
# Nothing is frozen and batch statistics are used: the base's frozen stem and statistics suit ImageNet
# weights only, and every initialisation should get the same treatment.
model = dict(
    backbone=dict(
        type='ResNet',
        frozen_stages=-1,
        norm_eval=False,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(_delete_=True, type='cmp_mm.BackboneInit', source='cmp'),
    )
)
default_hooks = dict(checkpoint=dict(type='cmp_mm.AtomicCheckpointHook'))
