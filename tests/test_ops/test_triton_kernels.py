"""The Triton path without a GPU: interpreted against the plain path, and compiled for Hopper."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cmp_mm.compat import installed_version, version_tuple

pytest.importorskip('triton', reason='the Triton path needs triton (pip install triton)')

GOLDEN = sorted((Path(__file__).parents[1] / 'data' / 'loss').glob('loss_*.npz'))
CASES = (
    f'GOLDEN = {str(GOLDEN[0])!r}'
    + """
import json
import numpy as np
import torch
from cmp_mm.ops import upsample_cross_entropy as loss
from cmp_mm.ops import triton_kernels

# The interpreter takes its time per step: fewer, larger ones.
triton_kernels.TILE_ELEMENTS = 2048

def run(impl, logits, target, bins, valid, laid_out=lambda leaf: leaf):
    leaf = logits.clone().requires_grad_()
    value = loss(laid_out(leaf), target, bins, valid, impl=impl)
    (value * 0.5).backward()
    return value.detach(), leaf.grad

def channels_last(leaf):
    return leaf.to(memory_format=torch.channels_last)

def strided(leaf):
    return leaf.repeat_interleave(2, dim=3)[..., ::2]

def errors(nodes, size, bins, axes=2, spread=4.0, masked=False, dtype=torch.float32, integer=torch.int64,
           batch=1, laid_out=lambda leaf: leaf, autocast=False):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(batch, axes * bins, *nodes, generator=generator) * spread).to(dtype)
    target = torch.randint(0, bins, (batch, axes, *size), generator=generator)
    valid = torch.rand(batch, *size, generator=generator) > 0.4 if masked else None
    if masked:
        target = torch.where(valid[:, None], target, 77 if integer == torch.int64 else 0)
    exact = run('reference', logits.double(), target, bins, valid)
    target = target.to(integer)
    if laid_out(logits) is not logits:
        # Every second pixel of something wider, rows and columns swapped.
        target = target.transpose(2, 3).repeat_interleave(2, dim=3)[..., ::2].transpose(2, 3)
        valid = None if valid is None else valid.transpose(1, 2).contiguous().transpose(1, 2)
        assert not target.is_contiguous() and not laid_out(logits).is_contiguous()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        found = run('triton', logits, target, bins, valid, laid_out)
    no_grad = loss(logits, target, bins, valid, impl='triton')
    return dict(
        loss=abs(found[0] - exact[0]).item() / max(1e-6, abs(exact[0]).item()),
        grad=(found[1].double() - exact[1]).abs().max().item() / max(1e-6, exact[1].abs().max().item()),
        no_grad=abs(no_grad - found[0]).item(),
        dtype=str(found[1].dtype),
    )

results = dict(
    plain=errors((3, 3), (17, 21), 7),
    masked=errors((2, 3), (17, 21), 7, masked=True, batch=2),
    bins_of_the_paper=errors((2, 3), (9, 13), 99),
    stride_8=errors((2, 3), (16, 24), 5),
    one_node=errors((1, 1), (6, 5), 5),
    one_row=errors((1, 4), (5, 9), 5, masked=True),
    one_pixel=errors((3, 3), (1, 1), 5),
    smaller_than_the_logits=errors((5, 3), (3, 2), 5),
    one_axis=errors((2, 2), (6, 7), 3, axes=1),
    three_axes=errors((2, 2), (6, 7), 2, axes=3, masked=True, batch=2),
    one_bin=errors((2, 2), (6, 7), 1),
    tall_cell=errors((2, 2), (150, 3), 3),
    spread_500=errors((2, 3), (12, 13), 9, spread=500.0),
    bfloat16=errors((2, 3), (8, 9), 7, dtype=torch.bfloat16),
    float16=errors((2, 3), (8, 9), 7, dtype=torch.float16),
    int16_target=errors((2, 3), (8, 9), 7, integer=torch.int16),
    uint8_target=errors((2, 3), (8, 9), 7, integer=torch.uint8),
    channels_last=errors((2, 3), (8, 9), 7, laid_out=channels_last, masked=True, batch=2),
    strided=errors((2, 3), (8, 9), 7, laid_out=strided, masked=True),
    autocast=errors((2, 3), (8, 9), 7, autocast=True),
)
numbers = triton_kernels.INT32_NUMBERS
triton_kernels.INT32_NUMBERS = 0  # every image is one of too many logits
results['large_image'] = errors((2, 3), (8, 9), 7, masked=True, batch=2)
triton_kernels.INT32_NUMBERS = numbers

twice = torch.randn(1, 6, 2, 2, requires_grad=True)
value = loss(twice, torch.zeros(1, 2, 5, 5).long(), 3, impl='triton')
try:
    torch.autograd.grad(value, twice, create_graph=True)
    refused = ''
except RuntimeError as error:
    refused = str(error)
assert "impl='reference'" in refused, refused

from cmp_mm.models import QuantizedFlowCodec
codec = QuantizedFlowCodec(99, 50.0)
flow = torch.tensor([-50.0, 50.0, -49.9999, 49.9999, -1e9, 1e9, 0.0, 49.0]).repeat(2, 1).view(1, 2, 2, 4)
bins = codec.encode(flow)
assert bins.min() == 0 and bins.max() == 98
logits = torch.randn(1, 198, 2, 2, generator=torch.Generator().manual_seed(1)) * 20
exact, found = run('reference', logits.double(), bins, 99, None), run('triton', logits, bins, 99, None)
results['ends_of_the_range'] = dict(
    loss=abs(found[0] - exact[0]).item() / exact[0].item(),
    grad=((found[1] - exact[1]).abs().max() / exact[1].abs().max()).item(), no_grad=0, dtype='torch.float32',
)

far = torch.full((1, 6, 1, 2), -1000.0)
far[0, 0, 0, 0] = far[0, 2, 0, 1] = 1000.0
target = torch.arange(41).remainder(3).expand(1, 2, 1, 41)
exact, found = run('reference', far.double(), target, 3, None), run('triton', far, target, 3, None)
results['peaks_apart'] = dict(
    loss=abs(found[0] - exact[0]).item() / exact[0].item(),
    grad=((found[1] - exact[1]).abs().max() / exact[1].abs().max()).item(), no_grad=0, dtype='torch.float32',
)
golden = np.load(GOLDEN)
exact = torch.tensor(float(golden['loss'])), torch.from_numpy(golden['grad']) / 2
bins = torch.from_numpy(golden['bins']).long()
found = run('triton', torch.from_numpy(golden['logits']), bins, int(golden['nbins']), None)
results['reference_implementation'] = dict(
    loss=abs(found[0] - exact[0]).item() / exact[0].item(),
    grad=((found[1] - exact[1]).abs().max() / exact[1].abs().max()).item(), no_grad=0, dtype='torch.float32',
)

logits = torch.randn(2, 6, 2, 2)
nothing = run('triton', logits, torch.zeros(2, 2, 5, 5).long(), 3, torch.zeros(2, 5, 5).bool())
results['nothing_valid'] = dict(
    loss=abs(nothing[0].item()), grad=nothing[1].abs().max().item(), no_grad=0, dtype='torch.float32'
)
print(json.dumps(results))
"""
)


@pytest.fixture(scope='module')
def interpreted():
    environment = dict(os.environ, TRITON_INTERPRET='1', OMP_NUM_THREADS='1')
    done = subprocess.run([sys.executable, '-c', CASES], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    'case',
    [
        'plain',
        'masked',
        'bins_of_the_paper',
        'stride_8',
        'one_node',
        'one_row',
        'one_pixel',
        'smaller_than_the_logits',
        'one_axis',
        'three_axes',
        'tall_cell',
        'int16_target',
        'uint8_target',
        'channels_last',
        'strided',
        'autocast',
        'large_image',
        'ends_of_the_range',
        'nothing_valid',
        'reference_implementation',
    ],
)
def test_interpreted_kernel_equals_the_plain_path(interpreted, case):
    errors = interpreted[case]
    assert errors['loss'] <= 1e-6
    assert errors['grad'] <= 1e-5
    assert errors['no_grad'] <= 1e-5
    assert errors['dtype'] == 'torch.float32'


def test_one_bin_has_nothing_to_learn(interpreted):
    assert interpreted['one_bin']['loss'] <= 1e-6 and interpreted['one_bin']['grad'] <= 1e-2


@pytest.mark.parametrize('case', ['spread_500', 'peaks_apart'])
def test_logits_of_a_thousand(interpreted, case):
    assert interpreted[case]['loss'] <= 1e-5
    assert interpreted[case]['grad'] <= 1e-3


@pytest.mark.parametrize(('case', 'rounding'), [('bfloat16', 2**-8), ('float16', 2**-11)])
def test_half_precision_logits(interpreted, case, rounding):
    """Computed in float32; only the gradient that is handed back is rounded."""
    errors = interpreted[case]
    assert errors['loss'] <= 1e-6 and errors['grad'] <= rounding
    assert errors['dtype'] == f'torch.{case}'


def test_kernel_compiles_for_hopper():
    """What the interpreter accepts the compiler may refuse; it needs no GPU to say so.

    Triton makes constants of arguments that are 1, which turns some expressions into others.
    """
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cmp_mm.ops.triton_kernels import _loss_kernel

def compiles(target='*i64', more=True, ones=(), wide=False):
    pointers = dict(logits='*fp32', target=target, valid='*u8', grad='*fp32', partial='*fp32', start_y='*i32')
    numbers = dict(start_x='*i32', scale_y='fp32', scale_x='fp32')
    names = ('bins', 'bin_stride', 'node_stride', 'h', 'w', 'height', 'width', 'axes', 'cells_x', 'cells')
    numbers |= dict.fromkeys(names, 'i32')
    constants = dict(BINS=128, TILE=4, TINY=1e-25, MAX_ROWS=16, WIDE=wide, HAS_VALID=more, WITH_GRAD=more)
    constants |= dict.fromkeys(ones, 1)
    signature = pointers | numbers | dict.fromkeys(constants, 'constexpr')
    source = ASTSource(fn=_loss_kernel, signature=signature, constexprs=constants)
    binary = triton.compile(source, target=GPUTarget('cuda', 90, 32), options=dict(num_warps=1))
    assert len(binary.asm['cubin']) > 1000
    return binary.asm['ttir']

compiles(ones=('node_stride',))
compiles(more=False, ones=('bin_stride',))
compiles(target='*u8')
compiles(target='*i16', ones=('bin_stride', 'node_stride', 'h', 'w', 'axes', 'cells_x', 'cells'))
# Where one image has more logits than an int32 counts the bins' offsets are of 64 bits.
narrow, wide = (
    [line for line in compiles(wide=wide).splitlines() if 'arith.muli' in line and 'tensor<128xi' in line]
    for wide in (False, True)
)
assert narrow and any('tensor<128xi32>' in line for line in narrow)
assert wide and not any('tensor<128xi32>' in line for line in wide)
"""
    if version_tuple(installed_version('triton')) < (3, 3):
        pytest.skip('an older Triton is asked to compile in another way')
    environment = {key: value for key, value in os.environ.items() if key != 'TRITON_INTERPRET'}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_cpu_logits_are_refused_in_one_clear_sentence():
    from cmp_mm.ops import upsample_cross_entropy

    logits, target = torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match='works on CUDA'):
        upsample_cross_entropy(logits, target, 2, impl='triton')
    with pytest.raises(ValueError, match='float64'):
        upsample_cross_entropy(logits.double(), target, 2, impl='triton')


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')


def on_both(logits, target, bins, valid=None, found_by=None, dtype=torch.float32, **layout):
    """Loss and gradient in float64 on the CPU, and on the GPU: the largest relative differences."""
    from cmp_mm.ops import upsample_cross_entropy

    logits = logits.to(dtype)
    exact = logits.double().requires_grad_()
    wanted = upsample_cross_entropy(exact, target, bins, valid, impl='reference')
    wanted.backward()
    leaf = logits.cuda().requires_grad_()
    known = None if valid is None else valid.cuda()
    loss = (found_by or upsample_cross_entropy)(leaf.to(**layout), target.cuda(), bins, known)
    loss.backward()
    assert leaf.grad.dtype == dtype and loss.dtype == torch.float32
    scale = exact.grad.abs().max().item()
    return (
        abs(loss.item() - wanted.item()) / max(1e-6, abs(wanted.item())),
        (leaf.grad.cpu().double() - exact.grad).abs().max().item() / scale,
    )


def problem(nodes, size, batch=1, bins=99, spread=4.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 2 * bins, *nodes, generator=generator) * spread
    target = torch.randint(0, bins, (batch, 2, *size), generator=generator)
    valid = torch.rand(batch, *size, generator=generator) > 0.4
    return logits, target, bins, valid


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize(
    ('nodes', 'size'),
    [
        ((12, 12), (384, 384)),
        ((40, 40), (320, 320)),
        ((5, 7), (51, 33)),
        ((1, 1), (6, 5)),
        ((2, 1), (300, 1)),
    ],
)
def test_loss_and_gradient_on_a_gpu(nodes, size, masked):
    logits, target, bins, valid = problem(nodes, size)
    loss, grad = on_both(logits, target, bins, valid if masked else None)
    assert loss <= 1e-5 and grad <= 1e-5


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize('file', GOLDEN, ids=lambda file: file.stem)
def test_equals_the_reference_implementation_on_a_gpu(file):
    from cmp_mm.ops import upsample_cross_entropy

    golden = np.load(file)
    logits = torch.from_numpy(golden['logits']).cuda().requires_grad_()
    bins = torch.from_numpy(golden['bins']).long().cuda()
    loss = upsample_cross_entropy(logits, bins, int(golden['nbins']), impl='triton')
    loss.backward()
    assert loss.item() == pytest.approx(float(golden['loss']), rel=1e-6)
    np.testing.assert_allclose(
        logits.grad.cpu().numpy(), golden['grad'], rtol=0, atol=1e-5 * np.abs(golden['grad']).max()
    )


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(('dtype', 'rounding'), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_and_channels_last_on_a_gpu(dtype, rounding):
    case = problem((6, 8), (48, 64), batch=2)
    loss, grad = on_both(*case, dtype=dtype, memory_format=torch.channels_last)
    assert loss <= 1e-5 and grad <= rounding


@pytest.mark.gpu
@needs_gpu
def test_logits_far_apart_on_a_gpu():
    loss, grad = on_both(*problem((4, 5), (64, 70), spread=500.0))
    assert loss <= 1e-5 and grad <= 1e-3


@pytest.mark.gpu
@needs_gpu
def test_more_images_than_a_grid_axis_holds_on_a_gpu():
    """65,535 is the most of every axis but the first."""
    loss, grad = on_both(*problem((2, 2), (3, 3), batch=40_000, bins=3))
    assert loss <= 1e-5 and grad <= 1e-5


@pytest.mark.gpu
@needs_gpu
def test_more_logits_than_an_int32_counts_on_a_gpu():
    """Only the last image has valid pixels: an offset that wraps would read another's logits."""
    from cmp_mm.ops import upsample_cross_entropy

    batch, bins, nodes = 2200, 99, (72, 72)
    if batch * 2 * bins * nodes[0] * nodes[1] * 16 > torch.cuda.mem_get_info()[0] * 0.9:
        pytest.skip('needs 40 GB of GPU memory')
    logits = torch.zeros(batch, 2 * bins, *nodes, device='cuda')
    assert logits.numel() > 2**31
    one, target, _, _ = problem(nodes, (72, 72))
    logits[-1:] = one.cuda()
    targets = torch.zeros(batch, 2, 72, 72, dtype=torch.int16, device='cuda')
    targets[-1:] = target.cuda()
    valid = torch.zeros(batch, 72, 72, dtype=torch.bool, device='cuda')
    valid[-1] = True
    logits.requires_grad_()
    loss = upsample_cross_entropy(logits, targets, bins, valid)
    loss.backward()
    leaf = one.cuda().requires_grad_()
    wanted = upsample_cross_entropy(leaf, target.cuda(), bins)
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(logits.grad[-1:], leaf.grad, rtol=1e-4, atol=1e-7)
    assert not logits.grad[:-1].any()


@pytest.mark.gpu
@needs_gpu
def test_an_image_of_more_logits_than_an_int32_counts_on_a_gpu():
    """Only its last rows have valid pixels: an offset that wraps would read other logits."""
    from cmp_mm.ops import upsample_cross_entropy

    bins, rows, columns = 99, 3400, 3300
    if 2 * bins * rows * columns * 20 > torch.cuda.mem_get_info()[0] * 0.9:
        pytest.skip('needs 50 GB of GPU memory')
    one, target, _, _ = problem((8, columns), (8, columns))
    wanted_leaf = one.cuda().requires_grad_()
    wanted = upsample_cross_entropy(wanted_leaf, target.cuda(), bins)
    wanted.backward()
    valid = torch.zeros(1, rows, columns, dtype=torch.bool, device='cuda')
    valid[:, -8:] = True
    targets = torch.zeros(1, 2, rows, columns, dtype=torch.int16, device='cuda')
    targets[:, :, -8:] = target.cuda()
    for layout in (torch.contiguous_format, torch.channels_last):
        logits = torch.zeros(1, 2 * bins, rows, columns, device='cuda').to(memory_format=layout)
        assert logits.numel() > 2**31
        logits[:, :, -8:] = one.cuda()
        logits.requires_grad_()
        loss = upsample_cross_entropy(logits, targets, bins, valid)
        loss.backward()
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
        torch.testing.assert_close(logits.grad[:, :, -8:], wanted_leaf.grad, rtol=1e-4, atol=1e-7)
        assert not logits.grad[:, :, :-8].any()
        del logits, loss


@pytest.mark.gpu
@needs_gpu
def test_other_streams_autocast_and_compiled_code_on_a_gpu():
    from cmp_mm.ops import upsample_cross_entropy

    case = problem((6, 8), (48, 64), batch=2)

    def on_a_stream(*arguments):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            loss = upsample_cross_entropy(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        return loss

    def under_autocast(*arguments):
        with torch.autocast('cuda', torch.bfloat16):
            return upsample_cross_entropy(*arguments)

    compiled = torch.compile(lambda logits, *others: upsample_cross_entropy(logits * 1.0, *others))
    for way in (on_a_stream, under_autocast, compiled):
        loss, grad = on_both(*case, found_by=way)
        assert loss <= 1e-5 and grad <= 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='needs two CUDA devices')
def test_a_device_that_is_not_the_current_one():
    from cmp_mm.ops import upsample_cross_entropy

    logits, target, bins, valid = problem((6, 8), (48, 64))
    first, second = (
        upsample_cross_entropy(logits.to(device), target.to(device), bins, valid.to(device))
        for device in ('cuda:0', 'cuda:1')
    )
    assert second.device.index == 1 and second.item() == pytest.approx(first.item(), rel=1e-6)
