"""A small world for the engine: a model with dropout and BN, a dataset that remembers what was read."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn

READ = []


@MODELS.register_module(force=True)
class EngineToyModel(BaseModel):
    """Regression with everything that makes a resume hard: dropout, BN buffers, momentum."""

    def __init__(self, poison_at=None):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.poison_at = poison_at
        self.calls = 0

    def forward(self, inputs, data_samples=None, mode='tensor'):
        output = self.body(torch.stack(inputs))
        if mode == 'loss':
            self.calls += 1
            factor = float('nan') if self.calls == self.poison_at else 1.0
            return dict(loss=(output**2).mean() * factor, guidance_points=torch.tensor(3.0))
        return [dict(value=float(value)) for value in output]


@DATASETS.register_module(force=True)
class EngineToyDataset(torch.utils.data.Dataset):
    """Samples that depend on (index, draw); ``READ`` lists what was asked for (in this process)."""

    metainfo = dict(dataset_type='toy', numbers=np.arange(2))

    def __init__(self, size=24):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, item):
        index, draw = item if isinstance(item, tuple) else (item, 0)
        READ.append((index, draw))
        vector = np.random.default_rng((index, draw)).standard_normal(4).astype(np.float32)
        return dict(inputs=torch.from_numpy(vector))


@METRICS.register_module(force=True)
class EngineToyMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.extend(sample['value'] for sample in data_samples)

    def compute_metrics(self, results):
        return dict(score=np.float64(np.mean(np.abs(results))), table=np.ones((2, 2)))


@pytest.fixture
def reads():
    """What the toy dataset was asked for since the test began."""
    READ.clear()
    return READ


@pytest.fixture
def toy_config(tmp_path):
    """Makes configs of a short run over the toy model in ``tmp_path / 'work'``."""

    def make(max_iters=12, workers=0, **changes):
        loader = dict(
            batch_size=4,
            num_workers=workers,
            persistent_workers=workers > 0,
            dataset=dict(type='EngineToyDataset'),
        )
        config = dict(
            default_scope='cmp_mm',
            work_dir=str(tmp_path / 'work'),
            model=dict(type='EngineToyModel'),
            train_dataloader=dict(sampler=dict(type='ResumableSampler', shuffle=True), **loader),
            val_dataloader=dict(sampler=dict(type='DefaultSampler', shuffle=False), **loader),
            train_cfg=dict(type='ResumableTrainLoop', max_iters=max_iters, val_interval=5),
            val_cfg=dict(),
            val_evaluator=dict(type='EngineToyMetric'),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
            param_scheduler=dict(type='CosineAnnealingLR', by_epoch=False, T_max=12, end=12),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=2, log_metric_by_epoch=False),
                checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=4, max_keep_ckpts=2),
            ),
            custom_hooks=[dict(type='IterationSeedHook'), dict(type='FiniteLossHook')],
            log_processor=dict(by_epoch=False, window_size=2),
            randomness=dict(seed=7),
            log_level='WARNING',
        )
        config.update(changes)
        return Config(config)

    return make
