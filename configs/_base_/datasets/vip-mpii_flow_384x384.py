# The two sets of people, for the demo network. Validation is on VIP's random list.
_base_ = './yfcc_flow_384x384.py'

sources = [
    dict(ann_file='lists/train.txt', data_root='data/VIP/', strip_prefix='data/VIP/'),
    dict(ann_file='lists/train.txt', data_root='data/MPII/', strip_prefix='data/MPII/'),
]

train_dataloader = dict(
    batch_size=8,
    dataset=dict(_delete_=True, type='ImageFlowDataset', sources=sources, pipeline=_base_.train_pipeline),
)
val_dataloader = dict(
    batch_size=8, dataset=dict(data_root='data/VIP/', ann_file='lists/randval.txt', strip_prefix='data/VIP/')
)
test_dataloader = val_dataloader
