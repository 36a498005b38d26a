"""A corrected flow meets its arrows, as the plain version for arrays says."""

import numpy as np
import pytest
import torch

from cmp_mm.apis import correction as module
from cmp_mm.apis.correction import correct_at_arrows
from cmp_mm.evaluation import correct_at_points


def make(counts=(7, 1, 0), size=(23, 31), seed=0):
    """Flow (T, 2, H, W), maps (T, 4, H, W) and the points and vectors of each set."""
    rng = np.random.default_rng(seed)
    flow = rng.normal(0, 3, (len(counts), 2, *size)).astype(np.float32)
    guidance = np.zeros((len(counts), 4, *size), np.float32)
    sets = []
    for one, count in zip(guidance, counts, strict=True):
        flat = rng.choice(size[0] * size[1], count, replace=False)
        points = np.stack(np.unravel_index(flat, size), 1)
        vectors = rng.normal(0, 9, (count, 2)).astype(np.float32)
        one[:2, points[:, 0], points[:, 1]] = vectors.T
        one[2:, points[:, 0], points[:, 1]] = 1
        sets.append((points, vectors))
    return torch.from_numpy(flow), torch.from_numpy(guidance), sets


@pytest.mark.parametrize('block', [module._BLOCK, 7 * 31 * 4, 1])
def test_as_the_plain_version(monkeypatch, block):
    monkeypatch.setattr(module, '_BLOCK', block)  # whole; rows left over; a row at a time
    flow, guidance, sets = make()
    found = correct_at_arrows(flow, guidance)
    for one, before, (points, vectors) in zip(found, flow, sets, strict=True):
        plain = correct_at_points(before.permute(1, 2, 0).numpy(), points, vectors)
        np.testing.assert_allclose(one.permute(1, 2, 0).numpy(), plain, atol=1e-4)
        np.testing.assert_allclose(one[:, points[:, 0], points[:, 1]].T.numpy(), vectors, atol=1e-5)


def test_what_meets_its_arrows_already_is_left_alone():
    flow, guidance, _ = make()
    guidance[:, :2] = flow * guidance[:, 2:3]
    assert torch.equal(correct_at_arrows(flow, guidance), flow)


def test_what_a_single_arrow_adds_fades():
    flow = torch.full((1, 2, 8, 20), 4.0)
    guidance = torch.zeros(1, 4, 8, 20)
    guidance[0, 2:, 3, 5] = 1  # stands still
    corrected = correct_at_arrows(flow, guidance)[0]
    assert not corrected[:, 3, 5].any()
    assert torch.allclose(corrected[:, 3, 9], torch.tensor(2.0))  # half, half of the short side away
    along = corrected[0, 3, 5:]
    assert (along.diff() > 0).all() and along[-1] > 3.5


def test_exact_under_autocast():
    flow, guidance, sets = make()
    plain = correct_at_arrows(flow, guidance)
    with torch.autocast('cpu', torch.bfloat16):
        mixed = correct_at_arrows(flow, guidance)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, plain)


def test_gradient_to_flow_and_arrows():
    flow, guidance, (_, (points, _), _) = make()
    flow.requires_grad_()
    guidance.requires_grad_()
    (row, column) = points[0]
    # At its arrow the flow is the arrow's, whatever the network said; elsewhere both count.
    correct_at_arrows(flow, guidance)[1, 0, row, column].backward()
    assert guidance.grad[1, 0, row, column] == 1 and not flow.grad.any()
    flow.grad = guidance.grad = None
    correct_at_arrows(flow, guidance)[1, 0, row - 1, column].backward()
    share = 1 / (1 + (2 / 23) ** 2)  # of a pixel beside it, where the short side is 23
    assert guidance.grad[1, 0, row, column].item() == pytest.approx(share)
    assert flow.grad[1, 0, row - 1, column] == 1
    assert flow.grad[1, 0, row, column].item() == pytest.approx(-share)
