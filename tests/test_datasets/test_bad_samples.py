"""Replacing, counting and logging samples that cannot be used, and stopping where they are too many."""

import contextlib
import logging

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from torch.utils.data import DataLoader

from cmp_mm.datasets import BadSampleError, ImageFlowDataset, OutsideRootError, TooManyBadSamplesError
from cmp_mm.datasets.bad_samples import SampleLedger
from cmp_mm.flow import write_flow


class Recorder(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def log():
    recorder = Recorder()
    logger = MMLogger.get_current_instance()
    logger.addHandler(recorder)
    yield recorder.lines
    logger.removeHandler(recorder)


def break_frame(ann_file, number):
    (ann_file.parent / f'frames/{number:03d}.jpg').write_bytes(b'broken')


def test_replaced_deterministically_counted_and_logged_once(pair_set, pipeline, log):
    ann_file = pair_set(number=8)
    break_frame(ann_file, 2)
    dataset = ImageFlowDataset(ann_file=str(ann_file), pipeline=pipeline, max_bad_share=0.5)
    indices = [dataset[(2, draw)]['data_samples'].sample_idx for draw in range(20)]
    assert 2 not in indices and len(set(indices)) > 3  # spread, not always the neighbour
    again = ImageFlowDataset(ann_file=str(ann_file), pipeline=pipeline, max_bad_share=0.5)
    assert [again[(2, draw)]['data_samples'].sample_idx for draw in reversed(range(20))] == indices[::-1]
    assert dataset.ledger.num_bad == 1 and dataset.ledger.bad_indices == [2]
    assert len([line for line in log if 'Sample 2 is replaced' in line and '002.jpg' in line]) == 2


@pytest.mark.parametrize('workers', [0, 1])
def test_ranks_without_a_log_tell_on_stderr(pair_set, pipeline, log, monkeypatch, capfd, workers):
    ann_file = pair_set(number=4)
    break_frame(ann_file, 2)
    monkeypatch.setenv('RANK', '3')
    dataset = ImageFlowDataset(ann_file=str(ann_file), pipeline=pipeline, max_bad_share=0.5)
    list(DataLoader(dataset, num_workers=workers, collate_fn=pseudo_collate))
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith('rank 3: Sample 2 is replaced by another: ') and '002.jpg' in line
    assert not any('Sample 2' in line for line in log)


def test_mis_sized_flow_is_replaced(pair_set, pipeline, log):
    ann_file = pair_set(number=8)
    paths = [ann_file.parent / f'flow/005_{axis}.jpg' for axis in 'xy']
    write_flow(np.zeros((48, 63, 2), dtype=np.float32), paths)
    dataset = ImageFlowDataset(ann_file=str(ann_file), pipeline=pipeline, max_bad_share=0.5)
    assert dataset[5]['data_samples'].sample_idx != 5
    assert any('is 63 x 48 pixels; its image' in line for line in log)


def test_too_many_stop_with_their_files(pair_set, pipeline):
    ann_file = pair_set(number=20)
    for number in (3, 9, 15):
        break_frame(ann_file, number)
    dataset = ImageFlowDataset(ann_file=str(ann_file), pipeline=pipeline, max_bad_share=0.1)
    dataset[3], dataset[9]
    with pytest.raises(TooManyBadSamplesError, match='3 of the .* max_bad_share = 0.1') as caught:
        dataset[15]
    for number in (3, 9, 15):
        assert f'{ann_file.parent}/frames/{number:03d}.jpg' in str(caught.value)
        assert f'{ann_file.parent}/flow/{number:03d}_x.jpg' in str(caught.value)


def test_share_zero_stops_at_once_and_share_one_ends_too(pair_set, pipeline):
    ann_file = pair_set(number=3)
    for number in range(3):
        break_frame(ann_file, number)
    with pytest.raises(TooManyBadSamplesError, match='1 of the 1 samples'):
        ImageFlowDataset(ann_file=str(ann_file), pipeline=pipeline, max_bad_share=0)[0]
    dataset = ImageFlowDataset(ann_file=str(ann_file), pipeline=pipeline, max_bad_share=1, max_refetch=50)
    with pytest.raises(TooManyBadSamplesError, match='51 samples in a row were bad'):
        dataset[0]


@pytest.mark.parametrize('context', ['fork', 'spawn'])
def test_data_workers_count_together(pair_set, context):
    """Each of two workers meets half of the bad samples; only their sum is too many."""
    ann_file = pair_set(number=40)
    for number in range(8):
        break_frame(ann_file, number)
    pipeline = [dict(type='LoadImage'), dict(type='LoadFlow'), dict(type='PackFlowInputs')]
    dataset = ImageFlowDataset(ann_file=str(ann_file), pipeline=pipeline, max_bad_share=0.15, seed=3)
    loader = DataLoader(
        dataset,
        batch_size=4,
        num_workers=2,
        sampler=range(40),
        collate_fn=pseudo_collate,
        multiprocessing_context=context,
    )
    batches = iter(loader)
    with pytest.raises(TooManyBadSamplesError, match='max_bad_share = 0.15'):
        list(batches)
    # What the workers read ahead is taken first: a spawned one that ends while its queue still pickles a
    # tensor is aborted by the C++ runtime now and then ('terminate called without an active exception').
    with contextlib.suppress(StopIteration):
        while True:
            with contextlib.suppress(TooManyBadSamplesError):
                next(batches)
    batches._shutdown_workers()  # left to the garbage collector, torch waits five seconds for each
    assert dataset.ledger.num_bad >= 7  # the main process sees what its workers found


def test_small_ledger_rule():
    ledger = SampleLedger(10_000, 0.01)
    for index in range(10):
        assert ledger.mark_bad(index)
    assert not ledger.mark_bad(0) and not ledger.too_many()
    ledger.mark_bad(10)
    assert ledger.too_many()  # 11 of the first 1000
    for index in range(20, 2000):
        ledger.mark_good(index)
    assert not ledger.too_many()  # 11 of 1991
    ledger.mark_good(0)
    assert ledger.num_bad == 11 and ledger.num_seen == 1991
    assert SampleLedger(5, 0.01).grace == 5


def test_faults_of_the_program_are_not_hidden(pair_set):
    def broken_step(results):
        raise TypeError('a bug')

    with pytest.raises(TypeError, match='a bug'):
        ImageFlowDataset(ann_file=str(pair_set()), pipeline=[broken_step])[0]


def test_a_step_may_refuse_a_sample_by_returning_none(pair_set):
    dataset = ImageFlowDataset(
        ann_file=str(pair_set()),
        pipeline=[lambda info: info if info['sample_idx'] > 2 else None],
        max_bad_share=1,
    )
    assert dataset[0]['sample_idx'] > 2


def test_a_link_out_of_the_root_stops_everything(pair_set, pipeline, tmp_path):
    ann_file = pair_set()
    frame = ann_file.parent / 'frames/001.jpg'
    frame.rename(tmp_path / 'outside.jpg')
    frame.symlink_to(tmp_path / 'outside.jpg')
    with pytest.raises(OutsideRootError, match='001.jpg leads to .*outside.jpg, outside the data root'):
        ImageFlowDataset(ann_file=str(ann_file), pipeline=pipeline)[1]
    allowed = ImageFlowDataset(ann_file=str(ann_file), pipeline=pipeline, allow_outside=True)
    assert allowed[1]['data_samples'].sample_idx == 1


@pytest.mark.parametrize('error', [BadSampleError, TooManyBadSamplesError, OutsideRootError])
def test_errors_survive_the_way_out_of_a_worker(error):
    class Failing(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise error('what happened')

    batches = iter(DataLoader(Failing(), num_workers=1))
    with pytest.raises(error, match='what happened'):
        next(batches)
    batches._shutdown_workers()


def test_odd_content_gives_finite_samples(pair_set, pipeline):
    """NaN, infinite and still flow, a constant image, an image of one pixel."""
    ann_file = pair_set(fmt='flo')
    flow = np.full((48, 64, 2), np.nan, dtype=np.float32)
    flow_of = [ann_file.parent / f'flow/{number:03d}.flo' for number in range(4)]
    header = flow_of[0].read_bytes()[:12]
    flow_of[0].write_bytes(header + flow.tobytes())
    flow[:24] = np.inf
    flow[24:] = 3
    flow_of[1].write_bytes(header + flow.tobytes())
    write_flow(np.zeros((48, 64, 2), dtype=np.float32), flow_of[2])
    cv2.imwrite(str(ann_file.parent / 'frames/003.jpg'), np.full((1, 1, 3), 200, dtype=np.uint8))
    write_flow(np.full((1, 1, 2), 2, dtype=np.float32), flow_of[3])
    dataset = ImageFlowDataset(ann_file=str(ann_file), pipeline=pipeline, max_bad_share=0)
    samples = [dataset[index]['data_samples'] for index in range(4)]
    for sample in samples:
        assert sample.gt_flow.isfinite().all() and sample.guidance_vectors.isfinite().all()
    assert len(samples[0].guidance_points) == 0 and not samples[0].gt_valid.any()
    assert samples[1].gt_valid.any() and (samples[1].guidance_vectors > 0).all()
    assert (samples[2].guidance_vectors == 0).all()
    assert samples[3].ori_shape == (1, 1)


def test_by_default_one_in_a_hundred_may_be_bad(pair_set, pipeline):
    ann_file = pair_set()
    for number in (1, 4):
        break_frame(ann_file, number)
    dataset = ImageFlowDataset(ann_file=str(ann_file), pipeline=pipeline)
    with pytest.raises(TooManyBadSamplesError, match='max_bad_share = 0.01'):
        [dataset[index] for index in range(6)]
