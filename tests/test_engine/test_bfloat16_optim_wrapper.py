"""bfloat16 in the forward pass, float32 in all that stays."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import DefaultScope
from torch import nn

from cmp_mm.engine import Bfloat16OptimWrapper, computes_in_bfloat16, launch, run_config
from cmp_mm.registry import OPTIM_WRAPPERS


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))


def train(kind, steps, start=None):
    """Weights and optimizer after some steps of fitting noise; the output's type of the last."""
    model = network()
    wrapper = OPTIM_WRAPPERS.build(
        dict(type=kind, optimizer=torch.optim.AdamW(model.parameters(), 1e-2), clip_grad=dict(max_norm=5))
    )
    if start is not None:
        model.load_state_dict(start[0])
        wrapper.load_state_dict(start[1])
    x, y = torch.randn(4, 3, 12, 12), torch.randn(4, 2, 10, 10)
    for _ in range(steps):
        with wrapper.optim_context(model):
            output = model(x)
        loss = (output.float() - y).square().mean()
        wrapper.update_params(loss)
    assert all(value.dtype != torch.bfloat16 for value in model.state_dict().values())
    return model.state_dict(), wrapper.state_dict(), output.dtype, loss.item()


def test_only_the_forward_pass_is_in_bfloat16_and_training_goes_the_same_way():
    plain, _, dtype, loss = train('OptimWrapper', 10)
    assert dtype == torch.float32
    mixed, _, dtype, mixed_loss = train('Bfloat16OptimWrapper', 10)
    assert dtype == torch.bfloat16
    assert mixed_loss == pytest.approx(loss, rel=1e-2)
    start = network().state_dict()
    names = [name for name, _ in network().named_parameters()]
    moved = torch.cat([(plain[name] - start[name]).flatten() for name in names])
    mixed_moved = torch.cat([(mixed[name] - start[name]).flatten() for name in names])
    assert torch.cosine_similarity(moved, mixed_moved, dim=0) > 0.95


@pytest.mark.parametrize(
    'order', [('OptimWrapper', 'Bfloat16OptimWrapper'), ('Bfloat16OptimWrapper', 'OptimWrapper')]
)
def test_a_checkpoint_goes_on_with_either(order):
    first = train(order[0], 3)
    second = train(order[1], 3, first)
    assert second[1]['state'][0]['step'] == 6
    assert second[1].keys() == first[1].keys()


def test_amp_on_a_cpu_takes_the_place_of_mmengines(monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    optimizer = dict(type='SGD', lr=0.1)
    for given in (
        dict(optimizer=optimizer),
        dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0, optimizer=optimizer),
        dict(type='Bfloat16OptimWrapper', optimizer=optimizer),
    ):
        cfg = Config(dict(optim_wrapper=given))
        launch.use_amp(cfg)
        assert cfg.optim_wrapper == dict(type='cmp_mm.Bfloat16OptimWrapper', optimizer=optimizer)


def test_other_packages_configs_find_it():
    parameter = nn.Parameter(torch.zeros(1))
    with DefaultScope.overwrite_default_scope('mmengine'):
        config = dict(type='cmp_mm.Bfloat16OptimWrapper', optimizer=torch.optim.SGD([parameter], 0.1))
        assert isinstance(MMENGINE_OPTIM_WRAPPERS.build(config), Bfloat16OptimWrapper)


def test_amp_for_mmpose_is_refused_before_it_fails(monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    cfg = Config(dict(default_scope='mmpose', optim_wrapper=dict(optimizer=dict(type='Adam'))))
    with pytest.raises(run_config.UsageError, match='numpy does not know'):
        launch.use_amp(cfg)


@pytest.mark.parametrize(
    ('capabilities', 'expected'),
    [
        (dict(architecture='x86_64', avx2=True, avx512_f=True, avx512_bf16=False), False),
        (dict(architecture='x86_64', avx2=True, avx512_bf16=True), True),
        (dict(architecture='x86_64', amx_bf16=True), True),
        (dict(architecture='aarch64', bf16=True), True),
        (dict(architecture='aarch64', neon=True, bf16=False), False),
    ],
)
def test_amp_warns_where_the_cpu_only_emulates_bfloat16(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: capabilities, raising=False)
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    assert computes_in_bfloat16() is expected
    said = []
    monkeypatch.setattr(launch, 'print_log', lambda text, *_: said.append(text))
    launch.use_amp(Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)))))
    assert ['no instructions for bfloat16' in text for text in said] == ([] if expected else [True])


def test_an_older_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, 'get_capabilities', raising=False)
    assert computes_in_bfloat16() is None


def test_gradients_accumulate_as_with_the_plain_wrapper():
    model = network()
    wrapper = Bfloat16OptimWrapper(torch.optim.SGD(model.parameters(), 0.1), accumulative_counts=2)
    before = model[0].weight.clone()
    for step in range(2):
        assert torch.equal(model[0].weight, before), step
        with wrapper.optim_context(model):
            loss = model(torch.randn(2, 3, 12, 12)).float().square().mean()
        wrapper.update_params(loss)
    assert not torch.equal(model[0].weight, before)


@pytest.mark.parametrize(
    ('given', 'kind', 'scale'),
    [
        ({}, 'AmpOptimWrapper', 'dynamic'),
        (dict(type='AmpOptimWrapper', loss_scale=512.0), 'AmpOptimWrapper', 512.0),
        (dict(type='Bfloat16OptimWrapper'), 'Bfloat16OptimWrapper', None),
        (dict(type='cmp_mm.Bfloat16OptimWrapper'), 'cmp_mm.Bfloat16OptimWrapper', None),
    ],
)
def test_amp_on_an_accelerator_is_mmengines_unless_bfloat16_was_chosen(monkeypatch, given, kind, scale):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    cfg = Config(dict(optim_wrapper=given))
    launch.use_amp(cfg)
    launch.require_accelerator_for_amp(cfg)
    assert cfg.optim_wrapper.type == kind and cfg.optim_wrapper.get('loss_scale') == scale
