"""The puppet: a skeleton of ten rigid parts, its proportions and its clothes."""

from dataclasses import dataclass

import numpy as np

from .sprites import Sprite, SpriteCanvas
from .textures import random_palette, random_texture

# Class names of the part masks; the index is the label. Left and right are the figure's own.
PART_NAMES = (
    'background',
    'head',
    'torso',
    'left_upper_arm',
    'right_upper_arm',
    'left_lower_arm',
    'right_lower_arm',
    'left_upper_leg',
    'right_upper_leg',
    'left_lower_leg',
    'right_lower_leg',
    'object',
)

# The 14 points of CrowdPose, in its order, each with the bone it sits on, where along that bone
# (share of its length), and the other part whose pixels also show it.
KEYPOINTS = (
    ('left_shoulder', 'left_upper_arm', 0.0, 'torso'),
    ('right_shoulder', 'right_upper_arm', 0.0, 'torso'),
    ('left_elbow', 'left_lower_arm', 0.0, 'left_upper_arm'),
    ('right_elbow', 'right_lower_arm', 0.0, 'right_upper_arm'),
    ('left_wrist', 'left_lower_arm', 1.0, 'left_lower_arm'),
    ('right_wrist', 'right_lower_arm', 1.0, 'right_lower_arm'),
    ('left_hip', 'left_upper_leg', 0.0, 'torso'),
    ('right_hip', 'right_upper_leg', 0.0, 'torso'),
    ('left_knee', 'left_lower_leg', 0.0, 'left_upper_leg'),
    ('right_knee', 'right_lower_leg', 0.0, 'right_upper_leg'),
    ('left_ankle', 'left_lower_leg', 1.0, 'left_lower_leg'),
    ('right_ankle', 'right_lower_leg', 1.0, 'right_lower_leg'),
    ('top_head', 'head', 0.95, 'head'),
    ('neck', 'torso', 1.0, 'head'),
)
KEYPOINT_NAMES = tuple(name for name, *_ in KEYPOINTS)

# Lengths and half-widths as shares of the figure's height; each figure varies them.
_LENGTHS = dict(torso=0.29, head=0.175, upper_arm=0.165, lower_arm=0.15, upper_leg=0.235, lower_leg=0.225)
_RADII = dict(
    shoulder=0.04,
    elbow=0.031,
    wrist=0.023,
    hand=0.031,
    hip=0.058,
    knee=0.043,
    ankle=0.029,
    waist=0.075,
    head=0.062,
)
_SKIN = np.array([[246, 208, 180], [226, 174, 138], [190, 132, 96], [140, 92, 64], [92, 60, 44]], np.float32)
_HAIR = np.array([[30, 24, 22], [74, 46, 28], [140, 92, 44], [214, 176, 100], [120, 120, 124]], np.float32)


@dataclass(frozen=True)
class Bone:
    """One rigid part: where it hangs on its parent, and how it points when its joint angle is zero.

    Attributes:
        parent: the bone it hangs on; empty for the pelvis.
        offset: (x, y) of its joint in the parent's frame; x runs along the parent.
        rest: rotation against the parent's frame at joint angle zero, radians, clockwise on the screen.
        length: distance to its other end, in figure heights.
    """

    parent: str
    offset: tuple[float, float]
    rest: float
    length: float


@dataclass(frozen=True)
class Figure:
    """A dressed skeleton.

    Attributes:
        view: 'front', 'back' or 'side'.
        facing: +1 where a side view faces right, -1 where it faces left; +1 otherwise.
        bones: name -> bone, parents before children.
        sprites: bone name -> its sprite in that bone's frame, unit = figure height.
        order: bone names from the back to the front.
    """

    view: str
    facing: int
    bones: dict[str, Bone]
    sprites: dict[str, Sprite]
    order: tuple[str, ...]

    def outward(self, side: str) -> int:
        """+1 if the figure's ``side`` ('left' or 'right') is on the right of the picture, else -1."""
        return (1 if side == 'left' else -1) * (-1 if self.view == 'back' else 1)

    def swing(self, side: str) -> int:
        """Sign that turns 'outward' (front, back) or 'forward' (side view) into a joint rotation."""
        return -self.facing if self.view == 'side' else -self.outward(side)


def pose_transforms(figure: Figure, root: np.ndarray, angles: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Forward kinematics.

    Args:
        figure: the figure.
        root: (T, 3, 3) map from the pelvis frame (unit = figure height) to image pixels per frame.
        angles: bone name -> (T,) joint angles in radians, clockwise on the screen; zero if absent.

    Returns:
        Bone name -> (T, 3, 3) map from the bone's frame to image pixels.
    """
    transforms: dict[str, np.ndarray] = {}
    for name, bone in figure.bones.items():
        turn = bone.rest + np.broadcast_to(angles.get(name, 0.0), len(root))
        local = np.zeros((len(root), 3, 3))
        local[:, 0, 0] = local[:, 1, 1] = np.cos(turn)
        local[:, 1, 0] = np.sin(turn)
        local[:, 0, 1] = -local[:, 1, 0]
        local[:, :2, 2] = bone.offset
        local[:, 2, 2] = 1
        transforms[name] = (transforms[bone.parent] if bone.parent else root) @ local
    return transforms


def keypoint_positions(figure: Figure, transforms: dict[str, np.ndarray]) -> np.ndarray:
    """(T, 14, 2) float64 image positions (x, y) of ``KEYPOINT_NAMES``."""
    points = []
    for _, bone, share, _ in KEYPOINTS:
        end = np.array([share * figure.bones[bone].length, 0.0, 1.0])
        points.append((transforms[bone] @ end)[:, :2])
    return np.stack(points, axis=1)


def _skeleton(rng: np.random.Generator, view: str, lengths: dict, radii: dict) -> dict[str, Bone]:
    # In a side view shoulders and hips lie nearly behind one another.
    spread = 0.18 if view == 'side' else 1.0
    shoulder = spread * (radii['waist'] * 1.25 + 0.5 * radii['shoulder'])
    hip = spread * (radii['waist'] - 0.45 * radii['hip'])
    up = -np.pi / 2
    bones = dict(
        torso=Bone('', (0.0, 0.0), up, lengths['torso']),
        head=Bone('torso', (lengths['torso'], 0.0), 0.0, lengths['head']),
    )
    for side, sign in (('left', 1), ('right', -1)):
        sign = -sign if view == 'back' else sign
        arm_joint = (lengths['torso'] - 0.9 * radii['shoulder'], sign * shoulder)
        bones[f'{side}_upper_arm'] = Bone('torso', arm_joint, np.pi, lengths['upper_arm'])
        bones[f'{side}_lower_arm'] = Bone(
            f'{side}_upper_arm', (lengths['upper_arm'], 0.0), 0.0, lengths['lower_arm']
        )
        bones[f'{side}_upper_leg'] = Bone('', (sign * hip, 0.0), -up, lengths['upper_leg'])
        bones[f'{side}_lower_leg'] = Bone(
            f'{side}_upper_leg', (lengths['upper_leg'], 0.0), 0.0, lengths['lower_leg']
        )
    return bones


def _drawing_order(view: str, facing: int) -> tuple[str, ...]:
    def arm(side):
        return (f'{side}_upper_arm', f'{side}_lower_arm')

    def leg(side):
        return (f'{side}_lower_leg', f'{side}_upper_leg')

    if view == 'side':
        # A figure that faces right shows its right side.
        near, far = ('right', 'left') if facing > 0 else ('left', 'right')
        return (*arm(far), *leg(far), *leg(near), 'torso', 'head', *arm(near))
    if view == 'back':
        return (*arm('left'), *arm('right'), *leg('left'), *leg('right'), 'torso', 'head')
    return (*leg('left'), *leg('right'), 'torso', 'head', *arm('left'), *arm('right'))


def _draw_parts(rng, view: str, facing: int, lengths: dict, r: dict, resolution: float) -> dict[str, Sprite]:
    patch = int(0.6 * resolution) + 16  # sprites are smaller than this each way
    skin = _SKIN[rng.integers(len(_SKIN))] * rng.uniform(0.92, 1.04)
    hair = _HAIR[rng.integers(len(_HAIR))] if rng.random() < 0.8 else random_palette(rng, 1)[0]
    shoe = random_palette(rng, 1, value=(0.1, 0.9))[0]

    def cloth():
        palette = random_palette(rng, int(rng.integers(2, 4)), saturation=(0.2, 0.95), value=(0.2, 1.0))
        if rng.random() < 0.3:  # plain cloth: all of nearly one colour
            palette = palette[:1] * np.linspace(0.8, 1.05, 2)[:, None]
        cell = resolution * rng.uniform(0.03, 0.09)
        return random_texture(rng, patch, patch, cell, np.clip(palette, 0, 255)).astype(np.float32)

    shirt, trousers = cloth(), cloth()
    sleeves_long, legs_long = rng.random() < 0.5, rng.random() < 0.65
    bare = skin[None, None] * (0.9 + 0.1 * rng.random((patch, patch, 1), np.float32))
    arm_paint, leg_paint = (shirt if sleeves_long else bare), (trousers if legs_long else bare)
    shading = rng.uniform(0.25, 0.6)
    sprites = {}

    def limb(name, length, first, last, paint, extra=None):
        canvas = SpriteCanvas((-0.08, -0.12), (length + 0.1, 0.12), resolution)
        if extra is not None:
            extra(canvas)
        canvas.capsule((0, 0), first, (length, 0), last, paint)
        sprites[name] = canvas.finish(shading)

    for side, sign in (('left', 1), ('right', -1)):
        sign = -sign if view == 'back' else sign
        toe = (-0.075 * facing, 0.012) if view == 'side' else (-0.03 * sign, 0.03)

        def hand(canvas):
            length = lengths['lower_arm']
            canvas.capsule((length, 0), r['wrist'], (length + 0.02, 0), r['hand'], skin)

        def foot(canvas, toe=toe):
            length = lengths['lower_leg']
            canvas.capsule((length, 0), r['ankle'], (length + toe[1], toe[0]), 0.8 * r['ankle'], shoe)

        limb(f'{side}_upper_arm', lengths['upper_arm'], r['shoulder'], r['elbow'], shirt)
        limb(f'{side}_lower_arm', lengths['lower_arm'], r['elbow'], r['wrist'], arm_paint, hand)
        limb(f'{side}_upper_leg', lengths['upper_leg'], r['hip'], r['knee'], trousers)
        limb(f'{side}_lower_leg', lengths['lower_leg'], r['knee'], r['ankle'], leg_paint, foot)
    sprites['torso'] = _draw_torso(view, lengths, r, shirt, trousers, resolution, shading)
    sprites['head'] = _draw_head(rng, view, facing, lengths, r, skin, hair, resolution, shading)
    return sprites


def _draw_torso(view, lengths, r, shirt, trousers, resolution, shading) -> Sprite:
    length, waist = lengths['torso'], r['waist']
    canvas = SpriteCanvas((-0.12, -0.2), (length + 0.1, 0.2), resolution)
    if view == 'side':
        canvas.capsule((-0.01, 0), 0.75 * waist, (0.05, 0), 0.72 * waist, trousers)
        canvas.capsule((0.06, 0), 0.7 * waist, (length - 0.075, 0), 0.85 * waist, shirt)
        return canvas.finish(shading)
    hip, shoulder = waist - 0.2 * r['hip'], 1.25 * waist
    # Pelvis and chest, each the hull of a wide flat shape: two capsules and what lies between.
    canvas.capsule((0.0, -hip + 0.03), 0.05, (0.0, hip - 0.03), 0.05, trousers)
    chest = np.array(
        [
            [0.03, -hip * 0.98],
            [0.12, -waist * 0.86],
            [length - 0.03, -shoulder],
            [length, -0.45 * shoulder],
            [length + 0.012, 0],
            [length, 0.45 * shoulder],
            [length - 0.03, shoulder],
            [0.12, waist * 0.86],
            [0.03, hip * 0.98],
        ]
    )
    canvas.polygon(chest, shirt)
    return canvas.finish(shading)


def _draw_head(rng, view, facing, lengths, r, skin, hair, resolution, shading) -> Sprite:
    length, width = lengths['head'], r['head']
    half = 0.5 * (length - 0.035)
    centre = (length - half, 0.0)
    canvas = SpriteCanvas((-0.06, -0.14), (length + 0.06, 0.14), resolution)
    canvas.capsule((-0.03, 0), 0.028, (centre[0], 0), 0.028, skin * 0.92)
    long_hair = rng.random() < 0.35
    if long_hair:
        canvas.ellipse((centre[0] - 0.015, 0), (1.15 * half, 1.2 * width), hair * 0.9)
    canvas.ellipse(centre, (half, width), skin)
    if view == 'side':
        canvas.polygon(
            [
                (centre[0] - 0.006, facing * 0.8 * width),
                (centre[0] - 0.004, facing * 1.3 * width),
                (centre[0] + 0.02, facing * 0.8 * width),
            ],
            skin,
        )
    if view == 'back':
        canvas.ellipse(centre, (half * 1.04, width * 1.06), hair)
    else:
        # Hair lies above a line: across the forehead, or from the brow down to the neck in a side view.
        turns = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        rim = centre + np.stack([1.06 * half * np.cos(turns), 1.08 * width * np.sin(turns)], axis=1)
        slope = facing * rng.uniform(0.5, 0.9) * half / width if view == 'side' else 0.0
        above = rim[:, 0] > centre[0] + rng.uniform(0.15, 0.5) * half + slope * rim[:, 1]
        canvas.polygon(rim[above][np.argsort((turns[above] + np.pi) % (2 * np.pi))], hair)
        dark = np.array([30.0, 25, 25], np.float32)
        eyes = [facing * 0.55 * width] if view == 'side' else [-0.4 * width, 0.4 * width]
        for y in eyes:
            canvas.ellipse((centre[0] + 0.004, y), (0.011, 0.009), dark)
        mouth = facing * 0.6 * width if view == 'side' else 0.0
        canvas.ellipse((centre[0] - 0.55 * half, mouth), (0.007, 0.35 * width), skin * 0.55)
    return canvas.finish(0.7 * shading)


def random_figure(rng: np.random.Generator, height: float, supersample: int = 2) -> Figure:
    """Draw a figure: view, proportions, clothes.

    Args:
        rng: source of randomness.
        height: its height in image pixels when standing.
        supersample: sprite pixels per image pixel.

    Returns:
        The figure.
    """
    view = str(rng.choice(['front', 'side', 'back'], p=[0.45, 0.4, 0.15]))
    facing = int(rng.choice([-1, 1])) if view == 'side' else 1
    build = rng.uniform(0.85, 1.3)
    lengths = {k: v * rng.uniform(0.88, 1.12) for k, v in _LENGTHS.items()}
    radii = {k: v * build * rng.uniform(0.9, 1.1) for k, v in _RADII.items()}
    radii['waist'] *= 0.9
    resolution = height * supersample
    return Figure(
        view=view,
        facing=facing,
        bones=_skeleton(rng, view, lengths, radii),
        sprites=_draw_parts(rng, view, facing, lengths, radii, resolution),
        order=_drawing_order(view, facing),
    )
