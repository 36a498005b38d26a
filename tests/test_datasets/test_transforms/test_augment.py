import numpy as np
import pytest

from cmp_mm.datasets import FlowRandomCamera, FlowRandomReverse, FlowRandomRotate, FlowRandomScale


def a_sample():
    rng = np.random.default_rng(0)
    return dict(
        img=rng.integers(0, 256, (6, 9, 3)).astype(np.uint8),
        flow=rng.standard_normal((6, 9, 2)).astype(np.float32),
    )


@pytest.mark.parametrize('u,v', [(3, 2), (-3, 2), (-3, -2), (3, -2), (0, 5), (-4, 0), (0, 0)])
@pytest.mark.parametrize('degrees', [30, 135, 200, 300, -45])
def test_rotation_is_right_in_all_quadrants_and_at_zero(u, v, degrees):
    flow = np.full((4, 4, 2), (u, v), dtype=np.float32)
    out = FlowRandomRotate((degrees, degrees), prob=1.0)(dict(flow=flow))['flow']
    expected = (u + 1j * v) * np.exp(1j * np.deg2rad(degrees))  # x right, y down: right turns into down
    np.testing.assert_allclose(out[..., 0] + 1j * out[..., 1], expected, atol=1e-5)
    assert out.dtype == np.float32


def test_rotation_draws_one_angle_for_the_whole_flow():
    np.random.seed(0)
    sample = a_sample()
    before = sample['flow'][..., 0] + 1j * sample['flow'][..., 1]
    image = sample['img'].copy()
    out = FlowRandomRotate(prob=1.0)(sample)
    turn = (out['flow'][..., 0] + 1j * out['flow'][..., 1]) / before
    np.testing.assert_allclose(turn, turn[0, 0], rtol=1e-4)
    np.testing.assert_allclose(np.abs(turn), 1, rtol=1e-5)
    assert np.array_equal(out['img'], image)


def test_reverse_negates_and_leaves_the_image():
    sample = a_sample()
    flow, image = sample['flow'].copy(), sample['img'].copy()
    out = FlowRandomReverse(prob=1.0)(sample)
    assert np.array_equal(out['flow'], -flow) and np.array_equal(out['img'], image)
    assert out['flow'].dtype == np.float32


def test_scale_multiplies_by_one_factor_of_the_range():
    np.random.seed(0)
    factors = []
    for _ in range(200):
        sample = a_sample()
        out = FlowRandomScale()(dict(sample))
        ratio = out['flow'] / sample['flow']
        np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-5)
        assert out['flow'].dtype == np.float32
        factors.append(ratio[0, 0, 0])
    assert 0.5 <= min(factors) < 0.6 and 1.9 < max(factors) <= 2.0


@pytest.mark.parametrize('step', [FlowRandomCamera, FlowRandomReverse, FlowRandomRotate, FlowRandomScale])
def test_probability_zero_changes_nothing(step):
    sample = a_sample()
    assert np.array_equal(step(prob=0)(dict(sample))['flow'], sample['flow'])


def test_the_input_is_not_changed_in_place():
    steps = (
        FlowRandomCamera(prob=1.0),
        FlowRandomReverse(1.0),
        FlowRandomRotate(prob=1.0),
        FlowRandomScale(),
    )
    for step in steps:
        sample = a_sample()
        before = sample['flow'].copy()
        step(dict(sample))
        assert np.array_equal(sample['flow'], before)


def test_wrong_arguments_are_one_sentence():
    with pytest.raises(ValueError, match=r'range of FlowRandomScale is \(2, 1\); expected \(low, high\)'):
        FlowRandomScale((2, 1))
    with pytest.raises(ValueError, match='range of FlowRandomRotate is'):
        FlowRandomRotate((0, float('nan')))
    with pytest.raises(ValueError, match='prob of FlowRandomReverse is -1'):
        FlowRandomReverse(-1)
    with pytest.raises(ValueError, match='zoom of FlowRandomCamera is -1; expected a number of at least 0'):
        FlowRandomCamera(zoom=-1)
    with pytest.raises(ValueError, match='pan of FlowRandomCamera is nan'):
        FlowRandomCamera(pan=float('nan'))


@pytest.mark.parametrize('step', [FlowRandomCamera, FlowRandomReverse, FlowRandomRotate, FlowRandomScale])
def test_probability_between(step):
    np.random.seed(0)
    sample = a_sample()
    changed = sum(
        not np.array_equal(step(prob=0.25)(dict(sample))['flow'], sample['flow']) for _ in range(400)
    )
    assert 70 < changed < 130


def test_defaults_are_those_stated():
    assert (FlowRandomReverse().prob, FlowRandomRotate().prob, FlowRandomScale().prob) == (0.5, 0.5, 1.0)
    assert FlowRandomRotate().range == (0.0, 360.0)


def test_a_camera_is_added_to_all_of_the_flow_and_leaves_the_image():
    np.random.seed(0)
    pans, zooms, rolls = [], [], []
    for _ in range(300):
        sample = a_sample()
        image, before = sample['img'].copy(), sample['flow'].copy()
        before[1, 2] = sample['flow'][1, 2] = np.nan  # unknown
        out = FlowRandomCamera(pan=0.5, zoom=0.1, roll=20, prob=1.0)(dict(sample))
        assert np.array_equal(out['img'], image) and out['flow'].dtype == np.float32
        assert np.isnan(out['flow'][1, 2]).all()
        rows, columns = np.mgrid[:6, :9]
        known = ~np.isnan(before[..., 0])
        places = [
            (columns - 4 + flow[..., 0] + 1j * (rows - 2.5 + flow[..., 1]))[known]
            for flow in (before, out['flow'])
        ]  # in the second frame, from the centre
        turn, pan = np.polyfit(*places, 1)
        np.testing.assert_allclose(places[1], turn * places[0] + pan, atol=1e-4)
        pans += [pan.real, pan.imag]
        zooms.append(abs(turn) - 1)
        rolls.append(np.rad2deg(np.angle(turn)))
    for drawn, spread in ((pans, 0.5 * 6), (zooms, 0.1), (rolls, 20)):
        assert abs(np.mean(drawn)) < 4 * spread / len(drawn) ** 0.5
        assert np.std(drawn) == pytest.approx(spread, rel=0.15)


def test_a_camera_moves_as_often_as_asked():
    np.random.seed(0)
    sample = a_sample()
    step = FlowRandomCamera(prob=0.3)
    moved = [step(dict(sample))['flow'] is not sample['flow'] for _ in range(1000)]
    assert np.mean(moved) == pytest.approx(0.3, abs=0.05)
