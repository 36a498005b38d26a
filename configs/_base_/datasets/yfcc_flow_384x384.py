# YFCC100M pairs with LiteFlowNet flow, by the reference's lists; docs/data.md says how to lay them out.
#
# A config on top of this sets its own guidance like this ([-2] is the step before packing):
#
#     guidance = dict(type='SampleGuidance', strategies=[...], max_points=150)
#     train_pipeline, val_pipeline = _base_.train_pipeline, _base_.val_pipeline
#     train_pipeline[-2] = val_pipeline[-2] = guidance
#     train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
#     val_dataloader = test_dataloader = dict(dataset=dict(pipeline=val_pipeline))
dataset_type = 'ImageFlowDataset'
data_root = 'data/yfcc/'
# The lists name their files from the folder above `data`; this part is taken off, so that data_root may move.
list_prefix = 'data/yfcc/'

short_side = 416
crop_size = (384, 384)
# The paper's setting: 13.5 points on a crop on average.
guidance = dict(
    type='SampleGuidance',
    strategies=[dict(type='watershed', kernel_size=81), dict(type='grid', bg_ratio=2.5e-5)],
    max_points=-1,
)
train_pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadFlow'),
    dict(type='FlowResize', short_side=short_side),
    dict(type='FlowRandomCrop', size=crop_size),
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

train_dataloader = dict(
    batch_size=12,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='ResumableSampler', shuffle=True),
    collate_fn=dict(type='cmp_mm.collate_flow'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='lists/train.txt',
        strip_prefix=list_prefix,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=12,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='lists/val.txt',
        strip_prefix=list_prefix,
        test_mode=True,
        pipeline=val_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='FlowMetric')
test_evaluator = val_evaluator
