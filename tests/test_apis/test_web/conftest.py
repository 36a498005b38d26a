import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[3]
_FLAGS = (
    '--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage', '--window-size=1400,1500',
    # Whatever is not the page's own server has no address, so a request elsewhere cannot go unseen.
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
)  # fmt: skip
# Runs in the server before anything else: writes down whom it tries to reach.
_WATCH = """
import os, sys
def _watch(event, args):
    if event == 'socket.connect' and isinstance(args[1], tuple) and args[1][0] not in ('127.0.0.1', '::1'):
        open(os.environ['WATCH_FILE'], 'a').write(f'{args[1]}\\n')
    if event == 'socket.getaddrinfo' and args[0] not in ('127.0.0.1', 'localhost', '::1', None):
        open(os.environ['WATCH_FILE'], 'a').write(f'{args[0]}\\n')
sys.addaudithook(_watch)
"""


@pytest.fixture(scope='session')
def start_server(tmp_path_factory):
    """Start `tools/demo/web_demo.py` with the options given; tells its address, log and tries to leave."""
    if importlib.util.find_spec('gradio') is None:
        pytest.skip("the page needs gradio: pip install 'cmp_mm[web]'")
    running = []

    def start(*options) -> SimpleNamespace:
        folder = tmp_path_factory.mktemp('server')
        (folder / 'sitecustomize.py').write_text(_WATCH)
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            port = probe.getsockname()[1]
        log = folder / 'log'
        environment = dict(
            os.environ,
            PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]),
            WATCH_FILE=str(folder / 'reached'),
            OMP_NUM_THREADS='1',
            TMPDIR=str(folder),
            GRADIO_ALLOWED_PATHS='/',
        )
        with log.open('w') as output:
            process = subprocess.Popen(
                [sys.executable, ROOT / 'tools/demo/web_demo.py', '--port', str(port), *options],
                cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        running.append((process, folder))
        deadline = time.monotonic() + 90
        while 'The page is at' not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return SimpleNamespace(
            url=f'http://127.0.0.1:{port}', port=port, folder=folder, log=log, reached=folder / 'reached'
        )

    yield start
    for process, _ in running:
        process.terminate()
    for process, folder in running:
        process.wait(20)
        assert not list(folder.glob('cmp_mm-*')), 'uploads or results were left behind'


@pytest.fixture(scope='session')
def server(start_server, tiny_config, weights, tmp_path_factory):
    """A server with the tiny network."""
    config = tmp_path_factory.mktemp('config') / 'tiny.py'
    tiny_config.dump(str(config))
    found = start_server('--config', str(config), '--checkpoint', str(weights), '--device', 'cpu')
    found.weights = weights
    return found


@pytest.fixture(scope='session')
def ask():
    """`ask(server, path, data=None, **headers)` -> (status, body); paths go out as they are written."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def send(server, path, data=None, **headers):
        body = None if data is None else json.dumps(data).encode()
        names = {name.replace('_', '-'): value for name, value in headers.items()}
        if body is not None:
            names.setdefault('content-type', 'application/json')
        try:
            with opener.open(urllib.request.Request(server.url + path, body, names), timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    return send


@pytest.fixture(scope='session')
def browser(tmp_path_factory):
    """A headless Chromium."""
    program, driver = shutil.which('chromium') or shutil.which('google-chrome'), shutil.which('chromedriver')
    if program is None or driver is None:
        pytest.skip('needs chromium and chromedriver: apt-get install chromium chromium-driver')
    if importlib.util.find_spec('selenium') is None:
        pytest.skip('needs selenium: pip install selenium')
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    downloads = tmp_path_factory.mktemp('downloads')
    for flag in (*_FLAGS, f'--user-data-dir={tmp_path_factory.mktemp("profile")}'):
        options.add_argument(flag)
    options.add_experimental_option('prefs', {'download.default_directory': str(downloads)})
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL', 'browser': 'ALL'})
    chromium = webdriver.Chrome(options, webdriver.ChromeService(driver))
    chromium.downloads = downloads
    yield chromium
    chromium.quit()
