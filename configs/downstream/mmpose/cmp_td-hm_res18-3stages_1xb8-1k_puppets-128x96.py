_base_ = 'mmpose::body_2d_keypoint/topdown_heatmap/crowdpose/td-hm_res50_8xb64-210e_crowdpose-256x192.py'
custom_imports = dict(imports=['cmp_mm.downstream'])

# Key-points of rendered puppets (tools/dataset_converters/render_puppets.py), which are CrowdPose's 14.
data_root = 'data/puppets/'
codec = dict(type='MSRAHeatmap', input_size=(96, 128), heatmap_size=(24, 32), sigma=2)
model = dict(
    # The backbone of the quick pretraining config. How it starts: random | imagenet | cmp | FILE, by
    # --cfg-options model.backbone.init_cfg.source=...
    backbone=dict(
        _delete_=True,
        type='cmp_mm.ResNet',
        depth=18,
        num_stages=3,
        out_indices=(2,),
        init_cfg=dict(type='cmp_mm.BackboneInit', source='cmp'),
    ),
    # Three stages end at stride 8, so that one deconvolution gives the bases' stride of 4.
    head=dict(in_channels=256, deconv_out_channels=(256,), deconv_kernel_sizes=(4,), decoder=codec),
)
train_pipeline, val_pipeline = _base_.train_pipeline, _base_.val_pipeline
train_pipeline[-3].update(input_size=codec['input_size'])
train_pipeline[-2].update(encoder=codec)
val_pipeline[-2].update(input_size=codec['input_size'])
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data_root=data_root,
        ann_file='keypoints_train.json',
        data_prefix=dict(img=''),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='keypoints_val.json',
        bbox_file=None,
        data_prefix=dict(img=''),
        pipeline=val_pipeline,
    ),
)
test_dataloader = val_dataloader
# A point counts as found within a tenth of its figure's longer side; AP asks for more than few labels give.
val_evaluator = [
    dict(type='PCKAccuracy', thr=0.1),
    dict(type='CocoMetric', ann_file=data_root + 'keypoints_val.json'),
]
test_evaluator = val_evaluator

# The schedule of mmsegmentation's small sets.
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01))
param_scheduler = [dict(type='PolyLR', eta_min=1e-6, power=0.9, begin=0, end=1000, by_epoch=False)]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=1000, val_interval=250)
default_hooks = dict(
    logger=dict(interval=20, log_metric_by_epoch=False),
    checkpoint=dict(
        type='cmp_mm.AtomicCheckpointHook', by_epoch=False, interval=250, save_best='PCK', max_keep_ckpts=1
    ),
)
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=8)
