"""Sprites: the textured, shaded, anti-aliased pieces that puppets and distractors are made of."""

from dataclasses import dataclass

import cv2
import numpy as np

# Fixed-point digits of OpenCV's drawing functions: 1/16 pixel.
_SHIFT = 4


@dataclass(frozen=True)
class Sprite:
    """A picture with coverage and its place in the local frame of the thing it shows.

    Attributes:
        rgba: (h, w, 4) uint8, RGB already multiplied by the coverage in the last channel, so that
            interpolation leaves no dark rim.
        to_local: (2, 3) float64 affine map from sprite pixels (x, y) to local units.
    """

    rgba: np.ndarray
    to_local: np.ndarray


class SpriteCanvas:
    """Draw shapes in local units, one over the other, and shade the whole.

    Args:
        low: (x, y) of the canvas's first corner, local units.
        high: (x, y) of the opposite corner, local units.
        resolution: pixels per local unit.
    """

    def __init__(self, low: tuple[float, float], high: tuple[float, float], resolution: float) -> None:
        self.resolution = resolution
        # Two empty pixels all round: the edge must fade inside the sprite.
        self.offset = np.array(low) * resolution - 2.0
        self.width, self.height = (int(v) for v in np.ceil(np.array(high) * resolution - self.offset + 3.0))
        self.coverage = np.zeros((self.height, self.width), np.float32)
        self.colour = np.zeros((self.height, self.width, 3), np.float32)  # multiplied by the coverage

    def _polygon_mask(self, points: np.ndarray) -> np.ndarray:
        mask = np.zeros((self.height, self.width), np.uint8)
        pixels = np.asarray(points) * self.resolution - self.offset
        cv2.fillPoly(mask, [np.round(pixels * 2**_SHIFT).astype(np.int32)], 255, cv2.LINE_AA, _SHIFT)
        return mask.astype(np.float32) / 255.0

    def polygon(self, points: np.ndarray, paint: np.ndarray) -> None:
        """Fill a polygon, (K, 2) in local units, with ``paint``: (3,) RGB or a texture at least as large."""
        mask = self._polygon_mask(points)[..., None]
        if paint.ndim == 3:
            paint = paint[: self.height, : self.width]
        self.colour += mask * (paint - self.colour)
        self.coverage += mask[..., 0] * (1 - self.coverage)

    def capsule(self, start, start_radius: float, end, end_radius: float, paint: np.ndarray) -> None:
        """Fill the convex hull of two discs: the shape of a limb."""
        turns = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        ring = np.stack([np.cos(turns), np.sin(turns)], axis=1)
        points = np.concatenate(
            [np.asarray(start) + start_radius * ring, np.asarray(end) + end_radius * ring]
        )
        self.polygon(cv2.convexHull(points.astype(np.float32))[:, 0], paint)

    def ellipse(self, centre, radii: tuple[float, float], paint: np.ndarray) -> None:
        """Fill an ellipse whose axes are the local axes."""
        turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        self.polygon(np.asarray(centre) + np.stack([np.cos(turns), np.sin(turns)], axis=1) * radii, paint)

    def cut(self, points: np.ndarray) -> None:
        """Remove a polygon: a hole through which what is behind shows."""
        keep = 1 - self._polygon_mask(points)
        self.coverage *= keep
        self.colour *= keep[..., None]

    def _trim(self) -> None:
        # Rendering warps whole sprites: empty margins would cost most of its time.
        rows, columns = (np.flatnonzero(self.coverage.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)
            keep = (slice(top, rows[-1] + 2), slice(left, columns[-1] + 2))
            self.coverage, self.colour = self.coverage[keep], self.colour[keep]
            self.offset = self.offset + (left, top)

    def finish(self, shading: float = 0.4) -> Sprite:
        """Darken towards the outline by up to ``shading`` and return the sprite."""
        self._trim()
        inside = (self.coverage > 0.5).astype(np.uint8)
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
        depth = np.sqrt(depth / max(float(depth.max()), 1e-6))
        shaded = self.colour * ((1 - shading) + shading * depth)[..., None]
        rgba = np.concatenate([shaded, 255.0 * self.coverage[..., None]], axis=2)
        unit = 1.0 / self.resolution
        to_local = np.array([[unit, 0, self.offset[0] * unit], [0, unit, self.offset[1] * unit]])
        return Sprite(np.clip(np.round(rgba), 0, 255).astype(np.uint8), to_local)


def blob_outline(rng: np.random.Generator, points: int = 48, roughness: float = 0.25) -> np.ndarray:
    """A random smooth closed curve around the origin with mean radius 1: (points, 2)."""
    turns = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = np.ones(points)
    for order in range(2, 6):
        radius += roughness * rng.normal() / order * np.cos(order * turns + rng.uniform(0, 2 * np.pi))
    radius = np.maximum(radius, 0.3)
    return np.stack([np.cos(turns), np.sin(turns)], axis=1) * radius[:, None]


def star_outline(rng: np.random.Generator) -> np.ndarray:
    """A star of five to eight tips around the origin with outer radius 1: (2 x tips, 2)."""
    tips = int(rng.integers(5, 9))
    turns = np.linspace(0, 2 * np.pi, 2 * tips, endpoint=False)
    radius = np.where(np.arange(2 * tips) % 2, rng.uniform(0.45, 0.65), 1.0)
    return np.stack([np.cos(turns), np.sin(turns)], axis=1) * radius[:, None]


def object_sprite(rng: np.random.Generator, radius: float, texture: np.ndarray) -> Sprite:
    """A rigid thing of a random outline: ball, box, star, blob or ring.

    Args:
        rng: source of randomness.
        radius: its outer radius in sprite pixels; the local unit is this radius.
        texture: (h, w, 3) RGB, at least 3 x radius + 8 pixels each way.

    Returns:
        The sprite, its local origin in the middle.
    """
    canvas = SpriteCanvas((-1.4, -1.4), (1.4, 1.4), radius)
    kind = rng.choice(['ball', 'box', 'star', 'blob', 'ring'])
    if kind in ('ball', 'ring'):
        canvas.ellipse((0, 0), (1, 1), texture)
        if kind == 'ring':
            canvas.cut(blob_outline(rng, roughness=0) * rng.uniform(0.4, 0.6))
    elif kind == 'box':
        half = np.array([1.0, rng.uniform(0.5, 1.0)])
        canvas.polygon(half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]), texture)
    else:
        canvas.polygon(
            np.clip(star_outline(rng) if kind == 'star' else blob_outline(rng), -1.4, 1.4), texture
        )
    return canvas.finish(shading=rng.uniform(0.1, 0.6))
