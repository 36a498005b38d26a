"""CMP's loss: logits upsampled to the target's size, cross-entropy per flow axis, fused."""

import os

import torch
from torch import Tensor

from cmp_mm.compat import has_triton, triton_builds

from .blocked import blocked
from .reference import reference

IMPLEMENTATIONS = ('auto', 'reference', 'blocked', 'triton')


def upsample_cross_entropy(
    logits: Tensor, target: Tensor, num_bins: int, valid: Tensor | None = None, impl: str = 'auto'
) -> Tensor:
    """Cross-entropy of bilinearly upsampled logits (align_corners=True) against full-size bins.

    Equation 2 of the CMP paper (arXiv 1903.11412): per flow axis the mean over the valid pixels of
    the batch, summed over the axes. All but the 'reference' path work without the full-size logits.

    Args:
        logits: (N, A * num_bins, h, w), all bins of the first axis, then those of the next. float32
            or float64; half-precision logits are read as float32.
        target: (N, A, H, W) integer bins in [0, num_bins); any size, not only multiples of (h, w).
        num_bins: bins per axis.
        valid: (N, H, W) bool, pixels that count; all of them by default. What ``target`` holds
            elsewhere does not matter. With no valid pixel at all the loss and its gradient are 0.
        impl: 'reference' (plain torch, any device), 'blocked' (CPU), 'triton' (CUDA), or 'auto':
            triton on CUDA where it works, blocked on the CPU, else reference.

    Returns:
        Scalar of the logits' dtype, float32 at least. Differentiable once with respect to the logits; with
        'reference' twice.

    Raises:
        RuntimeError: a backward pass with ``create_graph=True`` by another path than 'reference'.
        ValueError: shapes that do not fit, an unknown ``impl``, or (on the CPU, where looking costs
            nothing) a valid target outside the bins.
    """
    if torch.compiler.is_compiling():
        # Nothing here is torch's to compile: traced, it would be cut into a dozen graphs.
        from .uncompiled import upsample_cross_entropy as outside_graphs

        return outside_graphs(logits, target, num_bins, valid, impl)
    _check(logits, target, num_bins, valid, impl)
    if impl == 'auto':
        impl = _choose(logits)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    valid = None if valid is None else valid.bool()
    with torch.autocast(logits.device.type, enabled=False):
        if impl == 'triton':
            from .triton_kernels import fused  # the package is optional

            return fused(logits, target, num_bins, valid)
        target = target.long() if valid is None else torch.where(valid[:, None], target, 0).long()
        if target.device.type == 'cpu':
            _check_range(target, num_bins)
        path = reference if impl == 'reference' else blocked
        return path(logits, target, num_bins, valid)


def _choose(logits: Tensor) -> str:
    if logits.device.type == 'cpu':
        return 'blocked'
    fused = logits.is_cuda and logits.dtype != torch.float64 and triton_builds()
    return 'triton' if fused else 'reference'


def _check(logits: Tensor, target: Tensor, num_bins: int, valid: Tensor | None, impl: str) -> None:
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f'impl must be one of {", ".join(IMPLEMENTATIONS)}, got {impl!r}')
    if impl == 'blocked' and logits.device.type != 'cpu':
        raise ValueError(f"impl='blocked' works on the CPU, got logits on {logits.device}")
    if impl == 'triton' and not has_triton():
        raise ValueError("impl='triton' needs the triton package (pip install triton)")
    if impl == 'triton' and logits.dtype == torch.float64:
        raise ValueError("impl='triton' computes in float32, got float64 logits: use impl='reference'")
    if impl == 'triton' and not logits.is_cuda and os.environ.get('TRITON_INTERPRET') != '1':
        raise ValueError(f"impl='triton' works on CUDA (or under TRITON_INTERPRET=1), got {logits.device}")
    if logits.ndim != 4 or target.ndim != 4 or not logits.is_floating_point():
        raise ValueError(
            'logits must be floating-point (N, A * num_bins, h, w) and target (N, A, H, W), got '
            f'{logits.dtype} {tuple(logits.shape)} and {tuple(target.shape)}'
        )
    if target.is_floating_point() or target.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise ValueError(f'target must hold integer bins, got {target.dtype}')
    if 0 in logits.shape or 0 in target.shape:
        raise ValueError(
            f'logits and target must not be empty, got {tuple(logits.shape)} and {tuple(target.shape)}'
        )
    batch, axes, *size = target.shape
    if num_bins < 1 or logits.shape[:2] != (batch, axes * num_bins):
        raise ValueError(
            f'logits of {batch} images, {axes} axes and {num_bins} bins must be ({batch}, '
            f'{axes * num_bins}, h, w), got {tuple(logits.shape)}'
        )
    if valid is not None and valid.shape != (batch, *size):
        raise ValueError(f'valid must be {(batch, *size)} to fit the target, got {tuple(valid.shape)}')


def _check_range(target: Tensor, num_bins: int) -> None:
    lowest, highest = (int(value) for value in target.aminmax())
    if lowest < 0 or highest >= num_bins:
        raise ValueError(f'target bins must lie in [0, {num_bins - 1}], got {lowest} to {highest}')
