"""A random scene: background, camera, figures and rigid distractors put together into a clip."""

from dataclasses import dataclass

import numpy as np

from .figure import PART_NAMES, Figure, keypoint_positions, pose_transforms, random_figure
from .motion import Motion, random_motion, smooth_signal
from .render import SUPERSAMPLE, Clip, Layer
from .sprites import SpriteCanvas, blob_outline, object_sprite
from .textures import random_palette, random_texture

_OBJECT = PART_NAMES.index('object')


def _affine(linear_scale, turn, shift) -> np.ndarray:
    """(T, 3, 3) similarity from (T,) scale, (T,) rotation (clockwise on the screen) and (T, 2) shift."""
    cos, sin = linear_scale * np.cos(turn), linear_scale * np.sin(turn)
    matrices = np.zeros((len(shift), 3, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = cos
    matrices[:, 1, 0], matrices[:, 0, 1] = sin, -sin
    matrices[:, :2, 2] = shift
    matrices[:, 2, 2] = 1
    return matrices


def _lift(matrix: np.ndarray) -> np.ndarray:
    return np.concatenate([matrix, [[0.0, 0.0, 1.0]]])


def random_camera(rng: np.random.Generator, frames: int, height: int, width: int) -> dict[str, np.ndarray]:
    """Camera motion as the way a distant background moves: (T, 2) shift in pixels, (T,) scale, (T,) turn.

    Standing still, hand-held shake, pan, zoom or roll, or some of these at once.
    """
    time = np.arange(frames, dtype=np.float64)
    centred = time - time.mean()
    short = min(height, width)
    shift, scale, turn = np.zeros((frames, 2)), np.ones(frames), np.zeros(frames)
    kinds = rng.random(4) < (0.45, 0.45, 0.25, 0.2)
    if kinds[0]:
        shake = [smooth_signal(rng, time, short * rng.uniform(0.002, 0.012), (6, 24)) for _ in range(2)]
        shift += np.stack(shake, axis=1)
        turn += smooth_signal(rng, time, 0.008, (8, 30))
    if kinds[1]:
        shift += centred[:, None] * short * rng.uniform(-0.03, 0.03, 2) * (1.0, 0.4)
    if kinds[2]:
        scale = np.exp(centred * rng.uniform(-0.014, 0.014))
    if kinds[3]:
        turn += centred * rng.uniform(-0.015, 0.015)
    return dict(shift=shift, scale=scale, turn=turn)


def _camera_matrices(camera: dict, height: int, width: int, nearness: float) -> np.ndarray:
    """(T, 3, 3) image-to-image maps of a thing that far in front of the background: parallax in the pan."""
    centre = np.array([width - 1, height - 1]) / 2
    to_centre = _affine(np.ones(1), np.zeros(1), -centre[None])
    return _affine(camera['scale'], camera['turn'], camera['shift'] * (1 + nearness) + centre) @ to_centre


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Wall and, mostly, ground, with things painted on that do not move by themselves: RGBA."""
    h, w = int(1.25 * height * SUPERSAMPLE), int(1.25 * width * SUPERSAMPLE)
    unit = SUPERSAMPLE * min(height, width)

    def texture(rows: int) -> np.ndarray:
        muted = rng.random() < 0.6
        palette = random_palette(rng, int(rng.integers(2, 6)), (0.05, 0.4) if muted else (0.1, 0.85))
        cell, grain = unit * rng.uniform(0.05, 0.28), rng.uniform(0.05, 0.3)
        return random_texture(rng, rows, w, cell, palette, grain=grain)

    horizon = int(h * rng.uniform(0.5, 0.8)) if rng.random() < 0.65 else h
    picture = np.concatenate([texture(rows) for rows in (horizon, h - horizon) if rows]).astype(np.float32)
    for _ in range(rng.integers(0, 6)):
        size = unit * rng.uniform(0.06, 0.3)
        canvas = SpriteCanvas((-1.4, -1.4), (1.4, 1.4), size)
        if rng.random() < 0.5:
            half = rng.uniform(0.3, 1.2, 2)
            outline = half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        else:
            outline = blob_outline(rng)
        side = max(canvas.height, canvas.width)
        paint = random_texture(rng, side, side, size * rng.uniform(0.2, 0.6), random_palette(rng, 3))
        canvas.polygon(np.clip(outline, -1.4, 1.4), paint)
        sprite = canvas.finish(rng.uniform(0, 0.4)).rgba.astype(np.float32)
        top, left = int(rng.uniform(-0.3, 0.95) * h), int(rng.uniform(-0.1, 0.95) * w)
        rows, columns = slice(max(top, 0), min(top + side, h)), slice(max(left, 0), min(left + side, w))
        piece = sprite[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        target = picture[rows, columns][: piece.shape[0], : piece.shape[1]]
        target *= 1 - piece[..., 3:] / 255
        target += piece[..., :3]
    light = (
        1 - rng.uniform(0, 0.35) * np.linspace(0, 1, h, dtype=np.float32)[:: rng.choice([-1, 1]), None, None]
    )
    rgb = np.clip(picture * light, 0, 255).astype(np.uint8)
    return np.concatenate([rgb, np.full((h, w, 1), 255, np.uint8)], axis=2)


def _distractor(rng: np.random.Generator, frames: int, height: int, width: int, camera: dict) -> Layer:
    """A rigid thing that drifts, spins and grows or shrinks; some stand still but for the camera."""
    short = min(height, width)
    radius = short * rng.uniform(0.05, 0.16)
    resolution = radius * SUPERSAMPLE
    side = int(3.2 * resolution) + 16
    palette = random_palette(rng, int(rng.integers(2, 5)), (0.2, 0.95), (0.25, 1.0))
    sprite = object_sprite(
        rng, resolution, random_texture(rng, side, side, resolution * rng.uniform(0.3, 0.9), palette)
    )
    time = np.arange(frames) - (frames - 1) / 2
    moving = rng.random() < 0.7
    centre = rng.uniform((0.05, 0.05), (0.95, 0.95)) * (width, height)
    shift = centre + moving * time[:, None] * short * rng.uniform(-0.03, 0.03, 2)
    if moving and rng.random() < 0.4:  # bouncing or swinging
        shift[:, 1] += smooth_signal(rng, time, short * rng.uniform(0.03, 0.12), (8, 26))
    turn = rng.uniform(0, 2 * np.pi) + moving * rng.uniform(-0.12, 0.12) * time * (rng.random() < 0.7)
    growth = np.exp(moving * rng.uniform(-0.015, 0.015) * time)
    world = _affine(radius * growth, turn, shift)
    nearness = rng.uniform(0, 0.6)
    matrices = _camera_matrices(camera, height, width, nearness) @ world @ _lift(sprite.to_local)
    return Layer(sprite.rgba, matrices, _OBJECT)


@dataclass(frozen=True)
class _Actor:
    """A figure with its motion and its place: what it does before any camera looks at it."""

    figure: Figure
    motion: Motion
    size: float  # pixels, when standing
    pelvis: np.ndarray  # (2,) pixels
    nearness: float


def _random_actor(
    rng: np.random.Generator, frames: int, height: int, width: int, scale: float, place: float
) -> _Actor:
    size = height * scale
    figure = random_figure(rng, size, SUPERSAMPLE)
    feet = height * (rng.uniform(0.88, 1.06) if scale < 0.95 else rng.uniform(1.0, 1.25))
    pelvis = np.array([width * place, feet - 0.47 * size])
    return _Actor(figure, random_motion(rng, figure, frames), size, pelvis, nearness=0.3 * scale)


def _actor_layers(actor: _Actor, camera_matrices: np.ndarray, number: int) -> tuple[list[Layer], np.ndarray]:
    """The figure's layers from back to front, and its (T, 14, 2) key-points."""
    figure, motion = actor.figure, actor.motion
    world = _affine(actor.size * motion.growth, motion.turn, actor.pelvis + actor.size * motion.path)
    transforms = pose_transforms(figure, camera_matrices @ world, motion.angles)
    layers = []
    for name in figure.order:
        sprite = figure.sprites[name]
        layers.append(
            Layer(sprite.rgba, transforms[name] @ _lift(sprite.to_local), PART_NAMES.index(name), number)
        )
    return layers, keypoint_positions(figure, transforms)


def random_clip(seed: int, index: int, frames: int, height: int, width: int) -> Clip:
    """Draw a clip: the same numbers give the same clip, whatever was drawn before.

    Args:
        seed: seed of the set.
        index: number of the clip in the set.
        frames: number of frames.
        height: rows.
        width: columns.

    Returns:
        The clip, with one to three figures.
    """
    rng = np.random.default_rng([seed, index])
    camera = random_camera(rng, frames, height, width)
    count = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
    # The nearer, the larger, and the later drawn.
    scales = np.sort(rng.uniform(0.5, 0.95, count) * rng.choice([1.0, 1.25], p=[0.85, 0.15]))
    # Side by side, more or less: figures may hide one another in part.
    places = 0.1 + 0.8 * (rng.permutation(count) + rng.uniform(0.1, 0.9, count)) / count
    actors = [_random_actor(rng, frames, height, width, *pair) for pair in zip(scales, places, strict=True)]
    if rng.random() < 0.3:
        # The camera follows the foremost figure; what is left behind moves instead.
        leader = actors[-1]
        camera['shift'] -= leader.size * leader.motion.path * (1.0, 0.0) / (1 + leader.nearness)
    groups, keypoints = [], []
    for number, actor in enumerate(actors):
        view = _camera_matrices(camera, height, width, actor.nearness)
        layers, points = _actor_layers(actor, view, number)
        groups.append(layers)
        keypoints.append(points)
    for _ in range(rng.choice([0, 1, 2, 3, 4], p=[0.3, 0.3, 0.2, 0.1, 0.1])):
        groups.insert(rng.integers(0, len(groups) + 1), [_distractor(rng, frames, height, width, camera)])
    picture = _background(rng, height, width)
    place = np.array(
        [
            [1 / SUPERSAMPLE, 0, (width - picture.shape[1] / SUPERSAMPLE) / 2],
            [0, 1 / SUPERSAMPLE, (height - picture.shape[0] / SUPERSAMPLE) / 2],
            [0, 0, 1],
        ]
    )
    background = Layer(picture, _camera_matrices(camera, height, width, 0.0) @ place, 0)
    return Clip(
        height=height,
        width=width,
        layers=(background, *(layer for group in groups for layer in group)),
        keypoints=np.stack(keypoints, axis=1),
        noise=float(rng.uniform(0, 3)),
        noise_seed=int(rng.integers(2**31)),
    )
