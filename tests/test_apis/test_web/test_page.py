"""What the page's events answer, without a browser."""

import copy
import inspect
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from cmp_mm.apis import CMPInferencer
from cmp_mm.apis.command_line import png

gradio = pytest.importorskip('gradio', reason="the page needs gradio: pip install 'cmp_mm[web]'")


class Page:
    """One visitor's page: the values its components show, by elem_id."""

    def __init__(self, inferencer, **options):
        from cmp_mm.apis.web.page import build_page

        self.blocks = build_page(inferencer, **options)
        self.lose()
        (load,) = (each for each in self.blocks.fns.values() if each.targets[0][1] == 'load')
        self.session = load.fn()
        self.shown = {self._name(id): getattr(each, 'value', None) for id, each in self.blocks.blocks.items()}
        self.usable = {}

    def fire(self, name, event, place=None):
        """Let an event happen, and show what it answers."""
        (handler,) = (
            each
            for each in self.blocks.fns.values()
            if any(self._name(id) == name and kind == event for id, kind in each.targets)
        )
        values = [
            self.session if isinstance(each, gradio.State) else self.shown[each.elem_id]
            for each in handler.inputs
        ]
        if 'event' in inspect.signature(handler.fn).parameters:
            values.append(SimpleNamespace(index=place))
        answers = handler.fn(*values)
        assert len(answers) == len(handler.outputs)
        for component, answer in zip(handler.outputs, answers, strict=True):
            if isinstance(answer, dict) and answer.get('__type__') == 'update':
                if 'value' in answer:
                    self.shown[component.elem_id] = answer['value']
                if 'interactive' in answer:
                    self.usable[component.elem_id] = answer['interactive']
            else:
                self.shown[component.elem_id] = answer

    def lose(self):
        """What a page finds on a server that was restarted or had too many visitors."""
        (state,) = (each for each in self.blocks.blocks.values() if isinstance(each, gradio.State))
        self.session = copy.deepcopy(state.value)

    def choose(self, data):
        self.shown['file'] = data
        self.fire('file', 'change')

    def click(self, name, x, y):
        zoom = self.session.zoom
        self.fire(f'{name}-canvas', 'select', ((x + 0.5) * zoom, (y + 0.5) * zoom))

    def draw(self, name, start, end):
        self.click(name, *start)
        self.click(name, *end)

    def _name(self, id):
        return getattr(self.blocks.blocks.get(id), 'elem_id', None)


@pytest.fixture
def page(inferencer, image):
    page = Page(inferencer)
    page.choose(png(image))
    return page


def change(page, what):
    """The arrows shared by two tabs, in each way there is."""
    if what in ('undo', 'clear'):
        page.fire(f'video-{what}', 'click')
    elif what == 'image':
        page.choose(png(page.session.image[:20, :30]))
    else:
        page.draw(what, (30, 30), (33, 30))
        page.fire('video-tab', 'select')


@pytest.mark.parametrize('what', ['undo', 'clear', 'video', 'flow', 'image'])
@pytest.mark.parametrize('form', ['mp4', 'gif'])
def test_a_video_of_other_arrows_is_not_offered(page, what, form):
    page.shown |= {'video-form': form, 'video-frames': 2}
    component = 'video-movie' if form == 'mp4' else 'video-gif'
    page.draw('video', (10, 12), (19, 8))
    page.fire('video-run', 'click')
    page.click('video', 5, 5)  # begins an arrow, which changes nothing yet
    page.fire('video-tab', 'select')
    assert page.shown[component] == page.shown['video-file'] and page.usable['video-file']
    page.fire('video-undo', 'click')
    assert page.shown['video-file']
    change(page, what)
    assert page.shown[component] is None and page.shown['video-file'] is None
    assert not page.usable['video-file']


@pytest.mark.parametrize('what', ['clear', 'image'])
def test_a_change_during_an_animation_leaves_no_video_of_before(page, inferencer, what, monkeypatch):
    page.shown |= {'video-frames': 2}
    page.draw('video', (10, 12), (19, 8))
    propagate = inferencer.propagate

    def slow(*args, **kwargs):
        change(page, what)
        return propagate(*args, **kwargs)

    monkeypatch.setattr(inferencer, 'propagate', slow)
    page.fire('video-run', 'click')
    told = 'the arrows were changed' if what == 'clear' else 'another image was loaded'
    assert f'Not done: {told} meanwhile' in page.shown['video-status']
    assert page.session.video is None and page.shown['video-file'] is None
    assert page.shown['video-movie'] is None and not page.usable['video-file']


BUTTONS = [
    f'{tab}-{button}'
    for tab, buttons in (
        ('flow', ('canvas', 'undo', 'clear', 'run')),
        ('video', ('canvas', 'undo', 'clear', 'run')),
        ('mask', ('canvas', 'undo', 'finish', 'drop', 'export')),
    )
    for button in buttons
]


@pytest.mark.parametrize('name', BUTTONS)
def test_a_lost_session_is_told_and_the_page_stays_as_it_is(page, image, name):
    page.draw('flow', (10, 12), (19, 8))
    page.fire('flow-run', 'click')
    page.click('mask', 20, 20)
    page.fire('video-tab', 'select')
    before = dict(page.shown)
    page.lose()
    tab = name.partition('-')[0]
    if name.endswith('canvas'):
        page.click(tab, 3, 3)
    else:
        page.fire(name, 'click')
    assert 'no image yet, or no longer: the server was restarted' in page.shown[f'{tab}-status']
    assert 'choose the image again' in page.shown[f'{tab}-status']
    for tab in ('flow-tab', 'video-tab'):
        page.fire(tab, 'select')
    for kept in (
        'flow-canvas',
        'flow-arrows',
        'flow-picture',
        'flow-flo',
        'video-arrows',
        'mask-canvas',
        'mask-summary',
    ):
        assert page.shown[kept] is before[kept] and before[kept] is not None
    page.choose(png(image))
    page.draw('flow', (10, 12), (19, 8))
    page.fire('flow-run', 'click')
    assert 'Mean motion' in page.shown['flow-status']


def test_a_page_just_opened_asks_for_an_image(inferencer):
    page = Page(inferencer)
    page.fire('flow-run', 'click')
    assert page.shown['flow-status'] == 'Not done: there is no image yet; choose one first.'


def test_points_the_network_refuses_are_told_and_drawn(tiny_config, weights, image):
    config = copy.deepcopy(tiny_config)
    config.model.codec.max_flow = 5.0  # less than the pull of 10 px
    page = Page(CMPInferencer(config, weights, 'cpu', out_of_range='error'))
    page.choose(png(image))
    plain = page.shown['mask-canvas']
    page.click('mask', 20, 20)
    assert page.shown['mask-status'].startswith('Not done: an arrow has a component of ')
    assert page.shown['mask-summary'] == 'Positive points: 1, static: 0. Finished objects: 0.'
    assert (page.shown['mask-canvas'] != plain).any()
    page.fire('mask-finish', 'click')
    assert page.shown['mask-status'].startswith('Not done: an arrow has a component of ')
    page.fire('mask-undo', 'click')
    assert page.shown['mask-status'] == 'Taken back.'
    assert (page.shown['mask-canvas'] == plain).all()


def test_the_square_of_the_points_is_enlarged_to_what_the_network_knows(inferencer, image, monkeypatch):
    page = Page(inferencer, crop_size=96)
    page.choose(png(image))
    page.shown |= {'mask-zoom': 4}
    page.click('mask', 20, 20)
    seen, encode = [], inferencer.encode

    def remember(image, **options):
        seen.append(options.get('working_size'))
        return encode(image, **options)

    monkeypatch.setattr(inferencer, 'encode', remember)
    page.click('mask', 25, 20)
    assert seen == [(96, 96)]


@pytest.mark.parametrize('event', ['submit', 'blur'])
def test_another_radius_recolours_the_flow(page, event):
    page.draw('flow', (10, 12), (19, 8))
    page.fire('flow-run', 'click')
    before, file = page.shown['flow-picture'], page.shown['flow-flo']
    page.shown['flow-radius'] = 3
    page.fire('flow-radius', event)
    assert (page.shown['flow-picture'] != before).any() and page.shown['flow-flo'] == file
    page.shown['flow-radius'] = 20
    page.fire('flow-radius', event)
    assert (page.shown['flow-picture'] == before).all()
    page.shown['flow-radius'] = 0
    page.fire('flow-radius', event)
    assert page.shown['flow-status'].startswith('No picture: the radius is 0')
    assert (page.shown['flow-picture'] == before).all()
    page.shown['flow-radius'] = 3
    page.fire('flow-radius', event)
    assert page.shown['flow-status'] == ''
    # What else is told stays.
    page.shown['flow-radius'] = 0
    page.fire('flow-run', 'click')
    assert 'No picture' in page.shown['flow-status']
    page.shown['flow-radius'] = 3
    page.fire('flow-radius', event)
    told = page.shown['flow-status']
    assert told.startswith('Mean motion') and told.endswith(' px.')
    page.fire('flow-radius', event)
    assert page.shown['flow-status'] == told


@pytest.mark.parametrize(('name', 'first'), [('mask-threshold', 0.5), ('mask-velocity', 10)])
def test_a_number_may_be_deleted_to_type_another(page, name, first):
    slider = next(each for each in page.blocks.blocks.values() if each.elem_id == name)
    assert slider.preprocess(None) == first and slider.preprocess(2 * first / 5) == 2 * first / 5
    page.fire('mask-canvas', 'select', (10, 12))
    before = page.shown['mask-canvas']
    page.shown[name] = slider.preprocess(None)
    page.fire(name, 'change')
    assert (page.shown['mask-canvas'] == before).all()


@pytest.mark.parametrize('radius', [None, 0, -3])
def test_the_flow_is_given_whatever_the_radius(page, radius):
    page.draw('flow', (10, 12), (19, 8))
    number = next(each for each in page.blocks.blocks.values() if each.elem_id == 'flow-radius')
    page.shown['flow-radius'] = number.preprocess(radius)
    page.fire('flow-run', 'click')
    assert page.shown['flow-status'].startswith('Mean motion')
    assert page.usable['flow-flo'] and page.usable['flow-npz']
    if radius is None:  # as at first
        assert page.shown['flow-picture'] is not None
    else:
        assert f'No picture: the radius is {radius}; expected pixels above 0.' in page.shown['flow-status']


def test_an_animation_does_not_hold_up_the_end_of_the_server(inferencer, image, monkeypatch):
    ending = threading.Event()
    page = Page(inferencer, ending=ending)
    page.choose(png(image))
    page.draw('video', (10, 12), (19, 8))
    page.shown['video-frames'] = 64
    calls, propagate = [], inferencer.propagate

    def interrupted(*args, **kwargs):
        calls.append(1)
        ending.set()
        return propagate(*args, **kwargs)

    monkeypatch.setattr(inferencer, 'propagate', interrupted)
    page.fire('video-run', 'click')
    assert page.shown['video-status'] == 'Not done: the server is ending.' and len(calls) == 1


def test_the_mask_follows_its_sliders_however_they_are_moved(page):
    page.shown['mask-method'] = 'reference'
    page.click('mask', 20, 20)
    wide = page.session.annotation.mask().mask.sum()
    page.shown['mask-threshold'] = 0.9
    page.fire('mask-threshold', 'change')
    assert page.session.annotation.mask().mask.sum() < wide
    (handler,) = (
        each
        for each in page.blocks.fns.values()
        if {(page._name(id), kind) for id, kind in each.targets}
        >= {('mask-threshold', 'change'), ('mask-velocity', 'change')}
    )
    assert handler.trigger_mode == 'always_last'


@pytest.mark.parametrize(
    ('data', 'told'),
    [(None, 'The image stays'), (b'no image', 'Not done: the file is not a whole image file')],
)
def test_results_stay_with_their_image(page, data, told):
    page.shown['video-frames'] = 2
    page.draw('flow', (10, 12), (19, 8))
    page.fire('flow-run', 'click')
    page.fire('video-run', 'click')
    page.click('mask', 20, 20)
    page.fire('mask-finish', 'click')
    page.fire('mask-export', 'click')
    before = dict(page.shown)
    page.choose(data)
    assert page.shown.pop('loaded').startswith(told)
    del before['loaded'], before['file'], page.shown['file']
    for name, value in page.shown.items():
        assert value is before[name], name
    page.fire('flow-undo', 'click')
    page.click('mask', 30, 30)
    assert page.session.arrows.items == [] and len(page.session.annotation.objects) == 1


def test_clear_says_what_it_removed(page):
    page.fire('flow-clear', 'click')
    assert page.shown['flow-status'] == 'There is nothing to remove.'
    page.click('flow', 5, 5)
    page.fire('flow-clear', 'click')
    assert page.shown['flow-status'] == 'The arrow begun is dropped.' and page.session.start is None
    page.draw('flow', (10, 12), (19, 8))
    page.fire('flow-clear', 'click')
    assert page.shown['flow-status'] == 'All arrows are removed; undo brings them back.'
    page.fire('flow-undo', 'click')
    assert page.session.arrows.items == [(10, 12, 9, -4)]


def test_undo_brings_a_finished_object_back_into_work(page):
    page.click('mask', 20, 20)
    page.fire('mask-finish', 'click')
    page.shown['mask-threshold'] = 0.6
    page.fire('mask-threshold', 'change')
    page.fire('mask-undo', 'click')
    assert page.shown['mask-status'] == 'Taken back.'
    assert 'Positive points: 1,' in page.shown['mask-summary']
    assert 'Finished objects: 0' in page.shown['mask-summary']


def test_masks_are_made_by_the_options_shown(page):
    page.shown |= {'mask-threshold': 0.3, 'mask-velocity': 7, 'mask-zoom': 4}
    page.click('mask', 20, 20)
    made = page.session.annotation.annotator
    assert (made.method, made.threshold, made.velocity) == ('aligned', 0.3, 7)
    assert (made.zoom_factor, made.crop_size) == (4, 384)


def test_an_animation_is_made_by_the_options_shown(page, monkeypatch):
    from cmp_mm.apis.web import session

    seen, animate, write = [], session.animate, session.write_video
    monkeypatch.setattr(
        session, 'animate', lambda *args, **options: seen.append(options) or animate(*args, **options)
    )
    monkeypatch.setattr(
        session, 'write_video', lambda frames, path, *rate: seen.append(rate) or write(frames, path, *rate)
    )
    shown = dict(form='gif', frames=3, rate=20, motion='stepwise', fill='none', correction='fade')
    page.shown |= {f'video-{name}': value for name, value in shown.items()}
    page.draw('video', (10, 12), (19, 8))
    page.fire('video-run', 'click')
    made = dict(num_frames=3, motion='stepwise', fill='none', correction='fade', color_order='rgb')
    assert seen == [made, (20.0,)]


def test_the_flow_meets_its_arrows_where_that_is_chosen(page, make_inferencer):
    page.draw('flow', (10, 12), (19, 8))
    assert page.shown['flow-correction'] == page.shown['video-correction'] == 'none'
    page.fire('flow-run', 'click')
    assert np.abs(page.session.flow[12, 10] - (9, -4)).max() > 1
    page.shown['flow-correction'] = 'fade'
    page.fire('flow-run', 'click')
    np.testing.assert_allclose(page.session.flow[12, 10], (9, -4), atol=1e-4)
    of_server = Page(make_inferencer(correction='fade')).shown
    assert of_server['flow-correction'] == of_server['video-correction'] == 'fade'


def test_the_page_shrinks_to_the_side_asked_for(inferencer, image):
    page = Page(inferencer, max_side=30)
    page.choose(png(image))
    assert 'Shrunk to 30 x 22' in page.shown['loaded']
    inferencer.trained_side = 96
    page.choose(png(image[:40, :40]))
    assert page.shown['loaded'].endswith('if the server is started with --working-size 96.')


def test_clicks_are_not_lost_and_do_not_overtake(page):
    def of(name, event):
        handlers = page.blocks.fns.values()
        return next(
            one
            for one in handlers
            if any(page._name(id) == name and kind == event for id, kind in one.targets)
        )

    for name, event in (('flow-canvas', 'select'), ('video-canvas', 'select'), ('flow-undo', 'click')):
        one = of(name, event)
        assert (one.trigger_mode, one.concurrency_limit, one.concurrency_id) == ('multiple', 1, 'quick')
    for name, event in (('flow-run', 'click'), ('video-run', 'click'), ('mask-canvas', 'select')):
        one = of(name, event)
        assert (one.concurrency_limit, one.concurrency_id) == (1, 'network')
    assert of('mask-canvas', 'select').trigger_mode == 'multiple'


def test_the_score_of_a_mask_is_shown_instead(page):
    page.click('mask', 20, 20)
    masked = page.shown['mask-canvas']

    def assert_score(*points):
        made, zoom = page.session.annotation.mask(), page.session.zoom
        y, x = np.mgrid[: made.score.shape[0], : made.score.shape[1]]
        away = np.all([np.hypot(x - one[0], y - one[1]) > 12 for one in points], axis=0)  # of what is drawn
        shown = page.shown['mask-canvas'][::zoom, ::zoom]
        np.testing.assert_array_equal(shown[away], np.rint(made.score * 255)[away][:, None].repeat(3, 1))

    page.shown['mask-view'] = 'score'
    page.fire('mask-view', 'change')
    assert_score((20, 20))
    page.click('mask', 30, 20)
    assert_score((20, 20), (30, 20))
    page.shown['mask-view'] = 'mask'
    page.fire('mask-view', 'change')
    page.fire('mask-undo', 'click')
    np.testing.assert_array_equal(page.shown['mask-canvas'], masked)


def test_what_is_shown_of_masks_outlives_the_session(page, image):
    page.shown['mask-view'] = 'score'
    page.lose()
    page.choose(png(image))
    page.click('mask', 20, 20)
    assert page.session.mask_view == 'score'
