"""What describes a whole puppet set: annotations, summary, contact sheet, and lists for mmseg and mmpose."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from cmp_mm.flow import read_flow, write_whole
from cmp_mm.guidance import sample_points
from cmp_mm.visualization import draw_panel, put_below

from ..preparation.annotation import SPLITS, choose_val
from ..preparation.store import dump_json
from ..preparation.summary import spread
from .figure import KEYPOINT_NAMES, PART_NAMES
from .writer import ClipSettings, clip_name

# Colours of the part masks in pictures, RGB, in the order of PART_NAMES.
PART_COLOURS = np.array(
    [
        [0, 0, 0],
        [240, 220, 60],
        [60, 170, 75],
        [0, 130, 200],
        [245, 130, 48],
        [70, 240, 240],
        [250, 190, 150],
        [145, 30, 180],
        [230, 25, 75],
        [220, 150, 255],
        [250, 110, 130],
        [120, 120, 120],
    ],
    np.uint8,
)
_SHEET_ROWS = 6
_SHEET_GUIDANCE = [dict(type='watershed', kernel_size=15), dict(type='grid', stride=80)]


def write_set(out: Path, records: dict[int, dict], settings: ClipSettings, val_share: float) -> dict:
    """Write everything that is drawn from all clips' records.

    Files: ``train.json`` and ``val.json`` (annotation), ``summary.json``, ``contact_sheet.png``,
    ``keypoints_train.json`` and ``keypoints_val.json`` (COCO form, CrowdPose's 14 points),
    ``splits/train.txt`` and ``splits/val.txt`` (for mmsegmentation: pictures in ``frames``, part masks of
    the same names in ``parts``).

    Args:
        out: the set's folder.
        records: clip number -> record, as from ``write_clip``; all clips of the set.
        settings: what they were rendered with.
        val_share: share of the clips to validate on, chosen by their names (`choose_val`).

    Returns:
        The summary.
    """
    names = {number: clip_name(number) for number in records}
    val = choose_val(names.values(), val_share)
    (out / 'splits').mkdir(exist_ok=True)
    files, pairs, videos = [], {}, {}
    for split in SPLITS:
        chosen = [number for number, name in names.items() if (name in val) == (split == 'val')]
        items = [item for number in chosen for item in records[number]['items']]
        pairs[split], videos[split] = len(items), len(chosen)
        metainfo = dict(
            dataset_type='ImageFlowDataset',
            split=split,
            flow_format=settings.flow_format,
            flow_bound=settings.flow_bound,
            estimator='exact',
            part_names=PART_NAMES,
            keypoint_names=KEYPOINT_NAMES,
        )
        frames = [Path(item['img_path']).relative_to('frames').with_suffix('').as_posix() for item in items]
        files += [
            (out / f'{split}.json', dump_json(dict(metainfo=metainfo, data_list=items))),
            (out / f'keypoints_{split}.json', dump_json(coco_keypoints(items))),
            (out / 'splits' / f'{split}.txt', ''.join(f'{frame}\n' for frame in frames).encode()),
        ]
    motion = np.array([row for record in records.values() for row in record['motion']])
    summary = dict(
        settings=settings.to_dict(),
        val_share=val_share,
        videos=dict(total=len(records), **videos),
        pairs=dict(total=len(motion), **pairs),
        clipped_vectors=sum(record.get('clipped', 0) for record in records.values()),
        motion=dict(mean_px=spread(motion[:, 0]), p95_px=spread(motion[:, 1])),
    )
    sheet = cv2.imencode('.png', contact_sheet(out, records, settings)[..., ::-1])[1].tobytes()
    files += [(out / 'contact_sheet.png', sheet), (out / 'summary.json', dump_json(summary, indent=1))]
    write_whole(files)
    return summary


def coco_keypoints(items: Sequence[dict]) -> dict:
    """Annotation entries as a COCO key-point data set with one category, 'person'.

    Args:
        items: entries with ``img_path``, ``height``, ``width``, ``keypoints`` and ``boxes``.

    Returns:
        The COCO dictionary. A figure of which nothing is seen has no annotation.
    """
    images, annotations = [], []
    for number, item in enumerate(items):
        images.append(dict(id=number, file_name=item['img_path'], height=item['height'], width=item['width']))
        points = np.array(item['keypoints']).reshape(-1, len(KEYPOINT_NAMES), 3)
        for figure, box in zip(points, item['boxes'], strict=True):
            if box is None:
                continue
            known = figure * (figure[:, 2:] > 0)  # COCO: points outside the picture are all zero
            left, top, right, bottom = box
            annotations.append(
                dict(
                    id=len(annotations) + 1,  # to pycocotools a match with number 0 is none
                    image_id=number,
                    category_id=1,
                    iscrowd=0,
                    bbox=[left, top, right - left, bottom - top],
                    area=(right - left) * (bottom - top),
                    keypoints=known.reshape(-1).tolist(),
                    num_keypoints=int((figure[:, 2] > 0).sum()),
                )
            )
    category = dict(id=1, name='person', keypoints=list(KEYPOINT_NAMES), skeleton=[])
    return dict(images=images, annotations=annotations, categories=[category])


def contact_sheet(out: Path, records: dict[int, dict], settings: ClipSettings) -> np.ndarray:
    """Pictures of some clips: guidance on the frame, flow, part mask. (h, w, 3) uint8 RGB."""
    rows = []
    picked = np.unique(np.linspace(0, len(records) - 1, _SHEET_ROWS).round().astype(int))
    for number in picked:
        items = records[int(number)]['items']
        item = items[len(items) // 2]
        image = cv2.imread(str(out / item['img_path']), cv2.IMREAD_COLOR)[..., ::-1]
        paths = item['flow_path'] if isinstance(item['flow_path'], list) else [item['flow_path']]
        flow, valid = read_flow([out / path for path in paths], settings.flow_format, settings.flow_bound)
        rng = np.random.default_rng(int(number))
        points = sample_points(flow, _SHEET_GUIDANCE, -1, rng)
        vectors = flow[points[:, 0], points[:, 1]]
        parts = PART_COLOURS[cv2.imread(str(out / item['part_mask_path']), cv2.IMREAD_UNCHANGED)]
        pictures = {'exact flow': flow, 'parts': parts}
        rows.append(draw_panel(image, points, vectors, pictures, 10.0, valid, legend=not rows))
    return put_below(rows)
