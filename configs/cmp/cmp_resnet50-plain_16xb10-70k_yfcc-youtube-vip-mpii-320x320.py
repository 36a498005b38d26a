# ResNet-50 on all four sets, for LIP: the reference's "resnet50 4 sets lip".
_base_ = [
    '../_base_/models/cmp_resnet50_plain.py',
    '../_base_/datasets/yfcc-youtube-vip-mpii_flow_320x320.py',
    '../_base_/schedules/sgd_step_70k.py',
    '../_base_/default_runtime.py',
]

# bg_ratio is a grid of stride 80.
guidance = dict(
    type='SampleGuidance',
    strategies=[dict(type='watershed', kernel_size=15), dict(type='grid', bg_ratio=1.5625e-4)],
    max_points=-1,
)
train_pipeline, val_pipeline = _base_.train_pipeline, _base_.val_pipeline
train_pipeline[-2] = val_pipeline[-2] = guidance
train_dataloader = dict(batch_size=10, dataset=dict(pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=val_pipeline))
val_evaluator = test_evaluator = dict(codec=_base_.model.codec)

# 16 GPUs x 10 samples
auto_scale_lr = dict(enable=False, base_batch_size=160)
