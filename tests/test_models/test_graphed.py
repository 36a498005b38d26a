"""Training passes replayed as CUDA graphs are the ordinary ones."""

import copy
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from cmp_mm.models.algorithms import graphed as graphed_module
from cmp_mm.models.algorithms.graphed import GraphedNetwork, _Recording

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')


@pytest.fixture
def full_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    monkeypatch.setattr(torch.backends.cudnn, 'deterministic', True)


def small_network(device='cuda'):
    """Convolution, running statistics, two outputs: small enough that rounding does not grow."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1)]
    return nn.Sequential(*layers).to(device).train()


def inputs(seed, size=16, device='cuda'):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, size, size, generator=generator).to(device)


class PretendedGraph:
    def __init__(self, replay):
        self.replay = replay


class PretendedRecording(_Recording):
    """What a recording does, on the CPU: everything is read from and written to the same places."""

    def __init__(self, module, network, parameters, inputs, key):
        self.parameters, self.key, self.parameters_key, self.awaited = parameters, key, key[0], None
        self.inputs = [x.clone() for x in inputs]
        with torch.no_grad():
            kept = copy.deepcopy(module.state_dict())
            self.outputs = [torch.zeros_like(one) for one in network(*self.inputs)]
            module.load_state_dict(kept)
        self.is_single = False
        self.output_gradients = [torch.zeros_like(one) for one in self.outputs]
        self.gradients = [torch.zeros_like(one) for one in parameters]
        self.replays = 0

        def forward():
            self.replays += 1
            with torch.enable_grad():
                self.attached = network(*self.inputs)
            for place, value in zip(self.outputs, self.attached, strict=True):
                place.data.copy_(value)  # as a replay, unseen by autograd

        def backward():
            found = torch.autograd.grad(self.attached, self.parameters, self.output_gradients)
            for place, value in zip(self.gradients, found, strict=True):
                place.copy_(value)

        self.forward, self.backward = PretendedGraph(forward), PretendedGraph(backward)


@pytest.fixture
def pretended(monkeypatch):
    """A network on the CPU, and the same network called through pretended graphs."""
    monkeypatch.setattr(graphed_module, '_on_gpu', lambda x: True)
    monkeypatch.setattr(graphed_module, '_Recording', PretendedRecording)
    plain, replayed = small_network('cpu'), small_network('cpu')
    return plain, replayed, GraphedNetwork(replayed, partial(two_outputs, replayed))


@pytest.mark.parametrize('accumulate', [1, 2, 3])
@pytest.mark.parametrize('sizes', [[16] * 6, [16, 16, 24, 16, 24, 16]], ids=['one size', 'two sizes'])
def test_places_that_are_overwritten_are_not_needed_any_more(pretended, sizes, accumulate):
    plain, replayed, graphed = pretended
    batches = [inputs(seed, size, 'cpu') for seed, size in enumerate(sizes)]
    wanted = train(plain, partial(two_outputs, plain), batches, accumulate)
    assert train(replayed, graphed, batches, accumulate) == pytest.approx(wanted, rel=1e-5)
    for one, other in zip(plain.parameters(), replayed.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)
    wanted = sum(size == 16 for size in sizes[::accumulate])
    assert graphed._recorded.replays == wanted


def test_two_outputs_before_a_backward_pass(pretended):
    plain, replayed, graphed = pretended
    for network in (partial(two_outputs, plain), graphed):
        one, other = network(inputs(0, 16, 'cpu'))[0], network(inputs(1, 16, 'cpu'))[0]
        (one.square().mean() + 3 * other.square().mean()).backward()
    assert graphed._recorded.replays == 1
    for one, other in zip(plain.parameters(), replayed.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad)


def test_an_output_that_nothing_holds_is_not_waited_for(pretended):
    _, _, graphed = pretended
    for seed in range(3):
        graphed(inputs(seed, 16, 'cpu'))[0].sum().item()
    assert graphed._recorded.replays == 3


def test_a_second_backward_pass_is_refused(pretended):
    _, _, graphed = pretended
    out, _ = graphed(inputs(0, 16, 'cpu'))
    loss = out.square().mean()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match='cuda_graph=False'):
        loss.backward(retain_graph=True)
    graphed.module.zero_grad()
    another, _ = graphed(inputs(1, 16, 'cpu'))
    assert graphed._recorded.replays == 2
    with pytest.raises(RuntimeError, match='cuda_graph=False'):
        loss.backward()
    another.sum().backward()


def test_a_gradient_penalty_is_refused(pretended):
    _, _, graphed = pretended
    out, _ = graphed(inputs(0, 16, 'cpu'))
    with pytest.raises(RuntimeError, match='cuda_graph=False'):
        torch.autograd.grad(out.sum(), list(graphed.module.parameters()), create_graph=True)


def freeze_statistics(module):
    module[1].eval()


def freeze_weights(module):
    module[0].requires_grad_(False)


def move_frozen_weights(module):
    module[0].weight.data = module[0].weight.data.clone()


@pytest.mark.parametrize(
    'changes', [[freeze_statistics], [freeze_weights], [freeze_weights, move_frozen_weights]]
)
def test_a_recording_does_not_outlive_what_it_was_made_of(pretended, changes):
    _, module, graphed = pretended
    for change in changes:
        graphed(inputs(0, 16, 'cpu'))[0].sum().backward()
        module.zero_grad()
        before = graphed._recorded
        graphed(inputs(1, 16, 'cpu'))[0].sum().backward()
        module.zero_grad()
        assert graphed._recorded is before
        change(module)
        graphed(inputs(2, 16, 'cpu'))[0].sum().backward()
        module.zero_grad()
        assert graphed._recorded is not before


def two_outputs(module, x):
    out = module(x)
    return out, out.mean(dim=(2, 3))


def train(module, network, batches, accumulate=1):
    """Steps of SGD, one for every ``accumulate`` batches; the losses."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    losses = []
    for number, batch in enumerate(batches, 1):
        out, mean = network(batch)
        loss = (out - batch[:, :2]).square().mean() + mean.sum()
        loss.backward()
        losses.append(loss.item())
        if number % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return losses


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize('accumulate', [1, 2, 3])
@pytest.mark.parametrize('sizes', [[16] * 6, [16, 16, 24, 16, 24, 16]], ids=['one size', 'two sizes'])
def test_replayed_steps_are_ordinary_steps(full_float32, sizes, accumulate):
    batches = [inputs(seed, size) for seed, size in enumerate(sizes)]
    plain, replayed = small_network(), small_network()
    graphed = GraphedNetwork(replayed, partial(two_outputs, replayed))
    wanted = train(plain, partial(two_outputs, plain), batches, accumulate)
    assert train(replayed, graphed, batches, accumulate) == pytest.approx(wanted, rel=1e-5)
    assert graphed._recorded is not None
    # The running statistics too: they moved with six batches, not with those that the recording took.
    for (name, one), other in zip(plain.state_dict().items(), replayed.state_dict().values(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5, msg=name)
    assert replayed[1].num_batches_tracked == 6


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='needs two CUDA devices')
def test_a_device_that_is_not_the_current_one(full_float32):
    batches = [inputs(seed, device='cuda:1') for seed in range(4)]
    plain, replayed = small_network('cuda:1'), small_network('cuda:1')
    wanted = train(plain, partial(two_outputs, plain), batches)
    graphed = GraphedNetwork(replayed, partial(two_outputs, replayed))
    assert torch.cuda.current_device() == 0
    assert train(replayed, graphed, batches) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.gpu
@needs_gpu
def test_moved_parameters_are_recorded_anew(full_float32):
    plain, replayed = small_network(), small_network()
    graphed = GraphedNetwork(replayed, partial(two_outputs, replayed))
    batches = [inputs(0), inputs(1)]
    train(plain, partial(two_outputs, plain), batches), train(replayed, graphed, batches)
    replayed.cpu().cuda()
    wanted = train(plain, partial(two_outputs, plain), batches)
    assert train(replayed, graphed, batches) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.gpu
@needs_gpu
def test_evaluation_and_no_grad_are_ordinary_passes():
    network = small_network()
    graphed = GraphedNetwork(network, partial(two_outputs, network))
    with torch.no_grad():
        graphed(inputs(0))
    network.eval()
    graphed(inputs(0))
    assert graphed._recorded is None


@pytest.mark.gpu
@needs_gpu
def test_what_cannot_be_recorded_is_said_in_one_sentence():
    # In a process of its own: after a recording that failed torch's random numbers do not work.
    code = """
from tests.test_models.test_graphed import GraphedNetwork, inputs, small_network
network = small_network()
GraphedNetwork(network, lambda x: network(x) * float(x.mean()))(inputs(0))
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 1 and 'cuda_graph=False' in done.stderr.strip().splitlines()[-1]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize('autocast', [False, True])
def test_losses_of_the_network_are_those_of_ordinary_steps(build, flow_batch, full_float32, autocast):
    """Weights are not compared: in this network a rounding grows to percents within four steps."""
    options = dict(data_preprocessor=dict(channels_last=autocast))
    losses = []
    for cuda_graph in (False, True):
        model = build('cmp_resnet50_plain', cuda_graph=cuda_graph, **options).to('cuda').train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        losses.append([])
        for value in (3.0, -9.0, 20.0):
            data = model.data_preprocessor(flow_batch((64, 64), (64, 64), flow=value), training=True)
            with torch.autocast('cuda', torch.bfloat16, enabled=autocast):
                loss = model(**data, mode='loss')['loss']
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[-1].append(loss.item())
    assert model._graphed._recorded is not None
    assert losses[1] == pytest.approx(losses[0], rel=0.02 if autocast else 1e-3)


@pytest.mark.gpu
@needs_gpu
def test_dropout_draws_anew_and_from_the_seed(build, flow_batch):
    model = build('cmp_alexnet_plain', cuda_graph=True).to('cuda').train()
    data = model.data_preprocessor(flow_batch((128, 128), (128, 128)), training=True)

    def losses():
        torch.manual_seed(0)
        return [model(**data, mode='loss')['loss'].item() for _ in range(3)]

    first = losses()
    assert len(set(first)) == 3
    assert losses() == pytest.approx(first, rel=1e-6)


def both(build):
    plain, graphed = build('cmp_resnet50_plain'), build('cmp_resnet50_plain', cuda_graph=True)
    graphed.load_state_dict(plain.state_dict())
    return plain, graphed


def test_without_a_gpu_it_is_the_ordinary_pass(build, flow_batch):
    plain, graphed = both(build)
    assert list(plain.state_dict()) == list(graphed.state_dict())
    data = plain.data_preprocessor(flow_batch((64, 64)), training=True)
    one, other = (model.train()(**data, mode='loss')['loss'] for model in (plain, graphed))
    assert torch.equal(one, other)


def test_a_copy_is_of_its_own(build):
    _, graphed = both(build)
    copied = copy.deepcopy(graphed)
    assert copied._graphed.module is copied and copied._graphed.network.__self__ is copied


def test_gradients_of_inputs_are_not_lost(pretended):
    _, _, graphed = pretended
    x = inputs(0, 16, 'cpu').requires_grad_()
    graphed(x)[0].square().mean().backward()
    assert x.grad is not None and x.grad.abs().max() > 0


@pytest.mark.parametrize('why', ['processes', 'evaluation', 'no gradient', None])
def test_where_a_recording_does_not_serve_there_is_none(pretended, monkeypatch, why):
    _, network, graphed = pretended
    monkeypatch.setattr(graphed_module, 'get_world_size', lambda: 2 if why == 'processes' else 1)
    network.train(why != 'evaluation')
    with torch.set_grad_enabled(why != 'no gradient'):
        graphed(inputs(0, 16, 'cpu'))
    assert (graphed._recorded is None) == (why is not None)
