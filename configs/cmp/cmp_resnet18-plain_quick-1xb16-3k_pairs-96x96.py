# The same for longer, for a backbone to go on with: half an hour where the other one takes minutes. It
# propagates better, and its backbone gains more. Figures are in tools/benchmarks/evidence.
_base_ = './cmp_resnet18-plain_quick-1xb16-800_pairs-96x96.py'

max_iters = 3000
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, start_factor=0.1, begin=0, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, eta_min=1e-5, begin=20, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=750)
default_hooks = dict(checkpoint=dict(interval=750), visualization=dict(interval=750))
