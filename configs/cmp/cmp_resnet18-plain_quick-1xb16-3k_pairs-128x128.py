# Minutes on two CPU cores, on one's own videos or the puppets: network, crop, bins and range are fitted to
# small frames. tools/quickstart.sh runs it.
_base_ = ['../_base_/datasets/custom_pairs.py', '../_base_/default_runtime.py']

codec = dict(type='QuantizedFlowCodec', num_bins=81, max_flow=20.0)
model = dict(
    type='CMP',
    data_preprocessor=dict(type='FlowDataPreprocessor'),
    # Three stages, the third dilated instead of strided: 256 channels at stride 8.
    backbone=dict(type='ResNet', depth=18, num_stages=3, out_indices=(2,)),
    neck=dict(type='ConvNeck', in_channels=256, out_channels=128),
    guidance_encoder=dict(type='GuidanceEncoder', stride=8),
    decoder=dict(type='PlainDecoder', in_channels=144, combo=(1, 2, 4, 8), out_channels=162),
    codec=codec,
    loss=dict(type='QuantizedFlowLoss'),
)

short_side = 160
crop_size = (128, 128)
# The paper's density of points, for a crop a third as wide: 13 points on average.
guidance = dict(
    type='SampleGuidance',
    strategies=[dict(type='watershed', kernel_size=27), dict(type='grid', bg_ratio=2.25e-4)],
    max_points=-1,
)
train_pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadFlow'),
    dict(type='FlowResize', short_side=short_side),
    dict(type='FlowRandomCrop', size=crop_size),
    dict(type='FlowRandomFlip', prob=0.5),
    guidance,
    dict(type='PackFlowInputs'),
]
val_pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadFlow'),
    dict(type='FlowResize', short_side=short_side),
    dict(type='FlowCenterCrop', size=crop_size),
    guidance,
    dict(type='PackFlowInputs'),
]
train_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(codec=codec)
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-4))
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, start_factor=0.01, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, eta_min=0, begin=100, end=3000),
]
train_cfg = dict(type='ResumableTrainLoop', max_iters=3000, val_interval=500)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    checkpoint=dict(interval=500, max_keep_ckpts=2),
    visualization=dict(interval=500),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
