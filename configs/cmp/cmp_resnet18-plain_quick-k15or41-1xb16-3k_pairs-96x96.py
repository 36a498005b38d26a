# For a backbone to fine-tune: as long as the 3k one, with three arrows far from each other in a crop (K 41)
# for half of the images, and eighteen (K 15) for the others. Few arrows teach what things are, many how
# motion spreads: its features gain more often than the 3k one's, and it propagates a little less well.
# Figures are in tools/benchmarks/evidence. tools/quickstart.sh runs it on videos.
_base_ = './cmp_resnet18-plain_quick-1xb16-3k_pairs-96x96.py'

many = dict(_base_.guidance, type='cmp_mm.SampleGuidance')
few = dict(many, strategies=[dict(type='watershed', kernel_size=41), dict(type='grid', stride=120)])
train_pipeline = _base_.train_dataloader.dataset.pipeline
train_pipeline[-2] = dict(type='RandomChoice', transforms=[[many], [few]])
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
