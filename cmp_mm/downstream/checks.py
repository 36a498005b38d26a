"""What can be missing before a downstream training starts, each said in one line."""

import importlib
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmp_mm.compat import INSTALL_COMMANDS, installed_version, version_tuple
from cmp_mm.datasets import AnnotationError
from cmp_mm.engine.run_config import UsageError, datasets_of

# module: (distribution, first version, first version not taken)
PACKAGES = {
    'mmseg': ('mmsegmentation', '1.2', '2'),
    'mmpose': ('mmpose', '1.3', '2'),
    'mmdet': ('mmdet', '3.2', '4'),
}

# These stop at mmcv 2.2.0 when they are imported; mmpose takes it.
REFUSING_MMCV_2_2 = ('mmseg', 'mmdet')

# What a data root holds, by dataset class.
LAYOUTS = {
    'PascalVOCDataset': 'JPEGImages/*.jpg, SegmentationClass/*.png, SegmentationClassAug/*.png and '
    'ImageSets/Segmentation/{train,aug,val}.txt',
    'CityscapesDataset': 'leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and '
    'gtFine/{train,val}/CITY/*_gtFine_labelTrainIds.png',
    'ADE20KDataset': 'images/{training,validation}/*.jpg and annotations/{training,validation}/*.png',
    'LIPDataset': 'train_images/*.jpg, train_segmentations/*.png, val_images/*.jpg, val_segmentations/*.png',
    'CIHPDataset': 'Training/{Images/*.jpg,Category_ids/*.png} and Validation/{Images/*.jpg,'
    'Category_ids/*.png}',
    'CamVidDataset': 'images/{train,val}/*.jpg and masks/{train,val}/*.png',
    'CCPDataset': 'images/{train,val}/*.jpg, masks/{train,val}/*.png and coarse_map.json',
    'PuppetPartsDataset': '{train,val}.json, frames/CLIP/*.jpg and parts/CLIP/*.png, as '
    'tools/dataset_converters/render_puppets.py writes them',
    'ForegroundDataset': 'images/CLIP/*.jpg and masks/CLIP/*.png',
    'CocoDataset': 'annotations/*.json, train2017/*.jpg and val2017/*.jpg; for key-points also '
    'person_detection_results/COCO_val2017_detections_AP_H_56_person.json',
    'MpiiDataset': 'annotations/mpii_{train,val}.json, annotations/mpii_gt_val.mat and images/*.jpg',
}

# Of those, what is looked for where the config does not name it but a split.
SPLIT_PARTS = {
    'CamVidDataset': ('images/{split}', 'masks/{split}'),
    'CCPDataset': ('images/{split}', 'masks/{split}', 'coarse_map.json'),
    'PuppetPartsDataset': ('{split}.json',),
    'ForegroundDataset': ('images', 'masks'),
}


class PackageError(UsageError, ImportError):
    """A downstream package is missing or of a version that does not work; the message is one line."""


def check_package(module: str) -> None:
    """Check that a downstream package is installed in a version that works.

    Args:
        module: ``mmseg``, ``mmpose`` or ``mmdet``; anything else passes.

    Raises:
        PackageError: it is missing or of another version, or one that it needs is; with the command.
    """
    if module not in PACKAGES:
        return
    name, floor, ceiling = PACKAGES[module]
    command = INSTALL_COMMANDS[name]
    if importlib.util.find_spec(module) is None:
        raise PackageError(f'{name} is not installed: {command}')
    found = installed_version(name)
    if found and not version_tuple(floor) <= version_tuple(found) < version_tuple(ceiling):
        raise PackageError(f'{name} {found} is installed, expected >= {floor}, < {ceiling}: {command}')
    mmcv = installed_version('mmcv')
    if mmcv and version_tuple(mmcv) >= (2, 2) and module in REFUSING_MMCV_2_2:
        raise PackageError(
            f'{name} refuses mmcv >= 2.2.0, {mmcv} is installed: '
            "pip uninstall -y mmcv mmcv-lite && pip install 'mmcv-lite<2.2'"
        )
    if importlib.util.find_spec('pkg_resources') is None:
        raise PackageError(
            f'{name} and mmengine import pkg_resources, which setuptools dropped in version 82: '
            "pip install 'setuptools<82'"
        )


def check_import(module: str) -> None:
    """Check a downstream package and import it, so that what it needs and does not declare is one line too.

    Args:
        module: ``mmseg``, ``mmpose`` or ``mmdet``.

    Raises:
        PackageError: see :func:`check_package`, or it cannot be imported; with the reason and the command.
    """
    check_package(module)
    try:
        for part in ('models', 'datasets'):
            importlib.import_module(f'{module}.{part}')
    except (ImportError, AssertionError) as error:  # AssertionError: what they say of versions
        name = PACKAGES[module][0]
        reason = (str(error).splitlines() or [''])[0]
        raise PackageError(f'{name} cannot be imported ({reason}): {INSTALL_COMMANDS[name]}') from error


def check_data(cfg: Mapping[str, Any], splits: tuple[str, ...] = ('train', 'val')) -> None:
    """Check that the folders and annotation files named in a config exist.

    Args:
        cfg: config of a training, with ``train_dataloader`` and the like.
        splits: which of train, val and test to look at.

    Raises:
        FileNotFoundError: one is missing; with the layout expected in the data root.
    """
    for split, dataset in datasets_of(cfg, only_ours=False):
        if split not in splits:
            continue
        root, prefix = dataset.get('data_root'), dataset.get('data_prefix') or {}
        parts = [dataset.get('ann_file'), *prefix.values()]
        # mmpose's bbox_file and headbox_file are not relative to the root.
        parts += [
            os.path.abspath(value)
            for key, value in dataset.items()
            if key.endswith('_file') and key != 'ann_file' and isinstance(value, str) and value
        ]
        check_root(str(dataset.get('type', 'dataset')), root, dataset.get('split', split), parts)


def check_root(kind: str, root: str | None, split: str | None = 'train', parts: Iterable[Any] = ()) -> None:
    """Check that the folder of one data set exists, and what is named in it.

    Args:
        kind: its class, with or without scope.
        root: its ``data_root``; None and URLs pass.
        split: what it is used for, for the message; None where that is not known.
        parts: files and folders, relative to the root or absolute; what is no path passes.

    Raises:
        FileNotFoundError: one is missing, or an empty folder; with the layout expected in the root.
    """
    if not root or '://' in root:
        return
    kind = kind.rpartition('.')[2]
    named = [part for part in parts if isinstance(part, str) and part and '://' not in part]
    paths = [*named, *(part.format(split=split) for part in SPLIT_PARTS.get(kind, ()))]
    for path in (root, *(os.path.join(root, part) for part in paths)):
        if not os.path.exists(path):
            found = f'there is no {os.path.normpath(path)}'
        elif _is_empty_folder(path) and (path != root or not paths):  # of an empty root name a part
            found = f'{os.path.normpath(path)} is empty'
        else:
            continue
        whose = f'{split} data of {kind}' if split else f'data of {kind}'
        raise FileNotFoundError(
            f'{whose}: {found}; {_layout(kind, root, named)}put or link it there, or name '
            'another folder (tools/train.py --data-root DIR)'
        )


def require_images(kind: str, found: Sequence[Any], folder: str, suffix: str) -> None:
    """Stop where a data set has found none of its images, which mmseg would try to put together.

    Args:
        kind: class of the data set.
        found: its list of images.
        folder: where they were looked for.
        suffix: what their names end with.

    Raises:
        AnnotationError: there are none.
    """
    if not found:
        others = sorted({path.suffix for path in Path(folder).rglob('*') if path.is_file()})
        raise AnnotationError(
            f'data of {kind}: no image in {os.path.normpath(folder)} ends in {suffix}'
            + (f', there are files ending in {", ".join(others)}' if others else '')
        )


def _is_empty_folder(path: str) -> bool:
    if not os.path.isdir(path):
        return False
    with os.scandir(path) as entries:
        return next(entries, None) is None


def _layout(kind: str, root: str, parts: Sequence[str]) -> str:
    """What belongs in a root: by the class, or by the config where that keeps COCO's format elsewhere."""
    should = LAYOUTS.get(kind, '')
    if kind == 'CocoDataset' and parts and not parts[0].startswith('annotations/'):
        should = ' and '.join(parts)
    return f'{os.path.normpath(root)} should hold {should}; ' if should else ''


def check_config(cfg: Mapping[str, Any], splits: tuple[str, ...] = ('train', 'val')) -> None:
    """Check package and data of a downstream config; configs of cmp_mm itself pass.

    Raises:
        PackageError: see :func:`check_package` and :func:`check_import`.
        FileNotFoundError: see :func:`check_data`.
    """
    if cfg.get('default_scope') in PACKAGES:
        check_package(cfg['default_scope'])
        check_data(cfg, splits)
        check_import(cfg['default_scope'])
