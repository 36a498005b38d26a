import json
import random

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.fileio import BaseStorageBackend, register_backend
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from cmp_mm.datasets import ImageFlowDataset


def fingerprint(sample):
    data = sample['data_samples']
    return (
        sample['inputs']['image'].numpy().tobytes(),
        data.gt_flow.numpy().tobytes(),
        data.guidance_points.tolist(),
        data.sample_idx,
    )


@pytest.mark.parametrize('fmt', ['jpg', 'flo', 'kitti', 'npz'])
@pytest.mark.parametrize('as_list', [False, True])
def test_every_format_in_both_annotations(pair_set, pipeline, fmt, as_list):
    dataset = ImageFlowDataset(ann_file=str(pair_set(fmt=fmt, as_list=as_list)), pipeline=pipeline)
    sample = dataset[1]
    assert len(dataset) == 6
    assert sample['inputs']['image'].shape == (3, 32, 32) and sample['inputs']['image'].dtype == torch.uint8
    assert sample['data_samples'].gt_flow.shape == (2, 32, 32)
    assert sample['data_samples'].ori_shape == (48, 64) and sample['data_samples'].sample_idx == 1
    assert 0 < len(sample['data_samples'].guidance_points) <= 8
    # Vectors shrink with the image; jpg is lossy beside an edge.
    assert sample['data_samples'].gt_flow.abs().max() == pytest.approx(6 * 40 / 48, abs=0.6)


def test_samples_depend_on_seed_draw_and_index_alone(pair_set, pipeline):
    ann_file = str(pair_set())
    dataset = ImageFlowDataset(ann_file=ann_file, pipeline=pipeline, seed=3)
    expected = fingerprint(dataset[(2, 7)])
    np.random.seed(11)
    dataset[(4, 1)]
    assert fingerprint(dataset[(2, 7)]) == expected
    assert fingerprint(ImageFlowDataset(ann_file=ann_file, pipeline=pipeline, seed=3)[(2, 7)]) == expected
    assert fingerprint(dataset[2]) == fingerprint(dataset[(2, 0)]) == fingerprint(dataset[np.int64(2)])
    different = [fingerprint(dataset[(2, draw)])[1] for draw in range(8)]
    assert len(set(different)) > 4
    assert fingerprint(ImageFlowDataset(ann_file=ann_file, pipeline=pipeline, seed=4)[(2, 7)]) != expected


def test_global_random_numbers_are_left_as_they_were(pair_set, pipeline):
    def draw_all():
        return random.random(), np.random.random(), torch.rand(1).item()

    def seed_all():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    dataset = ImageFlowDataset(ann_file=str(pair_set()), pipeline=[lambda info: draw_all()])
    seed_all()
    expected = draw_all()
    seed_all()
    inside = dataset[(0, 5)]
    assert draw_all() == expected
    assert dataset[(0, 5)] == inside and dataset[(0, 6)] != inside
    assert len(set(inside)) == 3


def loader_config(ann_file, pipeline, num_workers, **dataset):
    return dict(
        dataset=dict(type='cmp_mm.ImageFlowDataset', ann_file=ann_file, pipeline=pipeline, **dataset),
        sampler=dict(type='cmp_mm.ResumableSampler', shuffle=True),
        batch_size=3,
        num_workers=num_workers,
    )


def batches(loader, number):
    found = []
    for _, batch in zip(range(number), loader, strict=False):
        images, samples = batch['inputs']['image'], batch['data_samples']
        found += [
            fingerprint(dict(inputs=dict(image=image), data_samples=sample))
            for image, sample in zip(images, samples, strict=True)
        ]
    return found


def test_workers_and_late_starts_give_equal_samples(pair_set, pipeline):
    ann_file = str(pair_set())
    loaders = {
        number: Runner.build_dataloader(loader_config(ann_file, pipeline, number), seed=2)
        for number in (0, 2)
    }
    alone = batches(loaders[0], 5)
    assert len(alone) == 15 and len(set(map(str, alone))) > 10
    assert batches(loaders[2], 5) == alone
    loaders[2].sampler.set_start(6)
    assert batches(loaders[2], 3) == alone[6:]


def test_bad_samples_do_not_change_that(pair_set, pipeline):
    ann_file = pair_set(number=9)
    (ann_file.parent / 'frames/004.jpg').unlink()
    (ann_file.parent / 'flow/007_x.jpg').write_bytes(b'no picture')
    found = []
    for workers in (0, 2):
        config = loader_config(str(ann_file), pipeline, workers, max_bad_share=0.5)
        found.append(batches(Runner.build_dataloader(config, seed=0), 9))
    assert found[0] == found[1]
    assert {index for *_, index in found[0]} == set(range(9)) - {4, 7}


def test_is_built_from_any_scope(pair_set, pipeline):
    with DefaultScope.overwrite_default_scope('mmengine'):
        config = dict(type='cmp_mm.ImageFlowDataset', ann_file=str(pair_set()), pipeline=pipeline)
        assert MMENGINE_DATASETS.build(config)[0]['data_samples'].gt_flow.shape == (2, 32, 32)


def test_mmengine_conveniences(pair_set, pipeline):
    ann_file = str(pair_set())
    dataset = ImageFlowDataset(ann_file=ann_file, pipeline=pipeline, metainfo=dict(note=1))
    assert dataset.metainfo['dataset_type'] == 'ImageFlowDataset' and dataset.metainfo['note'] == 1
    assert dataset.metainfo['flow_format'] == 'jpg'
    subset = dataset.get_subset([4, 1])
    assert len(subset) == 2 and subset[0]['data_samples'].img_path == dataset[4]['data_samples'].img_path
    assert len(dataset) == 6 and dataset.ledger.grace == 6 and subset.ledger.grace == 2
    dataset.get_subset_(2)
    assert len(dataset) == 2 and dataset[1]['data_samples'].sample_idx == 1
    lazy = ImageFlowDataset(
        ann_file=ann_file, pipeline=pipeline, lazy_init=True, indices=3, serialize_data=False
    )
    assert lazy[2]['data_samples'].sample_idx == 2 and len(lazy) == 3
    assert len(pseudo_collate([subset[0], subset[1]])['data_samples']) == 2


def test_index_out_of_range(pair_set):
    dataset = ImageFlowDataset(ann_file=str(pair_set()), pipeline=[])
    assert dataset[-1]['sample_idx'] == 5
    with pytest.raises(IndexError, match='sample 6 of a data set of 6'):
        dataset[6]
    with pytest.raises(IndexError):
        dataset[(-7, 0)]


def test_annotation_stays_small_in_memory(tmp_path):
    entries = [
        dict(img_path=f'frames/v/{i:06d}.jpg', flow_path=[f'flow/v/{i:06d}_{c}.jpg' for c in 'xy'], video='v')
        for i in range(1000)
    ]
    ann_file = tmp_path / 'train.json'
    ann_file.write_text(json.dumps(dict(metainfo={}, data_list=entries)))
    dataset = ImageFlowDataset(ann_file=str(ann_file))
    assert dataset.data_list == [] and dataset.data_bytes.nbytes < 300 * 1000


@register_backend('memory_of_a_test')
class MemoryBackend(BaseStorageBackend):
    files: dict = {}

    def get(self, filepath):
        return self.files.get(filepath)

    def get_text(self, filepath):
        return self.get(filepath).decode()


def test_any_file_backend(pair_set, pipeline):
    ann_file = pair_set()
    MemoryBackend.files = {
        f'store/{path.relative_to(ann_file.parent)}': path.read_bytes()
        for path in ann_file.parent.rglob('*.jpg')
    }
    expected = fingerprint(ImageFlowDataset(ann_file=str(ann_file), pipeline=pipeline)[3])
    dataset = ImageFlowDataset(
        ann_file=str(ann_file),
        data_root='store',
        backend_args=dict(backend='memory_of_a_test'),
        pipeline=pipeline,
    )
    assert fingerprint(dataset[3]) == expected
    MemoryBackend.files.pop('store/frames/003.jpg')
    assert dataset[3]['data_samples'].sample_idx != 3
    assert dataset.ledger.bad_indices == [3]


def test_loader_of_torch_without_mmengine(pair_set, pipeline):
    dataset = ImageFlowDataset(ann_file=str(pair_set()), pipeline=pipeline)
    loader = DataLoader(dataset, batch_size=2, collate_fn=pseudo_collate)
    assert sum(len(batch['data_samples']) for batch in loader) == 6


def test_workers_of_a_process_whose_opencv_ran_threads(pair_set, pipeline):
    """Changing the number of threads in such a worker can wait for ever for threads that were not forked."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        cv2.resize(np.zeros((1500, 1500, 3), np.uint8), (2500, 2500), interpolation=cv2.INTER_CUBIC)
        loader = Runner.build_dataloader(loader_config(str(pair_set()), pipeline, 1), seed=0)
        loader.timeout = 60
        assert len(batches(loader, 2)) == 6
        loader.dataset.pipeline = lambda info: dict(threads=cv2.getNumThreads())
        assert next(iter(loader))['threads'] == [1, 1, 1]
    finally:
        cv2.setNumThreads(before)
