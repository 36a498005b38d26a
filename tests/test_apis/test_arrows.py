import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_mm.apis import InputError, parse_arrows, trajectories_to_arrows
from cmp_mm.apis.arrows import draw_guidance, limit_vectors, parse_guidance_map, to_working_size
from cmp_mm.guidance import guidance_map

SIZE = (20, 30)
ROW = (3.0, 4.0, 5.0, -6.0)


def test_one_set_or_several_however_they_come():
    several = [[ROW], [ROW, (0, 0, 0, 0)]]
    for arrows, count in (
        ([ROW], 1),
        (np.array([ROW]), 1),
        ([np.array(ROW)], 1),
        ((ROW,), 1),
        (torch.tensor([ROW]), 1),
        ([torch.tensor(ROW)], 1),
        (several, 2),
        ([np.array(one) for one in several], 2),
        ([torch.tensor(several[0]), several[1]], 2),
        (np.array([[ROW]] * 3), 3),
        (torch.tensor([[ROW]] * 3), 3),
    ):
        sets = parse_arrows(arrows, SIZE)
        assert len(sets) == count
        assert sets[0].tolist() == [list(ROW)]
        assert sets[0].dtype == torch.float32


@pytest.mark.parametrize(
    ('arrows', 'message'),
    [
        ([], 'no arrows'),
        (np.zeros((0, 4)), 'no arrows'),
        (torch.zeros(0, 4), 'no arrows'),
        ([[ROW], []], 'no arrows were given of set 1'),
        (None, 'NoneType'),
        ('3 4 5 6', 'str'),
        ([(1, 2, 3)], r'\(1, 3\)'),
        ([ROW, (1, 2)], 'different lengths'),
        ([('a', 'b', 'c', 'd')], 'no numbers'),
        ([ROW, (1, 2, float('nan'), 0)], 'arrow 1 is'),
        ([(1, 2, float('inf'), 0)], 'finite'),
        ([(1, 2, 1e300, 0)], 'finite'),
        ([(30, 4, 1, 1)], r'arrow 0 begins at x 30, y 4, outside the image of 30 x 20'),
        ([ROW, (3, -1, 1, 1)], 'arrow 1 begins'),
        ([[ROW], [ROW, (0, 1e30, 0, 0)]], 'arrow 1 of set 1'),
        (np.zeros((1, 1, 1, 4)), 'shape'),
    ],
)
def test_wrong_arrows_are_named(arrows, message):
    with pytest.raises(InputError, match=message):
        parse_arrows(arrows, SIZE)


def test_numbers_may_be_tensors_each():
    numbers = torch.tensor(ROW, requires_grad=True)
    for arrows in ([tuple(numbers)], [list(numbers), ROW], [(numbers[0], 4, np.float32(5), -6)]):
        sets = parse_arrows(arrows, SIZE)
        assert len(sets) == 1 and sets[0][0].tolist() == list(ROW)
        assert sets[0].requires_grad
    assert len(parse_arrows([[tuple(numbers)], [tuple(numbers)]], SIZE)) == 2


def test_map_is_the_one_of_the_guidance_room():
    sets = parse_arrows([ROW, (29.4, 19.4, 1, 2)], SIZE)
    drawn = draw_guidance(to_working_size(sets[0], SIZE, SIZE), SIZE)
    wanted = guidance_map([(4, 3), (19, 29)], [(5, -6), (1, 2)], SIZE)
    np.testing.assert_array_equal(drawn.permute(1, 2, 0).numpy(), wanted)
    for maps in (wanted, drawn):
        back = parse_guidance_map(maps, SIZE)[0]
        assert back.tolist() == [list(ROW), [29, 19, 1, 2]]


def test_places_of_a_photo_of_more_pixels_than_float32_counts():
    size = (4200, 4200)
    arrows = torch.tensor([[4199.0, 4199, 1, 2], [4000, 4100, 3, 4], [4001, 4100, 5, 6]])
    drawn = draw_guidance(arrows, size, collisions='error')
    assert drawn[2].nonzero().tolist() == [[4100, 4000], [4100, 4001], [4199, 4199]]
    assert drawn[:2, 4100, 4001].tolist() == [5, 6]


def test_collisions_never_sum():
    arrows = torch.tensor([(3, 4, 10.0, 0), (1, 1, 7.0, 7.0), (3, 4, 2.0, 4.0), (3, 4, 0.0, 8.0)])
    assert draw_guidance(arrows, SIZE)[:, 4, 3].tolist() == [0, 8, 1, 1]
    assert draw_guidance(arrows, SIZE, 'mean')[:, 4, 3].tolist() == [4, 4, 1, 1]
    assert draw_guidance(arrows, SIZE, 'mean')[:, 1, 1].tolist() == [7, 7, 1, 1]
    with pytest.raises(InputError, match='arrows 0 and 2 begin at the same pixel, x 3 y 4'):
        draw_guidance(arrows, SIZE, 'error')


@pytest.mark.parametrize('collisions', ['last', 'mean'])
def test_gradient_reaches_the_vectors(collisions):
    arrows = torch.tensor([(3, 4, 1.0, 2.0), (3, 4, 3.0, 4.0), (9, 9, 5.0, 6.0)], dtype=torch.float64)
    arrows.requires_grad_()
    draw_guidance(arrows, SIZE, collisions)[:2].sum().backward()
    share = dict(last=[0, 1, 1], mean=[0.5, 0.5, 1])[collisions]
    assert arrows.grad[:, 2:].tolist() == [[s, s] for s in share]


def test_each_axis_follows_its_own_ratio():
    arrows = torch.tensor([(0, 0, 4.0, 4.0), (29, 19, 4.0, 4.0), (14, 10, 0, 0)])
    moved = to_working_size(arrows, (20, 30), (40, 15))
    assert moved.tolist() == [[0, 0, 2, 8], [14, 38, 2, 8], [7, 20, 0, 0]]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda g: g[:3], 'shape'),
        (lambda g: g[:, :-1], 'shape'),
        (lambda g: g * 0, 'no points'),
        (lambda g: g * torch.tensor([1, 1, 1, 2])[:, None, None], 'one mask twice'),
        (lambda g: g * torch.tensor([1, 1, 0.5, 0.5])[:, None, None], '0 and 1'),
        (lambda g: g * torch.tensor([np.inf, 1, 1, 1])[:, None, None], 'finite'),
        (lambda g: g.numpy().astype(str), 'numbers'),
        (lambda g: 'map', 'str'),
    ],
)
def test_wrong_maps_are_named(change, message):
    guidance = torch.zeros(4, *SIZE)
    guidance[:, 5, 6] = torch.tensor([1.0, 2.0, 1.0, 1.0])
    with pytest.raises(InputError, match=message):
        parse_guidance_map(change(guidance), SIZE)


def test_trajectories_of_t_points_give_t_sets():
    paths = np.array([[(1, 1), (2, 1), (4, 2)], [(5, 5), (5, 5), (5, 50)]])
    first = [one.tolist() for one in trajectories_to_arrows(paths)]
    assert first[0] == [[1, 1, 0, 0], [5, 5, 0, 0]]
    assert first[1:] == [[[1, 1, 1, 0], [5, 5, 0, 0]], [[1, 1, 3, 1], [5, 5, 0, 45]]]
    steps = trajectories_to_arrows(paths, relative_to='previous', include_start=False)
    assert [one.tolist() for one in steps] == [
        [[1, 1, 1, 0], [5, 5, 0, 0]],
        [[1, 1, 2, 1], [5, 5, 0, 45]],
    ]
    for wrong in (paths[0], paths[:0], [[(1, 1)], [(1, 1), (2, 2)]], paths + np.nan):
        with pytest.raises(InputError, match='trajector'):
            trajectories_to_arrows(wrong)


numbers = st.one_of(
    st.floats(), st.integers(-(10**400), 10**400), st.none(), st.text(max_size=2), st.booleans()
)


@settings(deadline=None, max_examples=200)
@given(st.recursive(numbers, lambda inner: st.lists(inner, max_size=5), max_leaves=24))
def test_any_nesting_of_anything_is_read_or_refused(arrows):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        try:
            sets = parse_arrows(arrows, SIZE)
        except InputError as error:
            assert '\n' not in str(error)
        else:
            assert all(one.shape[1] == 4 and one.isfinite().all() for one in sets)


def test_places_between_pixels_go_to_the_nearest():
    (one,) = parse_arrows([(3.6, 4.4, 1, 2), (9.2, 7.7, 3, 4)], SIZE)
    assert draw_guidance(to_working_size(one, SIZE, SIZE), SIZE)[2].nonzero().tolist() == [[4, 4], [8, 9]]


def test_long_vectors_of_either_sign_are_cut_or_shrunk_together():
    arrows = torch.tensor([(1, 2, -60.0, 10.0), (3, 4, 20.0, -80.0)])
    cut, factor, largest = limit_vectors(arrows, 50.0, 'clip')
    assert cut[:, 2:].tolist() == [[-50, 10], [20, -50]] and (factor, largest) == (1, 80)
    shrunk, factor, _ = limit_vectors(arrows, 40.0, 'rescale')
    assert shrunk[:, 2:].tolist() == [[-30, 5], [10, -40]] and factor == 2
    assert limit_vectors(arrows, 50.0, 'warn')[0] is arrows
