# bfloat16, 1000 iterations of warm-up, then cosine. Needs a GPU; --amp tries it on a CPU.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    # bfloat16 has float32's range: gradients need no scaling.
    loss_scale=1.0,
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True),
)
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, start_factor=0.01, begin=0, end=1000),
    dict(type='CosineAnnealingLR', by_epoch=False, eta_min=0, begin=1000, end=70000),
]

train_cfg = dict(type='ResumableTrainLoop', max_iters=70000, val_interval=2000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# Batch normalisation over the joint batch of all GPUs.
sync_bn = 'torch'
# torch.compile: --cfg-options compile=True
compile = False
