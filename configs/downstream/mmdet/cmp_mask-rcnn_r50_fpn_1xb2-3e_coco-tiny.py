_base_ = './cmp_mask-rcnn_r50_fpn_syncbn_1x_coco.py'

# A few pictures in COCO's format, trained and validated on alike: shows that all of it runs, claims nothing.
data_root = 'data/pose/coco/'
scale = (320, 240)
pictures = dict(
    data_root=data_root,
    ann_file='keypoints.json',
    data_prefix=dict(img='images/'),
    metainfo=dict(classes=('person',), palette=[(220, 20, 60)]),
)
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[2].update(scale=scale)
test_pipeline[1].update(scale=scale)
train_dataloader = dict(num_workers=1, dataset=dict(pipeline=train_pipeline, **pictures))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline, **pictures))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'keypoints.json')
test_evaluator = val_evaluator

# One class, and fewer regions: most of the time on a CPU goes into their masks.
model = dict(
    roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)),
    train_cfg=dict(rpn_proposal=dict(max_per_img=200), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(max_per_img=200), rcnn=dict(max_per_img=20)),
)
optim_wrapper = dict(optimizer=dict(lr=0.005), clip_grad=dict(max_norm=10))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=2)]
train_cfg = dict(max_epochs=3, val_interval=3)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=3))
auto_scale_lr = dict(base_batch_size=2)
