"""Arrows and guidance maps as users give them, to the maps the network reads."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError, InputWarning, check_choice

COLLISIONS = ('last', 'mean', 'error')
OUT_OF_RANGE = ('warn', 'clip', 'rescale', 'error')

_ROWS = 'rows of 4 numbers: x, y of the pixel and u, v of its motion'


def parse_arrows(arrows: Any, size: tuple[int, int]) -> list[Tensor]:
    """Read one or several sets of arrows.

    Args:
        arrows: one set, (P, 4) rows x, y, u, v in pixels, x and u to the right, y and v down; or several, a
            (T, P, 4) array or tensor, or a list of T sets that need not be equally long. (x, y) is rounded to
            the nearest pixel. A vector of zero is a static point. Tensors keep their gradient.
        size: (height, width) of the image that the arrows lie on.

    Returns:
        T tensors (P, 4) float32.

    Raises:
        InputError: no arrows, a wrong shape, a number that is not finite, or a point outside the image;
            names the arrow.
    """
    sets = _split(arrows)
    if not sets:
        raise InputError('no arrows were given; expected at least one, a vector of zero for a static point')
    return [_check_set(one, size, f' of set {t}' if len(sets) > 1 else '') for t, one in enumerate(sets)]


def parse_guidance_map(guidance: Any, size: tuple[int, int]) -> list[Tensor]:
    """Read one or several guidance maps as sets of arrows, one per pixel where the mask is 1.

    Args:
        guidance: channels u, v (pixels), mask, mask: a tensor (4, H, W) or (T, 4, H, W), or an array
            (H, W, 4) or (T, H, W, 4) as `cmp_mm.guidance.guidance_map` gives. What u and v hold where the
            mask is 0 has no effect. Tensors keep their gradient.
        size: (H, W) of the image.

    Returns:
        T tensors (P, 4) float32, rows x, y, u, v.

    Raises:
        InputError: a wrong shape, a mask that is not 0 and 1, no point, or a vector that is not finite.
    """
    if isinstance(guidance, np.ndarray):
        if guidance.dtype.kind not in 'fiu' or guidance.ndim not in (3, 4):
            raise InputError(
                f'the guidance map is {guidance.dtype} of shape {guidance.shape}; as an array expected '
                'numbers, (H, W, 4) or (T, H, W, 4)'
            )
        maps = torch.from_numpy(guidance.astype(np.float32))
        maps = maps.permute(2, 0, 1)[None] if maps.ndim == 3 else maps.permute(0, 3, 1, 2)
    elif isinstance(guidance, Tensor):
        maps = guidance[None].float() if guidance.ndim == 3 else guidance.float()
    else:
        raise InputError(f'the guidance map is a {type(guidance).__name__}; expected an array or a tensor')
    if maps.ndim != 4 or tuple(maps.shape[1:]) != (4, *size) or len(maps) == 0:
        raise InputError(
            f'the guidance map has shape {tuple(guidance.shape)}; expected channels u, v, mask, mask and '
            f"the image's height and width, {size[0]} and {size[1]}"
        )
    mask = maps[:, 2].detach()
    if not torch.equal(mask, maps[:, 3].detach()) or not ((mask == 0) | (mask == 1)).all():
        raise InputError(
            'the last two channels of the guidance map are one mask twice; expected 0 and 1 in it'
        )
    sets = []
    for t, one in enumerate(maps):
        row, column = mask[t].nonzero(as_tuple=True)
        if len(row) == 0:
            raise InputError(f'guidance map {t} has no points; expected 1 in its mask at least once')
        vectors = one[:2, row, column].T
        sets.append(torch.cat([column[:, None].float(), row[:, None].float(), vectors], dim=1))
        _check_finite(sets[-1], f' of guidance map {t}')
    return sets


def trajectories_to_arrows(
    trajectories: Any, relative_to: str = 'first', include_start: bool = True
) -> list[Tensor]:
    """One guidance set per point of trajectories of T points each, for one image: the first frame's.

    Args:
        trajectories: (N, T, 2) positions x, y in pixels of N things at T times; the first must lie in the
            image, later ones may leave it.
        relative_to: 'first': set t moves the first position to position t, as for warping the first image
            to time t. 'previous': set t, still at the first position, holds the step from t - 1 to t.
        include_start: whether set 0, in which nothing moves, is among them; without it there are T - 1.

    Returns:
        T (or T - 1) tensors (N, 4), rows x, y, u, v, for `CMPInferencer.propagate`.

    Raises:
        InputError: a wrong shape, or nothing in it.
    """
    check_choice('relative_to', relative_to, ('first', 'previous'))
    places = _to_tensor(trajectories, 'trajectories', 'N trajectories of T positions x, y: (N, T, 2)')
    if places.ndim != 3 or places.shape[2] != 2 or 0 in places.shape:
        raise InputError(
            f'trajectories have shape {tuple(places.shape)}; expected N of T positions each, (N, T, 2)'
        )
    if places.shape[1] == 1 and not include_start:
        raise InputError('trajectories have one position each, and that is the start; expected at least 2')
    if not places.detach().isfinite().all():
        n, t, _ = (~places.detach().isfinite()).nonzero()[0].tolist()
        raise InputError(f'trajectory {n} is at {places[n, t].tolist()} at time {t}; expected finite numbers')
    start = places[:, :1]
    before = start if relative_to == 'first' else torch.cat([start, places[:, :-1]], dim=1)
    arrows = torch.cat([start.expand_as(places), places - before], dim=2)
    return list(arrows.unbind(1)[0 if include_start else 1 :])


def limit_vectors(arrows: Tensor, limit: float | None, out_of_range: str) -> tuple[Tensor, float, float]:
    """Deal with vectors that the codec cannot express.

    Args:
        arrows: (P, 4).
        limit: pixels; the codec's +-max of each component. None where there is no codec, so no limit.
        out_of_range: 'warn' leaves them as they are, and so does 'error', which is up to the caller: see
            `raise_or_warn`. 'clip' cuts each component. 'rescale' shrinks all vectors of the set by one
            factor, by which the flow must be multiplied again.

    Returns:
        arrows (P, 4), that factor (1 if nothing was shrunk), and the largest component before.
    """
    largest = float(arrows[:, 2:].detach().abs().max())
    if limit is None or largest <= limit or out_of_range in ('warn', 'error'):
        return arrows, 1.0, largest
    if out_of_range == 'clip':
        return torch.cat([arrows[:, :2], arrows[:, 2:].clamp(-limit, limit)], dim=1), 1.0, largest
    factor = largest / limit
    return torch.cat([arrows[:, :2], arrows[:, 2:] / factor], dim=1), factor, largest


def raise_or_warn(largest: float, limit: float | None, out_of_range: str) -> None:
    """Say that a vector is beyond the limit, once for all sets, as the option asks."""
    if limit is None or largest <= limit:
        return
    message = (
        f'an arrow has a component of {largest:.4g} px at the working size, the network expresses up to '
        f'{limit:g} px there; use '
        "out_of_range='rescale' or 'clip', or a smaller working_size"
    )
    if out_of_range == 'error':
        raise InputError(message)
    if out_of_range == 'warn':
        warnings.warn(message, InputWarning, stacklevel=4)


def to_working_size(arrows: Tensor, size: tuple[int, int], working: tuple[int, int]) -> Tensor:
    """Move arrows from an image of ``size`` to the same image resized to ``working``, each axis by its ratio.

    Returns:
        (P, 4); x and y are whole numbers inside the resized image.
    """
    ratio = arrows.new_tensor([working[1] / size[1], working[0] / size[0]])
    # Pixel centres lie at halves, as image resizing has it.
    places = ((arrows[:, :2].detach().round() + 0.5) * ratio - 0.5).round()
    places = places.clamp(min=0).minimum(arrows.new_tensor([working[1] - 1, working[0] - 1]))
    return torch.cat([places, arrows[:, 2:] * ratio], dim=1)


def draw_guidance(arrows: Tensor, size: tuple[int, int], collisions: str = 'last') -> Tensor:
    """Guidance map of arrows; where several meet in one pixel they are never summed.

    Args:
        arrows: (P, 4), x and y whole numbers inside the map.
        size: (height, width).
        collisions: 'last': the later arrow counts; 'mean': the mean of all there; 'error'.

    Returns:
        (4, height, width): u, v, mask, mask; differentiable in the vectors.

    Raises:
        InputError: arrows meet and ``collisions`` is 'error'; names the two.
    """
    height, width = size
    # Whole numbers first: float32 cannot count the pixels of a 24-megapixel photo.
    x, y = arrows[:, :2].detach().long().unbind(dim=1)
    place = y * width + x
    unique, inverse = place.unique(return_inverse=True)
    if len(unique) == len(place):
        vectors = arrows[:, 2:]
    elif collisions == 'error':
        later = next(i for i in range(len(place)) if bool((place[:i] == place[i]).any()))
        first = int((place == place[later]).nonzero()[0])
        raise InputError(
            f'arrows {first} and {later} begin at the same pixel, x {int(arrows[later, 0])} y '
            f"{int(arrows[later, 1])}; remove one, or use collisions='last' or 'mean'"
        )
    else:
        if collisions == 'mean':
            sums = arrows.new_zeros(len(unique), 2).index_add(0, inverse, arrows[:, 2:])
            vectors = sums / inverse.bincount(minlength=len(unique))[:, None]
        else:
            order = torch.arange(len(place), device=place.device)
            last = order.new_zeros(len(unique)).scatter_reduce(
                0, inverse, order, reduce='amax', include_self=False
            )
            vectors = arrows[last, 2:]
        place = unique
    motion = arrows.new_zeros(2, height * width).index_copy(1, place, vectors.T)
    mask = arrows.new_zeros(1, height * width).index_fill(1, place, 1).expand(2, -1)
    return torch.cat([motion, mask]).view(4, height, width)


def _split(arrows: Any) -> list[Any]:
    """Sets of arrows out of one or several."""
    if isinstance(arrows, (Tensor, np.ndarray)):
        if arrows.ndim == 3:
            return list(arrows)
        return [arrows]
    if not isinstance(arrows, Sequence) or isinstance(arrows, (str, bytes)):
        raise InputError(f'arrows are a {type(arrows).__name__}; expected {_ROWS}')
    if len(arrows) == 0:
        return []
    first = arrows[0]
    if isinstance(first, (Tensor, np.ndarray)):
        several = first.ndim == 2
    else:
        several = isinstance(first, Sequence) and (len(first) == 0 or _is_row(first[0]))
    return list(arrows) if several else [arrows]


def _is_row(value: Any) -> bool:
    """Whether it is several numbers, where a number may be an array or a tensor of no dimension."""
    return isinstance(value, Sequence) or (isinstance(value, (np.ndarray, Tensor)) and value.ndim > 0)


def _check_set(arrows: Any, size: tuple[int, int], where: str) -> Tensor:
    rows = _to_tensor(arrows, f'arrows{where}', _ROWS)
    if rows.numel() == 0:
        raise InputError(
            f'no arrows were given{where}; expected at least one, a vector of zero for a static point'
        )
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise InputError(f'arrows{where} have shape {tuple(rows.shape)}; expected {_ROWS}')
    _check_finite(rows, where)
    height, width = size
    x, y = rows.detach()[:, 0].round(), rows.detach()[:, 1].round()
    outside = ((x < 0) | (y < 0) | (x >= width) | (y >= height)).nonzero()
    if len(outside):
        i = int(outside[0])
        raise InputError(
            f'arrow {i}{where} begins at x {rows[i, 0].item():g}, y {rows[i, 1].item():g}, outside the image '
            f'of {width} x {height} pixels (width x height)'
        )
    return rows


def _check_finite(rows: Tensor, where: str) -> None:
    broken = (~rows.detach().isfinite().all(dim=1)).nonzero()
    if len(broken):
        i = int(broken[0])
        raise InputError(f'arrow {i}{where} is {rows[i].tolist()}; expected finite numbers')


def _holds_tensor(row: Any) -> bool:
    return isinstance(row, Tensor) or (isinstance(row, Sequence) and any(isinstance(n, Tensor) for n in row))


def _to_row(row: Any) -> Tensor:
    """One row as float32; tensors, also those of one number each, keep their gradient."""
    if isinstance(row, Sequence) and _holds_tensor(row):
        row = torch.stack([torch.as_tensor(number, dtype=torch.float32) for number in row])
    return torch.as_tensor(row, dtype=torch.float32)


def _to_tensor(values: Any, name: str, expected: str) -> Tensor:
    if isinstance(values, Tensor) and not values.is_complex():
        return values.float()
    if isinstance(values, Sequence) and any(_holds_tensor(row) for row in values):
        try:
            return torch.stack([_to_row(row) for row in values])
        except (TypeError, ValueError, RuntimeError):
            raise InputError(
                f'{name} are rows of different lengths or no numbers; expected {expected}'
            ) from None
    try:
        array = np.asarray(values)
        if array.dtype.kind not in 'fiu' and array.size:
            raise TypeError
        with np.errstate(over='ignore'):
            return torch.from_numpy(array.astype(np.float32))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f'{name} are rows of different lengths or no numbers; expected {expected}') from None
