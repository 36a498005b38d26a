# The quick recipe for the whole ResNet-50, as far as minutes on one CPU core go.
_base_ = './cmp_resnet18-plain_quick-1xb16-800_pairs-96x96.py'

model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=50),  # all four stages, stride 8
    neck=dict(in_channels=2048),
)
short_side = 80
crop_size = (64, 64)
train_pipeline, val_pipeline = _base_.train_pipeline, _base_.val_pipeline
train_pipeline[2].update(short_side=short_side)
train_pipeline[3].update(size=crop_size)
val_pipeline[2].update(short_side=short_side)
val_pipeline[3].update(size=crop_size)
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=val_pipeline))

optim_wrapper = dict(optimizer=dict(lr=1e-3))
max_iters = 100
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, start_factor=0.1, begin=0, end=10),
    dict(type='CosineAnnealingLR', by_epoch=False, eta_min=1e-5, begin=10, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=25))
auto_scale_lr = dict(base_batch_size=4)
