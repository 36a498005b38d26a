# AlexNet on YFCC100M and YouTube9K: the reference's "alexnet yfcc+youtube voc".
_base_ = [
    '../_base_/models/cmp_alexnet_plain.py',
    '../_base_/datasets/yfcc-youtube_flow_384x384.py',
    '../_base_/schedules/sgd_step_140k.py',
    '../_base_/default_runtime.py',
]

# bg_ratio is a grid of stride 200.
guidance = dict(
    type='SampleGuidance',
    strategies=[dict(type='watershed', kernel_size=81), dict(type='grid', bg_ratio=2.5e-5)],
    max_points=150,
)
train_pipeline, val_pipeline = _base_.train_pipeline, _base_.val_pipeline
train_pipeline[-2] = val_pipeline[-2] = guidance
train_dataloader = dict(batch_size=12, dataset=dict(pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=val_pipeline))
val_evaluator = test_evaluator = dict(codec=_base_.model.codec)

# 16 GPUs x 12 samples
auto_scale_lr = dict(enable=False, base_batch_size=192)
