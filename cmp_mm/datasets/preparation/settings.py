"""The options of a preparation, sorted by what they change."""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cmp_mm.flow import FLOW_FORMATS

from .errors import PrepareError

# Raised when the same settings no longer give the same files, so that old and new are never mixed.
LAYOUT_VERSION = 1


@dataclass(frozen=True)
class PairSettings:
    """Everything that decides which pairs a video gives and what their files hold.

    A folder holds pairs of one such object only.

    Attributes:
        short_side: pixels; longer short sides are scaled down to it, shorter ones stay as they are, for
            enlarging adds no detail and costs time and disk.
        fps: frames per second to sample, or None for every ``stride``-th frame.
        stride: sample every ``stride``-th frame; 1 with ``fps``.
        folder_fps: frames per second a folder of frames was taken at; needed where ``fps`` is used.
        estimator: name for `cmp_mm.flow.build_flow_estimator`.
        estimator_options: its options.
        flow_format: 'jpg', 'flo', 'kitti' or 'npz'.
        flow_bound: pixels, the bound of the jpg pair.
        cut_threshold: a pair is a scene cut where the second frame, warped back, differs from the first by
            more than this share of the frames' contrast (`filters.measure_pair`); 0 keeps all.
        min_motion: pixels; a pair is static where fewer than 1 % of its pixels move that far; 0 keeps all.
        quality: JPEG quality of the stored frames, 1 to 100.
    """

    short_side: int = 416
    fps: float | None = None
    stride: int = 1
    folder_fps: float | None = None
    estimator: str = 'dis'
    estimator_options: dict[str, Any] = field(default_factory=dict)
    flow_format: str = 'jpg'
    flow_bound: float = 50.0
    cut_threshold: float = 0.5
    min_motion: float = 1.0
    quality: int = 90

    def __post_init__(self) -> None:
        for name in ('fps', 'folder_fps', 'flow_bound', 'cut_threshold', 'min_motion'):
            if type(getattr(self, name)) is int:
                object.__setattr__(self, name, float(getattr(self, name)))
        _require(self.short_side >= 16, 'short side', self.short_side, 'at least 16 pixels')
        _require(self.stride >= 1, 'stride', self.stride, 'at least 1')
        for name in ('fps', 'folder_fps'):
            value = getattr(self, name)
            _require(value is None or _positive(value), name.replace('_', ' '), value, 'a number above 0')
        if self.fps is not None and self.stride != 1:
            raise PrepareError('fps and stride are two ways to choose frames; expected one of them')
        _require(self.flow_format in FLOW_FORMATS, 'flow format', self.flow_format, ', '.join(FLOW_FORMATS))
        _require(_positive(self.flow_bound), 'flow bound', self.flow_bound, 'a number of pixels above 0')
        for name in ('cut_threshold', 'min_motion'):
            value = getattr(self, name)
            _require(value == 0 or _positive(value), name.replace('_', ' '), value, '0 (off) or more')
        _require(1 <= self.quality <= 100, 'JPEG quality', self.quality, '1 to 100')

    @property
    def flow_root(self) -> str | None:
        """The folder of precomputed flow, where that is the estimator."""
        root = self.estimator_options.get('root') if self.estimator == 'precomputed' else None
        return root if isinstance(root, str) else None  # a wrong one is the estimator's to refuse

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, in a fixed order, with the version of the layout."""
        return {'layout_version': LAYOUT_VERSION, **asdict(self)}

    def digest(self) -> str:
        """Return a short name for these settings; equal settings have equal names."""
        values = self.to_dict()
        # 20 and 20.0 are equal, and may come from a command line and from Python.
        values['estimator_options'] = {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in self.estimator_options.items()
        }
        return digest_of(values)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'PairSettings':
        """Build settings from `to_dict`.

        Raises:
            PrepareError: a name is unknown or a value is out of range.
        """
        values = {name: value for name, value in values.items() if name != 'layout_version'}
        unknown = sorted(set(values) - {one.name for one in fields(cls)})
        if unknown:
            raise PrepareError(f'unknown setting {unknown[0]!r}')
        return cls(**values)


@dataclass(frozen=True)
class MergeSettings:
    """What is decided when the prepared videos become annotation files; may differ from merge to merge.

    Attributes:
        val_share: share of the groups that go to validation, 0 to 1.
        group_by: regular expression searched in a video's label (its path below SRC, without suffix); the
            videos for which its first group, or the whole match, is equal go to one side of the split. None:
            every video is its own group.
        reference_lists: also write the lists the reference implementation reads.
    """

    val_share: float = 0.1
    group_by: str | None = None
    reference_lists: bool = False

    def __post_init__(self) -> None:
        _require(0 <= self.val_share <= 1, 'validation share', self.val_share, '0 to 1')
        if self.group_by is not None:
            try:
                re.compile(self.group_by)
            except re.error as error:
                raise PrepareError(
                    f'group by {self.group_by!r} is not a regular expression: {error}'
                ) from None


def digest_of(values: dict[str, Any]) -> str:
    """Return a short name for settings as `PairSettings.to_dict` gives them, to the letter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _require(holds: bool, what: str, found: Any, expected: str) -> None:
    if not holds:
        raise PrepareError(f'{what} is {found!r}; expected {expected}')
