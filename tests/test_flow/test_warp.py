"""Warping against constructed cases, a loop written out, and mmcv."""

import numpy as np
import pytest
import torch
from mmcv.video import flow_warp

from cmp_mm.flow import backward_warp, forward_splat


def picture(batch=1, channels=3, height=6, width=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, channels, height, width, generator=generator).to(dtype) + 0.1


def constant_flow(image, u, v):
    flow = torch.zeros(image.shape[0], 2, *image.shape[2:])
    flow[:, 0], flow[:, 1] = u, v
    return flow


def test_backward_zero_flow_is_identity():
    image = picture(2)
    warped, inside = backward_warp(image, constant_flow(image, 0, 0))
    torch.testing.assert_close(warped, image)
    assert inside.shape == (2, 6, 8) and inside.dtype == torch.bool and inside.all()


def test_backward_fetches_from_where_the_vector_points():
    image = picture()
    warped, inside = backward_warp(image, constant_flow(image, 2, -1))
    torch.testing.assert_close(warped[..., 1:, :-2], image[..., :-1, 2:])
    expected = torch.zeros(1, 6, 8, dtype=torch.bool)
    expected[:, 1:, :-2] = True
    assert torch.equal(inside, expected)
    assert not warped[:, :, ~inside[0]].any()


def test_backward_at_half_a_pixel_is_the_mean():
    image = picture()
    warped, inside = backward_warp(image, constant_flow(image, 0.5, 0))
    torch.testing.assert_close(warped[..., :-1], (image[..., :-1] + image[..., 1:]) / 2)
    assert not inside[..., -1].any()


@pytest.mark.parametrize('shape', [(1, 1), (1, 5), (5, 1)])
def test_backward_of_one_pixel_sides(shape):
    image = picture(height=shape[0], width=shape[1])
    warped, inside = backward_warp(image, constant_flow(image, 0, 0))
    torch.testing.assert_close(warped, image)
    assert inside.all()


def test_backward_against_mmcv():
    rng = np.random.default_rng(0)
    image = rng.random((20, 30, 3))
    flow = rng.normal(0, 4, (20, 30, 2))
    theirs = flow_warp(image, flow, filling_value=0, interpolate_mode='bilinear')
    warped, inside = backward_warp(
        torch.from_numpy(image.transpose(2, 0, 1))[None], torch.from_numpy(flow.transpose(2, 0, 1))[None]
    )
    ours = warped[0].permute(1, 2, 0).numpy()
    rows, columns = np.mgrid[:20, :30]
    y, x = rows + flow[..., 1], columns + flow[..., 0]
    both = (np.floor(x) >= 0) & (np.floor(x) < 29) & (np.floor(y) >= 0) & (np.floor(y) < 19)
    assert both.sum() > 200 and inside[0].numpy()[both].all()
    np.testing.assert_allclose(ours[both], theirs[both], atol=1e-5)  # mmcv shifts by 1e-6 px


def test_backward_gradients():
    image = picture(1, 2, 4, 5, torch.float64).requires_grad_()
    flow = (torch.rand(1, 2, 4, 5, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1).double()
    flow.requires_grad_()
    assert torch.autograd.gradcheck(lambda *args: backward_warp(*args)[0], (image, flow))


def test_backward_of_vectors_that_are_not_finite():
    image = picture().requires_grad_()
    flow = constant_flow(image, 0, 0)
    flow[0, 0, 0, 0], flow[0, 1, 1, 1], flow[0, 0, 2, 2] = np.nan, np.inf, 1e30
    flow.requires_grad_()
    warped, inside = backward_warp(image, flow)
    assert (~inside).sum() == 3 and warped.isfinite().all()
    warped.sum().backward()
    assert image.grad.isfinite().all() and flow.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_backward_of_half_precision_still_finds_its_pixels(dtype):
    # 2,049 and up are not whole numbers apart in float16: the addresses must not be.
    image = (torch.arange(3000) % 7).to(dtype).view(1, 1, 1, 3000)
    warped, _ = backward_warp(image, constant_flow(image, 1, 0).to(dtype))
    assert warped.dtype == dtype
    torch.testing.assert_close(warped[..., :-1], image[..., 1:], atol=0.01, rtol=0.01)


def splat_by_loop(image, flow):
    """Lay the pixels down one by one, slow first."""
    batch, channels, height, width = image.shape
    splatted, hole = torch.zeros_like(image), torch.ones(batch, height, width, dtype=torch.bool)
    for n in range(batch):
        pixels = [(y, x) for y in range(height) for x in range(width)]
        pixels.sort(key=lambda place: float(flow[n, :, place[0], place[1]].square().sum()))
        for y, x in pixels:
            to_x = int(np.floor(x + float(flow[n, 0, y, x]) + 0.5))
            to_y = int(np.floor(y + float(flow[n, 1, y, x]) + 0.5))
            if 0 <= to_x < width and 0 <= to_y < height:
                splatted[n, :, to_y, to_x] = image[n, :, y, x]
                hole[n, to_y, to_x] = False
    return splatted, hole


@pytest.mark.parametrize('scale', [0.0, 0.6, 2.0, 20.0])
def test_splat_against_a_loop(scale):
    image = picture(2, 3, 9, 11)
    flow = torch.randn(2, 2, 9, 11, generator=torch.Generator().manual_seed(2)) * scale
    splatted, hole = forward_splat(image, flow)
    expected, expected_hole = splat_by_loop(image, flow)
    assert torch.equal(hole, expected_hole) and torch.equal(splatted, expected)


def test_splat_puts_each_pixel_where_its_vector_points():
    image = picture()
    splatted, hole = forward_splat(image, constant_flow(image, 2, -1))
    assert torch.equal(splatted[..., :-1, 2:], image[..., 1:, :-2])
    expected = torch.ones(1, 6, 8, dtype=torch.bool)
    expected[:, :-1, 2:] = False
    assert torch.equal(hole, expected)
    assert not splatted[:, :, hole[0]].any()


@pytest.mark.parametrize('shift', [0.5, -0.5, 1.5, 2.5])
def test_splat_by_half_pixels_tears_nothing(shift):
    image = picture(width=20)
    _, hole = forward_splat(image, constant_flow(image, shift, 0))
    assert hole.sum() <= 6 * np.ceil(abs(shift))


def test_fast_covers_slow_whatever_the_reading_order():
    for fast, slow in ((0, 4), (4, 0)):
        image = torch.zeros(1, 1, 1, 5)
        image[..., fast], image[..., slow] = 1, 2
        flow = torch.full((1, 2, 1, 5), 100.0)  # all others leave the image
        flow[:, 1] = 0
        flow[0, 0, 0, fast] = 3 if fast == 0 else -3
        flow[0, 0, 0, slow] = 1 if fast == 4 else -1
        splatted, hole = forward_splat(image, flow)
        assert splatted[0, 0, 0].tolist() == ([0, 0, 0, 1, 0] if fast == 0 else [0, 1, 0, 0, 0])
        assert hole.sum() == 4


def test_equally_fast_pixels_are_laid_down_in_reading_order():
    image = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    flow = torch.zeros(1, 2, 1, 3)
    flow[0, 0, 0] = torch.tensor([1.0, 100.0, -1.0])
    assert forward_splat(image, flow)[0].flatten().tolist() == [0, 3, 0]


def test_splat_of_vectors_that_are_not_finite():
    image = picture()
    flow = constant_flow(image, 0, 0)
    flow[0, 0, 0, 0], flow[0, 1, 1, 1], flow[0, 0, 2, 2] = np.nan, -np.inf, 1e30
    splatted, hole = forward_splat(image, flow)
    assert sorted(torch.nonzero(hole[0]).tolist()) == [[0, 0], [1, 1], [2, 2]]
    assert torch.equal(splatted[:, :, ~hole[0]], image[:, :, ~hole[0]])


def test_splat_of_whole_numbers_and_gradient():
    labels = torch.arange(48, dtype=torch.uint8).view(1, 1, 6, 8)
    splatted, _ = forward_splat(labels, constant_flow(labels, 1, 0))
    assert splatted.dtype == torch.uint8 and torch.equal(splatted[..., 1:], labels[..., :-1])
    image = picture().requires_grad_()
    forward_splat(image, constant_flow(image, 1, 0))[0].sum().backward()
    assert image.grad[..., :-1].eq(1).all() and not image.grad[..., -1].any()


@pytest.mark.parametrize('function', [backward_warp, forward_splat])
@pytest.mark.parametrize(
    ('image', 'flow'),
    [
        ((1, 3, 4, 5), (1, 2, 5, 4)),
        ((2, 3, 4, 5), (1, 2, 4, 5)),
        ((3, 4, 5), (2, 4, 5)),
        ((1, 3, 4, 5), (1, 3, 4, 5)),
    ],
)
def test_shapes_that_do_not_agree(function, image, flow):
    with pytest.raises(ValueError, match='image has shape'):
        function(torch.zeros(image), torch.zeros(flow))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_both_are_the_same_on_cuda():
    image = picture(2, 3, 64, 80)
    flow = torch.randn(2, 2, 64, 80, generator=torch.Generator().manual_seed(3)) * 6
    for function in (backward_warp, forward_splat):
        on_cpu, mask = function(image, flow)
        on_cuda, cuda_mask = function(image.cuda(), flow.cuda())
        torch.testing.assert_close(on_cuda.cpu(), on_cpu, atol=1e-4, rtol=0)
        assert torch.equal(cuda_mask.cpu(), mask)


def test_splat_of_more_pixels_than_float32_counts():
    image = torch.arange(4200 * 4200, dtype=torch.int32).view(1, 1, 4200, 4200)
    out, hole = forward_splat(image, torch.zeros(1, 2, 4200, 4200))
    assert torch.equal(out, image) and not hole.any()
