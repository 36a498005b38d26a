# Minutes on two CPU cores, on one's own videos or the puppets: network, crop, bins, range and learning rate
# were found by trying, for small frames and few iterations. tools/quickstart.sh runs it on the puppets.
_base_ = ['../_base_/datasets/custom_pairs.py', '../_base_/default_runtime.py']

codec = dict(type='QuantizedFlowCodec', num_bins=61, max_flow=15.0)
model = dict(
    type='CMP',
    # oneDNN's convolutions take this layout as it is: a step is 7 % shorter, 12 % with --amp.
    data_preprocessor=dict(type='FlowDataPreprocessor', channels_last=True),
    # Three stages, the third dilated instead of strided: 256 channels at stride 8.
    # Kaiming's size instead of torch's own, which is .4 of it: the same error, and weights as large as those
    # that downstream packages start from at random. Figures are in tools/benchmarks/evidence.
    backbone=dict(
        type='ResNet',
        depth=18,
        num_stages=3,
        out_indices=(2,),
        init_cfg=[
            dict(type='Kaiming', layer='Conv2d'),
            dict(type='Constant', val=1, layer='BatchNorm2d'),
        ],
    ),
    neck=dict(type='ConvNeck', in_channels=256, out_channels=256),
    guidance_encoder=dict(type='GuidanceEncoder', stride=8),
    decoder=dict(type='PlainDecoder', in_channels=272, combo=(1, 2, 4, 8), out_channels=122),
    codec=codec,
    loss=dict(type='QuantizedFlowLoss'),
)

# Frames are shrunk until a crop shows most of the scene: what moves together is seen whole, and a step is
# cheap.
short_side = 112
crop_size = (96, 96)
# About 9 points a crop of the puppets, 18 of busy video.
guidance = dict(
    type='SampleGuidance',
    strategies=[dict(type='watershed', kernel_size=15), dict(type='grid', stride=60)],
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

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=5),
)
max_iters = 800
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, start_factor=0.1, begin=0, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, eta_min=1e-5, begin=20, end=max_iters),
]
train_cfg = dict(type='ResumableTrainLoop', max_iters=max_iters, val_interval=200)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=200, max_keep_ckpts=2),
    visualization=dict(interval=200),
)
log_processor = dict(window_size=10)
visualizer = dict(max_radius=5)
auto_scale_lr = dict(enable=False, base_batch_size=16)
