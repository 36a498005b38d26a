import importlib.util
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cmp_mm.models import ResNet

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='session')
def need() -> Callable[[str], None]:
    """Skips a test whose downstream package is not installed."""

    def check(module: str) -> None:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f'{module} is not installed')

    return check


def write_resnet18(path: Path, num_stages: int) -> Path:
    generator = torch.Generator().manual_seed(1)
    state = ResNet(18, num_stages=num_stages, out_indices=(0,)).state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            state[key] = 1 + 0.1 * noise if value.dim() == 1 and 'weight' in key else 0.05 * noise
            if key.endswith('running_var'):
                state[key] = 0.5 + noise.abs()
    torch.save(dict(state_dict={f'backbone.{key}': value for key, value in state.items()}), path)
    return path


@pytest.fixture(scope='session')
def resnet18_file(tmp_path_factory) -> Path:
    """A checkpoint of a ResNet-18 with recognisable weights: norms of 1 + .1 x, so none of them is zero."""
    return write_resnet18(tmp_path_factory.mktemp('exported') / 'resnet18.pth', 4)


@pytest.fixture(scope='session')
def three_stages_file(tmp_path_factory) -> Path:
    """The same without its fourth stage, as the quick pretraining config has it."""
    return write_resnet18(tmp_path_factory.mktemp('exported') / 'three_stages.pth', 3)


@pytest.fixture
def write_pairs() -> Callable[..., None]:
    """Writes images with label maps: the left half is one label, the right half another."""

    def write(images: Path, masks: Path, count: int, labels=(0, 1), size=(48, 64)) -> None:
        rng = np.random.default_rng(len(str(images.name)))
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        height, width = size
        for index in range(count):
            mask = np.full(size, labels[0], np.uint8)
            mask[:, width // 2 :] = labels[1]
            image = np.where(mask[..., None] == labels[0], 60, 190) + rng.integers(
                -20, 20, (height, width, 3)
            )
            cv2.imwrite(str(images / f'{index}.jpg'), image.astype(np.uint8))
            cv2.imwrite(str(masks / f'{index}.png'), mask)

    return write


@pytest.fixture
def write_coco() -> Callable[..., Path]:
    """Writes images with one person each, in COCO's format: box, polygon and 17 key-points."""

    def write(folder: Path, count: int = 4, size=(64, 64)) -> Path:
        import json

        rng = np.random.default_rng(0)
        (folder / 'images').mkdir(parents=True)
        images, annotations = [], []
        height, width = size
        for index in range(count):
            image = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
            x, y, w, h = 10 + index, 8, 32, 48
            image[y : y + h, x : x + w] += 120
            cv2.imwrite(str(folder / 'images' / f'{index}.jpg'), image)
            images.append(dict(id=index, file_name=f'{index}.jpg', height=height, width=width))
            points = [[x + 2 + point % 4 * 9, y + 2 + point // 4 * 10, 2] for point in range(17)]
            annotations.append(
                dict(
                    id=index + 1,
                    image_id=index,
                    category_id=1,
                    iscrowd=0,
                    bbox=[x, y, w, h],
                    area=w * h,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                    keypoints=[number for point in points for number in point],
                    num_keypoints=17,
                )
            )
        file = folder / 'annotations.json'
        categories = [dict(id=1, name='person')]
        file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
        return file

    return write
