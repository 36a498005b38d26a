"""The CPU path: the loss and its gradient block by block, never the full-size logits.

One image and one flow axis at a time, a few output rows at a time, a block goes through the cache
once: rows are interpolated by a small matrix product, exponentiated, summed over the bins, weighted
by 1 / sum, and brought back to the nodes by the transposed product. What is left of a full-size
image is one number per pixel. The targets enter only through the sum of their interpolation weights
per node and bin, since the interpolated logit of a target is linear in the nodes.

Parallel over images with one Python thread each: NumPy releases the interpreter lock, and one long
task per thread suffers less from a shared machine than a parallel region per operation.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .differentiable_once import differentiable_once
from .upsampling import axis_matrix, axis_positions

BLOCK = 256 * 1024  # elements of a block: about what a core's own cache holds
SEGMENT = 64  # output columns of one horizontal product; its band of nodes is narrow
TINY = 1e-25  # a smaller sum may have lost terms to underflow
MOST_AT_ONCE = 0.5  # share of the images and axes in flight: each has buffers, and memory is what this saves
PARALLEL_FROM = 1 << 20  # full-size elements below which threads cost more than they bring


@dataclass(frozen=True)
class _Grid:
    """Sizes and interpolation weights shared by all images of a batch."""

    bins: int
    nodes: tuple[int, int]
    size: tuple[int, int]
    dtype: np.dtype

    def matrix(self, axis: int) -> np.ndarray:
        return axis_matrix(self.nodes[axis], self.size[axis], self.dtype.name)

    def positions(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        return axis_positions(self.nodes[axis], self.size[axis], self.dtype.name)

    def bands(self, axis: int, step: int) -> list[tuple[slice, slice]]:
        """(output positions, nodes they lie between) for every ``step`` positions of an axis."""
        lower, _ = self.positions(axis)
        bands = []
        for start in range(0, self.size[axis], step):
            stop = min(start + step, self.size[axis])
            last = min(int(lower[stop - 1]) + 2, self.nodes[axis])
            bands.append((slice(start, stop), slice(int(lower[start]), last)))
        return bands


def _target_weights(target: np.ndarray, valid: np.ndarray | None, grid: _Grid) -> np.ndarray:
    """Adjoint of the interpolation, applied to the one-hot targets.

    Args:
        target: (H, W) bins.
        valid: (H, W) bool or None.

    Returns:
        (bins, h, w) float64: how much of the target's weight each node and bin received.
    """
    (low_y, frac_y), (low_x, frac_x) = grid.positions(0), grid.positions(1)
    height, width = grid.nodes
    slots = height * width * grid.bins
    index = (low_y[:, None] * width + low_x) * grid.bins + target
    if valid is not None:
        index[~valid] = slots  # one more slot, thrown away
    index = index.ravel()
    weights = np.zeros((height + 1, width + 1, grid.bins))
    for dy, part_y in enumerate((1 - frac_y, frac_y)):
        for dx, part_x in enumerate((1 - frac_x, frac_x)):
            part = np.multiply.outer(part_y.astype(np.float64), part_x.astype(np.float64))
            sums = np.bincount(index, weights=part.ravel(), minlength=slots + 1)[:slots]
            weights[dy : dy + height, dx : dx + width] += sums.reshape(height, width, grid.bins)
    # Beyond the last node the fraction is 0: the extra row and column hold nothing.
    return weights[:height, :width].transpose(2, 0, 1)


def _normaliser(
    nodes: np.ndarray, valid: np.ndarray | None, grid: _Grid, with_grad: bool
) -> tuple[float, np.ndarray | None]:
    """Sum over pixels of log(sum of exponentials), and its gradient.

    Args:
        nodes: (bins, h, w), the largest of each node's bins being 0.
        valid: (H, W) bool or None.

    Returns:
        the sum, and (bins, h, w) the softmax brought back to the nodes, or None.
    """
    bins, (height, _), width = grid.bins, grid.nodes, grid.size[1]
    wide = np.empty((bins, height, width), dtype=grid.dtype)
    columns = grid.bands(1, SEGMENT)
    across, down = grid.matrix(1), grid.matrix(0)
    for pixels, band in columns:
        wide[..., pixels] = nodes[..., band] @ across[pixels, band].T
    back = np.zeros_like(wide) if with_grad else None

    # Buffers are kept through the loop: fresh ones would be fresh pages, at the price of the arithmetic.
    rows = max(1, BLOCK // (bins * width))
    bands = grid.bands(0, rows)
    block = np.empty((bins, rows, width), dtype=grid.dtype)
    returned = np.empty((bins, max(band.stop - band.start for _, band in bands), width), dtype=grid.dtype)
    total = 0.0
    for pixels, band in bands:
        known = None if valid is None else valid[pixels]
        if known is not None and not known.any():
            continue
        part = block[:, : pixels.stop - pixels.start]
        np.matmul(down[pixels, band], wide[:, band], out=part)
        np.exp(part, out=part)
        sums = part.sum(axis=0)
        peaks = 0.0
        if not sums.min() > TINY:
            # Neighbouring nodes peak in different bins, far apart: subtract each pixel's own maximum.
            np.matmul(down[pixels, band], wide[:, band], out=part)
            peaks = part.max(axis=0)
            np.exp(np.subtract(part, peaks, out=part), out=part)
            sums = part.sum(axis=0)
        logs = peaks + np.log(sums)
        total += float(logs.sum(dtype=np.float64, where=True if known is None else known))
        if with_grad:
            share = np.reciprocal(sums)
            if known is not None:
                share *= known
            part *= share
            carried = returned[:, : band.stop - band.start]
            np.matmul(down[pixels, band].T, part, out=carried)
            back[:, band] += carried
    if not with_grad:
        return total, None
    grad = np.zeros((bins, *grid.nodes), dtype=grid.dtype)
    for pixels, band in columns:
        grad[..., band] += back[..., pixels] @ across[pixels, band]
    return total, grad


def _one_image(
    logits: np.ndarray, target: np.ndarray, valid: np.ndarray | None, grid: _Grid, out: np.ndarray | None
) -> float:
    """Summed cross-entropy of one image and axis; its gradient is written to ``out`` if given."""
    nodes = logits - logits.max(axis=0)
    log_sums, grad = _normaliser(nodes, valid, grid, out is not None)
    weights = _target_weights(target, valid, grid)
    if out is not None:
        np.subtract(grad, weights, out=out, casting='same_kind')
    # Shifting a node's bins by one number shifts both terms alike, so the shifted logits serve both.
    return log_sums - float(np.einsum('bhw,bhw->', nodes, weights, dtype=np.float64))


class BlockedLoss(torch.autograd.Function):
    """Mean over valid pixels, sum over axes; the gradient is made in the forward pass."""

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor, num_bins: int, valid: Tensor | None) -> Tensor:
        batch, channels, *nodes = logits.shape
        size = tuple(target.shape[-2:])
        values = logits.detach().contiguous().numpy().reshape(-1, num_bins, *nodes)
        grid = _Grid(num_bins, tuple(nodes), size, values.dtype)
        bins = target.numpy().reshape(-1, *size)
        known = None if valid is None else valid.numpy()
        axes = channels // num_bins
        grads = np.empty_like(values) if ctx.needs_input_grad[0] else None

        def work(i: int) -> float:
            mask = None if known is None else known[i // axes]
            return _one_image(values[i], bins[i], mask, grid, None if grads is None else grads[i])

        threads = min(torch.get_num_threads(), math.ceil(MOST_AT_ONCE * len(values)))
        if threads > 1 and values.shape[0] * num_bins * size[0] * size[1] >= PARALLEL_FROM:
            with ThreadPoolExecutor(threads) as pool:
                totals = list(pool.map(work, range(len(values))))
        else:
            totals = [work(i) for i in range(len(values))]
        count = batch * size[0] * size[1] if known is None else max(1, int(known.sum()))
        if grads is not None:
            grads /= count
            ctx.save_for_backward(torch.from_numpy(grads.reshape(logits.shape)))
        return logits.new_tensor(sum(totals) / count)

    @staticmethod
    @differentiable_once("use upsample_cross_entropy with impl='reference'")
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grad_output, None, None, None


def blocked(logits: Tensor, target: Tensor, num_bins: int, valid: Tensor | None) -> Tensor:
    """Loss of :func:`cmp_mm.ops.upsample_cross_entropy` on the CPU, block by block."""
    return BlockedLoss.apply(logits, target, num_bins, valid)
