# For motion, not for a backbone: as k15or41, with a camera that pans, zooms and rolls added to half of the
# pairs. It propagates better than that, most with 4 to 16 arrows and where the camera moves, and its backbone
# fine-tunes worse. Figures are in tools/benchmarks/evidence.
_base_ = './cmp_resnet18-plain_quick-k15or41-1xb16-3k_pairs-96x96.py'

train_pipeline = _base_.train_dataloader.dataset.pipeline
train_pipeline.insert(-2, dict(type='FlowRandomCamera'))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
