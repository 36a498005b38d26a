# Longer, for a backbone to go on with: half an hour to an hour of one CPU core, where the other one takes
# minutes. With at most four arrows the network has to know what moves together; with many it propagates
# better. Figures are in tools/benchmarks/evidence.
_base_ = './cmp_resnet18-plain_quick-1xb16-800_pairs-96x96.py'

guidance = dict(
    type='SampleGuidance',
    strategies=[dict(type='watershed', kernel_size=15), dict(type='grid', stride=60)],
    max_points=4,
)
train_pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadFlow'),
    dict(type='FlowResize', short_side={{_base_.short_side}}),
    dict(type='FlowRandomCrop', size={{_base_.crop_size}}),
    dict(type='FlowRandomFlip', prob=0.5),
    guidance,
    dict(type='PackFlowInputs'),
]
val_pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadFlow'),
    dict(type='FlowResize', short_side={{_base_.short_side}}),
    dict(type='FlowCenterCrop', size={{_base_.crop_size}}),
    guidance,
    dict(type='PackFlowInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=val_pipeline))

max_iters = 3000
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, start_factor=0.1, begin=0, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, eta_min=1e-5, begin=20, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=750)
default_hooks = dict(checkpoint=dict(interval=750), visualization=dict(interval=750))
