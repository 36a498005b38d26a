_base_ = './cmp_fcn-32s_alexnet_1xb8-1k_camvid-160x160.py'

# Minutes on one CPU core: images at half their size, few iterations. Results are those at full size.
crop_size = (96, 96)
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[2].update(scale=(320, 120))
train_pipeline[3].update(crop_size=crop_size)
test_pipeline[1].update(scale=(320, 120))
model = dict(data_preprocessor=dict(size=crop_size))
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=300, by_epoch=False)]
train_cfg = dict(max_iters=300, val_interval=300)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=100))
