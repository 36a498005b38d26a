"""The Triton path without a GPU: interpreted against the plain path, and compiled for Hopper."""

import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip('triton', reason='the Triton path needs triton (pip install triton)')

CASES = """
import json
import torch
from cmp_mm.ops import upsample_cross_entropy as loss
from cmp_mm.ops import triton_kernels

# The interpreter takes its time per step: fewer, larger ones.
triton_kernels.TILE_ELEMENTS = 2048

def run(impl, logits, target, bins, valid):
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, target, bins, valid, impl=impl)
    (value * 0.5).backward()
    return value.detach(), leaf.grad

def errors(nodes, size, bins, axes=2, spread=4.0, masked=False, dtype=torch.float32, integer=torch.int64,
           batch=1):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(batch, axes * bins, *nodes, generator=generator) * spread).to(dtype)
    target = torch.randint(0, bins, (batch, axes, *size), generator=generator)
    valid = torch.rand(batch, *size, generator=generator) > 0.4 if masked else None
    if masked:
        target = torch.where(valid[:, None], target, 77 if integer == torch.int64 else 0)
    exact = run('reference', logits.double(), target, bins, valid)
    found = run('triton', logits, target.to(integer), bins, valid)
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
    int16_target=errors((2, 3), (8, 9), 7, integer=torch.int16),
)

far = torch.full((1, 6, 1, 2), -1000.0)
far[0, 0, 0, 0] = far[0, 2, 0, 1] = 1000.0
target = torch.arange(41).remainder(3).expand(1, 2, 1, 41)
exact, found = run('reference', far.double(), target, 3, None), run('triton', far, target, 3, None)
results['peaks_apart'] = dict(
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
        'nothing_valid',
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


def test_half_precision_logits(interpreted):
    """Computed in float32; only the gradient that is handed back is rounded to bfloat16."""
    errors = interpreted['bfloat16']
    assert errors['loss'] <= 1e-6 and errors['grad'] <= 2**-8
    assert errors['dtype'] == 'torch.bfloat16'


def test_kernel_compiles_for_hopper():
    """What the interpreter accepts the compiler may refuse; it needs no GPU to say so."""
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cmp_mm.ops.triton_kernels import _loss_kernel
pointers = dict(logits='*fp32', target='*i64', valid='*u8', grad='*fp32', partial='*fp32', start_y='*i32')
numbers = dict(start_x='*i32', scale_y='fp32', scale_x='fp32')
numbers |= dict.fromkeys(('bins', 'h', 'w', 'height', 'width', 'axes', 'cells_x'), 'i32')
constants = dict(BINS=128, TILE=4, TINY=1e-25, MAX_ROWS=64, HAS_VALID=True, WITH_GRAD=True)
signature = pointers | numbers | dict.fromkeys(constants, 'constexpr')
source = ASTSource(fn=_loss_kernel, signature=signature, constexprs=constants)
binary = triton.compile(source, target=GPUTarget('cuda', 90, 32), options=dict(num_warps=1))
assert len(binary.asm['cubin']) > 1000
"""
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize(('nodes', 'size'), [((12, 12), (384, 384)), ((40, 40), (320, 320))])
def test_on_a_gpu(nodes, size):
    from cmp_mm.ops import upsample_cross_entropy

    torch.manual_seed(0)
    logits = torch.randn(1, 198, *nodes) * 4
    target = torch.randint(0, 99, (1, 2, *size))
    exact = logits.double().requires_grad_()
    upsample_cross_entropy(exact, target, 99, impl='reference').backward()
    found = logits.cuda().requires_grad_()
    upsample_cross_entropy(found, target.cuda(), 99).backward()
    scale = exact.grad.abs().max().item()
    assert (found.grad.cpu() - exact.grad).abs().max().item() <= 1e-5 * scale
