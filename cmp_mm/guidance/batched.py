"""Guidance on the accelerator: the same points as the NumPy functions, a batch at a time, in torch."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cmp_mm.compat import triton_builds

from .checks import UNKNOWN_FLOW, check_kernel_size
from .edges import EDGE_FLOOR, EDGE_THRESHOLD, SOBEL
from .points import drop_close_points
from .strategies import PAPER_KERNEL_SIZE, check_strategies, combine_points, uses
from .watershed import subsampling

_FAR = 2896  # no edge in the column: its square, with the longest step's added, stays below 2^24
# Numbers held while nearest edges along rows are searched: a few MiB of a cache, 256 MiB of a GPU.
_SUMS_AT_ONCE = 2**20
_SUMS_AT_ONCE_ON_GPU = 2**26


def watershed_candidates_batched(flow: Tensor, kernel_size: int) -> list[Tensor]:
    """Watershed candidates of a batch: the points of :func:`watershed_candidates`, per image.

    Args:
        flow: (N, 2, H, W) pixels, on any device.
        kernel_size: side of the suppression window, odd.

    Returns:
        One (P, 2) int64 tensor of (row, column) per image, in row order, on the flow's device.

    Raises:
        ValueError: the flow has another shape, or the kernel size is not a positive odd integer.
    """
    keep, step = _candidate_mask(flow, kernel_size)
    image, row, col = keep.nonzero().unbind(dim=1)
    counts = torch.bincount(image, minlength=len(flow)).tolist()
    return list((torch.stack([row, col], dim=1) * step).split(counts))


def check_batchable(strategies: Sequence[dict], max_points: int | Sequence[int] = -1) -> None:
    """Raise ValueError unless :func:`sample_guidance_batched` takes them; see :func:`check_strategies`."""
    check_strategies(strategies, max_points)
    for name in ('gradnms', 'single'):
        if uses(strategies, name):
            raise ValueError(f'guidance strategy {name!r} cannot be batched: sample it in the data pipeline')


def sample_guidance_batched(
    flow: Tensor,
    strategies: Sequence[dict],
    max_points: int | Sequence[int] = -1,
    seeds: Sequence[int] | None = None,
    valid: Tensor | None = None,
) -> list[Tensor]:
    """Choose guidance points for a batch of flows that lies on an accelerator.

    Per image the points are those of ``sample_points(flow, strategies, max_points,
    numpy.random.default_rng(seed), valid)``. The watershed is found on the flow's device; what is
    random, a few dozen points, is drawn on the host.

    Args:
        flow: (N, 2, H, W) pixels.
        strategies: as for :func:`sample_points`, but not 'gradnms' and 'single'.
        max_points: the most points per image; -1 for no limit; (low, high) draws it for each image.
        seeds: one integer per image; fresh ones by default.
        valid: (N, H, W) bool, where the flow is known.

    Returns:
        One (P, 2) int64 tensor of (row, column) per image, on the flow's device.

    Raises:
        ValueError: bad strategies (see there), a flow, seeds or valid of another shape.
    """
    _check_flow(flow)
    check_batchable(strategies, max_points)
    count, _, height, width = flow.shape
    if seeds is not None and len(seeds) != count:
        raise ValueError(f'a batch of {count} flows needs {count} seeds, got {len(seeds)}')
    if valid is not None and valid.shape != (count, height, width):
        raise ValueError(f'valid must be {(count, height, width)} to fit the flow, got {tuple(valid.shape)}')

    unknown = ~(flow.float().abs() <= UNKNOWN_FLOW).all(dim=1)  # in half precision the bound is infinite
    if valid is not None:
        unknown |= ~valid
    host_unknown = unknown.cpu().numpy() if bool(unknown.any()) else None
    known_flow = flow if host_unknown is None else flow.masked_fill(unknown[:, None], 0)
    sizes = {s.get('kernel_size', PAPER_KERNEL_SIZE) for s in strategies if s['type'] == 'watershed'}
    candidates = {size: _to_host(watershed_candidates_batched(known_flow, size)) for size in sizes}

    shape_only = np.broadcast_to(np.float32(0), (height, width, 2))
    chosen = []
    for i in range(count):
        rng = np.random.default_rng(None if seeds is None else int(seeds[i]))
        thin = partial(_thin, {size: found[i] for size, found in candidates.items()}, (height, width), rng)
        missing = None if host_unknown is None else host_unknown[i]
        points = combine_points(shape_only, strategies, max_points, rng, missing, thin)
        chosen.append(torch.from_numpy(points.astype(np.int64)))
    moved = torch.cat(chosen).to(flow.device, non_blocking=True)
    return list(moved.split([len(points) for points in chosen]))


def _check_flow(flow: Tensor) -> None:
    if flow.ndim != 4 or flow.shape[1] != 2 or 0 in flow.shape or not flow.is_floating_point():
        raise ValueError(
            'a batch of flows must be floating-point (images, 2, height, width) with pixels in it, got '
            f'{flow.dtype} {tuple(flow.shape)}'
        )


def _thin(
    candidates: dict[int, np.ndarray],
    size: tuple[int, int],
    rng: np.random.Generator,
    kernel_size: int = PAPER_KERNEL_SIZE,
) -> np.ndarray:
    """One image's watershed strategy, its candidates per kernel size being known."""
    return drop_close_points(candidates[kernel_size], kernel_size, rng, subsampling(*size))


def _to_host(points: list[Tensor]) -> list[np.ndarray]:
    together = torch.cat(points).cpu().numpy().astype(np.int32)
    return np.split(together, np.cumsum([len(one) for one in points])[:-1])


def _candidate_mask(flow: Tensor, kernel_size: int) -> tuple[Tensor, int]:
    """(N, h, w) bool of the subsampled flow's candidates, and the subsampling step."""
    _check_flow(flow)
    check_kernel_size(kernel_size)
    step = subsampling(*flow.shape[2:])
    flow = flow[:, :, ::step, ::step].float()
    unknown = ~(flow.abs() <= UNKNOWN_FLOW).all(dim=1)
    edges = _edges(flow.masked_fill(unknown[:, None], 0))
    squared = _squared_distance(edges)
    highest = F.max_pool2d(squared[:, None], (kernel_size, 1), stride=1, padding=(kernel_size // 2, 0))
    highest = F.max_pool2d(highest, (1, kernel_size), stride=1, padding=(0, kernel_size // 2))[:, 0]
    keep = (squared == highest) & (squared > 0) & ~unknown & edges.flatten(1).any(dim=1)[:, None, None]
    keep[:, [0, -1], :] = False
    keep[:, :, [0, -1]] = False
    return keep, step


def _edges(flow: Tensor) -> Tensor:
    """(N, h, w) bool: the arithmetic of ``edge_mask_reference``, rounding by rounding."""
    height, width = flow.shape[2:]
    padded = F.pad(flow, (1, 1, 1, 1), mode='replicate')  # by one pixel the same as symmetric

    def derivative(weights: np.ndarray) -> Tensor:
        total = torch.zeros_like(flow)
        for down in (2, 1, 0):  # SciPy's order of summation
            for right in (2, 1, 0):
                weight = float(weights[2 - down, 2 - right])
                if weight:
                    total += weight * padded[:, :, down : down + height, right : right + width]
        return total

    gx, gy = derivative(SOBEL), derivative(SOBEL.T)
    magnitude = torch.sqrt(gx * gx + gy * gy)
    strength = magnitude[:, 0] + magnitude[:, 1]
    strongest = strength.amax(dim=(1, 2), keepdim=True).clamp(min=float(EDGE_FLOOR))
    return strength / strongest > float(EDGE_THRESHOLD)


def _squared_distance(edges: Tensor) -> Tensor:
    """(N, h, w) float32, the exact squared distance to the nearest edge; huge where an image has none.

    Separable: first the distance along columns, then the smallest sum of its square and a squared step
    along the row. Integers below 2^24 throughout, hence exact.
    """
    height, width = edges.shape[1:]
    row = torch.arange(height, device=edges.device, dtype=torch.int32)[:, None]
    above = torch.where(edges, row, -_FAR).cummax(dim=1).values
    below = torch.where(edges, row, _FAR).flip(1).cummin(dim=1).values.flip(1)
    vertical = torch.minimum(row - above, below - row).clamp(max=_FAR).float()
    squares = vertical * vertical
    rows = squares.view(-1, width)
    if edges.is_cuda and triton_builds():
        from .triton_distances import row_distances  # the package is optional

        return row_distances(rows).view_as(squares)
    return row_distances_reference(rows).view_as(squares)


def row_distances_reference(squares: Tensor) -> Tensor:
    """:func:`cmp_mm.guidance.triton_distances.row_distances` in plain torch, on any device."""
    # All distances along a row at once: a search by growing steps, which could stop early, is a thousand
    # small kernels and waits for the device each time it asks whether it may.
    width = squares.shape[1]
    at = torch.arange(width, device=squares.device, dtype=torch.float32)
    steps = (at[:, None] - at) ** 2
    held = _SUMS_AT_ONCE if squares.device.type == 'cpu' else _SUMS_AT_ONCE_ON_GPU
    parts = squares.split(max(1, held // width**2))
    return torch.cat([(some[:, None] + steps).amin(dim=-1) for some in parts])
