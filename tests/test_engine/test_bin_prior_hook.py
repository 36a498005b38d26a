"""The head's bias starts at the share of each bin, once."""

import logging
from types import SimpleNamespace

import pytest
import torch

from cmp_mm.engine import BinPriorHook
from cmp_mm.models import QuantizedFlowCodec
from cmp_mm.structures import FlowDataSample

CODEC = QuantizedFlowCodec(num_bins=5, max_flow=5.0)  # bins of 2 px around -4, -2, 0, 2, 4


def a_runner(flows, masks=None, iteration=0, load_from=None, codec=CODEC):
    samples = [FlowDataSample(gt_flow=flow) for flow in flows]
    for sample, mask in zip(samples, masks or (), strict=False):
        sample.gt_valid = mask
    head = torch.nn.Conv2d(3, 10, 1)
    torch.nn.init.zeros_(head.bias)
    return SimpleNamespace(
        iter=iteration,
        _load_from=load_from,
        model=SimpleNamespace(codec=codec, decoder=SimpleNamespace(head=head)),
        train_dataloader=SimpleNamespace(dataset=[dict(data_samples=sample) for sample in samples]),
        logger=logging.getLogger('test'),
    )


def shares(runner):
    return runner.model.decoder.head.bias.detach().unflatten(0, (2, 5)).softmax(dim=1)


def constant(u, v):
    return torch.tensor([u, v])[:, None, None].expand(2, 4, 6).clone()


def test_the_start_predicts_how_often_bins_occur():
    runner = a_runner([constant(0.0, 4.0), constant(0.0, -4.0), constant(-2.0, 4.0), constant(0.5, 4.0)])
    BinPriorHook().before_train(runner)
    expected = torch.tensor([[0, 0.25, 0.75, 0, 0], [0.25, 0, 0, 0, 0.75]])
    torch.testing.assert_close(shares(runner), expected, atol=1e-3, rtol=0)
    assert shares(runner).min() > 1e-4, 'what did not occur is possible'


def test_unknown_pixels_do_not_count():
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[:, :3] = True
    flow = constant(0.0, 0.0)
    flow[:, :, 3:] = float('nan')
    runner = a_runner([flow], [mask])
    BinPriorHook().before_train(runner)
    assert shares(runner)[:, 2].min() > 0.99


def test_so_many_samples_are_counted():
    class Counted(list):
        asked = 0

        def __getitem__(self, index):
            self.asked += 1
            return super().__getitem__(index)

    runner = a_runner([constant(0.0, 0.0)] * 10)
    runner.train_dataloader.dataset = Counted(runner.train_dataloader.dataset)
    BinPriorHook(num_samples=3).before_train(runner)
    assert runner.train_dataloader.dataset.asked == 3


@pytest.mark.parametrize('change', [dict(iteration=5), dict(load_from='weights.pth')])
def test_a_run_that_goes_on_keeps_its_bias(change):
    runner = a_runner([constant(4.0, 4.0)], **change)
    BinPriorHook().before_train(runner)
    assert not runner.model.decoder.head.bias.any()


def test_what_cannot_be():
    with pytest.raises(ValueError, match='num_samples is 0'):
        BinPriorHook(num_samples=0)
    with pytest.raises(ValueError, match='predicts raw flow'):
        BinPriorHook().before_train(a_runner([constant(0.0, 0.0)], codec=None))
    several = a_runner([constant(0.0, 0.0)])
    del several.model.decoder.head
    with pytest.raises(ValueError, match='has no single head; leave the hook out'):
        BinPriorHook().before_train(several)


def test_the_same_samples_from_all_over_the_set_are_counted_every_time():
    """Processes that counted others would start with different weights."""

    class Noted(list):
        def __getitem__(self, index):
            asked[-1].append(index)
            return super().__getitem__(index)

    asked = []
    for _ in range(2):
        asked.append([])
        runner = a_runner([constant(0.0, 0.0)] * 100)
        runner.train_dataloader.dataset = Noted(runner.train_dataloader.dataset)
        BinPriorHook(num_samples=16).before_train(runner)
    assert asked[0] == asked[1] and len(set(asked[0])) == 16
    assert max(asked[0]) - min(asked[0]) > 50, 'neighbours are of one video'
