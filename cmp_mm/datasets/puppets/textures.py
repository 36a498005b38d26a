"""Procedural textures: what the puppets wear, and what they move over."""

from collections.abc import Callable

import cv2
import numpy as np


def random_palette(
    rng: np.random.Generator,
    size: int,
    saturation: tuple[float, float] = (0.1, 0.8),
    value: tuple[float, float] = (0.25, 0.95),
    hue_spread: float | None = None,
) -> np.ndarray:
    """Draw colours that go together: hues within ``hue_spread`` of a common one.

    Args:
        rng: source of randomness.
        size: number of colours.
        saturation: range of HSV saturation, 0 to 1.
        value: range of HSV value, 0 to 1.
        hue_spread: largest distance from the common hue as a share of the colour circle; drawn if None.

    Returns:
        (size, 3) float32 RGB in 0 to 255.
    """
    spread = rng.choice([0.04, 0.12, 0.5]) if hue_spread is None else hue_spread
    hue = (rng.random() + rng.uniform(-spread, spread, size)) % 1.0
    hsv = np.stack([hue * 360.0, rng.uniform(*saturation, size), rng.uniform(*value, size)], axis=1)
    return cv2.cvtColor(hsv[None].astype(np.float32), cv2.COLOR_HSV2RGB)[0] * 255.0


def fractal_noise(
    rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 4, gain: float = 0.55
) -> np.ndarray:
    """Sum of smoothly upsampled random grids, each twice as fine as the one before.

    Args:
        rng: source of randomness.
        height: rows.
        width: columns.
        cell: size of the coarsest grid's cells in pixels.
        octaves: number of grids; those finer than two pixels are left out.
        gain: amplitude of each grid relative to the one before.

    Returns:
        (height, width) float32, stretched to 0 to 1.
    """
    total = np.zeros((height, width), np.float32)
    amplitude = 1.0
    for _ in range(octaves):
        grid = rng.random((max(2, round(height / cell) + 1), max(2, round(width / cell) + 1)), np.float32)
        total += amplitude * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        amplitude *= gain
        cell /= 2
        if cell < 2:
            break
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def _axes(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates in a randomly turned frame: two (height, width) float32 arrays."""
    angle = rng.uniform(0, np.pi)
    row, column = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * column + sin * row, cos * row - sin * column


def _noise(rng, height, width, cell):
    return fractal_noise(rng, height, width, cell * rng.uniform(1.0, 3.0), gain=rng.uniform(0.45, 0.75))


def _marble(rng, height, width, cell):
    along, _ = _axes(rng, height, width)
    wave = along * np.float32(np.pi / cell) + 6.0 * fractal_noise(rng, height, width, 3 * cell)
    return 0.5 + 0.5 * np.sin(wave)


def _stripes(rng, height, width, cell):
    along, _ = _axes(rng, height, width)
    hardness = rng.choice([1.0, 4.0])
    bend = rng.choice([0.0, 1.5]) * fractal_noise(rng, height, width, 4 * cell, octaves=2)
    wave = np.sin(along * np.float32(2 * np.pi / cell) + np.float32(2) * bend)
    return np.clip(0.5 + 0.5 * hardness * wave, 0, 1)


def _checks(rng, height, width, cell):
    along, across = _axes(rng, height, width)
    step = np.float32(np.pi / cell)
    return np.clip(0.5 + 4.0 * np.sin(along * step) * np.sin(across * step), 0, 1)


def _plaid(rng, height, width, cell):
    along, across = _axes(rng, height, width)
    first, second = np.float32(2 * np.pi / cell), np.float32(2 * np.pi / (cell * rng.uniform(0.6, 1.7)))
    bands = np.clip(0.5 + 2 * np.sin(along * first), 0, 1) + np.clip(0.5 + 2 * np.sin(across * second), 0, 1)
    return 0.5 * bands


def _cells(rng, height, width, cell):
    # Voronoi cells: the label of the nearest zero pixel, each label with a random shade.
    count = max(4, int(height * width / (cell * cell)))
    seeds = np.full((height, width), 255, np.uint8)
    seeds[rng.integers(0, height, count), rng.integers(0, width, count)] = 0
    distance, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    shade = rng.random(int(labels.max()) + 1, np.float32)[labels]
    return np.clip(shade - rng.choice([0.0, 0.5]) * distance / cell, 0, 1)


def _bricks(rng, height, width, cell):
    brick_h, brick_w, joint = cell * 0.5, cell * rng.uniform(0.8, 1.6), max(1.0, cell * 0.06)
    row, column = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    course = np.floor(row / brick_h).astype(np.int64)
    shifted = column[None] + np.float32(0.5 * brick_w) * (course % 2)[:, None]
    index = np.floor(shifted / brick_w).astype(np.int64)
    shade = rng.uniform(0.35, 1.0, (course.max() + 1, index.max() + 1)).astype(np.float32)[
        course[:, None], index
    ]
    shade[(row % brick_h) < joint] = 0
    shade[(shifted % brick_w) < joint] = 0
    return shade


def _dots(rng, height, width, cell):
    along, across = _axes(rng, height, width)
    radius = cell * rng.uniform(0.2, 0.4)
    dx, dy = (along % np.float32(cell)) - cell / 2, (across % np.float32(cell)) - cell / 2
    return np.clip(radius - np.sqrt(dx * dx + dy * dy) + 0.5, 0, 1)


def _shapes(rng, height, width, cell):
    # Overlapping polygons and discs, like leaves or litter on a ground.
    canvas = (fractal_noise(rng, height, width, 4 * cell, octaves=2) * 120).astype(np.uint8)
    for _ in range(int(min(220, 1.6 * height * width / (cell * cell)))):
        centre = rng.uniform((0, 0), (width, height))
        size, shade = cell * rng.uniform(0.2, 0.8), int(rng.integers(40, 256))
        if rng.random() < 0.4:
            cv2.circle(canvas, (int(centre[0]), int(centre[1])), int(size * 0.7) + 1, shade, -1, cv2.LINE_AA)
        else:
            turns = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 6)))
            corners = centre + size * np.stack([np.cos(turns), np.sin(turns)], axis=1)
            cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], shade, cv2.LINE_AA)
    return canvas.astype(np.float32) / 255.0


TEXTURES: dict[str, Callable] = dict(
    noise=_noise,
    marble=_marble,
    stripes=_stripes,
    checks=_checks,
    plaid=_plaid,
    cells=_cells,
    bricks=_bricks,
    dots=_dots,
    shapes=_shapes,
)


def random_texture(
    rng: np.random.Generator,
    height: int,
    width: int,
    cell: float,
    palette: np.ndarray,
    kind: str | None = None,
    grain: float = 0.12,
) -> np.ndarray:
    """Paint a texture.

    Args:
        rng: source of randomness.
        height: rows.
        width: columns.
        cell: size of its elements in pixels.
        palette: (K, 3) RGB in 0 to 255, K > 1; a texture's shades run through it.
        kind: a key of ``TEXTURES``; drawn if None.
        grain: strength of the fine noise laid over it, as a share of full contrast.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    shade = TEXTURES[kind or rng.choice(list(TEXTURES))](rng, height, width, cell)
    if grain:
        shade = shade * np.float32(1 - grain) + np.float32(grain) * fractal_noise(rng, height, width, 12, 3)
    stops = np.linspace(0, 255, len(palette))
    table = np.stack([np.interp(np.arange(256), stops, palette[:, c]) for c in range(3)], axis=1)
    index = np.clip(shade * 255.0 + 0.5, 0, 255).astype(np.uint8)
    return cv2.applyColorMap(index, np.round(table).astype(np.uint8)[:, None])
