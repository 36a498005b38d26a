"""Interpolation of the guidance: what a network that propagates motion has to beat."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from scipy.interpolate import RBFInterpolator

from cmp_mm.guidance.points import check_inside

# Distances are computed for so many (pixel, point) pairs at a time: 16 MiB of float32.
_BLOCK = 2**22


def interpolate_guidance(
    points: np.ndarray, vectors: np.ndarray, size: tuple[int, int], method: str
) -> np.ndarray:
    """Spread guidance vectors over an image without looking at it.

    Args:
        points: (P, 2) (row, column), whole numbers inside the image. Where two points share a pixel, their
            mean counts.
        vectors: (P, 2) (u, v) pixels.
        size: (height, width).
        method: 'nearest' (the nearest point's vector), 'idw' (mean weighted by inverse squared distance,
            Shepard 1968), 'rbf' (thin-plate spline, Duchon 1977; a linear kernel where the points do not
            span the plane), 'mean' (of all vectors) or 'zero'.

    Returns:
        (height, width, 2) float32 flow; zero everywhere if there is no point.

    Raises:
        ValueError: unknown method, wrong shapes, or a point outside the image.
    """
    if method not in INTERPOLATIONS:
        raise ValueError(f'interpolation method is {method!r}; expected one of {", ".join(INTERPOLATIONS)}')
    points, vectors = _checked(points, vectors, size)
    if len(points) == 0:
        return np.zeros((*size, 2), np.float32)
    return INTERPOLATIONS[method](points, vectors, *size)


def correct_at_points(flow: np.ndarray, points: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Add to a predicted flow what it misses at the guidance points; the plain version.

    What is missed is spread as by 'idw' and fades with distance: of a single point half is left half of the
    short side away. `cmp_mm.apis.correction.correct_at_arrows` is the same for batches on any device.

    Args:
        flow: (height, width, 2) float32 pixels.
        points: (P, 2) (row, column), whole numbers inside the image. Where two points share a pixel, their
            mean counts.
        vectors: (P, 2) (u, v) pixels, the motion there.

    Returns:
        (height, width, 2) float32 flow that has the vectors at the points.

    Raises:
        ValueError: wrong shapes, or a point outside the image.
    """
    flow = np.asarray(flow, np.float32)
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise ValueError(f'flow has shape {flow.shape}; expected (height, width, 2)')
    height, width = flow.shape[:2]
    points, vectors = _checked(points, vectors, (height, width))
    if len(points) == 0:
        return flow.copy()
    missed = vectors - flow[points[:, 0], points[:, 1]]
    return flow + _inverse_distance(points, missed, height, width, fading_weight(height, width))


def fading_weight(height: int, width: int) -> float:
    """Weight of no correction, beside those of 1 / squared distance in pixels of `correct_at_points`."""
    return (2 / min(height, width)) ** 2


def _checked(points: np.ndarray, vectors: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Points as whole numbers, those that share a pixel replaced by one with their mean vector."""
    points, vectors = np.asarray(points), np.asarray(vectors, np.float32)
    if points.ndim != 2 or points.shape[1] != 2 or points.shape != vectors.shape:
        raise ValueError(
            f'guidance points have shape {points.shape} and vectors {vectors.shape}; expected (P, 2) for both'
        )
    points = points.astype(np.int64)
    check_inside(points, *size)
    unique, inverse, counts = np.unique(points, axis=0, return_inverse=True, return_counts=True)
    if len(unique) == len(points):
        return points, vectors
    sums = np.zeros((len(unique), 2))
    np.add.at(sums, inverse.reshape(-1), vectors)
    return unique, (sums / counts[:, None]).astype(np.float32)


def _nearest(points: np.ndarray, vectors: np.ndarray, height: int, width: int) -> np.ndarray:
    elsewhere = np.ones((height, width), bool)
    elsewhere[points[:, 0], points[:, 1]] = False
    row, column = ndimage.distance_transform_edt(elsewhere, return_distances=False, return_indices=True)
    field = np.zeros((height, width, 2), np.float32)
    field[points[:, 0], points[:, 1]] = vectors
    return field[row, column]


def _inverse_distance(
    points: np.ndarray, vectors: np.ndarray, height: int, width: int, zero_weight: float = 0.0
) -> np.ndarray:
    columns = np.arange(width, dtype=np.float32)
    across = (columns[None] - points[:, 1:].astype(np.float32)) ** 2  # (P, W)
    flow = np.empty((height, width, 2), np.float32)
    rows_per_block = max(1, _BLOCK // (len(points) * width))
    for top in range(0, height, rows_per_block):
        rows = np.arange(top, min(top + rows_per_block, height), dtype=np.float32)
        down = (rows[:, None] - points[:, 0].astype(np.float32)) ** 2  # (rows, P)
        weights = down[:, :, None] + across[None]  # (rows, P, W)
        np.maximum(weights, 1e-12, out=weights)  # at a point that point alone counts
        np.reciprocal(weights, out=weights)
        total = weights.sum(axis=1) + np.float32(zero_weight)
        for channel in range(2):
            flow[top : top + len(rows), :, channel] = (
                np.einsum('rpw,p->rw', weights, vectors[:, channel]) / total
            )
    return flow


def _thin_plate(points: np.ndarray, vectors: np.ndarray, height: int, width: int) -> np.ndarray:
    # Centred and scaled to about one, which keeps the system well conditioned.
    scale = float(max(height, width))
    places = points / scale
    spans_plane = np.linalg.matrix_rank(points - points[0]) == 2
    kernel, degree = ('thin_plate_spline', 1) if spans_plane else ('linear', 0)
    spline = RBFInterpolator(places, vectors.astype(np.float64), kernel=kernel, degree=degree)
    grid = np.indices((height, width)).reshape(2, -1).T / scale
    return spline(grid).reshape(height, width, 2).astype(np.float32)


def _mean(points: np.ndarray, vectors: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.broadcast_to(vectors.mean(axis=0), (height, width, 2)).copy()


def _zero(points: np.ndarray, vectors: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 2), np.float32)


INTERPOLATIONS: dict[str, Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]] = {
    'nearest': _nearest,
    'idw': _inverse_distance,
    'rbf': _thin_plate,
    'mean': _mean,
    'zero': _zero,
}
