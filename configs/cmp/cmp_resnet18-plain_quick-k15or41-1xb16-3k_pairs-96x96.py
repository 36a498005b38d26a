# For a backbone to fine-tune: as long as the 3k one, with three arrows far from each other in a crop instead
# of eighteen: a large K and few points, as in the paper. Its features gain more, and its motion from many
# arrows is worse than none. Figures are in tools/benchmarks/evidence.
_base_ = './cmp_resnet18-plain_quick-1xb16-3k_pairs-96x96.py'

guidance = dict(
    type='SampleGuidance',
    strategies=[dict(type='watershed', kernel_size=41), dict(type='grid', stride=120)],
    max_points=-1,
)
train_pipeline = _base_.train_dataloader.dataset.pipeline
train_pipeline[-2] = guidance
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
