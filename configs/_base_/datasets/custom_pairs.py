# One's own videos: a folder written by tools/dataset_converters/video2pairs.py or render_puppets.py.
_base_ = './yfcc_flow_384x384.py'

data_root = 'data/pairs/'
train_dataloader = dict(dataset=dict(data_root=data_root, ann_file='train.json', strip_prefix=''))
val_dataloader = dict(dataset=dict(data_root=data_root, ann_file='val.json', strip_prefix=''))
test_dataloader = val_dataloader
# Also of the flow that meets its arrows, as the demos' --correction fade gives it.
val_evaluator = dict(corrected=True)
test_evaluator = val_evaluator
