"""Have a predicted flow meet the arrows it was predicted from."""

import torch
from torch import Tensor

from cmp_mm.evaluation.interpolation import fading_weight

from .errors import InputError

CORRECTIONS = ('none', 'fade')
# Each pixel is compared with each arrow: more of them take minutes, and so dense a guidance needs no network.
_MOST_ARROWS = 10_000
# Weights of so many (arrow, pixel) pairs at a time: 16 MiB of float32.
_BLOCK = 2**22


def check_few(number: int, correction: str) -> None:
    """Raise InputError where a set has so many arrows that a correction would take minutes."""
    if correction != 'none' and number > _MOST_ARROWS:
        raise InputError(
            f'a guidance set has {number} points; with correction {correction!r} expected at most '
            f'{_MOST_ARROWS}'
        )


def correct_at_arrows(flow: Tensor, guidance: Tensor) -> Tensor:
    """Add to the flow what it misses at the arrows, between them by inverse squared distance (Shepard 1968).

    The network says what moves together and makes the arrows shorter. What is left at the arrows is known, so
    each is met, and it fades: of a single arrow half is left half of the short side away, so that what is
    dragged does not take all of the picture along. Not of the paper. `cmp_mm.evaluation.correct_at_points` is
    the plain version.

    Args:
        flow: (T, 2, H, W) pixels.
        guidance: (T, 4, H, W) of u, v, mask, mask, the maps it was predicted from.

    Returns:
        (T, 2, H, W) flow; that of a set without arrows is as it was. With a graph, P * H * W weights of each
        set of P arrows are kept for it.
    """
    return torch.stack([_corrected(one, given) for one, given in zip(flow, guidance, strict=True)])


def _corrected(flow: Tensor, guidance: Tensor) -> Tensor:
    rows, columns = (guidance[2] > 0).nonzero(as_tuple=True)
    if len(rows) == 0:
        return flow
    height, width = flow.shape[-2:]
    missed = guidance[:2, rows, columns].to(flow) - flow[:, rows, columns]
    across = (torch.arange(width, device=flow.device)[None] - columns[:, None]).to(flow) ** 2  # (P, W)
    fading = fading_weight(height, width)
    per_block = max(1, _BLOCK // (len(rows) * width))
    added = []
    # A weight of 1e12 beside one of .01 is no sum of bfloat16.
    with torch.autocast(flow.device.type, enabled=False):
        for top in range(0, height, per_block):
            block = torch.arange(top, min(top + per_block, height), device=flow.device)
            down = (block[None] - rows[:, None]).to(flow) ** 2  # (P, rows)
            weights = 1 / (down[:, :, None] + across[:, None]).clamp(min=1e-12)  # at an arrow it alone counts
            # Sums, not a matrix product, which settings of others may round.
            sums = torch.stack([(one[:, None, None] * weights).sum(0) for one in missed])
            added.append(sums / (weights.sum(0) + fading))
        return flow + torch.cat(added, 1)
