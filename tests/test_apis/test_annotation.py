import numpy as np
import pytest
import torch

from cmp_mm.apis import (
    AnnotationSession,
    Clicks,
    EncodedImage,
    InputError,
    PointAnnotator,
    overlay_flow,
    overlay_mask,
)
from cmp_mm.flow import flow_to_rgb


@pytest.fixture
def discs():
    """A picture of two discs at (x, y) (30, 30) and (80, 50), radius 12, and the truth of each."""
    y, x = np.mgrid[:80, :110]
    truth = [np.hypot(x - 30, y - 30) < 12, np.hypot(x - 80, y - 50) < 12]
    image = np.zeros((80, 110, 3), np.uint8)
    for disc, colour in zip(truth, ((255, 0, 0), (0, 255, 0)), strict=True):
        image[disc] = colour
    return image, truth


@pytest.fixture
def rigid(by_hand, discs):
    """A network that moves the discs whole: by the last arrow on each, and the ground a little."""

    def flow(arrows, size):
        moved = torch.full((2, *size), 0.4)
        if size == discs[0].shape[:2]:
            for disc in discs[1]:
                for x, y, u, v in arrows.tolist():
                    if disc[round(y), round(x)]:
                        moved[:, torch.from_numpy(disc)] = torch.tensor([[u], [v]])
        else:
            moved[:, 2:-2, 2:-2] = arrows[-1, 2:].view(2, 1, 1)
        return moved

    return by_hand(flow)


def test_four_pulls_of_the_positive_points(rigid, discs):
    annotator = PointAnnotator(rigid, discs[0], velocity=7, color_order='rgb')
    made = annotator.mask([(30, 30), (34, 31)], static=[(80, 50)])
    assert rigid.encoded == 1
    pulls = [one[one[:, :2].tolist().index([30, 30]), 2:].tolist() for one in rigid.asked]
    assert pulls == [[7, 0], [0, 7], [-7, 0], [0, -7]]
    for one in rigid.asked:
        assert one[0].tolist() == [80, 50, 0, 0] and one.shape == (3, 4)
    np.testing.assert_array_equal(made.mask, discs[1][0])
    # Mean of |flow| over four flows and both channels, by its maximum.
    wanted = np.abs(made.flows).mean(axis=(0, 3))
    np.testing.assert_allclose(made.score, wanted / wanted.max(), rtol=1e-5)
    assert made.flows.shape == (4, 80, 110, 2)


def test_what_moves_at_more_than_half_the_most_is_the_object(by_hand, discs):
    def flow(arrows, size):
        moved = torch.zeros(2, *size)
        for disc, share in zip(discs[1], (1, 0.55), strict=True):
            moved[:, torch.from_numpy(disc)] = share * arrows[-1, 2:].view(2, 1)
        moved[:, :4] = 0.45 * arrows[-1, 2:].view(2, 1, 1)
        return moved

    made = PointAnnotator(by_hand(flow), discs[0], color_order='rgb').mask([(30, 30)])
    np.testing.assert_array_equal(made.mask, discs[1][0] | discs[1][1])


def test_aligned_keeps_what_hangs_together(by_hand, discs):
    def flow(arrows, size):
        moved = torch.zeros(2, *size)
        for disc in discs[1]:
            moved[:, torch.from_numpy(disc)] = arrows[-1, 2:].view(2, 1)
        moved[:, :, :5] = 30  # does not follow the pull: larger, but the same in all directions
        return moved

    network = by_hand(flow)
    made = PointAnnotator(network, discs[0], method='aligned', color_order='rgb').mask([(30, 30)])
    np.testing.assert_array_equal(made.mask, discs[1][0])
    both = PointAnnotator(network, discs[0], method='aligned', color_order='rgb').mask([(30, 30), (80, 50)])
    np.testing.assert_array_equal(both.mask, discs[1][0] | discs[1][1])


def test_zoom_looks_at_a_square_and_pastes_back(rigid, discs):
    annotator = PointAnnotator(rigid, discs[0], zoom_factor=4, crop_size=64, color_order='rgb')
    made = annotator.mask([(28, 30), (36, 30)], static=[(100, 70), (40, 40)])
    assert made.box == (14, 16, 46, 48)
    assert rigid.encoded == 2
    # Points in the crop's pixels; the pull is 10 px of the enlarged crop, so 5 of the image.
    assert rigid.asked[0].tolist() == [[24, 26, 0, 0], [12, 16, 5, 0], [20, 16, 5, 0]]
    assert made.mask[16:44, 18:46].all() and made.mask.sum() == 28 * 28
    # Centred on the points' extent, however many of them lie on one side.
    assert annotator.mask([(28, 40), (29, 40), (36, 40)]).box == (24, 16, 56, 48)
    # A single point has no extent.
    assert annotator.mask([(28, 30)]).box == (0, 0, 80, 110)
    # At the border the square is shifted, with all points in it.
    assert annotator.mask([(0, 0), (9, 3)]).box == (0, 0, 36, 36)
    assert annotator.mask([(0, 0), (100, 70)]).box == (0, 0, 80, 110)


def test_a_network_that_moves_nothing_gives_no_mask(by_hand, discs):
    for method in ('reference', 'aligned'):
        still = by_hand(lambda arrows, size: torch.zeros(2, *size))
        assert (
            not PointAnnotator(still, discs[0], method=method, color_order='rgb').mask([(30, 30)]).mask.any()
        )


def test_real_network(inferencer, image):
    for options in (dict(), dict(method='aligned'), dict(zoom_factor=2, crop_size=40)):
        made = PointAnnotator(inferencer, image, color_order='rgb', **options).mask(
            [(20, 20), (26, 24)], [(1, 1)]
        )
        assert made.mask.shape == made.score.shape == (45, 61)
        assert made.score.min() >= 0 and made.score.max() <= 1


@pytest.mark.parametrize(
    ('positive', 'static', 'message'),
    [
        ([], [(1, 1)], 'no positive points'),
        ([(110, 1)], [], 'positive point 0 is at x 110'),
        ([(1, 1)], [(1, float('nan'))], 'static point 0'),
        ([(1, 1, 1)], [], 'rows of 2 numbers'),
        (['ab'], [], 'rows of 2 numbers'),
    ],
)
def test_wrong_points_are_named(rigid, discs, positive, static, message):
    with pytest.raises(InputError, match=message):
        PointAnnotator(rigid, discs[0], color_order='rgb').mask(positive, static)


@pytest.mark.parametrize(
    'option',
    [dict(velocity=0), dict(threshold=1), dict(zoom_factor=0.5), dict(crop_size=0), dict(method='magic')],
)
def test_wrong_options_are_named(rigid, discs, option):
    with pytest.raises(InputError, match=next(iter(option))):
        PointAnnotator(rigid, discs[0], color_order='rgb', **option)


def test_an_image_of_another_size_and_one_that_is_no_picture(make_inferencer, image):
    inferencer = make_inferencer()
    other = inferencer.encode(image[:, :40], color_order='rgb')
    with pytest.raises(InputError, match='encoded image has 40 x 45 pixels, the image 61 x 45'):
        PointAnnotator(inferencer, image, color_order='rgb', encoded=other)
    with pytest.raises(InputError, match="normalization is 'none'"):
        PointAnnotator(make_inferencer(normalization='none'), image, color_order='rgb')


def test_clicks_are_added_removed_and_brought_back():
    clicks = Clicks((50, 100))
    clicks.add(10, 10, 5.0, 0.0)
    clicks.add(90, 40, 0.0, 0.0)
    assert clicks.remove_nearest(99, 49) == (90, 40, 0.0, 0.0)
    assert clicks.items == [(10, 10, 5.0, 0.0)]
    clicks.clear()
    assert clicks.items == [] and clicks.remove_nearest(1, 1) is None
    steps = []
    while clicks.undo():
        steps.append(len(clicks.items))
    assert steps == [1, 2, 1, 0]
    for wrong in ((100, 0), (0, -1), (float('nan'), 0), (1, 1, float('inf'), 0)):
        with pytest.raises(InputError, match='finite'):
            clicks.add(*wrong)
    assert clicks.items == [] and not clicks.undo()


def test_session_finishes_object_after_object(rigid, discs):
    session = AnnotationSession(PointAnnotator(rigid, discs[0], color_order='rgb'))
    assert session.mask() is None
    with pytest.raises(InputError, match='no positive points'):
        session.finish()
    session.add(80, 50, 'static')
    assert session.mask() is None
    session.add(30, 30)
    asked = len(rigid.asked)
    assert session.mask() is session.mask()
    assert len(rigid.asked) == asked + 4
    assert session.finish() == 1 and session.mask() is None
    session.add(1, 1)
    session.remove_nearest(3, 3)
    session.undo()
    assert session.points('positive').tolist() == [[1, 1]]
    session.undo()
    session.add(80, 50)
    assert session.finish() == 2
    np.testing.assert_array_equal(session.label_map(), discs[1][0] + 2 * discs[1][1].astype(np.uint8))
    assert session.drop_object() and session.label_map().max() == 1
    with pytest.raises(InputError, match="'negative'"):
        session.add(1, 1, 'negative')


def test_a_later_object_covers_an_earlier_one(rigid, discs):
    session = AnnotationSession(PointAnnotator(rigid, discs[0], color_order='rgb'))
    first, second = np.zeros((2, *discs[1][0].shape), bool)
    first[:20, :20] = second[10:30, 10:30] = True
    session.objects = [first, second]
    labels = session.label_map()
    assert (labels[5, 5], labels[15, 15], labels[25, 25]) == (1, 2, 2)


def test_overlays_leave_the_rest_alone(discs):
    image, (mask, _) = discs
    flow = np.zeros((*mask.shape, 2), np.float32)
    flow[mask] = (0, 5)
    for drawn in (overlay_flow(image, flow, 5.0), overlay_mask(image, mask)):
        assert drawn.shape == image.shape and drawn.dtype == np.uint8
        np.testing.assert_array_equal(drawn[~mask], image[~mask])
        assert (drawn[mask] != image[mask]).any(axis=1).all()


@pytest.mark.parametrize('working', [None, (16, 24)])
def test_points_that_meet_are_told_apart_whatever_arrows_would_do(make_inferencer, image, working):
    """The positive point counts, and of equal ones the last, also where the network sees one pixel."""
    masks = []
    for collisions in ('error', 'mean', 'last'):
        annotator = PointAnnotator(
            make_inferencer(collisions=collisions, working_size=working), image, color_order='rgb'
        )
        masks.append(annotator.mask([(20, 20), (20, 20), (40, 9)], [(40, 9), (1, 1), (1, 1)]).score)
        alone = annotator.mask([(20, 20), (40, 9)], [(1, 1)]).score
        np.testing.assert_array_equal(masks[-1], alone)
        if working:
            beside = annotator.mask([(20, 20), (40, 9)], [(39, 9), (1, 1)]).score
            np.testing.assert_array_equal(beside, alone)
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])


def test_masks_are_of_the_flow_as_the_network_gives_it(make_inferencer, image):
    scores = [
        PointAnnotator(make_inferencer(correction=correction), image, color_order='rgb')
        .mask([(20, 20), (40, 9)], [(1, 1)])
        .score
        for correction in ('none', 'fade')
    ]
    np.testing.assert_array_equal(*scores)


def test_a_point_at_the_rim_of_the_square_is_in_it_or_not(inferencer):
    annotator = PointAnnotator(
        inferencer, np.zeros((200, 200, 3), np.uint8), zoom_factor=4, color_order='rgb'
    )
    for x in (74.4, 74.6, 75.4):
        assert annotator.mask([(50, 50), (60, 60)], [(x, 60)]).mask.shape == (200, 200)


def test_finishing_and_removing_objects_can_be_undone(rigid, discs):
    session = AnnotationSession(PointAnnotator(rigid, discs[0], color_order='rgb'))
    session.add(30, 30)
    session.finish()
    assert session.undo()
    assert session.objects == [] and session.points('positive').tolist() == [[30, 30]]
    session.finish()
    session.add(80, 50)
    (kept,) = session.objects
    assert session.drop_object() and session.objects == []
    assert session.points('positive').tolist() == [[80, 50]]
    session.add(1, 1, 'static')
    steps = []
    while session.undo():
        steps.append((session.points('positive').tolist(), len(session.objects)))
        assert all(each is kept for each in session.objects)
    assert steps == [([[80, 50]], 0), ([[80, 50]], 1), ([], 1), ([[30, 30]], 0), ([], 0)]


def test_overlays_have_the_colours_of_the_flow_and_the_one_asked_for(discs):
    image, (mask, _) = discs
    flow = np.zeros((*mask.shape, 2), np.float32)
    flow[mask] = (1, 5)
    drawn = overlay_flow(image, flow, 6.0, opacity=1.0)
    np.testing.assert_array_equal(drawn[mask], flow_to_rgb(flow, 6.0)[mask])
    flow[0, 0] = np.nan  # unknown: as it is
    np.testing.assert_array_equal(overlay_flow(image, flow, 6.0)[0, 0], image[0, 0])
    tinted = overlay_mask(image, mask, (10, 20, 240), opacity=1.0)
    assert tinted[30, 30].tolist() == [10, 20, 240]


def test_the_enlarged_square_gives_the_flow_of_its_own_picture(inferencer, image):
    made = PointAnnotator(inferencer, image, zoom_factor=2, crop_size=40, color_order='rgb').mask(
        [(20, 20), (26, 24)]
    )
    top, left, bottom, right = made.box
    ratio = (right - left) / 40
    crop = inferencer.encode(image[top:bottom, left:right], color_order='rgb', working_size=(40, 40))
    arrows = [(x - left, y - top, 10 * ratio, 0) for x, y in ((20, 20), (26, 24))]
    wanted = inferencer.propagate(crop, arrows)[0].permute(1, 2, 0).numpy() / ratio
    np.testing.assert_allclose(made.flows[0], wanted, atol=1e-3)


def test_points_between_pixels_go_to_the_nearest(rigid, discs):
    PointAnnotator(rigid, discs[0], color_order='rgb').mask([(30.6, 29.3)])
    assert rigid.asked[0][0, :2].tolist() == [31, 29]


def test_aligned_measures_by_the_response_around_the_points(by_hand, discs):
    first, second = map(torch.from_numpy, discs[1])

    def flow(arrows, size):
        pull, moved = arrows[-1, 2:], torch.zeros(2, *size)
        moved[:, first] = pull[:, None]
        moved[:, second] = 3 * pull[:, None]  # another, faster object
        moved[:, 30, 30] = 4 * pull  # one odd pixel
        return moved

    annotator = PointAnnotator(by_hand(flow), discs[0], method='aligned', color_order='rgb')
    np.testing.assert_array_equal(annotator.mask([(30, 30)]).mask, discs[1][0])


@pytest.mark.parametrize('method', ['reference', 'aligned'])
def test_noise_is_not_blown_up_to_a_mask(by_hand, discs, method):
    noise = torch.rand(80, 110, generator=torch.Generator().manual_seed(0))
    faint = by_hand(lambda arrows, size: 1e-6 * noise * arrows[-1, 2:].view(2, 1, 1))
    made = PointAnnotator(faint, discs[0], method=method, color_order='rgb').mask([(30, 30)])
    assert not made.mask.any() and made.score.max() < 0.05


def test_the_square_holds_its_points_and_fits_the_image(rigid, discs):
    annotator = PointAnnotator(rigid, discs[0], zoom_factor=1, crop_size=64, color_order='rgb')
    assert annotator.mask([(20, 20), (50, 20)]).box == (4, 18, 37, 51)
    annotator.zoom_factor = 4
    assert annotator.mask([(50, 40), (51, 40)]).box == (32, 42, 48, 58)
    annotator.zoom_factor = 3
    assert annotator.mask([(10, 40), (40, 40)]).box == (0, 0, 80, 90)


def test_the_nearest_is_nearest_in_both_directions():
    clicks = Clicks((50, 100))
    for place in ((10, 10), (12, 40), (40, 12)):
        clicks.add(*place)
    assert clicks.remove_nearest(13, 12) == (10, 10) and clicks.remove_nearest(39, 38) == (40, 12)


def test_the_pull_is_in_pixels_of_the_working_size_on_both_axes(rigid, discs):
    encoded = EncodedImage((torch.zeros(1),), (80, 110), (160, 55))
    annotator = PointAnnotator(rigid, discs[0], velocity=8, color_order='rgb', encoded=encoded)
    made = annotator.mask([(30, 30)])
    assert [one[0, 2:].tolist() for one in rigid.asked] == [[16, 0], [0, 4], [-16, 0], [0, -4]]
    assert made.flows[:2, 30, 30].tolist() == [[8, 0], [0, 8]]
