"""The metric against loops in plain Python, whatever the batches and processes."""

import math

import numpy as np
import pytest
import torch

from cmp_mm.evaluation import FlowMetric, correct_at_points, interpolate_guidance
from cmp_mm.evaluation import flow_metric as module

CODEC = dict(type='QuantizedFlowCodec', num_bins=21, max_flow=10.0)


def make_sample(seed, height, width, count=3, masked=True):
    g = torch.Generator().manual_seed(seed)
    target = torch.randn(2, height, width, generator=g) * 4
    sample = dict(
        gt_flow=target,
        pred_flow=target + torch.randn(2, height, width, generator=g) * (1 + seed % 3),
        guidance_points=torch.stack(
            [torch.randint(0, height, (count,), generator=g), torch.randint(0, width, (count,), generator=g)],
            dim=1,
        ),
    )
    rows, columns = sample['guidance_points'].T
    sample['guidance_vectors'] = target[:, rows, columns].T.contiguous()
    if masked:
        sample['gt_valid'] = torch.rand(height, width, generator=g) > 0.3
    return sample


def by_hand(pairs):
    """EPE, Fl and angle over all (u, v, target u, target v), one by one."""
    epe = fl = angle = 0.0
    for u, v, a, b in pairs:
        error = math.hypot(u - a, v - b)
        epe += error
        fl += 100.0 * (error > 3 and error > 0.05 * math.hypot(a, b))
        cosine = (u * a + v * b + 1) / math.sqrt((u * u + v * v + 1) * (a * a + b * b + 1))
        angle += math.degrees(math.acos(min(1.0, cosine)))
    return [total / len(pairs) for total in (epe, fl, angle)]


def valid_pixels(sample, flow):
    mask = sample.get('gt_valid', torch.ones(flow.shape[1:], dtype=torch.bool))
    return torch.cat([flow[:, mask], sample['gt_flow'][:, mask]]).T.double().tolist()


def evaluate(metric, samples):
    for sample in samples:
        metric.process(None, [sample])
    return metric.evaluate(len(samples))


def test_every_pixel_counts_the_same():
    samples = [make_sample(0, 6, 8), make_sample(1, 20, 30, count=5), make_sample(2, 9, 4, masked=False)]
    metrics = evaluate(FlowMetric(), samples)
    network = [pair for sample in samples for pair in valid_pixels(sample, sample['pred_flow'])]
    np.testing.assert_allclose(
        [metrics[f'cmp/{name}'] for name in ('epe', 'fl', 'angular')], by_hand(network), rtol=1e-5
    )
    for method in ('nearest', 'idw', 'zero'):
        pairs = []
        for sample in samples:
            points, vectors = sample['guidance_points'].numpy(), sample['guidance_vectors'].numpy()
            flow = interpolate_guidance(points, vectors, sample['gt_flow'].shape[1:], method)
            pairs += valid_pixels(sample, torch.from_numpy(flow).permute(2, 0, 1))
        expected = by_hand(pairs)
        np.testing.assert_allclose(
            [metrics[f'{method}/{name}'] for name in ('epe', 'fl', 'angular')], expected, rtol=1e-5
        )
    assert metrics['guidance_points'] == pytest.approx(11 / 3)
    # The mean of the images' means is another number: this test could fail.
    per_image = np.mean([by_hand(valid_pixels(sample, sample['pred_flow']))[0] for sample in samples])
    assert abs(per_image - metrics['cmp/epe']) > 1e-3


def test_perfect_prediction():
    sample = make_sample(3, 12, 12)
    sample['pred_flow'] = sample['gt_flow'].clone()
    metrics = evaluate(FlowMetric(codec=CODEC), [sample])
    assert metrics['cmp/epe'] == metrics['cmp/fl'] == 0
    assert metrics['cmp/angular'] == pytest.approx(0, abs=1e-6)
    assert metrics['cmp/bin_acc'] == 100


def test_known_figures():
    sample = dict(gt_flow=torch.zeros(2, 1, 4), pred_flow=torch.zeros(2, 1, 4))
    sample['gt_flow'][0] = torch.tensor([0.0, 100.0, 1.0, 0.0])
    sample['pred_flow'][0] = torch.tensor([4.0, 104.0, 0.0, 1.0])
    metrics = evaluate(FlowMetric(baselines=()), [sample])
    assert metrics['cmp/epe'] == pytest.approx((4 + 4 + 1 + 1) / 4)
    assert metrics['cmp/fl'] == 25  # 4 px on 100 px is within 5 %, 1 px within 3 px
    angles = [math.degrees(math.atan(4)), math.degrees(math.atan(104) - math.atan(100)), 45, 45]
    assert metrics['cmp/angular'] == pytest.approx(np.mean(angles), rel=1e-6)


def test_five_percent_are_of_the_truth():
    """5 px are over 5 % of 99 px, and not over 5 % of the 104 predicted."""
    sample = dict(gt_flow=torch.zeros(2, 1, 1), pred_flow=torch.zeros(2, 1, 1))
    sample['gt_flow'][0], sample['pred_flow'][0] = 99, 104
    assert evaluate(FlowMetric(baselines=()), [sample])['cmp/fl'] == 100
    sample['gt_flow'][0], sample['pred_flow'][0] = 104, 99
    assert evaluate(FlowMetric(baselines=()), [sample])['cmp/fl'] == 0


def test_bin_accuracy_counts_axes():
    sample = dict(gt_flow=torch.zeros(2, 2, 2), pred_flow=torch.zeros(2, 2, 2))
    bins = torch.full((2, 2, 2), 10)  # 0 px is the middle of 21 bins
    bins[0, 0, 0] = 11
    bins[1, 1, 1] = 9
    bins[0, 1, 1] = 9
    sample['pred_bins'] = bins.to(torch.int16)
    metrics = evaluate(FlowMetric(codec=CODEC), [sample])
    assert metrics['cmp/bin_acc'] == pytest.approx(100 * 5 / 8)
    assert metrics['zero/bin_acc'] == 100
    assert 'cmp/bin_acc' not in evaluate(FlowMetric(), [sample])


def test_interpolations_are_computed_once(monkeypatch):
    calls = []

    def counted(*args):
        calls.append(args[3])
        return interpolate_guidance(*args)

    monkeypatch.setattr(module, 'interpolate_guidance', counted)
    metric = FlowMetric()
    samples = [make_sample(seed, 8, 8) for seed in range(3)]
    first = evaluate(metric, samples)
    assert len(calls) == 9
    for sample in samples:
        sample['pred_flow'] = sample['pred_flow'] + 1
    second = evaluate(metric, samples)
    assert len(calls) == 9
    assert first['idw/epe'] == second['idw/epe'] and first['cmp/epe'] != second['cmp/epe']
    # Other guidance on the same image is another image.
    samples[0]['guidance_vectors'] = samples[0]['guidance_vectors'] + 1
    assert evaluate(metric, samples)['nearest/epe'] != second['nearest/epe']
    assert len(calls) == 12


def test_interpolations_of_other_sizes_are_others():
    values = torch.tensor([[0.0, 9, 0, 9, 5, 5, 0, 9]]).repeat(2, 1)
    points, vectors = torch.tensor([[0, 0], [0, 1]]), torch.tensor([[0.0, 0], [9, 9]])
    wide, high = (
        dict(pred_flow=flow, gt_flow=flow, guidance_points=points, guidance_vectors=vectors)
        for flow in (values.view(2, 2, 4), values.view(2, 4, 2))
    )
    alone = evaluate(FlowMetric(), [high])
    metric = FlowMetric()
    evaluate(metric, [wide])
    assert evaluate(metric, [high]) == alone


def test_invalid_pixels_do_not_count():
    sample = make_sample(4, 10, 10)
    metrics = evaluate(FlowMetric(), [sample])
    spoilt = {**sample, 'gt_flow': torch.where(sample['gt_valid'], sample['gt_flow'], torch.nan)}
    again = evaluate(FlowMetric(), [spoilt])
    assert again == metrics


def test_without_guidance():
    sample = make_sample(5, 6, 6, count=0)
    metrics = evaluate(FlowMetric(), [sample])
    assert metrics['nearest/epe'] == metrics['idw/epe'] == metrics['zero/epe']
    assert metrics['guidance_points'] == 0


def test_no_valid_pixel_is_not_a_number():
    sample = make_sample(6, 4, 4)
    sample['gt_valid'] = torch.zeros(4, 4, dtype=torch.bool)
    assert math.isnan(evaluate(FlowMetric(), [sample])['cmp/epe'])


def test_corrected_flow_is_measured_beside_the_networks_own():
    samples = [make_sample(8, 9, 12), make_sample(9, 7, 5, masked=False), make_sample(10, 6, 6, count=0)]
    metrics = evaluate(FlowMetric(codec=CODEC, corrected=True), samples)
    plain = evaluate(FlowMetric(codec=CODEC), samples)
    assert list(metrics)[:3] == ['cmp/epe', 'corrected/epe', 'nearest/epe']
    assert {key: value for key, value in metrics.items() if 'corrected' not in key} == plain
    for sample in samples:
        sample['pred_flow'] = torch.from_numpy(
            correct_at_points(
                sample['pred_flow'].permute(1, 2, 0).numpy(),
                sample['guidance_points'].numpy(),
                sample['guidance_vectors'].numpy(),
            )
        ).permute(2, 0, 1)
    by_hand = evaluate(FlowMetric(codec=CODEC), samples)
    for error in ('epe', 'fl', 'angular', 'bin_acc'):
        assert metrics[f'corrected/{error}'] == pytest.approx(by_hand[f'cmp/{error}'])
        assert metrics[f'corrected/{error}'] != metrics[f'cmp/{error}']


def test_one_line_tells_who_is_better(monkeypatch):
    lines = []
    monkeypatch.setattr(module, 'print_log', lambda line, **_: lines.append(line))
    metrics = evaluate(FlowMetric(), [make_sample(7, 8, 8)])
    assert list(metrics)[:4] == ['cmp/epe', 'nearest/epe', 'idw/epe', 'zero/epe']
    sentence = ' | '.join(
        f'{name} {metrics[f"{name}/epe"]:.3f}' for name in ('cmp', 'nearest', 'idw', 'zero')
    )
    assert lines == [sentence.replace(' |', ' px |', 1) + ' (EPE)']


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="'cubic'.*nearest"):
        FlowMetric(baselines=['cubic'])
    sample = make_sample(8, 6, 6)
    sample['pred_flow'] = sample['pred_flow'][:, :3]
    with pytest.raises(ValueError, match=r'\(2, 3, 6\).*\(2, 6, 6\)'):
        FlowMetric().process(None, [sample])


def test_outliers_are_over_three_pixels_and_over_five_percent():
    sample = dict(gt_flow=torch.zeros(2, 1, 5), pred_flow=torch.zeros(2, 1, 5))
    sample['gt_flow'][0] = torch.tensor([100.0, 100, 0, 0, 60])
    sample['pred_flow'][0] = torch.tensor([106.0, 104, 3, 3.1, 63])
    assert evaluate(FlowMetric(baselines=()), [sample])['cmp/fl'] == 40


def test_interpolations_of_another_target_or_mask_are_others():
    first, second = (make_sample(seed, 8, 8, count=0) for seed in (0, 1))
    third = {**first, 'gt_valid': ~first['gt_valid']}
    metric = FlowMetric()
    evaluate(metric, [first])
    for other in (second, third):
        assert evaluate(metric, [other]) == evaluate(FlowMetric(), [other])
