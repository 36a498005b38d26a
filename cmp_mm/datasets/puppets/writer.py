"""Writing of one puppet clip: frames, flow, part masks, and the record that says it is all there."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cmp_mm.flow import FLOW_FORMATS, write_flow, write_whole

from ..preparation.errors import PrepareError
from ..preparation.store import dump_json, flow_names, flush_file_system, frame_name, is_whole, read_json
from .render import Clip, exact_flow, figure_boxes, part_mask, render_frame, visible_keypoints
from .scene import random_clip


@dataclass(frozen=True)
class ClipSettings:
    """What a clip's files depend on, its number apart. A folder holds clips of one such object only.

    Attributes:
        seed: seed of the set.
        frames: frames in a clip, at least 2.
        height: rows.
        width: columns.
        flow_format: 'jpg', 'flo', 'kitti' or 'npz'.
        flow_bound: pixels; the largest component the jpg pair holds.
        jpeg_quality: quality of the frames, 1 to 100.

    Raises:
        PrepareError: a value is out of its range.
    """

    seed: int
    frames: int
    height: int
    width: int
    flow_format: str
    flow_bound: float = 50.0
    jpeg_quality: int = 95

    def __post_init__(self) -> None:
        for name, low, high in (
            ('seed', 0, 2**63),
            ('frames', 2, 1_000_000),
            ('height', 32, 4096),
            ('width', 32, 4096),
            ('jpeg_quality', 1, 100),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise PrepareError(f'{name} is {value}; expected a whole number from {low} to {high}')
        if self.flow_format not in FLOW_FORMATS:
            raise PrepareError(
                f'flow format is {self.flow_format!r}; expected one of {", ".join(FLOW_FORMATS)}'
            )
        if not 0 < self.flow_bound < float('inf'):
            raise PrepareError(f'flow bound is {self.flow_bound}; expected a number of pixels above 0')

    def to_dict(self) -> dict[str, Any]:
        """Return what settings.json holds."""
        return {'source': 'puppets', **asdict(self)}


def clip_name(index: int) -> str:
    """Name of a clip's folders."""
    return f'puppets{index:05d}'


def record_path(out: Path, index: int) -> Path:
    """Where a clip's record lies; it appears when all files of the clip are there."""
    return out / 'records' / f'{clip_name(index)}.json'


def read_record(out: Path, index: int) -> dict[str, Any] | None:
    """The record of a clip that is complete, or None.

    Its files are looked at: one may have been taken away, or emptied by a power cut.
    """
    record = read_json(record_path(out, index))
    if record is None or not all(is_whole(out / name) for item in record['items'] for name in _files(item)):
        return None
    return record


def _files(item: dict) -> list[str]:
    flow = item['flow_path']
    flows = [flow] if isinstance(flow, str) else flow
    return [item['img_path'], item['img2_path'], item['part_mask_path'], *flows]


def write_clip(out: Path, index: int, settings: ClipSettings) -> dict[str, Any]:
    """Render a clip and write its files; its record is written last, so it vouches for all others.

    Args:
        out: the set's folder.
        index: number of the clip.
        settings: the rest.

    Returns:
        The record: ``items`` (one per pair of frames, as in the annotation), ``motion`` (mean and 95th
        percentile of the speed of each pair, pixels) and ``clipped`` (vectors of the clip with a component
        beyond the bound of jpg flow).

    Raises:
        OSError: a file cannot be written.
    """
    name, s = clip_name(index), settings
    folders = {kind: out / kind / name for kind in ('frames', 'flow', 'parts')}
    for folder in (*folders.values(), record_path(out, index).parent):
        folder.mkdir(parents=True, exist_ok=True)
    clip = random_clip(s.seed, index, s.frames, s.height, s.width)
    items, motion, clipped = [], [], 0
    for t in range(s.frames):
        frame = render_frame(clip, t)
        files = [(out / frame_name(name, t), _jpeg(frame.image, s.jpeg_quality))]
        if t + 1 < s.frames:
            files.append((folders['parts'] / f'{t:06d}.png', _png(part_mask(clip, frame.layers))))
            flow = exact_flow(clip, t, frame.layers)
            speed = np.hypot(flow[..., 0], flow[..., 1])
            motion.append([round(float(speed.mean()), 4), round(float(np.percentile(speed, 95)), 4)])
            if s.flow_format == 'jpg':
                clipped += int((np.abs(flow) > s.flow_bound).any(axis=2).sum())
            paths = flow_names(name, t, s.flow_format)
            write_flow(flow, [out / path for path in paths], s.flow_format, s.flow_bound)
            items.append(_item(clip, name, t, frame.layers, paths))
        write_whole(files)
    record = dict(items=items, motion=motion, clipped=clipped)
    flush_file_system(out)
    write_whole([(record_path(out, index), dump_json(record))], flush=True)
    return record


def _item(clip: Clip, name: str, t: int, layers: np.ndarray, flow_paths: list[str]) -> dict:
    keypoints = visible_keypoints(clip, t, layers)
    return dict(
        img_path=frame_name(name, t),
        img2_path=frame_name(name, t + 1),
        flow_path=flow_paths if len(flow_paths) > 1 else flow_paths[0],
        video=name,
        height=clip.height,
        width=clip.width,
        part_mask_path=f'parts/{name}/{t:06d}.png',
        # Figure after figure, from the back to the front: F x 14 points and F boxes.
        keypoints=[[round(x, 2), round(y, 2), int(seen)] for x, y, seen in keypoints.reshape(-1, 3).tolist()],
        boxes=figure_boxes(clip, layers),
    )


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    return cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _png(mask: np.ndarray) -> bytes:
    return cv2.imencode('.png', mask)[1].tobytes()
