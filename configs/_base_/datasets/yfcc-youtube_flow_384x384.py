# YFCC100M and YouTube9K: 3.22 M pairs. Validation is on YFCC100M.
_base_ = './yfcc_flow_384x384.py'

sources = [
    dict(ann_file='lists/train.txt', data_root='data/yfcc/', strip_prefix='data/yfcc/'),
    dict(ann_file='lists/train.txt', data_root='data/youtube9k/', strip_prefix='data/youtube9k/'),
]

train_dataloader = dict(
    dataset=dict(_delete_=True, type='ImageFlowDataset', sources=sources, pipeline=_base_.train_pipeline)
)
