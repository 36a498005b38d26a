"""Warping images along flow, in torch, on any device."""

import torch
import torch.nn.functional as F
from torch import Tensor


def backward_warp(image: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Fetch each pixel from where its vector points to, bilinearly; differentiable in both arguments.

    Args:
        image: (N, C, H, W), floating point; for the flow from frame t to t + 1 this is frame t + 1, and the
            result looks like frame t.
        flow: (N, 2, H, W) pixels, channel 0 = x to the right, channel 1 = y down.

    Returns:
        warped: (N, C, H, W), type of the image, 0 where the vector points outside.
        inside: (N, H, W) bool, whether the vector points into the image. Not finite is outside.

    Raises:
        ValueError: the shapes do not agree.
    """
    x, y = _targets(image, flow)
    height, width = image.shape[-2:]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    # Outside points are moved to the corner, where they are finite, and masked below.
    x, y = torch.where(inside, x, 0), torch.where(inside, y, 0)
    # align_corners=False counts pixel edges, so that sides of one pixel need no division by zero.
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    # Half precision cannot address the pixels of an ordinary image.
    warped = F.grid_sample(image.to(grid.dtype), grid, padding_mode='border', align_corners=False)
    return torch.where(inside[:, None], warped, 0).to(image.dtype), inside


def forward_splat(image: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Put each pixel where its vector points to, at the nearest pixel; where several meet the fastest stays.

    Slow motion is laid down first so that fast motion covers it, for in most footage what moves fast is in
    front. Among equally fast pixels the later one in reading order stays, on every device.

    Args:
        image: (N, C, H, W), any type; differentiable in it.
        flow: (N, 2, H, W) pixels, channel 0 = x to the right, channel 1 = y down. A vector that is not
            finite puts its pixel nowhere.

    Returns:
        splatted: (N, C, H, W), 0 in the holes.
        hole: (N, H, W) bool, where no pixel arrived.

    Raises:
        ValueError: the shapes do not agree.
    """
    x, y = _targets(image, flow)
    batch, channels, height, width = image.shape
    # floor(x + .5), not round(): rounding halves to even would tear a shift by half a pixel apart.
    x, y = torch.floor(x + 0.5), torch.floor(y + 0.5)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    nowhere = height * width
    # Whole numbers first: float32 cannot count the pixels of an image of more than 2**24.
    x, y = (torch.where(inside, axis, 0).long() for axis in (x, y))
    target = torch.where(inside, y * width + x, nowhere).flatten(1)

    speed = torch.where(inside, flow.float().square().sum(1), 0).flatten(1)
    order = torch.argsort(speed, dim=1, stable=True)
    # Each target keeps the highest rank that reaches it: the same on every device, unlike a plain scatter.
    rank = torch.arange(nowhere, device=image.device).expand(batch, -1)
    winner = torch.full((batch, nowhere + 1), -1, device=image.device, dtype=torch.long)
    winner.scatter_reduce_(1, target.gather(1, order), rank, reduce='amax')
    winner = winner[:, :nowhere]

    hole = winner < 0
    source = order.gather(1, winner.clamp(min=0))
    splatted = image.flatten(2).gather(2, source[:, None].expand(-1, channels, -1))
    splatted = splatted.masked_fill(hole[:, None], 0)
    return splatted.view_as(image), hole.view(batch, height, width)


def _targets(image: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and y, (N, H, W) in at least float32, of where each vector points to."""
    if image.dim() != 4 or flow.dim() != 4 or flow.shape[1] != 2:
        raise ValueError(
            f'image has shape {tuple(image.shape)} and flow {tuple(flow.shape)}; '
            'expected (N, C, H, W) and (N, 2, H, W)'
        )
    if image.shape[0] != flow.shape[0] or image.shape[2:] != flow.shape[2:]:
        raise ValueError(
            f'image has shape {tuple(image.shape)} and flow {tuple(flow.shape)}; N, H and W must agree'
        )
    height, width = image.shape[2:]
    flow = flow if flow.dtype == torch.float64 else flow.float()
    x = torch.arange(width, device=flow.device, dtype=flow.dtype)
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)
    return flow[:, 0] + x, flow[:, 1] + y[:, None]
