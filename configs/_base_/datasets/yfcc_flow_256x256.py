# For detection and segmentation on COCO: smaller images, smaller crops.
_base_ = './yfcc_flow_384x384.py'

short_side = 333
crop_size = (256, 256)
train_pipeline, val_pipeline = _base_.train_pipeline, _base_.val_pipeline
train_pipeline[2].short_side = val_pipeline[2].short_side = short_side
train_pipeline[3].size = val_pipeline[3].size = crop_size

train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=16, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
