"""Two small segmentation sets that a machine without accelerator can train on, for mmsegmentation.

Both are laid out as ``images/SPLIT/ID.jpg`` and ``masks/SPLIT/ID.png``, one 8-bit class index per pixel.
"""

import json
import os
from typing import Any, ClassVar

from mmseg.datasets import BaseSegDataset

from cmp_mm.registry import DATASETS

from .checks import check_root

IGNORE = 255


class SplitFolderDataset(BaseSegDataset):
    """``images/SPLIT`` and ``masks/SPLIT`` under a data root.

    Args:
        data_root: folder of the data set.
        split: name of the sub-folders.
        **kwargs: see mmseg's ``BaseSegDataset``.

    Raises:
        FileNotFoundError: there is no such folder; the message says what belongs in it.
    """

    METAINFO: ClassVar[dict] = {}

    def __init__(self, data_root: str, split: str = 'train', **kwargs: Any) -> None:
        check_root(type(self).__name__, data_root)
        prefix = dict(img_path=f'images/{split}', seg_map_path=f'masks/{split}')
        super().__init__(data_root=data_root, data_prefix=prefix, **kwargs)


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
        ValueError: it does not map to the nine classes.
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
            with open(path, encoding='utf-8') as file:
                coarse = json.load(file).get('map_59_to_coarse', [])
            if not coarse or not set(coarse) <= set(range(len(self.METAINFO['classes']))):
                raise ValueError(
                    f'{path}: expected map_59_to_coarse, a list of classes 0 to 8; got {coarse!r}'
                )
            self.label_map = dict(enumerate(coarse))
            self._metainfo['label_map'] = self.label_map
        super().full_init()
