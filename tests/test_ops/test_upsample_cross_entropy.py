import os
import threading
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_mm.ops import upsample_cross_entropy
from cmp_mm.ops.blocked import TINY

# Its name in the package is the function's.
module = import_module('cmp_mm.ops.upsample_cross_entropy')
blocked_module = import_module('cmp_mm.ops.blocked')
GOLDEN = sorted((Path(__file__).parents[1] / 'data' / 'loss').glob('loss_*.npz'))


def run(impl, logits, target, bins, valid=None):
    """Loss and the gradient of its logits."""
    leaf = logits.clone().requires_grad_()
    loss = upsample_cross_entropy(leaf, target, bins, valid, impl=impl)
    loss.backward()
    return loss.detach(), leaf.grad


def by_its_words(logits, target, bins, valid=None):
    """Upsample with explicit weights, log-softmax, pick, average: float64 and independent of ops/."""
    batch, channels, h, w = logits.shape
    height, width = target.shape[-2:]

    def weights(n, m):
        position = torch.linspace(0, n - 1, m, dtype=torch.float64) if m > 1 else torch.zeros(1).double()
        return (1 - (position[:, None] - torch.arange(n)).abs()).clamp(min=0)

    full = torch.einsum('yi,xj,ncij->ncyx', weights(h, height), weights(w, width), logits.double())
    log_p = full.reshape(batch, channels // bins, bins, height, width).log_softmax(dim=2)
    picked = -log_p.gather(2, target[:, :, None])[:, :, 0]
    known = torch.ones(batch, height, width) if valid is None else valid
    return (picked * known[:, None]).sum() / known.sum().clamp(min=1)


def problem(seed, batch=2, axes=2, bins=7, nodes=(3, 4), size=(20, 25), spread=3.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, axes * bins, *nodes, generator=generator, dtype=dtype) * spread
    target = torch.randint(0, bins, (batch, axes, *size), generator=generator)
    valid = torch.rand(batch, *size, generator=generator) > 0.4
    return logits, target, valid


def assert_close(found, expected, tolerance=1e-5):
    """Loss relative to itself, gradient relative to its largest entry."""
    assert found[0].item() == pytest.approx(expected[0].item(), rel=tolerance, abs=1e-7)
    scale = expected[1].abs().max().item()
    assert (found[1] - expected[1]).abs().max().item() <= tolerance * scale + 1e-12


def test_all_golden_files_are_there():
    assert len(GOLDEN) == 3


@pytest.mark.parametrize('impl', ['reference', 'blocked'])
@pytest.mark.parametrize('file', GOLDEN, ids=lambda file: file.stem)
def test_equals_the_reference_implementation(file, impl):
    golden = np.load(file)
    logits, bins = torch.from_numpy(golden['logits']), int(golden['nbins'])
    loss, grad = run(impl, logits, torch.from_numpy(golden['bins']).long(), bins)
    assert loss.item() == pytest.approx(float(golden['loss']), rel=1e-6)
    scale = np.abs(golden['grad']).max()
    np.testing.assert_allclose(grad.numpy(), golden['grad'], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize('impl', ['reference', 'blocked'])
@pytest.mark.parametrize('masked', [False, True])
def test_equals_the_formula_in_float64(impl, masked):
    logits, target, valid = problem(0, dtype=torch.float64)
    valid = valid if masked else None
    leaf = logits.clone().requires_grad_()
    expected = by_its_words(leaf, target, 7, valid)
    expected.backward()
    assert_close(run(impl, logits, target, 7, valid), (expected.detach(), leaf.grad), tolerance=1e-12)


@pytest.mark.parametrize('impl', ['reference', 'blocked'])
@pytest.mark.parametrize('size', [(9, 11), (2, 3), (1, 5)])
def test_gradcheck_in_float64(impl, size):
    logits, target, valid = problem(1, bins=5, nodes=(3, 2), size=size, dtype=torch.float64)
    logits.requires_grad_()
    valid[0, 0, 0] = True
    assert torch.autograd.gradcheck(
        lambda values: upsample_cross_entropy(values, target, 5, valid, impl=impl), (logits,)
    )


def test_a_gradient_penalty_is_never_left_out_in_silence():
    logits, target, valid = problem(1, bins=5, nodes=(3, 2), size=(9, 11), dtype=torch.float64)
    logits.requires_grad_()
    valid[0, 0, 0] = True

    def penalised(values, impl):
        loss = upsample_cross_entropy(values, target, 5, valid, impl=impl)
        (gradient,) = torch.autograd.grad(loss, values, create_graph=True)
        return loss + 10 * gradient.square().sum()

    assert torch.autograd.gradcheck(lambda values: penalised(values, 'reference'), (logits,))
    with pytest.raises(RuntimeError, match=r"cannot be differentiated .* impl='reference'"):
        penalised(logits, 'blocked')


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    nodes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    bins=st.sampled_from([1, 2, 21, 99]),
    axes=st.sampled_from([1, 2, 3]),
    spread=st.sampled_from([0.0, 1.0, 10.0]),
    masked=st.booleans(),
)
def test_blocked_equals_plain_at_any_size(seed, nodes, size, bins, axes, spread, masked):
    logits, target, valid = problem(seed, 2, axes, bins, nodes, size, spread)
    valid = valid if masked else None
    # Held against float64: the plain path in float32 adds up many pixels one by one and is the less
    # exact of the two.
    expected = run('reference', logits.double(), target, bins, valid)
    loss, grad = run('blocked', logits, target, bins, valid)
    assert loss.item() == pytest.approx(expected[0].item(), rel=1e-5, abs=1e-6)
    # With one bin the gradient cancels to 0, hence the absolute part.
    scale = expected[1].abs().max().item()
    assert (grad - expected[1]).abs().max().item() <= 1e-5 * scale + 1e-7


@pytest.mark.parametrize('stride', [8, 32])
def test_blocked_equals_plain_at_the_strides_in_use(stride):
    height, width = 96 // stride, 128 // stride
    logits, target, valid = problem(2, bins=99, nodes=(height, width), size=(96, 128), spread=5.0)
    expected = run('reference', logits, target, 99, valid)
    assert_close(run('blocked', logits, target, 99, valid), expected)


@pytest.mark.parametrize('impl', ['reference', 'blocked'])
def test_logits_of_a_thousand(impl):
    """Neighbouring nodes that peak in different bins: between them every shifted exponential is 0."""
    logits = torch.full((1, 6, 1, 2), -1000.0)
    logits[0, 0, 0, 0] = logits[0, 2, 0, 1] = 1000.0
    logits[0, 4, 0, :] = 1000.0
    target = torch.randint(0, 3, (1, 2, 1, 41), generator=torch.Generator().manual_seed(0))
    middle = torch.full((3,), -2000.0 / 2)
    assert np.exp(middle[0].item()) < TINY
    leaf = logits.double().requires_grad_()
    exact = by_its_words(leaf, target, 3)
    exact.backward()
    loss, grad = run(impl, logits, target, 3)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    assert (grad - leaf.grad).abs().max().item() <= 1e-4 * leaf.grad.abs().max().item()


def test_blocked_equals_plain_on_random_logits_of_a_thousand():
    logits, target, valid = problem(3, bins=99, nodes=(4, 5), size=(64, 70), spread=500.0)
    logits = logits.clamp(-1000, 1000)
    exact = run('reference', logits.double(), target, 99, valid)
    plain = run('reference', logits, target, 99, valid)
    found = run('blocked', logits, target, 99, valid)
    assert all(torch.isfinite(value).all() for value in found)
    # At this size float32 itself is worth 1e-4 of a logit; the block path must not be worse.
    error = (found[1] - exact[1]).abs().max().item()
    assert error <= 2 * (plain[1] - exact[1]).abs().max().item() + 1e-8
    assert found[0].item() == pytest.approx(exact[0].item(), rel=1e-5)


@pytest.mark.parametrize('impl', ['reference', 'blocked'])
def test_ends_of_the_flow_range(impl):
    """Flow at and beyond +-50 falls into the first and last bin, and its gradient with it."""
    from cmp_mm.models import QuantizedFlowCodec

    flow = torch.tensor([-50.0, 50.0, -49.9999, 49.9999, -1e9, 1e9, 0.0, 49.0]).repeat(2, 1).view(1, 2, 2, 4)
    target = QuantizedFlowCodec(99, 50.0).encode(flow)
    assert target[0, 0].flatten().tolist() == [0, 98, 0, 98, 0, 98, 49, 98]
    logits, _, _ = problem(17, batch=1, bins=99, nodes=(2, 2), spread=20.0)
    leaf = logits.double().requires_grad_()
    exact = by_its_words(leaf, target, 99)
    exact.backward()
    assert_close(run(impl, logits, target, 99), (exact.detach(), leaf.grad))


def test_compiled_code_leaves_the_loss_alone():
    """One break in the graph, not one per line of NumPy; values and gradients stay the same."""
    logits, target, valid = problem(18, bins=5, nodes=(2, 3), size=(7, 8))
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    def doubled(values):
        return upsample_cross_entropy(values * 2, target, 5, valid) * 3

    leaf = logits.clone().requires_grad_()
    loss = torch.compile(doubled, backend=keep)(leaf)
    loss.backward()
    assert len(graphs) == 2
    again = logits.clone().requires_grad_()
    wanted = doubled(again)
    wanted.backward()
    assert torch.equal(loss, wanted) and torch.equal(leaf.grad, again.grad)


@pytest.mark.parametrize('impl', ['reference', 'blocked'])
def test_ignored_pixels_do_not_matter(impl):
    logits, target, valid = problem(4)
    expected = run(impl, logits, target, 7, valid)
    garbage = torch.where(valid[:, None], target, 12345)
    found = run(impl, logits, garbage, 7, valid)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize('impl', ['reference', 'blocked'])
def test_padding_that_is_ignored_leaves_the_rest(impl):
    """The mean is over valid pixels of the batch, not per image: a half-valid image weighs half."""
    logits, target, _ = problem(5)
    valid = torch.ones(2, 20, 25, dtype=torch.bool)
    valid[1, 10:] = False
    loss, _ = run(impl, logits, target, 7, valid)
    first = upsample_cross_entropy(logits[:1], target[:1], 7, valid[:1], impl=impl)
    second = upsample_cross_entropy(logits[1:], target[1:], 7, valid[1:], impl=impl)
    assert loss.item() == pytest.approx((first.item() * 500 + second.item() * 250) / 750, rel=1e-5)


@pytest.mark.parametrize('impl', ['reference', 'blocked'])
def test_no_valid_pixel_gives_zero(impl):
    logits, target, valid = problem(6)
    loss, grad = run(impl, logits, target, 7, torch.zeros_like(valid))
    assert loss.item() == 0
    assert torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.parametrize('impl', ['reference', 'blocked'])
def test_laws(impl):
    logits, target, _ = problem(7)
    loss, grad = run(impl, logits, target, 7)
    # A softmax does not see a constant, nor does it lean: the gradient sums to 0 over the bins.
    shifted = run(impl, logits + 3.0, target, 7)
    assert_close(shifted, (loss, grad), tolerance=2e-5)
    sums = grad.reshape(2, 2, 7, 3, 4).sum(dim=2)
    assert sums.abs().max().item() < 1e-6 * max(1, grad.abs().max().item())
    # Equal logits: the logarithm of the number of bins, per axis.
    flat = upsample_cross_entropy(torch.zeros_like(logits), target, 7, impl=impl)
    assert flat.item() == pytest.approx(2 * np.log(7), rel=1e-6)
    # Same size in and out: plain cross-entropy.
    same = target[..., :3, :4]
    plain = F.cross_entropy(logits.reshape(4, 7, 3, 4), same.reshape(4, 3, 4)) * 2
    assert upsample_cross_entropy(logits, same, 7, impl=impl).item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('impl', ['reference', 'blocked'])
def test_half_precision_logits_are_read_as_float32(impl, dtype):
    logits, target, valid = problem(8)
    half = logits.to(dtype)
    loss, grad = run(impl, half, target, 7, valid)
    exact = run(impl, half.float(), target, 7, valid)
    assert loss.dtype == torch.float32 and grad.dtype == dtype
    assert torch.equal(loss, exact[0]) and torch.equal(grad, exact[1].to(dtype))


def test_autocast_does_not_lower_the_precision():
    logits, target, valid = problem(9)
    expected = run('blocked', logits, target, 7, valid)
    for impl in ('reference', 'blocked'):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert_close(run(impl, logits, target, 7, valid), expected)


def test_gradient_scales_with_what_comes_from_above():
    logits, target, _ = problem(10)
    _, grad = run('blocked', logits, target, 7)
    leaf = logits.clone().requires_grad_()
    (upsample_cross_entropy(leaf * 2, target, 7) * 0.25).backward()
    _, doubled = run('blocked', logits * 2, target, 7)
    torch.testing.assert_close(leaf.grad, doubled * 0.5)
    assert not torch.allclose(grad, doubled)


def test_without_gradient_the_loss_is_the_same():
    logits, target, valid = problem(11)
    with torch.no_grad():
        loss = upsample_cross_entropy(logits, target, 7, valid)
    assert torch.equal(loss, run('blocked', logits, target, 7, valid)[0])
    assert not loss.requires_grad


def test_threads_give_the_same_bits(monkeypatch):
    monkeypatch.setattr('cmp_mm.ops.blocked.PARALLEL_FROM', 0)
    names = set()
    original = threading.Thread.run
    monkeypatch.setattr(threading.Thread, 'run', lambda self: (names.add(self.name), original(self))[1])
    logits, target, valid = problem(12, batch=4, bins=33, size=(64, 64))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run('blocked', logits, target, 33, valid)
        assert not names
        torch.set_num_threads(3)
        together = run('blocked', logits, target, 33, valid)
    finally:
        torch.set_num_threads(before)
    assert names
    assert torch.equal(alone[0], together[0]) and torch.equal(alone[1], together[1])


def test_with_many_threads_half_of_the_images_are_in_flight(monkeypatch):
    """Each has buffers of its own: with one for each thread the memory would be that of the plain path."""
    monkeypatch.setattr('cmp_mm.ops.blocked.PARALLEL_FROM', 0)
    made, pool = [], blocked_module.ThreadPoolExecutor
    monkeypatch.setattr(
        blocked_module, 'ThreadPoolExecutor', lambda number: made.append(number) or pool(number)
    )
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 64)
    logits, target, valid = problem(12, batch=4, bins=33, size=(64, 64))
    run('blocked', logits, target, 33, valid)
    assert made == [4]  # 4 images of two axes


def test_layout_of_the_logits_does_not_matter():
    logits, target, _ = problem(13)
    expected = run('blocked', logits, target, 7)
    found = run('blocked', logits.to(memory_format=torch.channels_last), target, 7)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert torch.equal(run('blocked', logits, target.to(torch.int16), 7)[1], expected[1])


def test_auto_is_blocked_on_the_cpu():
    logits, target, _ = problem(14)
    assert torch.equal(run('auto', logits, target, 7)[1], run('blocked', logits, target, 7)[1])


def test_full_size_logits_never_exist():
    """Peak of the Python-visible allocations (NumPy's) stays far below one full-size copy."""
    import tracemalloc

    logits, target, _ = problem(15, batch=2, bins=99, nodes=(8, 8), size=(256, 256))
    tracemalloc.start()
    run('blocked', logits, target, 99)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < logits.shape[0] * logits.shape[1] * 256 * 256 * 4 / 5


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(impl='fast'), 'impl must be one of auto, reference, blocked, triton'),
        (dict(num_bins=6), r'must be \(2, 12, h, w\), got \(2, 14, 3, 4\)'),
        (dict(num_bins=0), 'h, w'),
        (dict(target=torch.zeros(2, 2, 20, 25)), 'integer bins'),
        (dict(target=torch.full((2, 2, 20, 25), 7)), r'\[0, 6\], got 7 to 7'),
        (dict(target=torch.full((2, 2, 20, 25), -1)), r'\[0, 6\], got -1 to -1'),
        (dict(target=torch.zeros(2, 20, 25, dtype=torch.long)), r'\(N, A, H, W\)'),
        (dict(target=torch.zeros(3, 2, 20, 25, dtype=torch.long)), 'logits of 3 images'),
        (dict(target=torch.zeros(2, 2, 0, 25, dtype=torch.long)), 'must not be empty'),
        (dict(logits=torch.zeros(2, 14, 3, 4, dtype=torch.long)), 'floating-point'),
        (dict(valid=torch.ones(2, 20, 24, dtype=torch.bool)), r'valid must be \(2, 20, 25\)'),
    ],
)
@pytest.mark.parametrize('impl', ['reference', 'blocked'])
def test_bad_input_is_one_clear_sentence(impl, change, message):
    logits, target, valid = problem(16)
    arguments = dict(logits=logits, target=target, num_bins=7, valid=valid, impl=impl) | change
    arguments['valid'] = change.get('valid', None if 'target' in change else valid)
    with pytest.raises(ValueError, match=message):
        upsample_cross_entropy(**arguments)


def test_package_needs_no_compiler_and_no_triton_to_import():
    import subprocess
    import sys

    code = (
        'import sys; sys.modules["triton"] = None\n'
        'import torch; from cmp_mm.ops import upsample_cross_entropy as loss\n'
        'print(loss(torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 5, 5, dtype=torch.long), 2).item())'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(2 * np.log(2), rel=1e-6)


@pytest.mark.parametrize('masked', [False, True])
def test_plain_path_in_parts_is_the_plain_path(monkeypatch, masked):
    """On a GPU torch counts in 32 bits: a batch of more full-size logits is taken a few images at a time."""
    from cmp_mm.ops import reference

    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 5, (7, 2, 12, 10), generator=generator)
    valid = torch.rand(7, 12, 10, generator=generator) > 0.4 if masked else None
    found = []
    for most in (2**31 - 1, 3 * 2 * 5 * 12 * 10 + 1, 1):
        monkeypatch.setattr(reference, '_COUNTED', most)
        logits = torch.randn(7, 10, 3, 4, generator=generator.manual_seed(1), requires_grad=True)
        loss = upsample_cross_entropy(logits, target, 5, valid, impl='reference')
        loss.backward()
        found.append((loss.item(), logits.grad))
    for loss, grad in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        torch.testing.assert_close(grad, found[0][1])


@pytest.mark.parametrize('works', [True, False])
def test_on_a_gpu_triton_is_chosen_where_it_works(monkeypatch, works):
    monkeypatch.setattr(module, 'triton_builds', lambda: works)
    logits = SimpleNamespace(device=torch.device('cuda'), is_cuda=True, dtype=torch.float32)
    assert module._choose(logits) == ('triton' if works else 'reference')
    logits.dtype = torch.float64
    assert module._choose(logits) == 'reference'
