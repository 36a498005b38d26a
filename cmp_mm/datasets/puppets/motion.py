"""How puppets move: joint angles and body path per frame, smooth and mostly periodic."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .figure import Figure

_LEG = 0.46  # leg length in figure heights


@dataclass
class Motion:
    """A figure's motion over T frames.

    Attributes:
        angles: bone name -> (T,) joint angle in radians, clockwise on the screen.
        path: (T, 2) displacement (x, y) of the pelvis in figure heights.
        turn: (T,) rotation of the whole body in radians, clockwise on the screen.
        growth: (T,) factor on the figure's size.
    """

    angles: dict[str, np.ndarray]
    path: np.ndarray
    turn: np.ndarray
    growth: np.ndarray = field(default_factory=lambda: np.ones(1))


def smooth_signal(
    rng: np.random.Generator, time: np.ndarray, amplitude: float, period: tuple[float, float]
) -> np.ndarray:
    """Two sinusoids of random phase and period (in frames): (T,), at most ``amplitude`` from zero."""
    slow, fast = rng.uniform(*period), rng.uniform(*period) * 0.5
    first, second = rng.uniform(0, 2 * np.pi, 2)
    wave = 0.75 * np.sin(2 * np.pi * time / slow + first) + 0.25 * np.sin(2 * np.pi * time / fast + second)
    return amplitude * wave


def _still(time: np.ndarray) -> Motion:
    return Motion({}, np.zeros((len(time), 2)), np.zeros(len(time)))


def _sway(rng, figure: Figure, time, motion: Motion, strength: float) -> None:
    motion.angles['torso'] = smooth_signal(rng, time, 0.12 * strength, (14, 40))
    motion.angles['head'] = smooth_signal(rng, time, 0.3 * strength, (12, 40))


def _walk(rng, figure: Figure, time) -> Motion:
    """A gait in side view: legs in opposite phase, arms against the legs, the body carried along."""
    motion = _still(time)
    running = rng.random() < 0.35
    period = rng.uniform(10, 15) if running else rng.uniform(14, 26)
    stride = rng.uniform(0.55, 0.85) if running else rng.uniform(0.3, 0.55)
    phase = 2 * np.pi * time / period + rng.uniform(0, 2 * np.pi)
    for side, lag in (('left', 0.0), ('right', np.pi)):
        swing, leg = figure.swing(side), phase + lag
        motion.angles[f'{side}_upper_leg'] = swing * (stride * np.sin(leg) + 0.1)
        knee = (1.1 if running else 0.7) * (0.5 + 0.5 * np.cos(leg - 0.4)) + 0.08
        motion.angles[f'{side}_lower_leg'] = -swing * knee
        motion.angles[f'{side}_upper_arm'] = -swing * stride * rng.uniform(0.6, 1.2) * np.sin(leg)
        elbow = (1.4 if running else 0.35) + 0.25 * np.sin(leg + 2.5)
        motion.angles[f'{side}_lower_arm'] = swing * elbow
    motion.angles['torso'] = figure.facing * (0.06 + 0.12 * running) + 0.03 * np.sin(2 * phase)
    motion.angles['head'] = -0.5 * motion.angles['torso']
    speed = 4 * np.sin(stride) * _LEG / period
    motion.path[:, 0] = figure.facing * speed * (time - time.mean())
    motion.path[:, 1] = -0.02 * (1 + running) * np.abs(np.sin(phase))
    return motion


def _dance(rng, figure: Figure, time) -> Motion:
    """Every joint for itself, each limb more or less lively."""
    motion = _still(time)
    _sway(rng, figure, time, motion, rng.uniform(0.3, 1.5))
    for side in ('left', 'right'):
        swing = figure.swing(side)
        arm, leg = rng.choice([0.1, 0.6, 1.0], 2)
        motion.angles[f'{side}_upper_arm'] = swing * (
            rng.uniform(0.1, 2.6) + smooth_signal(rng, time, 0.9 * arm, (9, 22))
        )
        motion.angles[f'{side}_lower_arm'] = swing * (
            rng.uniform(0.0, 1.4) + smooth_signal(rng, time, 0.9 * arm, (8, 20))
        )
        motion.angles[f'{side}_upper_leg'] = swing * (
            rng.uniform(0.0, 0.5) + smooth_signal(rng, time, 0.45 * leg, (10, 24))
        )
        motion.angles[f'{side}_lower_leg'] = -swing * (
            rng.uniform(0.05, 0.5) + smooth_signal(rng, time, 0.5 * leg, (9, 22))
        )
    motion.path[:, 0] = smooth_signal(rng, time, rng.uniform(0, 0.12), (16, 40))
    motion.path[:, 1] = smooth_signal(rng, time, rng.uniform(0, 0.05), (10, 24))
    return motion


def _wave(rng, figure: Figure, time) -> Motion:
    """One arm moves, the rest hardly does."""
    motion = _still(time)
    _sway(rng, figure, time, motion, 0.3)
    active = rng.choice(['left', 'right'])
    for side in ('left', 'right'):
        swing, lively = figure.swing(side), 1.0 if side == active else 0.05
        raised = rng.uniform(1.4, 2.5) if side == active else rng.uniform(0.1, 0.3)
        motion.angles[f'{side}_upper_arm'] = swing * (
            raised + lively * smooth_signal(rng, time, 0.45, (9, 22))
        )
        motion.angles[f'{side}_lower_arm'] = swing * (0.5 + lively * smooth_signal(rng, time, 1.0, (7, 15)))
        motion.angles[f'{side}_upper_leg'] = swing * rng.uniform(0.05, 0.2) * np.ones_like(time)
    return motion


def _jacks(rng, figure: Figure, time) -> Motion:
    """Jumping jacks (front, back) or squats (side): arms and legs in step, the body up and down."""
    motion = _still(time)
    beat = 0.5 - 0.5 * np.cos(2 * np.pi * time / rng.uniform(12, 22) + rng.uniform(0, 2 * np.pi))
    squat = figure.view == 'side'
    depth = rng.uniform(0.5, 1.1)
    for side in ('left', 'right'):
        swing = figure.swing(side)
        motion.angles[f'{side}_upper_arm'] = swing * (0.25 + rng.uniform(1.2, 2.2) * beat)
        motion.angles[f'{side}_lower_arm'] = swing * (0.2 + 0.3 * beat)
        motion.angles[f'{side}_upper_leg'] = swing * (depth * beat if squat else 0.08 + 0.45 * beat)
        motion.angles[f'{side}_lower_leg'] = -swing * (1.7 * depth * beat if squat else 0.05)
    motion.angles['torso'] = figure.facing * 0.4 * depth * beat if squat else 0 * beat
    motion.path[:, 1] = (0.22 * depth**1.5 * beat) if squat else -0.1 * np.abs(np.sin(np.pi * beat))
    return motion


def _tumble(rng, figure: Figure, time) -> Motion:
    """A dance while the whole body turns in the picture plane."""
    motion = _dance(rng, figure, time)
    motion.turn = rng.choice([-1, 1]) * rng.uniform(0.03, 0.11) * time + rng.uniform(-np.pi, np.pi)
    return motion


def _stand(rng, figure: Figure, time) -> Motion:
    """Nearly still."""
    motion = _still(time)
    _sway(rng, figure, time, motion, 0.5)
    for side in ('left', 'right'):
        swing = figure.swing(side)
        motion.angles[f'{side}_upper_arm'] = swing * (
            rng.uniform(0, 0.8) + smooth_signal(rng, time, 0.06, (16, 40))
        )
        motion.angles[f'{side}_lower_arm'] = swing * (
            rng.uniform(0, 1.5) + smooth_signal(rng, time, 0.08, (16, 40))
        )
        motion.angles[f'{side}_upper_leg'] = swing * rng.uniform(0.03, 0.25) * np.ones_like(time)
    return motion


MOTIONS: dict[str, Callable[..., Motion]] = dict(
    walk=_walk, dance=_dance, wave=_wave, jacks=_jacks, tumble=_tumble, stand=_stand
)


def random_motion(rng: np.random.Generator, figure: Figure, frames: int, kind: str | None = None) -> Motion:
    """Draw a motion that suits the figure's view.

    Args:
        rng: source of randomness.
        figure: the figure to move.
        frames: number of frames T.
        kind: a key of ``MOTIONS``; drawn if None.

    Returns:
        The motion; a body drift and, at times, approach or retreat are added to it.
    """
    if kind is None:
        share = dict(walk=0.45, dance=0.25, jacks=0.12, tumble=0.06, wave=0.06, stand=0.06)
        if figure.view != 'side':
            share = dict(dance=0.42, wave=0.16, jacks=0.2, tumble=0.1, stand=0.12)
        kind = str(rng.choice(list(share), p=list(share.values())))
    time = rng.uniform(0.8, 1.8) * np.arange(frames)  # some are in more of a hurry
    motion = MOTIONS[kind](rng, figure, time)
    centred = time - time.mean()
    if kind not in ('walk', 'stand') and rng.random() < 0.5:
        motion.path = motion.path + centred[:, None] * rng.uniform(-1, 1, 2) * (0.02, 0.006)
    rate = rng.uniform(-0.015, 0.015) if rng.random() < 0.4 else 0.0
    motion.growth = np.exp(rate * centred)
    if kind != 'tumble':
        motion.turn = motion.turn + rng.uniform(-0.15, 0.15) + smooth_signal(rng, time, 0.04, (16, 40))
    return motion
