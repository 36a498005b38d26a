import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import FUNCTIONS
from torch.utils.data import DataLoader

from cmp_mm.datasets import collate_flow
from cmp_mm.models import FlowDataPreprocessor
from cmp_mm.models.data_preprocessor import stack_flow
from cmp_mm.structures import FlowBatch, FlowDataSample

STRATEGIES = [dict(type='watershed', kernel_size=15), dict(type='grid', stride=10)]


def packed(number, size=(24, 32), points=True, valid=False):
    generator = torch.Generator().manual_seed(number)
    sample = FlowDataSample(metainfo=dict(img_path=f'{number}.jpg', guidance_seed=7 + number))
    sample.gt_flow = torch.zeros(2, *size)
    sample.gt_flow[:, 5:15, 4:20] = torch.randn(2, 1, 1, generator=generator) * 9
    if valid:
        sample.gt_valid = torch.rand(size, generator=generator) > 0.3
    if points:
        sample.guidance_points = torch.randint(0, 24, (number, 2), generator=generator)
        sample.guidance_vectors = torch.randn(number, 2, generator=generator)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    return dict(inputs=dict(image=image), data_samples=sample)


@pytest.mark.parametrize('valid', [False, True])
@pytest.mark.parametrize('points', [True, False])
@pytest.mark.parametrize('size', [(24, 32), (32, 40)])
def test_network_and_loss_get_what_they_get_from_a_list(points, valid, size):
    samples = [packed(number, points=points, valid=valid) for number in range(4)]
    guidance = dict(strategies=STRATEGIES, max_points=9)
    preprocess = FlowDataPreprocessor(guidance=guidance, channels_last=True)
    whole, listed = (preprocess(collate(samples)) for collate in (collate_flow, pseudo_collate))
    assert isinstance(whole['data_samples'], FlowBatch) and isinstance(listed['data_samples'], list)
    assert whole['inputs']['guidance'][:, 2].sum() > 0
    for key, value in listed['inputs'].items():
        assert torch.equal(whole['inputs'][key], value)
        assert whole['inputs'][key].stride() == value.stride()
    found, wanted = (stack_flow(data['data_samples'], size) for data in (whole, listed))
    assert torch.equal(found[0], wanted[0])
    assert (found[1] is None) == (wanted[1] is None)
    assert found[1] is None or torch.equal(found[1], wanted[1])
    for one, other in zip(whole['data_samples'], listed['data_samples'], strict=True):
        assert one.img_shape == other.img_shape and torch.equal(one.guidance_points, other.guidance_points)


def test_images_of_several_sizes_stay_lists():
    batch = collate_flow([packed(1), packed(2, size=(30, 32))])
    assert isinstance(batch['data_samples'], list) and len(batch['inputs']['image']) == 2


def test_point_outside_the_image_is_named():
    samples = [packed(2), packed(3)]
    samples[1]['data_samples'].guidance_points[1] = torch.tensor([3, 32])
    with pytest.raises(ValueError, match=r'\(3, 32\) lies outside the image of 24x32'):
        FlowDataPreprocessor()(collate_flow(samples))


def test_a_config_names_it():
    assert FUNCTIONS.get('cmp_mm.collate_flow') is collate_flow


def test_from_a_data_worker():
    samples = [packed(number) for number in range(4)]
    (batch,) = DataLoader(samples, batch_size=4, num_workers=1, collate_fn=collate_flow)
    here = collate_flow(samples)
    assert batch['inputs']['image'].is_shared() and batch['data_samples'].gt_flow.is_shared()
    assert torch.equal(batch['inputs']['image'], here['inputs']['image'])
    assert torch.equal(batch['data_samples'].gt_flow, here['data_samples'].gt_flow)
    assert batch['data_samples'].counts == (0, 1, 2, 3)
