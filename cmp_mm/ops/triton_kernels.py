"""The CUDA path: one Triton kernel for the loss and its gradient, never the full-size logits.

A program takes one cell of the logit grid, that is the pixels between four neighbouring nodes, of one
image and flow axis. It holds all bins of the four nodes in registers, walks over the pixels a tile at
a time, and keeps four sums per bin from which the gradient of the four nodes follows.

With ``TRITON_INTERPRET=1`` set before the first import the kernel runs on the CPU, for tests.
"""

import math
from functools import cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .differentiable_once import differentiable_once

TILE_ELEMENTS = 512  # bins x pixels per step: with four sums of that size, what one warp's registers hold
TINY = 1e-25  # a smaller sum may have lost terms to underflow
MAX_ROWS = 16  # rows of a cell one program walks; taller cells are shared by several
INT32_NUMBERS = 2**31


@triton.jit
def _load_node(pointers, real_bin):
    LOG2E: tl.constexpr = 1.4426950408889634
    # Bins beyond the last are equal and hugely negative at every node: their exponential is 0.
    node = tl.load(pointers, mask=real_bin, other=float('-inf')) * LOG2E
    peak = tl.max(node, axis=0)
    return tl.where(real_bin, node - peak, -1e30), peak


@triton.jit
def _load_wanted(pointers, peak, counts):
    LOG2E: tl.constexpr = 1.4426950408889634
    return tl.load(pointers, mask=counts, other=0.0) * LOG2E - peak


@triton.jit
def _loss_kernel(
    logits,  # (batch, axes x bins, h, w) float32, nodes one after the other, of whatever strides
    target,  # (images, H, W) integer; images are batch x axes
    valid,  # (batch, H, W) uint8, or unused
    grad,  # as the logits, zeroed, or unused
    partial,  # (programs,) float32
    start_y,  # (cells_y + 1,) int32, first pixel row of each cell
    start_x,
    scale_y,
    scale_x,
    bins,
    bin_stride,
    node_stride,
    h,
    w,
    height,
    width,
    axes,
    cells_x,
    cells,
    BINS: tl.constexpr,
    TILE: tl.constexpr,
    TINY: tl.constexpr,
    MAX_ROWS: tl.constexpr,
    WIDE: tl.constexpr,
    HAS_VALID: tl.constexpr,
    WITH_GRAD: tl.constexpr,
):
    # Cells and images share the first axis of the grid: the others end at 65,535.
    program, share = tl.program_id(0), tl.program_id(1)
    image = program // cells
    cell = program % cells
    cell_y = cell // cells_x
    cell_x = cell % cells_x
    y0 = tl.load(start_y + cell_y) + share * MAX_ROWS
    y1 = tl.minimum(tl.load(start_y + cell_y + 1), y0 + MAX_ROWS)
    x0 = tl.load(start_x + cell_x)
    columns = tl.load(start_x + cell_x + 1) - x0
    pixels = tl.maximum(y1 - y0, 0) * columns

    # The four nodes around the cell, in units of log 2 so that exp2 and log2 serve. Each is lowered by
    # its largest bin: a softmax does not notice, and no value between the nodes exceeds 0.
    bin_index = tl.arange(0, BINS)
    real_bin = bin_index < bins
    channel = (image % axes) * bins
    nodes = (image // axes).to(tl.int64) * axes * bins * h * w + channel.to(tl.int64) * bin_stride
    next_y = tl.minimum(cell_y + 1, h - 1)
    next_x = tl.minimum(cell_x + 1, w - 1)
    at00 = nodes + (cell_y * w + cell_x).to(tl.int64) * node_stride
    at01 = nodes + (cell_y * w + next_x).to(tl.int64) * node_stride
    at10 = nodes + (next_y * w + cell_x).to(tl.int64) * node_stride
    at11 = nodes + (next_y * w + next_x).to(tl.int64) * node_stride
    # One register for each bin where one image's logits are few enough to be counted with it.
    plane = (bin_index.to(tl.int64) if WIDE else bin_index) * bin_stride
    corner, corner_peak = _load_node(logits + at00 + plane, real_bin)
    right, right_peak = _load_node(logits + at01 + plane, real_bin)
    below, below_peak = _load_node(logits + at10 + plane, real_bin)
    across, across_peak = _load_node(logits + at11 + plane, real_bin)
    slope_x = right - corner
    slope_y = below - corner
    twist = (across - below) - slope_x

    loss = tl.zeros((TILE,), dtype=tl.float32)
    # Kept per lane and added up once at the end: a reduction over pixels per tile costs more shuffles
    # than all the rest of the tile.
    sum_1 = tl.zeros((BINS, TILE), dtype=tl.float32)
    sum_x = tl.zeros((BINS, TILE), dtype=tl.float32)
    sum_y = tl.zeros((BINS, TILE), dtype=tl.float32)
    sum_xy = tl.zeros((BINS, TILE), dtype=tl.float32)
    image_pixels = image.to(tl.int64) * height * width
    valid_pixels = (image // axes).to(tl.int64) * height * width
    for first in range(0, pixels, TILE):
        pixel = first + tl.arange(0, TILE)
        counts = pixel < pixels
        pixel = tl.minimum(pixel, pixels - 1)  # a pixel beyond the cell could overflow
        y = y0 + pixel // columns
        x = x0 + pixel % columns
        part_y = y.to(tl.float32) * scale_y - cell_y.to(tl.float32)
        part_x = x.to(tl.float32) * scale_x - cell_x.to(tl.float32)
        wanted = tl.load(target + image_pixels + y * width + x, mask=counts, other=0)
        if HAS_VALID:
            counts = counts & (tl.load(valid + valid_pixels + y * width + x, mask=counts, other=0) != 0)

        value = corner[:, None] + part_x[None, :] * slope_x[:, None]
        value += part_y[None, :] * (slope_y[:, None] + part_x[None, :] * twist[:, None])
        peak = tl.zeros((TILE,), dtype=tl.float32)
        power = tl.exp2(value)
        total = tl.sum(power, axis=0)
        if tl.min(total) < TINY:
            # Neighbouring nodes peak in different bins, far apart: take each pixel's own maximum.
            peak = tl.max(value, axis=0)
            power = tl.exp2(value - peak[None, :])
            total = tl.sum(power, axis=0)

        # One bin per pixel: loading its four nodes again is cheaper than looking through all bins.
        plane_wanted = wanted.to(tl.int64) * bin_stride
        at_target = (
            _load_wanted(logits + at00 + plane_wanted, corner_peak, counts) * (1 - part_x) * (1 - part_y)
        )
        at_target += _load_wanted(logits + at01 + plane_wanted, right_peak, counts) * part_x * (1 - part_y)
        at_target += _load_wanted(logits + at10 + plane_wanted, below_peak, counts) * (1 - part_x) * part_y
        at_target += _load_wanted(logits + at11 + plane_wanted, across_peak, counts) * part_x * part_y
        loss += tl.where(counts, peak - at_target + tl.log2(total), 0.0)

        if WITH_GRAD:
            weight = tl.where(counts, 1.0 / total, 0.0)
            # Of 32 bits: bins may come as unsigned ones, which have no -1.
            hit = bin_index[:, None] == tl.where(counts, wanted.to(tl.int32), -1)[None, :]
            slope = power * weight[None, :] - hit.to(tl.float32)
            sum_1 += slope
            sum_x += slope * part_x[None, :]
            slope *= part_y[None, :]
            sum_y += slope
            sum_xy += slope * part_x[None, :]

    LN2: tl.constexpr = 0.6931471805599453
    tl.store(partial + share * tl.num_programs(0) + program, tl.sum(loss, axis=0) * LN2)
    if WITH_GRAD:
        to11 = tl.sum(sum_xy, axis=1)
        to01 = tl.sum(sum_x, axis=1) - to11
        to10 = tl.sum(sum_y, axis=1) - to11
        to00 = tl.sum(sum_1, axis=1) - to01 - to10 - to11
        # Relaxed, as nothing is read after them: by default each is a fence that empties the cache.
        tl.atomic_add(grad + at00 + plane, to00, mask=real_bin, sem='relaxed')
        tl.atomic_add(grad + at01 + plane, to01, mask=real_bin, sem='relaxed')
        tl.atomic_add(grad + at10 + plane, to10, mask=real_bin, sem='relaxed')
        tl.atomic_add(grad + at11 + plane, to11, mask=real_bin, sem='relaxed')


# Never dropped: a table freed here could be overwritten while a kernel on another stream still reads it.
@cache
def _cells(nodes: int, size: int, device: torch.device) -> tuple[Tensor, float, int, int]:
    """First pixel of each cell of an axis, pixel-to-node scale, cells, and the most pixels of a cell."""
    count = max(nodes - 1, 1)
    scale = np.float32(nodes - 1) / np.float32(size - 1) if size > 1 else np.float32(0)
    position = np.arange(size).astype(np.float32) * scale
    cell = np.minimum(position.astype(np.int64), count - 1)
    starts = np.searchsorted(cell, np.arange(count + 1)).astype(np.int32)
    return torch.from_numpy(starts).to(device), float(scale), count, int(np.diff(starts).max())


class TritonLoss(torch.autograd.Function):
    """Mean over valid pixels, sum over axes; the gradient is made in the forward pass."""

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor, num_bins: int, valid: Tensor | None) -> Tensor:
        batch, channels, h, w = logits.shape
        height, width = target.shape[-2:]
        axes = channels // num_bins
        images = batch * axes
        values = logits.detach()
        # Either layout serves as it is. With the bins side by side a node's are read, and added to, a line
        # of memory at a time, which is a tenth faster; to bring them there costs more than that.
        if not values.is_contiguous(memory_format=torch.channels_last):
            values = values.contiguous()
        strides = (h * w, 1) if values.is_contiguous() else (1, channels)
        target = target.contiguous()
        known = None if valid is None else valid.contiguous().view(torch.uint8)
        with_grad = ctx.needs_input_grad[0]
        grad = torch.zeros_like(values) if with_grad else values
        start_y, scale_y, cells_y, tallest = _cells(h, height, logits.device)
        start_x, scale_x, cells_x, _ = _cells(w, width, logits.device)
        padded = triton.next_power_of_2(num_bins)
        cells = cells_y * cells_x
        programs = (cells * images, math.ceil(tallest / MAX_ROWS))
        partial = torch.empty(math.prod(programs), dtype=torch.float32, device=logits.device)
        with torch.cuda.device_of(values):
            _loss_kernel[programs](
                values,
                target,
                values if known is None else known,
                grad,
                partial,
                start_y,
                start_x,
                scale_y,
                scale_x,
                num_bins,
                *strides,
                h,
                w,
                height,
                width,
                axes,
                cells_x,
                cells,
                BINS=padded,
                TILE=max(2, TILE_ELEMENTS // padded),
                TINY=TINY,
                MAX_ROWS=MAX_ROWS,
                WIDE=padded * h * w >= INT32_NUMBERS,
                HAS_VALID=known is not None,
                WITH_GRAD=with_grad,
                num_warps=1,  # a sum over bins then needs no barrier
            )
        if valid is None:
            weight = torch.tensor(1 / (batch * height * width), dtype=torch.float64)
        else:
            weight = valid.sum().clamp(min=1).double().reciprocal()
        if with_grad:
            ctx.save_for_backward(grad, weight.float())
        return (partial.sum(dtype=torch.float64) * weight).float()

    @staticmethod
    @differentiable_once("use upsample_cross_entropy with impl='reference'")
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        grad, weight = ctx.saved_tensors
        return grad * (grad_output * weight), None, None, None


def fused(logits: Tensor, target: Tensor, num_bins: int, valid: Tensor | None) -> Tensor:
    """Loss of :func:`cmp_mm.ops.upsample_cross_entropy` on a GPU, in float32.

    The gradient is added up by atomics: from run to run its last bits may differ.
    """
    return TritonLoss.apply(logits, target, num_bins, valid)
