"""The page: one image, three tabs. Imported only where gradio is installed."""

import threading

import gradio as gr

from ..errors import InputError
from ..inferencer import CMPInferencer
from . import tabs
from .session import PageSession

# Over the field for files, gradio lays "Error" after one that is too large, and then no click reaches it.
CSS = """#page {max-width: 1280px; margin: auto}
.clickable img {cursor: crosshair}
#file [data-testid="status-tracker"] {display: none}"""

_INTRODUCTION = """# Motion propagation
A few arrows become the motion of the whole image. Choose an image, then click."""

_NO_NETWORK = """# No checkpoint is loaded
The page needs a trained network. To train a small one, in half an hour from your videos, or in minutes from
rendered puppets:

```bash
bash tools/quickstart.sh [VIDEO...]
```

It leaves checkpoints in the folder `train` of what it writes. Then start the page with one of them,
or with a checkpoint of the reference implementation, whose networks saw 384 pixels, the default:

```bash
python tools/demo/web_demo.py --checkpoint CHECKPOINT --crop-size 96
```

`python tools/train.py CONFIG` trains a network of `configs/cmp`."""


def build_page(
    inferencer: CMPInferencer | None,
    max_side: int = 1024,
    crop_size: int = 384,
    ending: threading.Event | None = None,
) -> gr.Blocks:
    """Lay out the page.

    Args:
        inferencer: the network, shared by all visitors; None shows how to get one instead.
        max_side: see :func:`cmp_mm.apis.web.serve`.
        crop_size: likewise.
        ending: once set, animations stop at their next frame.
    """
    hourly = (3600, 6 * 3600)
    with gr.Blocks(
        title='Motion propagation', analytics_enabled=False, delete_cache=hourly, elem_id='page'
    ) as page:
        if inferencer is None:
            gr.Markdown(_NO_NETWORK, elem_id='no-checkpoint')
            return page
        # The first is what a page has whose session was lost, and any page until its own is made for it.
        session = gr.State(PageSession(lost=True))
        page.load(PageSession, None, session, **tabs.QUICK)
        gr.Markdown(_INTRODUCTION)
        with gr.Row():
            # Without file_types: the server says in words what is no image, and the field stays usable.
            file = gr.File(label='Image', type='binary', height=110, elem_id='file')
            loaded = gr.Textbox(label='Loaded', interactive=False, elem_id='loaded')
        with gr.Tabs():
            flow = tabs.flow_tab(session, inferencer)
            video = tabs.video_tab(session, inferencer, ending or threading.Event())
            masks = tabs.mask_tab(session, inferencer, crop_size)

        every = (flow, video, masks)
        outputs = [loaded]
        for shown in every:
            outputs += [*shown.all, *shown.results]

        def load(state: PageSession, data: bytes | None) -> list:
            # Without another image, the results are those of the one there is.
            unchanged = [gr.skip()] * (len(outputs) - 1)
            if data is None:
                return [tabs.attempt(state.keep), *unchanged]
            try:
                values = [state.load(data, max_side, inferencer)]
            except InputError as error:
                return [tabs.failed(error), *unchanged]
            for shown in every:
                values += [*shown.show(state), *shown.no_results]
            return values

        file.change(load, [session, file], outputs, **tabs.QUICK)
        # What was drawn in one tab is there in the other.
        for shown in (flow, video):
            shown.tab.select(shown.show, [session], shown.all, **tabs.QUICK)
    return page
