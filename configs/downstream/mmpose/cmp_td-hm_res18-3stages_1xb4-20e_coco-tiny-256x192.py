_base_ = './cmp_td-hm_res50_8xb64-210e_coco-256x192.py'

# The backbone of the quick pretraining config: three stages at stride 8, so one deconvolution is enough.
model = dict(
    backbone=dict(
        _delete_=True,
        type='cmp_mm.ResNet',
        depth=18,
        num_stages=3,
        out_indices=(2,),
        init_cfg=dict(type='cmp_mm.BackboneInit', source='cmp'),
    ),
    head=dict(in_channels=256, deconv_out_channels=(256,), deconv_kernel_sizes=(4,)),
)

# A few pictures in COCO's format, trained and validated on alike: shows that all of it runs, claims nothing.
data_root = 'data/pose/coco/'
pictures = dict(data_root=data_root, ann_file='keypoints.json', data_prefix=dict(img='images/'))
train_dataloader = dict(batch_size=4, num_workers=1, dataset=pictures)
val_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(bbox_file=None, **pictures))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'keypoints.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=20, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', begin=0, end=10, start_factor=0.01, by_epoch=False),
    dict(type='MultiStepLR', begin=0, end=20, milestones=[15], gamma=0.1, by_epoch=True),
]
auto_scale_lr = dict(base_batch_size=4)
