"""Serving the page: to this machine only unless asked otherwise, offline, and nothing but its own files."""

import logging
import os
import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..inferencer import CMPInferencer
from .gate import Gate

INSTALL = "pip install 'cmp_mm[web]'"
_LOOPBACK = frozenset(('127.0.0.1', 'localhost', '::1'))
_MAX_UPLOAD_BYTES = 2**26
_SESSIONS = 32


def import_gradio() -> Any:
    """gradio, told to report nothing to anyone.

    Raises:
        InputError: it is not installed; names the command.
    """
    # Read on import; set whatever the caller's environment says.
    os.environ.update(GRADIO_ANALYTICS_ENABLED='False', HF_HUB_DISABLE_TELEMETRY='1', DO_NOT_TRACK='1')
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise InputError(f'the page needs {error.name}, which is not installed: {INSTALL}') from None
    return gradio


def serve(
    inferencer: CMPInferencer | None,
    host: str = '127.0.0.1',
    port: int | None = None,
    max_side: int = 1024,
    crop_size: int = 384,
) -> None:
    """Serve the page until interrupted; for the main thread of a program.

    Args:
        inferencer: the network; without one the page says how to get one.
        host: address to listen at; others than the loopback's can be reached by other machines.
        port: None takes the first free one from 7860 on.
        max_side: larger images are shrunk until their long side has this many pixels.
        crop_size: see `cmp_mm.apis.PointAnnotator`; where the page looks at a square around the points.

    Raises:
        InputError: gradio is not installed.
        OSError: the address or port cannot be listened at.
    """
    gradio = import_gradio()
    _check_free(host, port)
    from starlette.middleware import Middleware

    from .page import CSS, build_page

    with tempfile.TemporaryDirectory(prefix='cmp_mm-web-', ignore_cleanup_errors=True) as folder:
        # gradio's usual folders are shared with other programs, and all in them is served.
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_EXAMPLES_CACHE=str(Path(folder) / 'examples'))
        # gradio asks itself whether it runs, which a proxy would not know.
        for name in ('NO_PROXY', 'no_proxy'):
            os.environ[name] = ','.join(filter(None, [os.environ.get(name), host, *sorted(_LOOPBACK)]))
        # Not passing any leaves it to the environment.
        os.environ.pop('GRADIO_ALLOWED_PATHS', None)
        ending = threading.Event()
        page = build_page(inferencer, max_side, crop_size, ending)
        page.queue(default_concurrency_limit=4, max_size=64, api_open=False)
        gate = Middleware(Gate, folder=Path(folder), hosts=_LOOPBACK if host in _LOOPBACK else None)
        # gradio waits for an interrupt alone; uploads must not outlive the server either way.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        page.launch(
            server_name=f'[{host}]' if ':' in host else host,  # an address of IPv6, as URLs have it
            server_port=port,
            share=False,
            quiet=True,
            show_error=True,
            prevent_thread_lock=True,
            allowed_paths=[],
            blocked_paths=[],
            max_file_size=_MAX_UPLOAD_BYTES,
            state_session_capacity=_SESSIONS,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            run_history=False,
            enable_monitoring=False,
            num_workers=0,
            footer_links=[],
            app_kwargs=dict(middleware=[gate], docs_url=None, redoc_url=None, openapi_url=None),
            theme=gradio.themes.Default(),
            css=CSS,
        )
        print(f'The page is at {page.local_url} ; Ctrl-C ends it.', flush=True)
        if host not in _LOOPBACK:
            print('Whoever reaches this machine can use it: there is no password.', flush=True)
        page.block_thread()
        ending.set()
        _await_workers(page.server)


def _await_workers(server: Any) -> None:
    """Let end what is computed still: an interpreter that ends around a thread inside torch is aborted."""
    log = logging.getLogger('uvicorn.error')
    server.force_exit = True  # else it waits until the pages that are open are closed
    log.disabled = True  # it tells at length what it thus cut off
    server.thread.join(10)
    log.disabled = False
    if server.thread.is_alive():
        return
    # gradio lets anyio run the steps; once the server has ended, its threads end with the step they are at.
    working = [thread for thread in threading.enumerate() if thread.name.startswith('AnyIO worker')]
    for thread in working:
        thread.join()


def _check_free(host: str, port: int | None) -> None:
    """Say in one sentence what gradio says in its own words."""
    try:
        family = socket.getaddrinfo(host, port or 0)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port or 0))
    except OSError as error:
        wanted = 'any port' if port is None else f'port {port}'
        raise OSError(f'cannot listen at {host}, {wanted}: {error.strerror}; expected another one') from None
