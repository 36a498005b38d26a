# The quick recipe for AlexNet, as far as half an hour on one CPU core goes. At its own stride of 32 a crop
# has too few positions to learn from; at 8 (shorter steps, the same weights) it has 144. The half that reads
# arrows starts from a quick ResNet-18's, whose checkpoint is expected at `start`; another one is named by
# --cfg-options model.guidance_encoder.init_cfg.checkpoint=FILE model.decoder.init_cfg.checkpoint=FILE.
_base_ = './cmp_resnet18-plain_quick-1xb16-800_pairs-96x96.py'

start = 'checkpoints/cmp_resnet18_quick.pth'
model = dict(
    init_cfg=dict(type='ReferenceInit', gain=1.0),
    backbone=dict(_delete_=True, type='AlexNetFCN', stride=8),
    neck=dict(in_channels=4096),
    guidance_encoder=dict(init_cfg=dict(type='Pretrained', checkpoint=start, prefix='guidance_encoder.')),
    decoder=dict(init_cfg=dict(type='Pretrained', checkpoint=start, prefix='decoder.')),
)
train_dataloader = dict(batch_size=4)

optim_wrapper = dict(optimizer=dict(lr=1e-3))
max_iters = 400
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, start_factor=0.1, begin=0, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, eta_min=1e-5, begin=20, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=100)
default_hooks = dict(checkpoint=dict(interval=100))
auto_scale_lr = dict(base_batch_size=4)
