"""The three tabs: what is on them, and what a click does. Imported only where gradio is installed."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Any

import gradio as gr

from ..annotation import SCORES
from ..clicks import POINT_KINDS
from ..correction import CORRECTIONS
from ..errors import InputError
from ..guided_video import HOLE_FILLINGS, MOTIONS
from ..inferencer import CMPInferencer
from .session import ARROW_MODES, MASK_VIEWS, POINT_MODES, PageSession

# A click must not be lost because another is still being drawn, nor overtake it: an arrow has two.
QUICK: dict[str, Any] = dict(
    api_visibility='private',
    show_progress='hidden',
    trigger_mode='multiple',
    concurrency_limit=1,
    concurrency_id='quick',
)
# One computation at a time, whoever asks: they share the processor.
NETWORK: dict[str, Any] = dict(api_visibility='private', concurrency_limit=1, concurrency_id='network')

_HEIGHT = 440
_RADIUS = 20.0  # pixels of full colour, until others are asked for
_NO_PICTURE = 'No picture: '


@dataclass(frozen=True)
class Tab:
    """A tab, its components that tell of the session, and what fills them.

    Attributes:
        tab: the tab.
        all: the components that show what the session holds.
        show: their values, given a session; as they are, of one without an image.
        results: components whose content is of no use any more once another image is loaded.
        no_results: their values then.
    """

    tab: gr.Tab
    all: list[Any]
    show: Callable[[PageSession], list[Any]]
    results: list[Any]
    no_results: list[Any]


def failed(error: Exception) -> str:
    """An error a visitor can do something about, as the page words it."""
    return f'Not done: {error}.'


def attempt(step: Callable[[], str]) -> str:
    """The sentence of a step, or that of its error."""
    try:
        return step()
    except (InputError, OSError) as error:
        return failed(error)


def _canvas(name: str) -> gr.Image:
    return gr.Image(
        label='Click here',
        interactive=False,
        type='numpy',
        format='png',
        height=_HEIGHT,
        buttons=['fullscreen'],
        elem_id=f'{name}-canvas',
        elem_classes='clickable',
    )


def _picture(label: str, name: str, **more: Any) -> gr.Image:
    return gr.Image(
        label=label,
        interactive=False,
        format='png',
        height=_HEIGHT,
        buttons=['download'],
        elem_id=name,
        **more,
    )


def _slider(*limits: float, **more: Any) -> gr.Slider:
    """A slider whose box for the number may be empty for a while: its first value counts then."""
    slider = gr.Slider(*limits, **more)
    first, read = slider.value, slider.preprocess
    # Not a class of its own: gradio writes a file of types beside the source of each.
    slider.preprocess = lambda value: read(first if value is None else value)
    return slider


def _correction(inferencer: CMPInferencer, name: str) -> gr.Radio:
    told = dict(none='as the network gives it', fade='meets the arrows')
    return gr.Radio(
        [(told[one], one) for one in CORRECTIONS],
        value=inferencer.correction, label='Flow', elem_id=f'{name}-correction',
    )  # fmt: skip


def _status(name: str) -> gr.Textbox:
    return gr.Textbox(label='Status', interactive=False, elem_id=f'{name}-status')


@dataclass(frozen=True)
class _ArrowEditor:
    """The part that flow and animation share."""

    canvas: gr.Image
    arrows: gr.Textbox
    status: gr.Textbox

    @property
    def all(self) -> list[Any]:
        return [self.canvas, self.arrows]

    def show(self, state: PageSession) -> list[Any]:
        if state.image is None:
            return [gr.skip()] * len(self.all)
        return [state.arrow_picture(), state.arrow_list()]

    def as_tab(
        self, tab: gr.Tab, results: list[Any], show_results: Callable[[PageSession], list[Any]]
    ) -> Tab:
        """The tab of the editor and of what is made of its arrows."""
        return Tab(
            tab,
            [*self.all, *results],
            lambda state: [*self.show(state), *show_results(state)],
            [self.status],
            [''],
        )


def _arrow_editor(session: gr.State, name: str, after: list[Any], show_after: Callable) -> _ArrowEditor:
    """Canvas, modes and buttons; ``after`` are components that change with the arrows."""
    mode = gr.Radio(ARROW_MODES, value=ARROW_MODES[0], label='A click will', elem_id=f'{name}-mode')
    canvas = _canvas(name)
    status = _status(name)
    with gr.Row():
        undo = gr.Button('Undo', elem_id=f'{name}-undo')
        clear = gr.Button('Clear', elem_id=f'{name}-clear')
    arrows = gr.Textbox(
        label='Arrows, as the command-line demos take them (x,y,u,v in pixels of the file)',
        interactive=False,
        lines=2,
        elem_id=f'{name}-arrows',
    )
    editor = _ArrowEditor(canvas, arrows, status)
    outputs = [status, *editor.all, *after]

    def answer(state: PageSession, told: str) -> list[Any]:
        return [told, *editor.show(state), *show_after(state)]

    def click(state: PageSession, mode: str, event: gr.SelectData) -> list[Any]:
        return answer(state, attempt(lambda: state.click_arrow(event.index, mode)))

    def step_back(state: PageSession) -> list[Any]:
        return answer(state, attempt(state.undo_arrow))

    def remove_all(state: PageSession) -> list[Any]:
        return answer(state, attempt(state.clear_arrows))

    canvas.select(click, [session, mode], outputs, **QUICK)
    undo.click(step_back, [session], outputs, **QUICK)
    clear.click(remove_all, [session], outputs, **QUICK)
    return editor


def flow_tab(session: gr.State, inferencer: CMPInferencer) -> Tab:
    """Arrows to flow."""
    with gr.Tab('Flow', elem_id='flow-tab') as tab, gr.Row():
        left, right = gr.Column(), gr.Column()
        with right:
            with gr.Row():
                run = gr.Button('Propagate', variant='primary', elem_id='flow-run')
                radius = gr.Number(_RADIUS, label='Pixels of full colour', elem_id='flow-radius')
            correction = _correction(inferencer, 'flow')
            over = _picture('Flow over the image', 'flow-overlay')
            plain = _picture('Flow', 'flow-picture')
            with gr.Row():
                flo = gr.DownloadButton('Download .flo', interactive=False, elem_id='flow-flo')
                npz = gr.DownloadButton('Download .npz', interactive=False, elem_id='flow-npz')
        results = [plain, over, flo, npz]

        def nothing(state: PageSession) -> list[Any]:
            if state.image is None or state.flow is not None:
                return [gr.skip()] * len(results)
            return [None, None, *[gr.update(value=None, interactive=False)] * 2]

        with left:
            editor = _arrow_editor(session, 'flow', results, nothing)

    def paint(state: PageSession, max_radius: float | None) -> tuple[str, list[Any]]:
        """What is wrong with the radius, and the pictures."""
        try:
            pictures = state.flow_pictures(_RADIUS if max_radius is None else max_radius)
        except InputError as error:
            return f'{_NO_PICTURE}{error}.', [None, None]
        return '', [gr.skip()] * 2 if pictures is None else list(pictures)

    def propagate(state: PageSession, max_radius: float | None, correction: str) -> list[Any]:
        try:
            told = state.propagate(inferencer, correction)
            paths = state.flow_files()
        except (InputError, OSError) as error:
            return [failed(error), *[gr.skip()] * len(results)]
        if paths is None:  # an arrow was changed since
            return [told, *nothing(state)]
        wrong, pictures = paint(state, max_radius)
        return [
            ' '.join(filter(None, [told, wrong])),
            *pictures,
            *(gr.update(value=path, interactive=True) for path in paths),
        ]

    def recolour(state: PageSession, max_radius: float | None, told: str) -> list[Any]:
        wrong, pictures = paint(state, max_radius)
        if wrong:
            return [wrong, gr.skip(), gr.skip()]
        before, complaint, _ = (told or '').partition(_NO_PICTURE)
        return [before.rstrip() if complaint else gr.skip(), *pictures]

    run.click(propagate, [session, radius, correction], [editor.status, *results], **NETWORK)
    recoloured = dict(inputs=[session, radius, editor.status], outputs=[editor.status, plain, over])
    gr.on([radius.submit, radius.blur], recolour, **recoloured, **QUICK)
    return editor.as_tab(tab, results, nothing)


def video_tab(session: gr.State, inferencer: CMPInferencer, ending: Event) -> Tab:
    """Arrows to video, which stops at its next frame once ``ending`` is set."""
    with gr.Tab('Animate', elem_id='video-tab') as tab, gr.Row():
        left, right = gr.Column(), gr.Column()
        with right:
            with gr.Row():
                form = gr.Radio(('mp4', 'gif'), value='mp4', label='File', elem_id='video-form')
                count = _slider(2, 64, 16, step=1, label='Frames', elem_id='video-frames')
                rate = _slider(1, 50, 10, step=1, label='Frames per second', elem_id='video-rate')
            with gr.Row():
                motion = gr.Radio(MOTIONS, value=MOTIONS[0], label='Motion', elem_id='video-motion')
                fill = gr.Radio(HOLE_FILLINGS, value=HOLE_FILLINGS[0], label='Holes', elem_id='video-fill')
            correction = _correction(inferencer, 'video')
            run = gr.Button('Animate', variant='primary', elem_id='video-run')
            movie = gr.Video(
                label='Video', interactive=False, height=_HEIGHT, autoplay=True, loop=True, buttons=[],
                elem_id='video-movie',
            )  # fmt: skip
            gif = _picture('Video', 'video-gif', type='filepath', visible=False)
            file = gr.DownloadButton('Download', interactive=False, elem_id='video-file')
        results = [movie, gif, file]

        def nothing(state: PageSession) -> list[Any]:
            if state.image is None or state.video is not None:
                return [gr.skip()] * len(results)
            return [None, None, gr.update(value=None, interactive=False)]

        with left:
            editor = _arrow_editor(session, 'video', results, nothing)

    def make(
        state: PageSession, form: str, count: float, rate: float, motion: str, fill: str, correction: str,
        progress=gr.Progress(),  # noqa: B008  gradio finds it by the default
    ) -> list[Any]:  # fmt: skip
        def tell(done: int, total: int) -> None:
            if ending.is_set():
                raise InputError('the server is ending')
            progress((done, total), unit='frames')

        try:
            path, told = state.animate(
                inferencer, form, int(count), float(rate), motion, fill, tell, correction
            )
        except (InputError, OSError) as error:
            return [failed(error), *[gr.skip()] * len(results)]
        is_gif = form == 'gif'
        return [
            told,
            gr.update(value=None if is_gif else path, visible=not is_gif),
            gr.update(value=path if is_gif else None, visible=is_gif),
            gr.update(value=path, interactive=True),
        ]

    inputs = [session, form, count, rate, motion, fill, correction]
    run.click(make, inputs, [editor.status, *results], show_progress_on=[movie, gif], **NETWORK)
    return editor.as_tab(tab, results, nothing)


def mask_tab(session: gr.State, inferencer: CMPInferencer, crop_size: int) -> Tab:
    """Points to masks; ``crop_size`` is that of a `PointAnnotator`."""
    with gr.Tab('Masks', elem_id='mask-tab') as tab, gr.Row():
        with gr.Column(scale=2):
            mode = gr.Radio(
                [(f'add {mode}' if mode in POINT_KINDS else mode, mode) for mode in POINT_MODES],
                value=POINT_MODES[0], label='A click will', elem_id='mask-mode',
            )  # fmt: skip
            canvas = _canvas('mask')
            status = _status('mask')
            summary = gr.Textbox(label='Objects', interactive=False, elem_id='mask-summary')
            with gr.Row():
                undo = gr.Button('Undo', elem_id='mask-undo')
                finish = gr.Button('Finish object', variant='primary', elem_id='mask-finish')
                drop = gr.Button('Remove last object', elem_id='mask-drop')
        with gr.Column(scale=1):
            method = gr.Radio(tuple(SCORES), value='aligned', label='Method', elem_id='mask-method')
            threshold = _slider(0, 0.95, 0.5, step=0.05, label='Threshold', elem_id='mask-threshold')
            velocity = _slider(1, 50, 10, step=1, label='Pull in pixels', elem_id='mask-velocity')
            zoom = gr.Radio(
                [('whole image', 0), ("a square of 4 times the points' extent", 4)],
                value=0,
                label='Look at',
                elem_id='mask-zoom',
            )
            view = gr.Radio(MASK_VIEWS, value=MASK_VIEWS[0], label='Show', elem_id='mask-view')
            export = gr.Button('Export finished objects', elem_id='mask-export')
            labels = gr.DownloadButton('Download label map (png)', interactive=False, elem_id='mask-labels')
            masks = gr.DownloadButton('Download masks (zip)', interactive=False, elem_id='mask-masks')
    options = [method, threshold, velocity, zoom, view]
    outputs = [status, canvas, summary]
    files = [labels, masks]

    def prepare(
        state: PageSession, method: str, threshold: float, velocity: float, zoom: float, view: str
    ) -> None:
        state.view_masks(view)
        state.prepare_masks(
            inferencer,
            method=method,
            threshold=threshold,
            velocity=velocity,
            zoom_factor=zoom,
            crop_size=crop_size,
        )

    def show(state: PageSession) -> list[Any]:
        if state.image is None:
            return [gr.skip()] * 2
        try:
            return [state.mask_picture(), state.mask_summary()]
        except InputError:  # the network refuses these points; whoever made the mask says so
            return [state.mask_picture(masked=False), state.mask_summary(masked=False)]

    def answer(state: PageSession, step: Callable[[], str]) -> list[Any]:
        def masked() -> str:
            told = step()
            state.make_mask()
            return told

        return [attempt(masked), *show(state)]

    def click(
        state: PageSession, mode: str, method: str, threshold: float, velocity: float, zoom: float, view: str,
        event: gr.SelectData,
    ) -> list[Any]:  # fmt: skip
        def step() -> str:
            prepare(state, method, threshold, velocity, zoom, view)
            return state.click_point(event.index, mode)

        return answer(state, step)

    def change(state: PageSession, *chosen: Any) -> list[Any]:
        def step() -> str:
            if state.annotation is not None:
                prepare(state, *chosen)
            return ''

        return answer(state, step)

    no_files = [gr.update(value=None, interactive=False)] * len(files)

    def button(step: Callable[[PageSession], str]) -> Callable[[PageSession], list[Any]]:
        # What was exported before is no longer what there is.
        return lambda state: [*answer(state, lambda: step(state)), *no_files]

    def write(state: PageSession) -> list[Any]:
        try:
            *paths, told = state.export_masks()
        except (InputError, OSError) as error:
            return [failed(error), *no_files]
        return [told, *(gr.update(value=path, interactive=True) for path in paths)]

    drawn = dict(NETWORK, trigger_mode='multiple', show_progress_on=[summary])
    canvas.select(click, [session, mode, *options], outputs, **drawn)
    for control, step in (
        (undo, PageSession.undo_point),
        (finish, PageSession.finish_object),
        (drop, PageSession.drop_object),
    ):
        control.click(button(step), [session], [*outputs, *files], **drawn)
    gr.on([each.change for each in (method, zoom, view)], change, [session, *options], outputs, **drawn)
    # Also by keyboard; of what a drag passes only the place it ends at has to be drawn.
    slid = dict(drawn, trigger_mode='always_last')
    gr.on([each.change for each in (threshold, velocity)], change, [session, *options], outputs, **slid)
    export.click(write, [session], [status, *files], **QUICK)

    return Tab(tab, [canvas, summary], show, [status, *files], ['', *no_files])
