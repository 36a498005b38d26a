import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmp_mm.flow import write_flow

SUFFIXES = dict(flo='.flo', kitti='.png', npz='.npz')


@pytest.fixture
def pair_set(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a small set of pairs and returns its annotation file."""

    def write(
        number: int = 6,
        size: tuple[int, int] = (48, 64),
        fmt: str = 'jpg',
        as_list: bool = False,
        name: str = 'set',
        list_prefix: str = '',
    ) -> Path:
        root = tmp_path / name
        (root / 'frames').mkdir(parents=True)
        (root / 'flow').mkdir()
        rng = np.random.default_rng(0)
        entries, lines = [], []
        for index in range(number):
            image = cv2.resize(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8), size[::-1])
            for frame in (index, index + 1):
                cv2.imwrite(str(root / f'frames/{frame:03d}.jpg'), image)
            flow = np.zeros((*size, 2), dtype=np.float32)
            flow[10:30, 10:30] = (4, -2)
            flow[20:40, 35:60] = (-3, 6)
            stem = f'flow/{index:03d}'
            flow_path = [f'{stem}_x.jpg', f'{stem}_y.jpg'] if fmt == 'jpg' else f'{stem}{SUFFIXES[fmt]}'
            write_flow(flow, [root / p for p in flow_path] if fmt == 'jpg' else root / flow_path)
            img_path, img2_path = f'frames/{index:03d}.jpg', f'frames/{index + 1:03d}.jpg'
            entries.append(
                dict(img_path=img_path, img2_path=img2_path, flow_path=flow_path, video=f'v{index // 3}')
            )
            columns = [img_path, img2_path, *(flow_path if fmt == 'jpg' else [flow_path])]
            lines.append(' '.join(list_prefix + column for column in columns))
        ann_file = root / ('train.txt' if as_list else 'train.json')
        metainfo = dict(dataset_type='ImageFlowDataset', flow_format=fmt, flow_bound=50.0)
        content = (
            '\n'.join(lines) + '\n' if as_list else json.dumps(dict(metainfo=metainfo, data_list=entries))
        )
        ann_file.write_text(content)
        return ann_file

    return write


@pytest.fixture
def pipeline() -> list[dict]:
    """A whole training pipeline at the size of `pair_set`'s images."""
    return [
        dict(type='LoadImage'),
        dict(type='LoadFlow'),
        dict(type='FlowResize', short_side=40),
        dict(type='FlowRandomCrop', size=(32, 32)),
        dict(
            type='SampleGuidance',
            strategies=[dict(type='watershed', kernel_size=9), dict(type='grid', stride=16)],
            max_points=8,
        ),
        dict(type='PackFlowInputs'),
    ]
