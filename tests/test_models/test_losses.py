from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F

from cmp_mm.models import MSEFlowLoss, QuantizedFlowCodec, QuantizedFlowLoss, SmoothL1FlowLoss
from cmp_mm.models.losses import base

GOLDEN = sorted((Path(__file__).parents[1] / 'data' / 'loss').glob('loss_*.npz'))
RAW = [(SmoothL1FlowLoss, F.smooth_l1_loss), (MSEFlowLoss, F.mse_loss)]


def upsample(x, size):
    return F.interpolate(x, size=size, mode='bilinear', align_corners=True)


@pytest.mark.parametrize('path', GOLDEN, ids=lambda path: path.stem)
def test_golden_loss_and_gradient(path):
    golden = np.load(path)
    codec = QuantizedFlowCodec(int(golden['nbins']), float(golden['fmax']))
    logits = torch.from_numpy(golden['logits']).requires_grad_()
    loss = QuantizedFlowLoss()(logits, codec, torch.from_numpy(golden['target']))
    loss.backward()
    assert loss.item() == pytest.approx(float(golden['loss']), rel=1e-5)
    scale = np.abs(golden['grad']).max()
    np.testing.assert_allclose(logits.grad.numpy(), golden['grad'], rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('extreme', [50.0, -50.0, 60.0])
def test_autocast_and_half_precision_inputs_give_the_float32_loss_at_the_range_ends(dtype, extreme):
    codec, loss = QuantizedFlowCodec(), QuantizedFlowLoss()
    logits = torch.randn(2, 198, 3, 4).to(dtype).requires_grad_()
    flow = torch.full((2, 2, 24, 32), extreme)
    expected = loss(logits.detach().float(), codec, flow)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = loss(logits, codec, flow.to(dtype))
    got.backward()
    assert got.dtype == torch.float32
    assert torch.equal(got.detach(), expected)
    assert logits.grad.isfinite().all()


def test_quantized_loss_is_the_mean_over_valid_pixels():
    codec = QuantizedFlowCodec(5, 10.0)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 10, 4, 5, generator=generator)
    flow = 20 * torch.rand(2, 2, 16, 20, generator=generator) - 10
    valid = torch.rand(2, 16, 20, generator=generator) > 0.7
    log_p = upsample(logits, (16, 20)).unflatten(1, (2, 5)).log_softmax(2)
    bins = ((flow + 10) / 4).floor().long()
    each = -log_p.gather(2, bins[:, :, None])[:, :, 0].sum(1)
    flow = flow.masked_fill(~valid[:, None], float('nan'))
    assert QuantizedFlowLoss()(logits, codec, flow, valid).item() == pytest.approx(
        each[valid].mean().item(), rel=1e-5
    )


@pytest.mark.parametrize(('loss', 'criterion'), RAW)
def test_raw_losses_compare_upsampled_flow_with_the_target(loss, criterion):
    flow, target = torch.randn(2, 2, 3, 4), 5 * torch.randn(2, 2, 24, 32)
    each = criterion(upsample(flow, (24, 32)), target, reduction='none')
    assert loss()(flow, None, target).item() == pytest.approx(each.mean().item(), rel=1e-5)
    valid = torch.rand(2, 24, 32) > 0.5
    expected = each[valid[:, None].expand_as(each)].mean()
    target = target.masked_fill(~valid[:, None], float('nan'))
    assert loss()(flow, None, target, valid).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize('loss', [QuantizedFlowLoss, SmoothL1FlowLoss, MSEFlowLoss])
def test_nothing_valid_gives_zero_loss_and_zero_gradient(loss):
    codec = QuantizedFlowCodec(99) if loss is QuantizedFlowLoss else None
    prediction = torch.randn(1, 198 if codec else 2, 2, 2, requires_grad=True)
    value = loss()(prediction, codec, torch.zeros(1, 2, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert prediction.grad.abs().max() == 0


@pytest.mark.parametrize('loss', [QuantizedFlowLoss, SmoothL1FlowLoss, MSEFlowLoss])
def test_several_scales_count_by_their_weights_or_alike(loss):
    codec = QuantizedFlowCodec(9) if loss is QuantizedFlowLoss else None
    scales = [torch.randn(1, 18 if codec else 2, n, n) for n in (8, 4, 2)]
    flow = 30 * torch.randn(1, 2, 16, 16)
    single = [loss()(scale, codec, flow).item() for scale in scales]
    assert loss()(scales, codec, flow).item() == pytest.approx(sum(single) / 3, rel=1e-5)
    weighted = loss(loss_weight=2, scale_weights=(1, 0.5, 0))(tuple(scales), codec, flow).item()
    assert weighted == pytest.approx(2 * (single[0] + 0.5 * single[1]), rel=1e-5)


def test_config_errors_are_one_sentence():
    flow = torch.zeros(1, 2, 8, 8)
    with pytest.raises(ValueError, match='scale_weights has 2 entries, but the decoder gives 1 scales'):
        SmoothL1FlowLoss(scale_weights=(1, 1))(torch.zeros(1, 2, 2, 2), None, flow)
    with pytest.raises(ValueError, match='gives 198 channels, expected 2 of raw flow'):
        MSEFlowLoss()(torch.zeros(1, 198, 2, 2), None, flow)
    with pytest.raises(ValueError, match='the model has no codec'):
        QuantizedFlowLoss()(torch.zeros(1, 198, 2, 2), None, flow)


def _joint_case(loss: str):
    """Four samples whose valid shares differ a lot, and weights of a 1x1 convolution as the network."""
    generator = torch.Generator().manual_seed(3)
    codec = QuantizedFlowCodec(9, 10.0) if loss == 'quantized' else None
    channels = 18 if codec else 2
    features = torch.randn(4, 3, 4, 4, generator=generator)
    weight = torch.randn(channels, 3, 1, 1, generator=generator)
    flow = 8 * torch.randn(4, 2, 16, 16, generator=generator)
    valid = torch.rand(4, 16, 16, generator=generator) < torch.tensor([0.9, 0.5, 0.1, 0.0]).view(4, 1, 1)
    module = QuantizedFlowLoss() if codec else SmoothL1FlowLoss()
    return module, codec, features, torch.nn.Parameter(weight), flow, valid


def _gradient_of_two(rank: int, store: str, results) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    for loss in ('quantized', 'raw'):
        module, codec, features, weight, flow, valid = _joint_case(loss)
        mine = slice(2 * rank, 2 * rank + 2)
        value = module(F.conv2d(features[mine], weight), codec, flow[mine], valid[mine])
        value.backward()
        # What DistributedDataParallel does with gradients, and the logger with losses: the mean over ranks.
        for tensor in (weight.grad, value.detach()):
            torch.distributed.all_reduce(tensor)
        if rank == 0:
            results[loss] = ((weight.grad / 2).tolist(), value.item() / 2)
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_loss_and_gradient_of_the_joint_batch(tmp_path):
    with mp.get_context('spawn').Manager() as manager:
        results = manager.dict()
        mp.spawn(_gradient_of_two, (str(tmp_path / 'store'), results), nprocs=2)
        results = dict(results)
    for loss in ('quantized', 'raw'):
        module, codec, features, weight, flow, valid = _joint_case(loss)
        value = module(F.conv2d(features, weight), codec, flow, valid)
        value.backward()
        gradient, joint = results[loss]
        assert joint == pytest.approx(value.item(), rel=1e-5)
        torch.testing.assert_close(torch.tensor(gradient), weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(('known', 'elsewhere', 'wanted'), [(64, 16, 1.6), (32, 32, 1.0), (0, 0, 0.0)])
def test_a_process_weighs_as_much_as_it_knows(monkeypatch, known, elsewhere, wanted):
    """One without a mask asks the others, too: they would wait for it."""
    monkeypatch.setattr(base, 'get_world_size', lambda: 2)
    monkeypatch.setattr(base, 'all_reduce', lambda total: total.add_(elsewhere))
    valid = None if known == 64 else (torch.arange(64) < known).view(1, 8, 8)
    loss = MSEFlowLoss()(torch.ones(1, 2, 2, 2), None, torch.zeros(1, 2, 8, 8), valid)
    assert loss.item() == pytest.approx(wanted)


def test_the_path_of_the_loss_is_a_setting():
    logits = torch.randn(1, 10, 2, 2, requires_grad=True)
    arguments = logits, QuantizedFlowCodec(5, 10.0), torch.zeros(1, 2, 4, 4)
    # No other path than this one can be differentiated twice.
    torch.autograd.grad(QuantizedFlowLoss(impl='reference')(*arguments), logits, create_graph=True)
    with pytest.raises(ValueError, match='impl must be one of'):
        QuantizedFlowLoss(impl='fast')(*arguments)
