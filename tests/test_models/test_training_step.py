"""The fast training step, as bench_training_step.py times it, takes the plain one's step."""

import pytest
import torch

STRATEGIES = [dict(type='watershed', kernel_size=15), dict(type='grid', stride=20)]
DEVICES = [
    'cpu',
    pytest.param(
        'cuda',
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
        ],
    ),
]


def gradients(model, batch, device, autocast):
    model.to(device).train()
    data = model.data_preprocessor(batch, training=True)
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        loss = model(**data, mode='loss')['loss']
    loss.backward()
    return loss.item(), {
        name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None
    }


def cosine(one, other):
    return torch.cosine_similarity(one.flatten(), other.flatten(), dim=0).item()


@pytest.fixture
def moving_batch(flow_batch):
    """Two images in whose flow a square moves; without guidance points, with seeds to draw them."""
    batch = flow_batch((64, 64), (64, 64))
    for number, sample in enumerate(batch['data_samples']):
        sample.gt_flow[:, 20:44, 10:40] = torch.tensor([-50.0, 20.0 * number])[:, None, None]
        del sample.guidance_points, sample.guidance_vectors
        sample.set_metainfo(dict(guidance_seed=number))
    return batch


def copies(batch):
    return dict(
        inputs=dict(image=[image.clone() for image in batch['inputs']['image']]),
        data_samples=[sample.clone() for sample in batch['data_samples']],
    )


@pytest.fixture
def exact_convolutions(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


@pytest.mark.usefixtures('exact_convolutions')
@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('model', ['cmp_resnet50_plain', 'cmp_resnet50_skip'])
def test_fast_step_is_the_plain_step(build, moving_batch, device, model):
    guidance = dict(strategies=STRATEGIES, max_points=9)
    plain = build(model, loss=dict(impl='reference'), data_preprocessor=dict(guidance=guidance))
    fast = build(model, loss=dict(impl='auto'), data_preprocessor=dict(guidance=guidance, channels_last=True))
    assert fast.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    wanted, wanted_grads = gradients(plain, copies(moving_batch), 'cpu', autocast=False)
    exact, exact_grads = gradients(fast, copies(moving_batch), device, autocast=False)
    assert exact == pytest.approx(wanted, rel=1e-4)
    # A bias before a normalisation has no gradient but rounding.
    largest = max(grad.abs().max().item() for grad in wanted_grads.values())
    for name, grad in wanted_grads.items():
        scale = grad.abs().max().item()
        if device == 'cpu':
            assert (exact_grads[name] - grad).abs().max().item() <= 2e-2 * scale + 1e-4 * largest, name
        elif scale > 1e-3 * largest:
            # Sums in another order turn a ReLU or a maximum here and there, and single entries with it.
            assert cosine(exact_grads[name], grad) >= 0.95, name
    fast.zero_grad()
    half, half_grads = gradients(fast, copies(moving_batch), device, autocast=True)
    assert half == pytest.approx(wanted, rel=1e-2)
    if model == 'cmp_resnet50_skip':
        return  # its coarsest scale is one pixel here: normalised over two values, gradients are rounding
    # bfloat16 keeps 8 bits: of an untrained network's gradient it leaves the direction, the less the deeper.
    for name, least in (('decoder.head.weight', 0.98), ('neck.conv.weight', 0.8)):
        assert cosine(half_grads[name], wanted_grads[name]) >= least, name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_page_locked_samples_are_copied_whole(moving_batch):
    sample = moving_batch['data_samples'][0]
    pinned = sample.pin_memory()
    assert pinned.gt_flow.is_pinned() and not sample.gt_flow.is_pinned()
    assert pinned.metainfo == sample.metainfo
    there = pinned.to('cuda', non_blocking=True)
    torch.cuda.synchronize()
    assert torch.equal(there.gt_flow.cpu(), sample.gt_flow)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_fast_steps_learn_on_a_gpu(build, moving_batch):
    guidance = dict(strategies=STRATEGIES, max_points=9)
    model = build(
        'cmp_resnet50_plain', data_preprocessor=dict(guidance=guidance, channels_last=True, non_blocking=True)
    )
    model.to('cuda').train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        data = model.data_preprocessor(copies(moving_batch), training=True)
        with torch.autocast('cuda', torch.bfloat16):
            loss = model(**data, mode='loss')['loss']
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
