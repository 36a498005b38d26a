"""The seven ways to choose guidance points, and their combination."""

import inspect
from collections.abc import Callable, Sequence
from numbers import Integral, Real

import numpy as np
from scipy import ndimage

from .checks import check_flow, check_kernel_size, known_everywhere, unknown_mask
from .edges import edge_strength
from .points import check_inside, drop_close_points, grid_points, grid_stride
from .watershed import subsampling, watershed_candidates

Strategy = Callable[..., np.ndarray]
PAPER_KERNEL_SIZE = 81


def watershed(flow: np.ndarray, rng: np.random.Generator, kernel_size: int = PAPER_KERNEL_SIZE) -> np.ndarray:
    """Points farthest from motion edges, thinned at random; the paper's choice."""
    points = watershed_candidates(flow, kernel_size)
    return drop_close_points(points, kernel_size, rng, step=subsampling(*flow.shape[:2]))


def grid(
    flow: np.ndarray, rng: np.random.Generator, stride: int | None = None, bg_ratio: float | None = None
) -> np.ndarray:
    """A regular grid, for the camera's own motion; give its stride, or the share of pixels."""
    return grid_points(*flow.shape[:2], grid_stride(bg_ratio) if stride is None else stride)


def uniform(
    flow: np.ndarray,
    rng: np.random.Generator,
    num_points: int | None = None,
    bg_ratio: float | None = None,
) -> np.ndarray:
    """Pixels drawn evenly, with repetition; give their number, or the share of pixels."""
    height, width = flow.shape[:2]
    number = int(bg_ratio * height * width) if num_points is None else num_points
    return np.stack([rng.integers(0, height, number), rng.integers(0, width, number)], axis=1)


def gradnms(flow: np.ndarray, rng: np.random.Generator, kernel_size: int = 15) -> np.ndarray:
    """Maxima of edge density minus finer edge density: beside the motion edges, not on them."""
    step = subsampling(*flow.shape[:2])
    strength = edge_strength(np.ascontiguousarray(flow[::step, ::step]))
    side = max(1, strength.shape[1] // 20)
    coarse, fine = _box_sum(strength, side), _box_sum(strength, max(1, side // 2))
    if strength.max() == 0:  # no edge anywhere
        return np.zeros((0, 2), dtype=np.int32)
    score = coarse / coarse.max() - fine / fine.max()
    highest = ndimage.maximum_filter(score, kernel_size, mode='nearest')
    return np.argwhere((score == highest) & (score > 0.1)) * step


def _box_sum(values: np.ndarray, side: int) -> np.ndarray:
    # Not uniform_filter: its running sum gives equal windows unequal sums, and ties matter here.
    box = np.ones(side)
    rows = ndimage.correlate1d(values.astype(np.float64), box, axis=0, mode='reflect')
    return ndimage.correlate1d(rows, box, axis=1, mode='reflect')


def single(flow: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One moving pixel, drawn evenly; none where nothing moves."""
    moving = np.flatnonzero(flow.any(axis=2))
    if len(moving) == 0:
        return np.zeros((0, 2), dtype=np.int32)
    return np.array([divmod(int(rng.choice(moving)), flow.shape[1])])


def full(flow: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every pixel."""
    return np.indices(flow.shape[:2]).reshape(2, -1).T


def specified(flow: np.ndarray, rng: np.random.Generator, points: Sequence[Sequence[int]] = ()) -> np.ndarray:
    """The (row, column) points given, all inside the image."""
    chosen = np.asarray(points, dtype=np.int64).reshape(-1, 2)
    check_inside(chosen, *flow.shape[:2])
    return chosen


STRATEGIES: dict[str, Strategy] = {
    strategy.__name__: strategy for strategy in (watershed, grid, uniform, gradnms, single, full, specified)
}


_OPTIONS = {name: list(inspect.signature(strategy).parameters)[2:] for name, strategy in STRATEGIES.items()}


def check_strategies(strategies: Sequence[dict], max_points: int | Sequence[int] = -1) -> None:
    """Raise ValueError, in one sentence, if the strategies cannot be run; touches no flow.

    Args:
        strategies: as for :func:`sample_points`.
        max_points: as for :func:`sample_points`.
    """
    if isinstance(strategies, dict) or not isinstance(strategies, Sequence) or len(strategies) == 0:
        raise ValueError(f'guidance strategies must be a non-empty list of dicts, got {strategies!r}')
    for strategy in strategies:
        _check_strategy(strategy)
    if isinstance(max_points, (list, tuple)):
        whole = all(isinstance(n, Integral) and not isinstance(n, bool) for n in max_points)
        if not whole or len(max_points) != 2 or not 0 <= max_points[0] <= max_points[1]:
            raise ValueError(
                f'max_points as a range must be two whole numbers, 0 <= low <= high, got {max_points!r}'
            )
    elif isinstance(max_points, bool) or not isinstance(max_points, Integral) or max_points < -1:
        raise ValueError(f'max_points must be -1 (no limit) or a number of points, got {max_points!r}')


def _check_strategy(strategy: dict) -> None:
    if not isinstance(strategy, dict) or 'type' not in strategy:
        raise ValueError(f"a guidance strategy must be a dict with a 'type', got {strategy!r}")
    name = strategy['type']
    if name not in STRATEGIES:
        raise ValueError(f'unknown guidance strategy {name!r}, expected one of {", ".join(STRATEGIES)}')
    options = {key: value for key, value in strategy.items() if key != 'type'}
    known = _OPTIONS[name]
    for key in options:
        if key not in known:
            expected = ', '.join(known) or 'no option'
            raise ValueError(f'guidance strategy {name!r} has no option {key!r}, expected {expected}')
    if name in ('watershed', 'gradnms') and 'kernel_size' in options:
        check_kernel_size(options['kernel_size'])
    if name in ('grid', 'uniform'):
        _check_density(name, known, options)
    if name == 'specified':
        _check_specified(options.get('points'))


def _check_density(name: str, known: list[str], options: dict) -> None:
    given = {key: value for key, value in options.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            f'guidance strategy {name!r} needs exactly one of {known[0]!r} and {known[1]!r}, got '
            f'{sorted(given) or "neither"}'
        )
    ((key, value),) = given.items()
    if key == 'bg_ratio':
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value <= 1:
            raise ValueError(f'bg_ratio must be a share of pixels in (0, 1], got {value!r}')
    elif isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f'{key} of guidance strategy {name!r} must be a positive integer, got {value!r}')


def _check_specified(points: Sequence[Sequence[int]] | None) -> None:
    array = np.asarray([] if points is None else points)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in 'iu':
        raise ValueError(
            f"guidance strategy 'specified' needs points=[[row, column], ...] of integers, got {points!r}"
        )


def sample_points(
    flow: np.ndarray,
    strategies: Sequence[dict],
    max_points: int | Sequence[int] = -1,
    rng: np.random.Generator | None = None,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Choose guidance points on a flow by one or several strategies.

    The points of all strategies are put together, shuffled, and cut to ``max_points``. As in the
    reference implementation a point that two strategies chose counts twice, and 'full' means every
    pixel, whatever else is asked for.

    Args:
        flow: (H, W, 2) pixels. Points never lie on vectors that are not finite or marked unknown
            (beyond 1e9).
        strategies: dicts with 'type' and the strategy's options: ``watershed`` (kernel_size),
            ``grid`` (stride or bg_ratio), ``uniform`` (num_points or bg_ratio), ``gradnms``
            (kernel_size), ``single``, ``full``, ``specified`` (points).
        max_points: the most points to return; -1 for no limit. Two numbers are a range: the limit is drawn
            from it for each flow, small ones as often as large ones on a logarithmic scale; a range that
            starts at 0 leaves some flows without guidance, (0, 4) two in five.
        rng: every random choice is drawn from it; a fresh, unseeded one by default.
        valid: (H, W) bool, where the flow is known; points elsewhere are left out.

    Returns:
        (P, 2) int32 (row, column); P may be 0.

    Raises:
        ValueError: unknown strategy or option, a bad value, or a flow of another shape.
    """
    check_flow(flow)
    check_strategies(strategies, max_points)
    rng = np.random.default_rng() if rng is None else rng
    flow = np.asarray(flow, dtype=np.float32)
    unknown = None if known_everywhere(flow) else unknown_mask(flow)
    if valid is not None:
        if np.shape(valid) != flow.shape[:2]:
            raise ValueError(f"valid must have the flow's shape {flow.shape[:2]}, got {np.shape(valid)}")
        missing = ~np.asarray(valid, dtype=bool)
        unknown = missing if unknown is None else unknown | missing
    if unknown is not None:
        flow = np.where(unknown[..., None], np.float32(0), flow)

    return combine_points(flow, strategies, max_points, rng, unknown)


def uses(strategies: Sequence[dict], name: str) -> bool:
    """Whether a strategy of that type is among them."""
    return any(strategy['type'] == name for strategy in strategies)


def combine_points(
    flow: np.ndarray,
    strategies: Sequence[dict],
    max_points: int | Sequence[int],
    rng: np.random.Generator,
    unknown: np.ndarray | None = None,
    watershed_points: Callable[..., np.ndarray] | None = None,
) -> np.ndarray:
    """The points of all strategies, which are taken as checked, shuffled and cut.

    Args:
        flow: (H, W, 2) pixels, 0 where unknown.
        strategies: as for :func:`sample_points`.
        max_points: as for :func:`sample_points`.
        rng: every random choice is drawn from it.
        unknown: (H, W) bool, where no point may lie.
        watershed_points: replaces the watershed strategy; takes its options, returns (P, 2).

    Returns:
        (P, 2) int32 (row, column).
    """
    everything = uses(strategies, 'full')
    chosen = []
    for strategy in [{'type': 'full'}] if everything else strategies:
        options = {key: value for key, value in strategy.items() if key != 'type'}
        if strategy['type'] == 'watershed' and watershed_points is not None:
            points = watershed_points(**options)
        else:
            points = STRATEGIES[strategy['type']](flow, rng, **options)
        chosen.append(points.astype(np.int32))
    points = np.concatenate(chosen)
    if unknown is not None:
        points = points[~unknown[points[:, 0], points[:, 1]]]
    if everything:
        return points
    points = rng.permutation(points, axis=0)
    if isinstance(max_points, (list, tuple)):
        low, high = max_points
        # A whole number n stands for all of [n, n + 1); 0 has no logarithm, so such a range is moved up by 1.
        shift = int(low == 0)
        drawn = int(np.exp(rng.uniform(np.log(low + shift), np.log(high + 1 + shift)))) - shift
        max_points = min(high, drawn)
    return points if max_points == -1 else points[:max_points]
