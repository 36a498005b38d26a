"""The Triton kernel of the distance transform: interpreted, compiled, and on a GPU where there is one."""

import os
import subprocess
import sys

import pytest
import torch

from cmp_mm.compat import installed_version, version_tuple
from cmp_mm.guidance.batched import row_distances_reference

pytest.importorskip('triton', reason='the Triton path needs triton (pip install triton)')

WIDTHS = (1, 5, 63, 64, 65, 200)


def squares(rows: int, width: int) -> torch.Tensor:
    """Squared distances as the first pass leaves them: whole, some of them huge."""
    generator = torch.Generator().manual_seed(width)
    distance = torch.randint(0, 300, (rows, width), generator=generator)
    distance[torch.rand(rows, width, generator=generator) > 0.5] = 2896
    return distance.float() ** 2


def test_interpreted_kernel_equals_the_plain_path():
    code = f"""
import torch
from cmp_mm.guidance.triton_distances import row_distances
from tests.test_guidance.test_triton_distances import row_distances_reference, squares
for width in {WIDTHS}:
    for given in (squares(3, width), squares(3, 2 * width)[:, ::2], torch.full((2, width), 2896.0**2)):
        assert torch.equal(row_distances(given), row_distances_reference(given)), width
"""
    environment = dict(os.environ, TRITON_INTERPRET='1', OMP_NUM_THREADS='1')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_plain_path_is_the_smallest_sum():
    given = squares(4, 30)
    at = torch.arange(30)
    for row, found in zip(given, row_distances_reference(given), strict=True):
        wanted = [min(row[j] + (i - j) ** 2 for j in range(30)) for i in range(30)]
        assert torch.equal(found[at], torch.stack(wanted))


def test_kernel_compiles_for_hopper():
    if version_tuple(installed_version('triton')) < (3, 3):
        pytest.skip('an older Triton is asked to compile in another way')
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cmp_mm.guidance.triton_distances import EDGES, PIXELS, _row_distance_kernel

for ones in ((), ('width',)):
    constants = dict(PIXELS=PIXELS, EDGES=EDGES) | dict.fromkeys(ones, 1)
    signature = dict(squares='*fp32', out='*fp32', width='i32') | dict.fromkeys(constants, 'constexpr')
    source = ASTSource(fn=_row_distance_kernel, signature=signature, constexprs=constants)
    assert len(triton.compile(source, target=GPUTarget('cuda', 90, 32)).asm['cubin']) > 1000
"""
    environment = {key: value for key, value in os.environ.items() if key != 'TRITON_INTERPRET'}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('width', WIDTHS)
def test_equals_the_plain_path_on_a_gpu(width):
    from cmp_mm.guidance.triton_distances import row_distances

    given = squares(500, width).cuda()
    assert torch.equal(row_distances(given), row_distances_reference(given))
