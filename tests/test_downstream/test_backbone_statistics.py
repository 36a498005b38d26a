"""A frozen random backbone normalises as one that brings statistics does."""

import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.model import BaseDataPreprocessor
from torch import nn

from cmp_mm.downstream import BackboneStatisticsHook
from cmp_mm.models import AlexNetFCN, ResNet


class Images(torch.utils.data.Dataset):
    """Distinct images, brighter the later they come; each uses up random numbers, as an augmentation does."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        random.random(), np.random.rand(), torch.rand(1)
        generator = torch.Generator().manual_seed(index)
        return dict(inputs=index + torch.randn(3, 64, 64, generator=generator), data_samples=index)


class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.data_preprocessor = BaseDataPreprocessor()


def run(backbone, iteration=0, images=8, **loading):
    torch.manual_seed(0)
    model = Model(backbone)
    backbone.init_weights()
    model.train()
    modes = [module.training for module in model.modules()]
    loader = torch.utils.data.DataLoader(Images(), **(loading or dict(batch_size=4)))
    BackboneStatisticsHook(images).before_train(
        SimpleNamespace(iter=iteration, model=model, train_dataloader=loader)
    )
    assert [module.training for module in model.modules()] == modes
    return model


@pytest.mark.parametrize(
    'backbone',
    [
        lambda: ResNet(50, frozen_stages=4, init_cfg=dict(type='cmp_mm.BackboneInit', source='random')),
        lambda: AlexNetFCN(8, frozen_stages=7, init_cfg=dict(type='cmp_mm.BackboneInit', source='random')),
    ],
)
def test_features_are_of_the_size_of_one(backbone):
    images = torch.stack([Images()[index]['inputs'] for index in range(0, 10, 2)])
    spread = {}
    for iteration in (0, 7):
        model = run(backbone(), iteration)
        assert not any(parameter.requires_grad for parameter in model.parameters())
        spread[iteration] = float(model.backbone.eval()(images)[-1].std())
    assert 0.2 < spread[0] < 5
    assert (
        not 0.2 < spread[7] < 5
    )  # a run that is resumed has its own already; here they are the untouched ones


def test_statistics_are_those_of_images_over_the_whole_set():
    backbone = ResNet(18, num_stages=1, out_indices=(0,), frozen_stages=1)
    weights = None
    for images in (10, 8):
        model = run(backbone, images=images)
        if weights is not None:
            assert all(
                torch.equal(one, other) for one, other in zip(weights, backbone.parameters(), strict=True)
            )
        weights = [parameter.clone() for parameter in backbone.parameters()]
        indices = np.linspace(0, 9, images).round().astype(int)
        with torch.no_grad():
            first = model.backbone.conv1(torch.stack([Images()[int(i)]['inputs'] for i in indices]))
        torch.testing.assert_close(
            model.backbone.bn1.running_mean, first.mean((0, 2, 3)), rtol=1e-4, atol=1e-4
        )
        assert model.backbone.bn1.momentum == 0.1


def test_no_random_number_is_used_up():
    drawn = []
    for iteration in (0, 7):
        random.seed(1), np.random.seed(1)
        run(ResNet(18, num_stages=1, out_indices=(0,), frozen_stages=1), iteration)
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize('size', [1, 4])
def test_batches_may_be_of_one_image_or_a_samplers(size):
    """mmdet's loaders have a sampler of batches; a map of one pixel has no variance over one image."""
    sampler = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(Images()), size, False)
    start = AlexNetFCN(32, frozen_stages=7)
    first, second = (
        run(copy.deepcopy(start), **loading)
        for loading in (dict(batch_sampler=sampler), dict(batch_size=size))
    )
    means = [norm.running_mean for norm in first.backbone.modules() if hasattr(norm, 'running_mean')]
    assert len(means) == 7 and all(mean.abs().max() > 0 for mean in means)
    state = second.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in first.state_dict().items())
