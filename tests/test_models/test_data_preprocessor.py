import numpy as np
import pytest
import torch

from cmp_mm.guidance import sample_points
from cmp_mm.models import FlowDataPreprocessor
from cmp_mm.models.data_preprocessor import stack_flow
from cmp_mm.structures import FlowDataSample


def test_image_is_normalised_rgb(flow_batch):
    batch = flow_batch((8, 10))
    bgr = batch['inputs']['image'][0].numpy().astype(np.float64)
    out = FlowDataPreprocessor()(batch)['inputs']['image']
    for channel, (mean, std) in enumerate(
        zip((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), strict=True)
    ):
        np.testing.assert_allclose(out[0, channel], (bgr[2 - channel] - mean) / std, atol=1e-5)
    assert out.dtype == torch.float32
    rgb = FlowDataPreprocessor(bgr_to_rgb=False)(flow_batch((8, 10)))['inputs']['image']
    np.testing.assert_allclose(rgb[0, 0], (bgr[0] - 123.675) / 58.395, atol=1e-5)


def test_stacked_and_listed_images_are_the_same(flow_batch):
    listed, stacked = flow_batch((8, 8), (8, 8)), flow_batch((8, 8), (8, 8))
    stacked['inputs']['image'] = torch.stack(stacked['inputs']['image'])
    preprocess = FlowDataPreprocessor()
    assert torch.equal(preprocess(listed)['inputs']['image'], preprocess(stacked)['inputs']['image'])


def test_guidance_map_holds_the_vectors_at_their_points_and_zero_elsewhere():
    sample = FlowDataSample()
    sample.guidance_points = torch.tensor([[0, 0], [3, 9], [7, 2]])
    sample.guidance_vectors = torch.tensor([[1.5, -2.0], [0.0, 0.0], [-50.0, 50.0]])
    batch = dict(inputs=dict(image=[torch.zeros(3, 8, 10, dtype=torch.uint8)]), data_samples=[sample])
    guidance = FlowDataPreprocessor()(batch)['inputs']['guidance'][0]
    expected = torch.zeros(4, 8, 10)
    expected[:, 0, 0] = torch.tensor([1.5, -2, 1, 1])
    expected[:, 3, 9] = torch.tensor([0.0, 0, 1, 1])
    expected[:, 7, 2] = torch.tensor([-50.0, 50, 1, 1])
    assert torch.equal(guidance, expected)


def test_no_points_and_no_samples_are_an_empty_map():
    sample = FlowDataSample()
    sample.guidance_points = torch.zeros(0, 2, dtype=torch.int64)
    sample.guidance_vectors = torch.zeros(0, 2)
    image = torch.zeros(3, 8, 10, dtype=torch.uint8)
    for batch in (
        dict(inputs=dict(image=[image]), data_samples=[sample]),
        dict(inputs=dict(image=[image])),
    ):
        out = FlowDataPreprocessor()(batch)
        assert out['inputs']['guidance'].shape == (1, 4, 8, 10)
        assert not out['inputs']['guidance'].any()
        assert len(out['data_samples']) == 1


def test_mixed_sizes_are_padded_at_the_right_and_bottom(flow_batch):
    out = FlowDataPreprocessor()(flow_batch((8, 12), (10, 6)))
    image, guidance = out['inputs']['image'], out['inputs']['guidance']
    assert image.shape == (2, 3, 10, 12)
    assert guidance.shape == (2, 4, 10, 12)
    assert not image[0, :, 8:].any()
    assert not image[1, :, :, 6:].any()
    assert image[0, :, :8].all()
    assert [sample.img_shape for sample in out['data_samples']] == [(8, 12), (10, 6)]
    assert torch.equal(guidance[1, :, 5, 2], torch.tensor([3.0, -3, 1, 1]))


def test_stacked_flow_is_invalid_in_the_padding_and_where_the_sample_says_so(flow_batch):
    samples = flow_batch((8, 12), (10, 6))['data_samples']
    samples[0].gt_valid = torch.ones(8, 12, dtype=torch.bool)
    samples[0].gt_valid[2, 3] = False
    flow, valid = stack_flow(samples, (16, 16))
    assert flow.shape == (2, 2, 16, 16)
    expected = torch.zeros(2, 16, 16, dtype=torch.bool)
    expected[0, :8, :12] = True
    expected[0, 2, 3] = False
    expected[1, :10, :6] = True
    assert torch.equal(valid, expected)
    assert torch.equal(flow[1, :, :10, :6], samples[1].gt_flow)


def test_a_batch_that_is_valid_everywhere_needs_no_mask(flow_batch):
    assert stack_flow(flow_batch((8, 8), (8, 8))['data_samples'], (8, 8))[1] is None


def test_the_caller_s_samples_are_not_changed(flow_batch):
    batch = flow_batch((8, 8))
    before = set(batch['data_samples'][0].all_keys())
    FlowDataPreprocessor()(batch)
    assert set(batch['data_samples'][0].all_keys()) == before


def test_it_adds_nothing_to_checkpoints():
    assert not FlowDataPreprocessor().state_dict()


@pytest.mark.parametrize('point', [(8, 0), (0, 10), (-1, 0)])
def test_a_point_outside_its_image_is_refused(point):
    sample = FlowDataSample()
    sample.guidance_points = torch.tensor([point])
    sample.guidance_vectors = torch.zeros(1, 2)
    batch = dict(inputs=dict(image=[torch.zeros(3, 8, 10, dtype=torch.uint8)]), data_samples=[sample])
    with pytest.raises(ValueError, match=r'point \(row, column\) = .* lies outside the image of 8x10'):
        FlowDataPreprocessor()(batch)


def test_config_errors_are_one_sentence():
    with pytest.raises(ValueError, match='mean and std need 3 values'):
        FlowDataPreprocessor(mean=[0.5])
    sample = FlowDataSample()
    with pytest.raises(ValueError, match='a data sample has no gt_flow'):
        stack_flow([sample], (8, 8))


def moving_square(height, width, seed):
    sample = FlowDataSample(metainfo=dict(guidance_seed=seed))
    flow = np.zeros((height, width, 2), dtype=np.float32)
    flow[10:30, 12:36] = (3, -2)
    flow[20:, :9] = (-4, 1)
    sample.gt_flow = torch.from_numpy(flow).permute(2, 0, 1).contiguous()
    return sample, flow


def test_guidance_chosen_on_the_device_is_that_of_the_pipeline():
    guidance = dict(
        strategies=[dict(type='watershed', kernel_size=9), dict(type='grid', stride=16)], max_points=7
    )
    made = [moving_square(40, 48, 3), moving_square(40, 48, 4), moving_square(64, 56, 5)]
    unknown = torch.ones(40, 48, dtype=torch.bool)
    unknown[:, 24:] = False
    made[1][0].gt_valid = unknown
    batch = dict(
        inputs=dict(image=[torch.zeros(3, *f.shape[:2], dtype=torch.uint8) for _, f in made]),
        data_samples=[s for s, _ in made],
    )
    out = FlowDataPreprocessor(guidance=guidance)(batch)
    for index, (sample, (_, flow)) in enumerate(zip(out['data_samples'], made, strict=True)):
        valid = sample.gt_valid.numpy() if 'gt_valid' in sample else None
        expected = sample_points(flow, rng=np.random.default_rng(3 + index), valid=valid, **guidance)
        assert len(expected) == 7
        np.testing.assert_array_equal(sample.guidance_points, expected)
        np.testing.assert_array_equal(sample.guidance_vectors, flow[expected[:, 0], expected[:, 1]])
        assert out['inputs']['guidance'][index, 2].sum() == 7


def test_points_that_come_with_a_sample_are_kept_and_bad_strategies_refused():
    sample, _ = moving_square(40, 48, 0)
    sample.guidance_points, sample.guidance_vectors = torch.tensor([[5, 5]]), torch.zeros(1, 2)
    batch = dict(inputs=dict(image=[torch.zeros(3, 40, 48, dtype=torch.uint8)]), data_samples=[sample])
    out = FlowDataPreprocessor(guidance=dict(strategies=[dict(type='full')]))(batch)
    assert out['inputs']['guidance'][0, 2].sum() == 1
    with pytest.raises(ValueError, match='odd'):
        FlowDataPreprocessor(guidance=dict(strategies=[dict(type='watershed', kernel_size=8)]))
    for name in ('gradnms', 'single'):
        with pytest.raises(ValueError, match=f"'{name}' cannot be batched: sample it in the data pipeline"):
            FlowDataPreprocessor(guidance=dict(strategies=[dict(type=name)]))
    for strategies, message in (
        (dict(type='grid', stride=16), 'must be a non-empty list of dicts, got {'),
        (['watershed'], "must be a dict with a 'type', got 'watershed'"),
    ):
        with pytest.raises(ValueError, match=message):
            FlowDataPreprocessor(guidance=dict(strategies=strategies))
    for wrong in (dict(strategies=[dict(type='full')], max_point=5), dict(max_points=3), {}):
        with pytest.raises(ValueError, match='guidance must be a dict of strategies and max_points; got'):
            FlowDataPreprocessor(guidance=wrong)


def test_channels_last_is_a_layout_only(flow_batch):
    plain = FlowDataPreprocessor()(flow_batch((8, 12), (10, 6)))['inputs']
    laid_out = FlowDataPreprocessor(channels_last=True)(flow_batch((8, 12), (10, 6)))['inputs']
    for key in ('image', 'guidance'):
        assert laid_out[key].is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(laid_out[key], plain[key])


def test_images_of_one_size_and_of_several_are_normalised_alike(flow_batch):
    """One size goes through the arithmetic as one batch."""
    together = FlowDataPreprocessor()(flow_batch((8, 10), (8, 10)))['inputs']
    for number in (0, 1):
        batch = flow_batch((8, 10), (8, 10))
        other = torch.zeros(3, 9, 11, dtype=torch.uint8)
        batch['inputs']['image'] = [batch['inputs']['image'][number], other]
        batch['data_samples'] = [batch['data_samples'][number], FlowDataSample()]
        alone = FlowDataPreprocessor()(batch)['inputs']
        for key in ('image', 'guidance'):
            assert torch.equal(together[key][number], alone[key][0, :, :8, :10])


def test_guidance_on_the_device_has_no_limit_by_default():
    sample, _ = moving_square(40, 48, 0)
    batch = dict(inputs=dict(image=[torch.zeros(3, 40, 48, dtype=torch.uint8)]), data_samples=[sample])
    out = FlowDataPreprocessor(guidance=dict(strategies=[dict(type='grid', stride=16)]))(batch)
    assert out['inputs']['guidance'][0, 2].sum() == 9


def test_a_point_chosen_twice_is_one_point():
    sample = FlowDataSample(
        guidance_points=torch.tensor([[2, 3], [2, 3]]), guidance_vectors=torch.tensor([[5.0, -1], [5, -1]])
    )
    batch = dict(inputs=dict(image=[torch.zeros(3, 8, 10, dtype=torch.uint8)]), data_samples=[sample])
    assert FlowDataPreprocessor()(batch)['inputs']['guidance'][0, :, 2, 3].tolist() == [5, -1, 1, 1]
