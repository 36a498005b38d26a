"""Data sets for mmsegmentation: labels, palettes, and left and right in mirrored images."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from cmp_mm.datasets import AnnotationError

pytest.importorskip('mmseg')

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'downstream' / 'mmseg'
PARSING = {
    'lip': ('train_images', 'train_segmentations'),
    'cihp': ('Training/Images', 'Training/Category_ids'),
}


def train_set(name: str, data_root: Path):
    config = next(path for path in sorted(CONFIGS.glob(f'cmp_fcn_*_{name}-*.py')))
    cfg = Config.fromfile(config)
    dataset = cfg.train_dataloader.dataset
    dataset.data_root = str(data_root)
    for step in dataset.pipeline:
        if step.type == 'RandomFlip':
            step.prob = 1.0
    dataset.pipeline = [
        step
        for step in dataset.pipeline
        if step.type in ('LoadImageFromFile', 'LoadAnnotations', 'RandomFlip')
    ]
    with DefaultScope.overwrite_default_scope('mmseg'):
        return DATASETS.build(dataset)


@pytest.mark.parametrize('name', ['lip', 'cihp'])
def test_left_and_right_change_places(tmp_path, write_pairs, name):
    images, masks = (tmp_path / folder for folder in PARSING[name])
    classes = None
    for left, right in ((14, 15), (16, 17), (18, 19)):
        for folder in (images, masks):
            for file in folder.glob('*') if folder.exists() else ():
                file.unlink()
            if folder.exists():
                folder.rmdir()
        write_pairs(images, masks, 1, labels=(left, right))
        dataset = train_set(name, tmp_path)
        classes = dataset.metainfo['classes']
        assert classes[left].startswith('Left') and classes[right].startswith('Right')
        assert classes[left][5:] == classes[right][6:]
        assert (left, right) in dataset.metainfo['flip_pairs']
        mirrored = dataset[0]['gt_seg_map']
        # The left limb was on the left; mirrored it is on the right, where the right limb now has its label.
        assert (mirrored[:, : mirrored.shape[1] // 2] == left).all()
        assert (mirrored[:, mirrored.shape[1] // 2 :] == right).all()
    assert len(classes) == len(set(classes)) == 20
    assert (
        len(dataset.metainfo['palette'])
        == len({tuple(colour) for colour in dataset.metainfo['palette']})
        == 20
    )


def test_lip_and_cihp_differ_in_one_label():
    from cmp_mm.downstream.parsing import CIHPDataset, LIPDataset

    lip, cihp = (cls.METAINFO['classes'] for cls in (LIPDataset, CIHPDataset))
    assert [(a, b) for a, b in zip(lip, cihp, strict=True) if a != b] == [('Jumpsuits', 'Torso-skin')]


@pytest.mark.parametrize('name', ['lip', 'cihp', 'camvid', 'ccp'])
def test_missing_folder_is_one_line(tmp_path, name):
    with pytest.raises(FileNotFoundError) as error:
        train_set(name, tmp_path / 'nowhere')
    assert '\n' not in str(error.value) and '*.png' in str(error.value)
    assert str(tmp_path / 'nowhere') in str(error.value)


def test_camvid_ignores_unlabelled(tmp_path, write_pairs):
    write_pairs(tmp_path / 'images/train', tmp_path / 'masks/train', 2, labels=(3, 11))
    dataset = train_set('camvid', tmp_path)
    assert len(dataset) == 2
    assert set(np.unique(dataset[0]['gt_seg_map'])) == {3, 255}


def test_ccp_maps_to_coarse_classes(tmp_path, write_pairs):
    write_pairs(tmp_path / 'images/train', tmp_path / 'masks/train', 2, labels=(5, 58))
    coarse = [0] * 59
    coarse[5], coarse[58] = 3, 8
    (tmp_path / 'coarse_map.json').write_text(json.dumps(dict(map_59_to_coarse=coarse)))
    assert set(np.unique(train_set('ccp', tmp_path)[0]['gt_seg_map'])) == {3, 8}
    (tmp_path / 'coarse_map.json').write_text(json.dumps(dict(map_59_to_coarse=[0, 9])))
    with pytest.raises(ValueError, match='classes 0 to 8'):
        train_set('ccp', tmp_path)


@pytest.mark.parametrize('text', ['{"map_59', '[0, 1]', '{}', '{"map_59_to_coarse": 3}', '\ud800'])
def test_ccp_says_what_is_wrong_with_its_map(tmp_path, write_pairs, text):
    write_pairs(tmp_path / 'images/train', tmp_path / 'masks/train', 2)
    (tmp_path / 'coarse_map.json').write_bytes(text.encode('utf-8', 'surrogatepass'))
    with pytest.raises(ValueError, match=r'coarse_map\.json: expected .*map_59_to_coarse'):
        train_set('ccp', tmp_path)


def test_images_are_what_was_written(tmp_path, write_pairs):
    write_pairs(tmp_path / 'images/train', tmp_path / 'masks/train', 1)
    image = train_set('camvid', tmp_path)[0]['img']
    np.testing.assert_array_equal(image, cv2.imread(str(tmp_path / 'images/train/0.jpg'))[:, ::-1])


def test_puppet_parts_join_left_and_right(tmp_path):
    from cmp_mm.datasets.puppets.figure import PART_NAMES

    stripes = np.repeat(np.arange(len(PART_NAMES), dtype=np.uint8)[None], 8, axis=0)
    cv2.imwrite(str(tmp_path / 'parts.png'), stripes)
    cv2.imwrite(str(tmp_path / 'frame.png'), np.zeros((*stripes.shape, 3), np.uint8))
    item = dict(img_path='frame.png', part_mask_path='parts.png')
    annotation = dict(metainfo=dict(part_names=PART_NAMES), data_list=[item, item, item])
    (tmp_path / 'train.json').write_text(json.dumps(annotation))
    dataset = train_set('puppets', tmp_path)
    assert len(dataset) == 3
    labels = np.unique(dataset[0]['gt_seg_map'], axis=0)[0][::-1]  # it comes mirrored
    names = [dataset.metainfo['classes'][label] for label in labels]
    assert names == [name.removeprefix('left_').removeprefix('right_') for name in PART_NAMES]
    annotation['metainfo']['part_names'] = PART_NAMES[:-1]
    (tmp_path / 'train.json').write_text(json.dumps(annotation))
    with pytest.raises(ValueError, match='part_names of render_puppets'):
        train_set('puppets', tmp_path)


def test_foreground_is_split_by_clip(tmp_path, write_pairs):
    from cmp_mm.downstream.small_sets import ForegroundDataset

    for clip in 'abcde':
        write_pairs(tmp_path / 'images' / clip, tmp_path / 'masks' / clip, 5, labels=(0, 255))
    (tmp_path / 'images' / 'f').mkdir()  # without masks
    assert set(np.unique(train_set('foreground', tmp_path)[0]['gt_seg_map'])) == {0, 1}

    def clips(**options) -> list[str]:
        dataset = ForegroundDataset(data_root=str(tmp_path), pipeline=[], **options)
        return [Path(dataset.get_data_info(index)['img_path']).parent.name for index in range(len(dataset))]

    assert clips(split='train', every=5) == ['a', 'c', 'd']
    assert clips(split='val', every=5) == ['b', 'e']
    assert clips(split='val', every=2) == ['b'] * 3 + ['e'] * 3
    assert clips(split='train', every=2, indices=4) == ['a'] * 3 + ['c']
    with pytest.raises(ValueError, match="'train' or 'val'"):
        clips(split='test')


def built(kind, root, **options):
    module = pytest.importorskip('cmp_mm.downstream.small_sets')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    with DefaultScope.overwrite_default_scope('mmseg'):
        return getattr(module, kind)(data_root=str(root), pipeline=pipeline, **options)


def test_images_of_another_kind_are_named(tmp_path):
    for folder in ('images', 'masks'):
        (tmp_path / folder / 'train').mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / 'train' / '0.png'), np.zeros((8, 8), np.uint8))
    with pytest.raises(AnnotationError, match=r'images/train ends in \.jpg, there are files ending in \.png'):
        built('CamVidDataset', tmp_path)
    assert len(built('CamVidDataset', tmp_path, img_suffix='.png')) == 1


def test_one_clip_has_nothing_to_validate_on(tmp_path, write_pairs):
    write_pairs(tmp_path / 'images' / 'only', tmp_path / 'masks' / 'only', 3, labels=(0, 255))
    assert len(built('ForegroundDataset', tmp_path, every=1)) == 3
    with pytest.raises(AnnotationError, match=r"no masks for 'val', which needs 2 clips or more.*only"):
        built('ForegroundDataset', tmp_path, split='val')


def test_numbered_objects_are_objects(tmp_path, write_pairs):
    for clip, labels in (('a', (0, 255)), ('b', (1, 2)), ('c', (0, 20))):
        write_pairs(tmp_path / 'images' / clip, tmp_path / 'masks' / clip, 1, labels=labels)
    dataset = built('ForegroundDataset', tmp_path)
    assert [sorted(set(item['gt_seg_map'].flat)) for item in dataset] == [[0, 1], [0, 1]]
    (item,) = built('ForegroundDataset', tmp_path, split='val')
    assert set(item['gt_seg_map'].flat) == {1}


def test_some_of_the_classes(tmp_path, write_pairs):
    """Others are ignored, as in mmsegmentation's own sets."""
    write_pairs(tmp_path / 'images' / 'train', tmp_path / 'masks' / 'train', 1, labels=(4, 7))
    coarse = [0] * 59
    coarse[4], coarse[7] = 2, 5
    (tmp_path / 'coarse_map.json').write_text(json.dumps(dict(map_59_to_coarse=coarse)))
    (item,) = built('CCPDataset', tmp_path)
    assert set(item['gt_seg_map'].flat) == {2, 5}
    (item,) = built('CCPDataset', tmp_path, metainfo=dict(classes=('hair', 'background')))
    assert set(item['gt_seg_map'].flat) == {0, 255}
