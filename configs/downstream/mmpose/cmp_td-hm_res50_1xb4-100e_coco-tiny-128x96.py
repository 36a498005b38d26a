_base_ = './cmp_td-hm_res50_8xb64-210e_coco-256x192.py'

# A few pictures in COCO's format, trained and validated on alike: shows that all of it runs, claims nothing.
data_root = 'data/pose/coco/'
# Half the size of the bases.
codec = dict(type='MSRAHeatmap', input_size=(96, 128), heatmap_size=(24, 32), sigma=2)
train_pipeline, val_pipeline = _base_.train_pipeline, _base_.val_pipeline
# Twelve figures are learnt by heart or not at all: no augmentation.
train_pipeline[2:5] = []
train_pipeline[-3].update(input_size=codec['input_size'])
train_pipeline[-2].update(encoder=codec)
val_pipeline[-2].update(input_size=codec['input_size'])
model = dict(head=dict(decoder=codec))
pictures = dict(data_root=data_root, ann_file='keypoints.json', data_prefix=dict(img='images/'))
train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(pipeline=train_pipeline, **pictures))
val_dataloader = dict(
    batch_size=4, num_workers=1, dataset=dict(bbox_file=None, pipeline=val_pipeline, **pictures)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'keypoints.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=100, val_interval=50)
param_scheduler = [
    dict(type='LinearLR', begin=0, end=5, start_factor=0.1, by_epoch=False),
    dict(type='MultiStepLR', begin=0, end=100, milestones=[85], gamma=0.1, by_epoch=True),
]
default_hooks = dict(logger=dict(interval=3), checkpoint=dict(interval=50))
auto_scale_lr = dict(base_batch_size=4)
