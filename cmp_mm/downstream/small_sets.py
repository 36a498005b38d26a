"""Small segmentation sets that a machine without accelerator can train on, for mmsegmentation.

CamVid and CCP are laid out as ``images/SPLIT/ID.jpg`` and ``masks/SPLIT/ID.png``, one 8-bit class index per
pixel; the classes of the others say how they are.
"""

import json
import os
from pathlib import Path
from typing import Any, ClassVar

from cmp_mm.datasets import AnnotationError
from cmp_mm.registry import DATASETS

from .checks import check_import, check_root, require_images

check_import('mmseg')  # says more than the import below would

from mmseg.datasets import BaseSegDataset  # noqa: E402

IGNORE = 255
MOST_OBJECTS = 20  # that a mask may number; each costs a comparison of the image


def _for_classes(dataset: BaseSegDataset, stored: dict[int, int]) -> dict[int, int]:
    """Labels of the stored indices where ``metainfo=dict(classes=...)`` asks for some of the classes only."""
    chosen = dataset.get_label_map(dataset.metainfo['classes'])
    return stored if chosen is None else {index: chosen[label] for index, label in stored.items()}


class SplitFolderDataset(BaseSegDataset):
    """``images/SPLIT`` and ``masks/SPLIT`` under a data root.

    Args:
        data_root: folder of the data set.
        split: name of the sub-folders.
        **kwargs: see mmseg's ``BaseSegDataset``.

    Raises:
        FileNotFoundError: there is no such folder; the message says what belongs in it.
        AnnotationError: there is no image of the suffix in it (jpg; ``img_suffix='.png'`` takes others).
    """

    METAINFO: ClassVar[dict] = {}

    def __init__(self, data_root: str, split: str = 'train', **kwargs: Any) -> None:
        check_root(type(self).__name__, data_root, split)
        prefix = dict(img_path=f'images/{split}', seg_map_path=f'masks/{split}')
        super().__init__(data_root=data_root, data_prefix=prefix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One entry per image."""
        found = super().load_data_list()
        require_images(type(self).__name__, found, self.data_prefix['img_path'], self.img_suffix)
        return found


@DATASETS.register_module()
class CamVidDataset(SplitFolderDataset):
    """CamVid in the 11 classes of SegNet; label 11 is ignored (Brostow et al., 2009)."""

    METAINFO: ClassVar[dict] = dict(
        classes=(
            'sky',
            'building',
            'pole',
            'road',
            'pavement',
            'tree',
            'sign',
            'fence',
            'car',
            'pedestrian',
            'bicyclist',
        ),
        palette=[
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [60, 40, 222],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    )

    @classmethod
    def get_label_map(cls, new_classes: Any = None) -> dict[int, int]:
        """Label of each stored index: unlabelled pixels are ignored."""
        return {**(super().get_label_map(new_classes) or {}), 11: IGNORE}


@DATASETS.register_module()
class CCPDataset(SplitFolderDataset):
    """Clothing Co-Parsing in 9 coarse classes, mapped by ``coarse_map.json`` (Yang et al., CVPR 2014).

    Raises:
        FileNotFoundError: ``coarse_map.json`` is missing.
        AnnotationError: it cannot be read, or does not map to the nine classes.
    """

    METAINFO: ClassVar[dict] = dict(
        classes=('background', 'skin', 'hair', 'upper', 'legwear', 'skirt', 'dress', 'shoes', 'accessory'),
        palette=[
            [0, 0, 0],
            [255, 190, 150],
            [120, 60, 20],
            [220, 20, 60],
            [0, 0, 200],
            [200, 0, 200],
            [255, 140, 0],
            [0, 150, 0],
            [0, 200, 200],
        ],
    )

    def full_init(self) -> None:
        """Read the label map, then the list of images."""
        if not self._fully_initialized:
            path = os.path.join(self.data_root, 'coarse_map.json')
            try:
                with open(path, encoding='utf-8') as file:
                    coarse = json.load(file)['map_59_to_coarse']
                known = bool(coarse) and set(coarse) <= set(range(len(self.METAINFO['classes'])))
            except FileNotFoundError:
                raise
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                raise AnnotationError(
                    f'{path}: expected {{"map_59_to_coarse": [...]}}; got {type(error).__name__}: {error}'
                ) from None
            if not known:
                raise AnnotationError(
                    f'{path}: expected map_59_to_coarse, a list of classes 0 to 8; got {coarse!r}'
                )
            self.label_map = _for_classes(self, dict(enumerate(coarse)))
            self._metainfo['label_map'] = self.label_map
        super().full_init()


@DATASETS.register_module()
class PuppetPartsDataset(BaseSegDataset):
    """Parts of rendered puppets, as ``tools/dataset_converters/render_puppets.py`` writes them.

    Left and right limbs share a class: seven parts of the body with the background, and the moving objects.

    Args:
        data_root: folder of the set.
        split: 'train' or 'val'.
        **kwargs: see mmseg's ``BaseSegDataset``; ``indices=20`` takes the first 20 images only.

    Raises:
        FileNotFoundError: there is no such folder or annotation.
        AnnotationError: the annotation names no part masks, or other parts.
    """

    METAINFO: ClassVar[dict] = dict(
        classes=('background', 'head', 'torso', 'upper_arm', 'lower_arm', 'upper_leg', 'lower_leg', 'object'),
        palette=[
            [0, 0, 0],
            [250, 190, 120],
            [230, 25, 75],
            [60, 180, 75],
            [170, 255, 195],
            [0, 130, 200],
            [70, 240, 240],
            [240, 50, 230],
        ],
    )

    def __init__(self, data_root: str, split: str = 'train', **kwargs: Any) -> None:
        check_root(type(self).__name__, data_root, split)
        super().__init__(data_root=data_root, ann_file=f'{split}.json', **kwargs)

    def load_data_list(self) -> list[dict]:
        """One entry per rendered pair: its first frame and the parts in it."""
        with open(self.ann_file, encoding='utf-8') as file:
            annotation = json.load(file)
        names = annotation.get('metainfo', {}).get('part_names', [])
        plain = [name.removeprefix('left_').removeprefix('right_') for name in names]
        if set(plain) != set(self.METAINFO['classes']):
            raise AnnotationError(
                f'{self.ann_file}: expected the part_names of render_puppets.py; got {names!r}'
            )
        stored = {index: self.METAINFO['classes'].index(name) for index, name in enumerate(plain)}
        self.label_map = _for_classes(self, stored)
        self._metainfo['label_map'] = self.label_map
        return [
            dict(
                img_path=os.path.join(self.data_root, item['img_path']),
                seg_map_path=os.path.join(self.data_root, item['part_mask_path']),
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
            )
            for item in annotation['data_list']
        ]


@DATASETS.register_module()
class ForegroundDataset(BaseSegDataset):
    """Object or background in frames of clips, split by clip so that no scene is in both parts.

    ``images/CLIP/FRAME.jpg`` and ``masks/CLIP/FRAME.png``, 0 for the background and 255 for objects, as
    DAVIS 2016 has them, or their numbers, up to 20, as DAVIS 2017. Of the clips in alphabetical order every
    third, from the second on, is for validation.

    Args:
        data_root: folder of ``images`` and ``masks``; clips without a folder of masks are left out.
        split: 'train' or 'val'.
        every: take every so-manieth frame of a clip; neighbours are nearly the same picture.
        **kwargs: see mmseg's ``BaseSegDataset``.

    Raises:
        FileNotFoundError: there is no such folder, or no folder of masks in it.
        AnnotationError: there are no masks for this split.
        ValueError: ``split`` is neither.
    """

    METAINFO: ClassVar[dict] = dict(classes=('background', 'object'), palette=[[0, 0, 0], [255, 80, 80]])

    def __init__(self, data_root: str, split: str = 'train', every: int = 4, **kwargs: Any) -> None:
        check_root(type(self).__name__, data_root, split)
        if split not in ('train', 'val'):
            raise ValueError(f"ForegroundDataset: split is {split!r}; expected 'train' or 'val'")
        self.split, self.every = split, every
        prefix = dict(img_path='images', seg_map_path='masks')
        super().__init__(data_root=data_root, data_prefix=prefix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One entry per chosen frame, clip after clip."""
        masks = Path(self.data_prefix['seg_map_path'])
        clips = sorted(folder.name for folder in masks.iterdir() if folder.is_dir()) if masks.is_dir() else []
        if not clips:
            raise FileNotFoundError(f'{masks}: expected a folder of masks for each clip; found none')
        stored = {0: 0, **dict.fromkeys((*range(1, MOST_OBJECTS + 1), 255), 1)}
        self.label_map = _for_classes(self, stored)
        self._metainfo['label_map'] = self.label_map
        wanted = [clip for n, clip in enumerate(clips) if (n % 3 == 1) == (self.split == 'val')]
        found = [
            dict(
                img_path=os.path.join(self.data_prefix['img_path'], clip, f'{mask.stem}.jpg'),
                seg_map_path=str(mask),
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
            )
            for clip in wanted
            for mask in sorted((masks / clip).glob('*.png'))[:: self.every]
        ]
        if not found:
            raise AnnotationError(
                f'{masks}: no masks for {self.split!r}, which needs 2 clips or more; the clips are '
                f'{", ".join(clips)}'
            )
        return found
