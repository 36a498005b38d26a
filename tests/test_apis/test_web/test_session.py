import re
import warnings
import zipfile

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from cmp_mm.apis import InputError, PointAnnotator
from cmp_mm.apis.command_line import png
from cmp_mm.apis.web import PageSession
from cmp_mm.apis.web.session import POINT_MODES
from cmp_mm.flow import flow_to_rgb, read_flow


@pytest.fixture
def session(image):
    session = PageSession()
    assert '61 x 45' in session.load(png(image), 1024)
    return session


def at(session, x, y):
    """A place inside pixel x, y on the picture to click on."""
    return (x + 0.7) * session.zoom, (y + 0.2) * session.zoom


def test_pictures_are_enlarged_and_clicks_brought_back(session, image):
    assert session.zoom == 11
    np.testing.assert_array_equal(session.arrow_picture()[5::11, 5::11], image)
    assert session.to_pixel(at(session, 60, 44)) == (60, 44)
    assert session.to_pixel((-1, 45 * 11)) == (0, 44)  # beside the rim


def test_a_large_image_is_shrunk_and_it_says_so(image):
    session = PageSession()
    told = session.load(png(image), 30)
    assert '61 x 45' in told and 'Shrunk to 30 x 22' in told
    assert session.image.shape == (22, 30, 3) and session.arrows.size == (22, 30)


def test_an_image_far_from_those_trained_on_is_told(image, inferencer):
    told = 'Trained on short sides of 20 px, .* started with --working-size 20'
    assert 'Trained' not in PageSession().load(png(image), 1024, inferencer)
    inferencer.trained_side = 20
    assert re.search(told, PageSession().load(png(image), 1024, inferencer))
    # What counts is the size after shrinking.
    assert 'Trained' not in PageSession().load(png(image), 30, inferencer)


def test_arrows_on_a_shrunk_image_are_listed_in_pixels_of_the_file():
    image = np.zeros((300, 400, 3), np.uint8)
    image[:, 320:] = 255
    session = PageSession()
    session.load(png(image), 100)
    assert (session.image[40, 85] == 255).all()
    session.click_arrow(at(session, 85, 40), 'draw arrow')
    session.click_arrow(at(session, 95, 38), 'draw arrow')
    x, y, u, v = (float(part) for part in session.arrow_list().removeprefix('--arrow ').split(','))
    assert (u, v) == (40, -8)
    assert (image[int(y), int(x)] == 255).all() and abs(y - 162) <= 2 and abs(x - 342) <= 2


def test_what_is_no_image_leaves_the_one_before(session, image):
    with pytest.raises(InputError, match='not a whole image'):
        session.load(b'text', 1024)
    np.testing.assert_array_equal(session.image, image)


def test_arrows_by_two_clicks_and_back(session):
    assert 'now click where it ends' in session.click_arrow(at(session, 10, 12), 'draw arrow')
    assert session.arrows.items == [] and session.start == (10, 12)
    session.click_arrow(at(session, 4, 15), 'draw arrow')
    session.click_arrow(at(session, 50, 30), 'hold still')
    assert session.arrow_list() == '--arrow 10,12,-6,3\n--arrow 50,30,0,0'
    session.click_arrow(at(session, 40, 30), 'remove nearest')
    assert session.arrow_list() == '--arrow 10,12,-6,3'
    session.undo_arrow()
    assert len(session.arrows.items) == 2
    session.click_arrow(at(session, 1, 1), 'draw arrow')
    assert 'begun' in session.undo_arrow() and len(session.arrows.items) == 2
    session.clear_arrows()
    assert session.arrow_list() == ''
    session.undo_arrow()
    assert len(session.arrows.items) == 2


@pytest.mark.parametrize(
    'place', [None, 7, (), (1,), (1, 2, 3), 'xy', (None, 1), (float('nan'), 1), ([1], 2)]
)
def test_a_click_without_a_place_is_refused(session, place):
    """Whoever talks to the server may send anything."""
    with pytest.raises(InputError, match='the click has no place'):
        session.click_arrow(place, 'draw arrow')
    assert session.start is None and not session.arrows.items


def test_arrows_are_seen(session, image):
    plain = session.arrow_picture()
    session.click_arrow(at(session, 10, 12), 'draw arrow')
    begun = session.arrow_picture()
    session.click_arrow(at(session, 30, 12), 'draw arrow')
    drawn = session.arrow_picture()
    middle = (int(12.5 * 11), int(20.5 * 11))
    assert (begun != plain).any() and (begun[middle] == plain[middle]).all()
    assert drawn[middle].tolist() == [255, 214, 0]


def test_flow_is_that_of_the_arrows(session, inferencer, image):
    with pytest.raises(InputError, match='no arrows yet'):
        session.propagate(inferencer)
    assert session.flow_pictures(20) is None and session.flow_files() is None
    session.click_arrow(at(session, 10, 12), 'draw arrow')
    session.click_arrow(at(session, 19, 8), 'draw arrow')
    assert 'Mean motion' in session.propagate(inferencer)
    expected = inferencer.propagate(image, [(10, 12, 9, -4)], color_order='rgb')[0].numpy()
    flo, npz = session.flow_files()
    for path in (flo, npz):
        np.testing.assert_allclose(read_flow(path)[0], expected.transpose(1, 2, 0), atol=1e-5)
    plain, over = session.flow_pictures(20)
    assert plain.shape == over.shape == (45 * 11, 61 * 11 + 128, 3)
    inner = plain[: 45 * 11 : 11, : 61 * 11 : 11]
    np.testing.assert_array_equal(inner, flow_to_rgb(expected.transpose(1, 2, 0), 20))
    with pytest.raises(InputError, match='radius'):
        session.flow_pictures(0)
    session.click_arrow(at(session, 3, 3), 'hold still')
    assert session.flow is None  # it is not that of these arrows


def test_vectors_out_of_range_are_told(session, inferencer):
    session.click_arrow(at(session, 0, 12), 'draw arrow')
    session.click_arrow(at(session, 58, 12), 'draw arrow')
    assert 'Warning: an arrow has a component of 58' in session.propagate(inferencer)
    inferencer.out_of_range = 'rescale'
    assert 'Warning' not in session.propagate(inferencer)


@pytest.mark.parametrize('form', ['gif', 'mp4'])
def test_animation(session, inferencer, form):
    options = (form, 3, 10.0, 'straight', 'nearest')
    with pytest.raises(InputError, match='no arrows yet'):
        session.animate(inferencer, *options)
    session.click_arrow(at(session, 10, 12), 'draw arrow')
    session.click_arrow(at(session, 19, 8), 'draw arrow')
    seen = []
    path, told = session.animate(inferencer, *options, lambda done, total: seen.append((done, total)))
    assert told.startswith('3 frames of 61 x 45') and seen == [(1, 3), (2, 3), (3, 3)]
    if form == 'gif':
        with Image.open(path) as gif:
            assert gif.n_frames == 3 and gif.size == (61, 45)
    else:
        with av.open(path) as container:
            size = container.streams.video[0].width, container.streams.video[0].height
        assert f'The file has {size[0]} x {size[1]}:' in told and size != (61, 45)


def test_an_mp4_of_even_sides_has_the_size_of_the_image(inferencer, image):
    session = PageSession()
    session.load(png(image[:44, :60]), 1024)
    session.click_arrow(at(session, 10, 12), 'hold still')
    told = session.animate(inferencer, 'mp4', 2, 10.0, 'straight', 'nearest')[1]
    assert told == '2 frames of 60 x 44 pixels at 10 per second.'


def test_masks_points_objects_and_export(session, inferencer, image):
    options = dict(method='reference', threshold=0.3, velocity=10.0, zoom_factor=0)
    with pytest.raises(InputError, match='click on the image first'):
        session.undo_point()
    with pytest.raises(InputError, match='no object is finished'):
        session.export_masks()
    session.prepare_masks(inferencer, **options)
    for (x, y), kind in (((20, 20), 'positive'), ((50, 40), 'static'), ((5, 5), 'positive')):
        session.click_point(at(session, x, y), kind)
    session.click_point(at(session, 6, 6), 'remove nearest')
    expected = (
        PointAnnotator(inferencer, image, color_order='rgb', **options).mask([(20, 20)], [(50, 40)]).mask
    )
    assert expected.any() and not expected.all()
    np.testing.assert_array_equal(session.annotation.mask().mask, expected)
    assert f'mask of {expected.sum()} pixels' in session.mask_summary()
    session.finish_object()
    with pytest.raises(InputError, match='no positive points'):
        session.finish_object()
    session.click_point(at(session, 40, 10), 'positive')
    labels, masks, told = session.export_masks()
    assert 'finish it first' in told
    np.testing.assert_array_equal(cv2.imread(labels, cv2.IMREAD_UNCHANGED), expected.astype(np.uint8))
    with zipfile.ZipFile(masks) as archive:
        assert archive.namelist() == ['object_001.png']
        binary = cv2.imdecode(np.frombuffer(archive.read('object_001.png'), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(binary, expected * np.uint8(255))
    assert session.mask_picture().shape == (45 * 11, 61 * 11, 3)
    session.undo_point()
    assert session.annotation.mask() is None
    assert 'removed' in session.drop_object() and 'no finished' in session.drop_object()


def test_no_finished_object_has_the_colour_of_the_one_in_work(inferencer):
    session = PageSession()
    session.load(png(np.zeros((40, 60, 3), np.uint8)), 1024)
    session.prepare_masks(inferencer, method='reference', threshold=0.2, velocity=10.0, zoom_factor=0)

    def tints(mask):
        picture = session.mask_picture()[:: session.zoom, :: session.zoom]
        return {tuple(pixel) for pixel in picture[ndimage.binary_erosion(mask)].tolist()}

    finished = set()
    for number in range(9):
        session.annotation.objects.append(np.tile(np.arange(60) // 6 == number, (40, 1)))
        finished |= tints(session.annotation.objects[-1])
    session.annotation.objects = []
    session.click_point(at(session, 30, 20), 'positive')
    (in_work,) = tints(session.annotation.mask().mask) - {(255, 255, 255)}  # the point is drawn there too
    assert len(finished) == 5
    assert in_work not in finished


def test_other_options_keep_points_and_objects(session, inferencer):
    options = dict(method='reference', threshold=0.2, velocity=10.0, zoom_factor=0)
    session.prepare_masks(inferencer, **options)
    session.click_point(at(session, 20, 20), POINT_MODES[0])
    session.finish_object()
    session.click_point(at(session, 40, 30), POINT_MODES[0])
    wide = session.annotation.mask().mask
    session.prepare_masks(inferencer, **(options | dict(threshold=0.6)))
    assert session.annotation.mask().mask.sum() < wide.sum()
    assert len(session.annotation.objects) == 1 and session.annotation.clicks.items == [(40, 30, 'positive')]
    session.undo_point()
    assert session.annotation.clicks.items == []


def test_another_image_forgets_what_belonged_to_the_first(session, inferencer, image):
    session.click_arrow(at(session, 10, 12), 'draw arrow')
    session.click_arrow(at(session, 19, 8), 'draw arrow')
    session.propagate(inferencer)
    session.prepare_masks(inferencer, method='aligned')
    session.click_point(at(session, 20, 20), 'positive')
    session.load(png(image[:20, :30]), 1024)
    assert session.arrows.items == [] and session.flow is None and session.annotation is None
    session.click_arrow(at(session, 29, 19), 'hold still')
    session.propagate(inferencer)
    assert session.flow.shape == (20, 30, 2)


def draw(session, start, end):
    for place in (start, end):
        session.click_arrow(at(session, *place), 'draw arrow')


def test_an_image_loaded_meanwhile_keeps_its_own_masks(session, inferencer, image, monkeypatch):
    other = png(np.zeros((30, 20, 3), np.uint8))
    encode = inferencer.encode

    def slow(*args, **kwargs):
        session.load(other, 4096)
        return encode(*args, **kwargs)

    monkeypatch.setattr(inferencer, 'encode', slow)
    with pytest.raises(InputError, match='another image was loaded meanwhile'):
        session.prepare_masks(inferencer)
    assert session.annotation is None and session.mask_picture() is not None


def test_arrows_clicked_meanwhile_get_no_flow_of_the_old_ones(session, inferencer, monkeypatch):
    draw(session, (5, 5), (9, 5))
    propagate = inferencer.propagate

    def slow(*args, **kwargs):
        draw(session, (20, 20), (20, 25))
        return propagate(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(inferencer, 'propagate', slow)
        with pytest.raises(InputError, match='the arrows were changed meanwhile'):
            session.propagate(inferencer)
    assert session.flow is None and session.flow_files() is None
    session.propagate(inferencer)
    assert session.flow is not None


def test_flow_and_masks_share_one_encoding(session, inferencer, monkeypatch):
    calls, encode = [], inferencer.encode
    monkeypatch.setattr(
        inferencer, 'encode', lambda *args, **kwargs: calls.append(1) or encode(*args, **kwargs)
    )
    draw(session, (5, 5), (9, 5))
    session.propagate(inferencer)
    session.prepare_masks(inferencer)
    session.prepare_masks(inferencer, threshold=0.3)
    assert len(calls) == 1 and session.annotation is not None


def test_an_image_of_a_few_pixels_stays_small():
    session = PageSession()
    session.load(png(np.zeros((3, 1024, 3), np.uint8)), 4096)
    assert session.zoom == 2 and session.arrow_picture().shape == (6, 2048, 3)


@pytest.mark.parametrize('result', ['flow', 'video'])
def test_only_warnings_on_the_input_are_told(session, make_inferencer, monkeypatch, result):
    """Other threads of the server warn meanwhile, in all categories, of what is no matter of a visitor's."""
    inferencer = make_inferencer()
    propagate = inferencer.propagate

    def noisy(*args, **kwargs):
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.warn('the parameter goes away.', category, stacklevel=1)
        return propagate(*args, **kwargs)

    monkeypatch.setattr(inferencer, 'propagate', noisy)
    draw(session, (0, 12), (58, 12))
    with pytest.warns(UserWarning, match='goes away') as seen:
        if result == 'flow':
            told = session.propagate(inferencer)
        else:
            told = session.animate(inferencer, 'gif', 2, 10.0, 'straight', 'nearest')[1]
    assert len(seen) >= 3 and 'goes away' not in told
    assert told.count('Warning') == 1 and 'Warning: an arrow has a component of 58' in told
