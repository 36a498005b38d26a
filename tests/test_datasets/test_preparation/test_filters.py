import cv2
import numpy as np
import pytest

from cmp_mm.datasets.preparation.filters import judge_pair, make_thumb, measure_pair
from cmp_mm.datasets.preparation.settings import PairSettings
from cmp_mm.flow import build_flow_estimator


def measure(first, second, flow, bound=50.0):
    return measure_pair(flow.astype(np.float32), make_thumb(first), make_thumb(second), bound)


def constant(size, u, v):
    return np.broadcast_to(np.float32([u, v]), (*size, 2)).copy()


def test_true_flow_of_a_shifted_frame_leaves_no_residual(moving_frames):
    first, second = moving_frames(2, size=(104, 160), step=(6, 8))
    right = measure(first, second, constant((104, 160), 6, 8))
    wrong = measure(first, second, constant((104, 160), -6, -8))
    assert right.mean == pytest.approx(10) and right.fast == pytest.approx(10)
    assert right.residual < 0.1 < 0.5 < wrong.residual
    assert judge_pair(right, PairSettings()) is None
    assert judge_pair(wrong, PairSettings()) == 'cut'
    assert judge_pair(wrong, PairSettings(cut_threshold=0)) is None


def test_residual_does_not_depend_on_the_size_of_the_frames(moving_frames):
    first, second = moving_frames(2, size=(104, 160), step=(4, 0))
    large = [cv2.resize(frame, (640, 416), interpolation=cv2.INTER_LINEAR) for frame in (first, second)]
    small = measure(first, second, constant((104, 160), 4, 0))
    big = measure(*large, constant((416, 640), 16, 0))
    assert big.residual == pytest.approx(small.residual, abs=0.03)
    assert big.mean == pytest.approx(16)


def test_cuts_are_told_from_fast_motion_with_dis(moving_frames):
    estimator = build_flow_estimator('dis')
    size = (128, 160)
    frames, others = moving_frames(2, size, step=(9, 5)), moving_frames(2, size, mirrored=True)
    moving = measure(frames[0], frames[1], estimator(frames[0], frames[1]))
    cut = measure(frames[0], others[0], estimator(frames[0], others[0]))
    assert judge_pair(moving, PairSettings()) is None
    assert judge_pair(cut, PairSettings()) == 'cut'


def test_noise_in_a_dark_picture_is_no_cut():
    rng = np.random.default_rng(0)
    dark = [rng.integers(0, 8, (104, 160, 3)).astype(np.uint8) for _ in range(2)]
    assert judge_pair(measure(*dark, constant((104, 160), 3, 0)), PairSettings()) is None


def test_a_small_moving_object_keeps_a_pair_from_being_static(moving_frames):
    frame = moving_frames(1, size=(104, 160))[0]
    flow = constant((104, 160), 0.1, 0)
    assert judge_pair(measure(frame, frame, flow), PairSettings()) == 'static'
    flow[40:60, 40:60] = (2, 0)  # 2.4 % of the pixels
    assert judge_pair(measure(frame, frame, flow), PairSettings(cut_threshold=0)) is None
    flow[40:60, 50:60] = flow[48:60, 40:60] = (0, 0)  # .5 %
    assert judge_pair(measure(frame, frame, flow), PairSettings(cut_threshold=0)) == 'static'
    assert judge_pair(measure(frame, frame, flow), PairSettings(cut_threshold=0, min_motion=0)) is None


def test_every_vector_beyond_the_bound_is_counted():
    frame = np.zeros((416, 640, 3), np.uint8)
    flow = constant((416, 640), 50, -50)
    assert measure(frame, frame, flow).clipped == 0
    flow[1, 3] = (50.01, 0)
    flow[7, 9] = (0, -51)
    flow[7, 10] = (80, 80)
    assert measure(frame, frame, flow).clipped == 3
    assert measure(frame, frame, flow, bound=90).clipped == 0
    flow[300:310] = np.nan  # unknown vectors hide no others
    assert measure(frame, frame, flow).clipped == 3


def test_unknown_vectors_are_left_out_of_the_measures(moving_frames):
    first, second = moving_frames(2, size=(104, 160), step=(6, 8))
    flow = constant((104, 160), 6, 8)
    flow[:50] = np.nan
    flow[60, 60] = (np.inf, 0)
    found = measure(first, second, flow)
    assert found.mean == pytest.approx(10) and found.residual < 0.1
    assert measure(first, second, np.full((104, 160, 2), np.nan)) is None
    assert judge_pair(None, PairSettings()) == 'no_flow'
