"""The exact distance transform's second pass on a GPU: one Triton kernel, nothing kept but the result.

With ``TRITON_INTERPRET=1`` set before the first import the kernel runs on the CPU, for tests.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS = 64  # of a row one program works on
EDGES = 64  # of a row it looks at in one go


@triton.jit
def _row_distance_kernel(
    squares,  # (rows, width) float32
    out,  # (rows, width) float32
    width,
    PIXELS: tl.constexpr,
    EDGES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * width
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    nearest = tl.full((PIXELS,), float('inf'), tl.float32)
    for first in range(0, width, EDGES):
        at = first + tl.arange(0, EDGES)
        value = tl.load(squares + row + at, mask=at < width, other=float('inf'))
        step = (pixel[:, None] - at[None, :]).to(tl.float32)
        nearest = tl.minimum(nearest, tl.min(value[None, :] + step * step, axis=1))
    tl.store(out + row + pixel, nearest, mask=pixel < width)


def row_distances(squares: Tensor) -> Tensor:
    """(rows, width) float32: for each pixel the smallest, along its row, of a square plus a squared step.

    Args:
        squares: (rows, width) float32 on a GPU; whole numbers, sums below 2^24, so that nothing is rounded.
    """
    squares = squares.contiguous()
    out = torch.empty_like(squares)
    rows, width = squares.shape
    with torch.cuda.device_of(squares):
        _row_distance_kernel[(rows, triton.cdiv(width, PIXELS))](
            squares, out, width, PIXELS=PIXELS, EDGES=EDGES, num_warps=2
        )
    return out
