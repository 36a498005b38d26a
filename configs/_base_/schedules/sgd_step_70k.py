# The reference's schedule: no warm-up, learning rate divided by 10 at 4/7 and 6/7 of the training.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[40000, 60000], gamma=0.1)]

train_cfg = dict(type='ResumableTrainLoop', max_iters=70000, val_interval=2000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
