# The modern recipe for AlexNet on YFCC100M: bfloat16, SyncBN, warm-up and cosine.
# Same samples per iteration as the faithful one, on fewer and larger GPUs.
_base_ = [
    '../_base_/models/cmp_alexnet_plain.py',
    '../_base_/datasets/yfcc_flow_384x384.py',
    '../_base_/schedules/amp_coslr_70k.py',
    '../_base_/default_runtime.py',
]

# The same numbers, sooner: tensor cores read images and weights in this order, batches are copied from
# page-locked memory, and on one GPU the network is launched as a whole. What each brings is in
# tools/benchmarks/README.md.
model = dict(data_preprocessor=dict(channels_last=True, non_blocking=True), cuda_graph=True)

# bg_ratio is a grid of stride 80.
guidance = dict(
    type='SampleGuidance',
    strategies=[dict(type='watershed', kernel_size=41), dict(type='grid', bg_ratio=1.5625e-4)],
    max_points=150,
)
train_pipeline, val_pipeline = _base_.train_pipeline, _base_.val_pipeline
train_pipeline[-2] = val_pipeline[-2] = guidance
train_dataloader = dict(batch_size=24, pin_memory=True, dataset=dict(pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=val_pipeline))
val_evaluator = test_evaluator = dict(codec=_base_.model.codec)

# 8 GPUs x 24 samples
auto_scale_lr = dict(enable=False, base_batch_size=192)
