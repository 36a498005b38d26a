import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cmp_mm.models import QuantizedFlowCodec
from cmp_mm.registry import TASK_UTILS

GOLDEN = sorted((Path(__file__).parents[1] / 'data' / 'loss').glob('loss_*.npz'))


def test_the_golden_files_are_there():
    assert len(GOLDEN) == 3


@pytest.mark.parametrize('path', GOLDEN, ids=lambda path: path.stem)
def test_golden_bins_and_expected_flow(path):
    golden = np.load(path)
    codec = QuantizedFlowCodec(int(golden['nbins']), float(golden['fmax']))
    np.testing.assert_array_equal(codec.encode(torch.from_numpy(golden['target'])).numpy(), golden['bins'])
    flow = codec.decode(torch.from_numpy(golden['logits'])).numpy()
    np.testing.assert_allclose(flow, golden['expected_flow'], rtol=0, atol=2e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_flow_stays_in_the_outer_bins_in_every_dtype(dtype):
    flow = (
        torch.tensor([-1e4, -50, -49.999, 0, 49.999, 50, 1e4]).to(dtype).view(1, 1, 1, -1).repeat(1, 2, 1, 1)
    )
    bins = QuantizedFlowCodec().encode(flow)
    assert bins.dtype == torch.int64
    assert bins[0, 0, 0].tolist() == [0, 0, 0, 49, 98, 98, 98]


def test_not_a_number_and_infinity_give_bins_that_exist():
    flow = torch.tensor([float('nan'), float('inf'), -float('inf')]).view(1, 1, 1, 3).repeat(1, 2, 1, 1)
    assert QuantizedFlowCodec().encode(flow)[0, 0, 0].tolist() == [0, 98, 0]


@pytest.mark.parametrize(('num_bins', 'max_flow'), [(99, 50.0), (21, 10.0), (3, 0.5), (99, 0.001)])
def test_decoding_certain_logits_returns_the_flow_to_half_a_bin(num_bins, max_flow):
    codec = QuantizedFlowCodec(num_bins, max_flow)
    flow = torch.linspace(-max_flow, max_flow, 101).view(1, 1, 1, -1).repeat(1, 2, 1, 1)
    flow[:, 1] *= -1
    one_hot = torch.nn.functional.one_hot(codec.encode(flow), num_bins).permute(0, 1, 4, 2, 3).flatten(1, 2)
    logits = 100.0 * one_hot
    assert (codec.decode(logits) - flow).abs().max() <= codec.step / 2 * (1 + 1e-4)
    assert torch.equal(codec.most_likely(logits), codec.encode(flow))
    # Each centre lies in its own bin, and the middle one is zero.
    centers = codec.centers()
    assert codec.encode(centers.view(1, 1, 1, -1).repeat(1, 2, 1, 1))[0, 0, 0].tolist() == list(
        range(num_bins)
    )
    assert centers[num_bins // 2].abs() < 1e-6 * max_flow


def test_decoded_flow_never_leaves_the_outer_centres():
    logits = 1e4 * torch.randn(1, 198, 8, 8, dtype=torch.float64).half()
    assert QuantizedFlowCodec().decode(logits).abs().max() <= 50 - 50 / 99 + 1e-4


def test_decoding_is_float32_for_half_precision_logits():
    logits = torch.randn(1, 198, 4, 4).bfloat16()
    flow = QuantizedFlowCodec().decode(logits)
    assert flow.dtype == torch.float32
    assert torch.equal(flow, QuantizedFlowCodec().decode(logits.float()))


def test_decoding_is_the_expectation_image_by_image():
    codec, logits = QuantizedFlowCodec(21, 10.0), 5 * torch.randn(3, 42, 5, 7)
    probability = logits.double().view(3, 2, 21, 5, 7).softmax(2)
    expected = (probability * codec.centers().double().view(1, 1, 21, 1, 1)).sum(2)
    torch.testing.assert_close(codec.decode(logits).double(), expected, rtol=0, atol=1e-5)
    assert codec.decode(logits[:0]).shape == (0, 2, 5, 7)


def test_decoding_is_float32_under_autocast():
    logits = 5 * torch.randn(2, 198, 4, 4)
    with torch.autocast('cpu', torch.bfloat16):
        flow = QuantizedFlowCodec().decode(logits)
    assert flow.dtype == torch.float32
    assert torch.equal(flow, QuantizedFlowCodec().decode(logits))


@pytest.mark.parametrize('num_bins', [98, 1, 0, -3, 99.0, True])
def test_bins_that_have_no_middle_are_refused(num_bins):
    with pytest.raises(ValueError, match=r'num_bins must be an odd integer .* got'):
        QuantizedFlowCodec(num_bins)


@pytest.mark.parametrize('max_flow', [0, -1.0, float('nan'), float('inf')])
def test_a_range_that_is_no_range_is_refused(max_flow):
    with pytest.raises(ValueError, match='max_flow must be a positive, finite number'):
        QuantizedFlowCodec(99, max_flow)


def test_logits_of_another_width_are_refused():
    with pytest.raises(ValueError, match='logits have 42 channels, expected 198'):
        QuantizedFlowCodec().decode(torch.zeros(1, 42, 2, 2))


def test_it_builds_by_name():
    codec = TASK_UTILS.build(dict(type='QuantizedFlowCodec', num_bins=21, max_flow=10))
    assert (codec.channels, codec.max_flow) == (42, 10.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize(('num_bins', 'max_flow'), [(99, 50.0), (61, 15.0)])
def test_bins_are_the_same_on_a_gpu_at_every_edge(num_bins, max_flow):
    """Values of jpg flow lie on edges, and division on a GPU is not always division."""
    codec = QuantizedFlowCodec(num_bins, max_flow)
    jpg = torch.arange(256, dtype=torch.float32) / 255 * (2 * max_flow) - max_flow
    edges = torch.arange(num_bins + 1, dtype=torch.float32) * codec.step - max_flow
    away = torch.tensor(math.inf)
    flow = torch.cat([jpg, edges, torch.nextafter(edges, away), torch.nextafter(edges, -away)])
    flow = flow.view(1, 1, 1, -1).repeat(1, 2, 1, 1)
    assert torch.equal(codec.encode(flow.cuda()).cpu(), codec.encode(flow))
