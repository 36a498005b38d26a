_base_ = './yfcc_flow_384x384.py'

crop_size = (320, 320)
train_pipeline, val_pipeline = _base_.train_pipeline, _base_.val_pipeline
train_pipeline[3].size = val_pipeline[3].size = crop_size

train_dataloader = dict(batch_size=10, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=10, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
