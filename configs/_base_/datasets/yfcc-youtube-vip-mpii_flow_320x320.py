# All four sets: 4.57 M pairs. Validation is on YFCC100M.
_base_ = './yfcc_flow_320x320.py'

sources = [
    dict(ann_file='lists/train.txt', data_root='data/yfcc/', strip_prefix='data/yfcc/'),
    dict(ann_file='lists/train.txt', data_root='data/youtube9k/', strip_prefix='data/youtube9k/'),
    dict(ann_file='lists/train.txt', data_root='data/VIP/', strip_prefix='data/VIP/'),
    dict(ann_file='lists/train.txt', data_root='data/MPII/', strip_prefix='data/MPII/'),
]

train_dataloader = dict(
    dataset=dict(_delete_=True, type='ImageFlowDataset', sources=sources, pipeline=_base_.train_pipeline)
)
