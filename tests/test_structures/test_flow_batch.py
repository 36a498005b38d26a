import pickle

import pytest
import torch

from cmp_mm.structures import FlowBatch, FlowDataSample


def sample(number, points=2, valid=False, size=(6, 8)):
    generator = torch.Generator().manual_seed(number)
    made = FlowDataSample(metainfo=dict(img_path=f'{number}.jpg', guidance_seed=number))
    made.gt_flow = torch.randn(2, *size, generator=generator)
    if valid:
        made.gt_valid = torch.rand(size, generator=generator) > 0.5
    if points is not None:
        made.guidance_points = torch.randint(0, 6, (points, 2), generator=generator)
        made.guidance_vectors = torch.randn(points, 2, generator=generator)
    return made


def same(one, other):
    assert one.metainfo == other.metainfo and set(one.keys()) == set(other.keys())
    assert all(torch.equal(one.get(key), other.get(key)) for key in set(one.keys()))


@pytest.mark.parametrize('valid', [False, True])
@pytest.mark.parametrize('points', [[2, 0, 5], [0, 0, 0], None])
def test_samples_come_back_as_they_were(points, valid):
    samples = [sample(i, None if points is None else points[i], valid) for i in range(3)]
    batch = FlowBatch.stack(samples)
    assert len(batch) == 3 and batch.gt_flow.shape == (3, 2, 6, 8)
    assert (batch.counts is None) == (points is None) and (batch.gt_valid is None) == (not valid)
    for one, other in zip(batch, samples, strict=True):
        same(one, other)
    same(batch[-1], samples[-1])
    assert len(batch[1:]) == 2
    same(batch[1:][0], samples[1])
    for one, other in zip(pickle.loads(pickle.dumps(batch)).to('cpu'), samples, strict=True):
        same(one, other)
    with pytest.raises(IndexError):
        batch[3]


def test_samples_of_a_batch_are_views():
    batch = FlowBatch.stack([sample(0), sample(1)])
    assert batch[1].gt_flow.data_ptr() == batch.gt_flow[1].data_ptr()


@pytest.mark.parametrize(
    'other',
    [
        sample(1, size=(6, 9)),
        sample(1, points=None),
        sample(1, valid=True),
        FlowDataSample(gt_flow=torch.zeros(2, 6, 8), guidance_points=torch.zeros(0, 2).long()),
    ],
    ids=['size', 'no points', 'mask', 'points without vectors'],
)
def test_what_differs_is_not_put_together(other):
    assert FlowBatch.stack([sample(0), other]) is None


def test_what_it_has_no_field_for_is_not_lost():
    samples = [sample(0), sample(1)]
    for one in samples:
        one.pred_flow = torch.zeros(2, 6, 8)
    assert FlowBatch.stack(samples) is None
    alone = FlowDataSample(guidance_points=torch.zeros(1, 2).long())
    assert FlowBatch.stack([alone]) is None


def test_nothing_but_metainfo():
    batch = FlowBatch.stack([FlowDataSample(metainfo=dict(img_path='a'))] * 2)
    assert len(batch) == 2 and batch.gt_flow is None and batch[0].img_path == 'a'
