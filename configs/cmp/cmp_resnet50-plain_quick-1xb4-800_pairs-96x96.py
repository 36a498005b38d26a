# The quick recipe for the whole ResNet-50, as far as half an hour on one CPU core goes. Alone it predicts no
# motion for 300 iterations and more (seen). So the half that reads arrows starts from a quick ResNet-18's,
# whose checkpoint is expected at `start`; another one is named by
# --cfg-options model.guidance_encoder.init_cfg.checkpoint=FILE model.decoder.init_cfg.checkpoint=FILE.
_base_ = './cmp_resnet18-plain_quick-1xb16-800_pairs-96x96.py'

start = 'checkpoints/cmp_resnet18_quick.pth'
model = dict(
    init_cfg=dict(type='ReferenceInit', gain=1.0),
    backbone=dict(_delete_=True, type='ResNet', depth=50),  # all four stages, stride 8
    neck=dict(in_channels=2048),
    guidance_encoder=dict(init_cfg=dict(type='Pretrained', checkpoint=start, prefix='guidance_encoder.')),
    decoder=dict(init_cfg=dict(type='Pretrained', checkpoint=start, prefix='decoder.')),
)
train_dataloader = dict(batch_size=4)

optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(val_interval=100)
default_hooks = dict(checkpoint=dict(interval=100))
auto_scale_lr = dict(base_batch_size=4)
