"""Pictures while training: at the right steps, and with no trace in the run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import IterBasedTrainLoop
from torch import nn

from cmp_mm.engine import FlowVisualizationHook
from cmp_mm.engine import flow_visualization_hook as module
from cmp_mm.registry import HOOKS
from cmp_mm.structures import FlowDataSample


class FakeModel(BaseModel):
    """Has what could be disturbed: batch statistics, dropout, a part that is frozen in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.dropout = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5)
        self.frozen = nn.BatchNorm2d(2)
        self.seen = []

    def forward(self, inputs, data_samples, mode):
        assert mode == 'predict' and not torch.is_grad_enabled()
        image = torch.stack([*inputs['image']]).float()
        flow = self.frozen(self.dropout(self.norm(self.conv(image))))
        self.seen.append((len(image), self.training, self.norm.training))
        for sample, one in zip(data_samples, flow, strict=True):
            sample.pred_flow = one
        return data_samples


class Recorder:
    def __init__(self):
        self.pictures = []

    def add_datasample(self, name, image, data_sample, step):
        assert image.dtype == np.uint8 and image.shape == (8, 10, 3)
        self.pictures.append((name, step, image, data_sample))


def make_batch(count, first=0):
    images = [torch.full((3, 8, 10), first + i, dtype=torch.uint8) for i in range(count)]
    for image in images:
        image[2] = 200  # red, as the channels are BGR
    samples = [FlowDataSample(gt_flow=torch.zeros(2, 8, 10)) for _ in images]
    return dict(inputs=dict(image=images), data_samples=samples)


@pytest.fixture
def runner():
    model = FakeModel()
    model.train()
    model.frozen.eval()
    # One that has begun to train; before, it holds the loop's config.
    loop = object.__new__(IterBasedTrainLoop)
    return SimpleNamespace(iter=0, model=model, visualizer=Recorder(), _train_loop=loop)


def test_every_interval(runner):
    hook = HOOKS.build(dict(type='FlowVisualizationHook', interval=3, num_train=2))
    for runner.iter in range(7):
        hook.after_train_iter(runner, runner.iter, make_batch(4), None)
    assert [(name, step) for name, step, *_ in runner.visualizer.pictures] == [
        ('train_0', 3),
        ('train_1', 3),
        ('train_0', 6),
        ('train_1', 6),
    ]
    assert runner.model.seen == [(2, False, False)] * 2
    _, _, image, sample = runner.visualizer.pictures[1]
    assert (image == [200, 1, 1]).all()  # RGB
    assert 'pred_flow' in sample


def test_no_trace_in_the_run(runner):
    hook, batch = FlowVisualizationHook(interval=1), make_batch(3)
    before = {key: value.clone() for key, value in runner.model.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    hook.after_train_iter(runner, 0, batch, None)
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, before[key]), key
    model = runner.model
    assert model.training and model.norm.training and model.dropout.training and not model.frozen.training
    assert torch.is_grad_enabled()


def test_modes_return_after_an_error(runner):
    batch = make_batch(1)
    batch['inputs']['image'][0] = torch.zeros(5, 8, 10)
    with pytest.raises(RuntimeError):
        FlowVisualizationHook(interval=1).after_train_iter(runner, 0, batch, None)
    assert runner.model.norm.training and not runner.model.frozen.training


@pytest.mark.parametrize('mode', ['val', 'test'])
def test_images_from_all_over_the_set(runner, mode):
    hook, runner.iter = FlowVisualizationHook(num_val=3), 50
    setattr(runner, f'{mode}_dataloader', SimpleNamespace(dataset=range(7)))
    for _ in range(2):
        getattr(hook, f'before_{mode}_epoch')(runner)
        for index, first in enumerate((0, 2, 4, 6)):
            batch = make_batch(min(2, 7 - first), first)
            getattr(hook, f'after_{mode}_iter')(runner, index, batch, batch['data_samples'])
    names = [(name, step, image[0, 0, 1]) for name, step, image, _ in runner.visualizer.pictures]
    assert names == [(f'{mode}_{number}', 50, place) for number, place in enumerate((0, 3, 6))] * 2


def test_a_test_alone_builds_no_training(runner):
    hook, runner.test_dataloader = FlowVisualizationHook(num_val=1), SimpleNamespace(dataset=range(1))
    runner._train_loop = dict(type='IterBasedTrainLoop')
    del runner.iter  # mmengine's would build the loop, and read the training set
    hook.before_test_epoch(runner)
    batch = make_batch(1)
    hook.after_test_iter(runner, 0, batch, batch['data_samples'])
    assert [(name, step) for name, step, *_ in runner.visualizer.pictures] == [('test_0', 0)]


def test_fewer_images_than_wanted(runner):
    hook, runner.val_dataloader = FlowVisualizationHook(num_val=5), SimpleNamespace(dataset=range(2))
    hook.before_val_epoch(runner)
    batch = make_batch(2)
    hook.after_val_iter(runner, 0, batch, batch['data_samples'])
    assert [name for name, *_ in runner.visualizer.pictures] == ['val_0', 'val_1']


@pytest.mark.parametrize(('wanted', 'drawn', 'told'), [(3, 3, 0), (9, 3, 1)])
def test_fewer_images_in_the_share_of_the_main_process(runner, monkeypatch, wanted, drawn, told):
    messages = []
    monkeypatch.setattr(module, 'get_world_size', lambda: 3)
    monkeypatch.setattr(module, 'print_log', lambda message, *_: messages.append(message), raising=False)
    hook, runner.test_dataloader = FlowVisualizationHook(num_val=wanted), SimpleNamespace(dataset=range(7))
    hook.before_test_epoch(runner)
    batch = make_batch(3)
    hook.after_test_iter(runner, 0, batch, batch['data_samples'])
    assert len(runner.visualizer.pictures) == drawn and len(messages) == told
    assert all('3 of 9 images are drawn' in message for message in messages)


def test_switched_off(runner):
    hook = FlowVisualizationHook(interval=0, num_val=0)
    hook.after_train_iter(runner, 0, make_batch(1), None)
    batch, runner.val_dataloader = make_batch(1), SimpleNamespace(dataset=range(1))
    hook.before_val_epoch(runner)
    hook.after_val_iter(runner, 0, batch, batch['data_samples'])
    FlowVisualizationHook(interval=1, num_train=0).after_train_iter(runner, 0, make_batch(1), None)
    assert not runner.visualizer.pictures
    with pytest.raises(ValueError, match='interval is -1'):
        FlowVisualizationHook(interval=-1)
