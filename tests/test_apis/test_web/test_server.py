import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cmp_mm.apis import InputError
from cmp_mm.apis.web import serve

TOOL = Path(__file__).parents[3] / 'tools' / 'demo' / 'web_demo.py'


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location('web_demo', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_listens_on_the_loopback_only(server):
    listening = []
    for table in ('/proc/net/tcp', '/proc/net/tcp6'):
        if not Path(table).exists():
            pytest.skip('reads the listening addresses from /proc/net')
        for line in Path(table).read_text().splitlines()[1:]:
            address, port = line.split()[1].split(':')
            if int(port, 16) == server.port and line.split()[3] == '0A':
                listening.append(address)
    assert listening == ['0100007F']  # 127.0.0.1


def test_files_it_was_not_given_are_refused(server, ask, tmp_path):
    # The server was started with GRADIO_ALLOWED_PATHS=/ in its environment.
    (tmp_path / 'outside.png').write_bytes(b'outside')
    for path in (tmp_path / 'outside.png', server.weights, TOOL, server.log, '/etc/hostname', 'log'):
        status, body = ask(server, f'/gradio_api/file={path}')
        assert status == 403 and b'not given to the page' in body, path
    event = dict(fn_index=0, session_hash='a', data=[None, dict(path=str(server.weights))])
    assert ask(server, '/gradio_api/queue/join', event)[0] == 403
    assert ask(server, '/gradio_api/file=http://example.com/a.png')[0] == 403


def test_answers_to_its_own_name_and_pages_only(server, ask):
    assert ask(server, '/')[0] == 200
    assert ask(server, '/', host='example.com')[0] == 403
    assert ask(server, '/gradio_api/upload', [], origin='http://example.com')[0] == 403


def test_an_address_of_ipv6_is_served_too(start_server, ask):
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(('::1', 0))
    except OSError:
        pytest.skip('this machine has no IPv6')
    found = start_server('--host', '::1')
    found.url = f'http://[::1]:{found.port}'
    assert found.url in found.log.read_text()
    assert ask(found, '/')[0] == 200
    assert ask(found, '/', host='example.com')[0] == 403


def test_without_gradio_one_sentence_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(InputError, match=r"needs gradio.*pip install 'cmp_mm\[web\]'"):
        serve(None)


def test_without_a_checkpoint_the_page_tells_how_to_make_one(tool, monkeypatch, capsys):
    served = []
    monkeypatch.setattr(tool, 'serve', lambda *args: served.append(args))
    tool.main([])
    assert served == [(None, '127.0.0.1', None, 1024, 384)]
    assert 'quickstart' in capsys.readouterr().err
    pytest.importorskip('gradio', reason="the page needs gradio: pip install 'cmp_mm[web]'")
    from cmp_mm.apis.web.page import build_page

    (text,) = build_page(None).get_config_file()['components']
    assert 'bash tools/quickstart.sh' in text['props']['value']
    named = re.search(r'web_demo\.py (.*)', text['props']['value']).group(1)
    args = tool.parse_args(named.split())
    assert args.checkpoint == 'CHECKPOINT' and args.crop_size == 96


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--port', '0'], '--port is 0'),
        (['--max-side', '0'], '--max-side is 0'),
        (['--crop-size', '0'], '--crop-size is 0'),
    ],
)
def test_wrong_options(tool, capsys, options, message):
    with pytest.raises(SystemExit):
        tool.main(options)
    assert message in capsys.readouterr().err


# Stands for a network that takes its time.
_SLOW = """
import signal, sys, time, torch
from types import SimpleNamespace
from cmp_mm.apis.web import PageSession, serve
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
def slow(session, inferencer, correction):
    print('computing', flush=True)
    start = time.monotonic()
    while time.monotonic() < start + 4:
        torch.rand(600, 600) @ torch.rand(600, 600)
    print('computed', flush=True)
    return ''
PageSession.propagate = slow
serve(SimpleNamespace(correction='none'), port=int(sys.argv[1]))
"""


def test_an_interrupt_while_something_computes_ends_it_cleanly(ask, tmp_path):
    pytest.importorskip('gradio', reason="the page needs gradio: pip install 'cmp_mm[web]'")
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    found = SimpleNamespace(url=f'http://127.0.0.1:{port}')
    environment = dict(os.environ, TMPDIR=str(tmp_path), PYTHONPATH=str(TOOL.parents[2]), OMP_NUM_THREADS='1')
    process = subprocess.Popen(
        [sys.executable, '-c', _SLOW, str(port)],
        cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert any('The page is at' in line for line in process.stdout)
        config = json.loads(ask(found, '/config')[1])
        (run,) = (each['id'] for each in config['components'] if each['props'].get('elem_id') == 'flow-run')
        (step,) = (each['id'] for each in config['dependencies'] if [run, 'click'] in each['targets'])
        event = dict(fn_index=step, session_hash='a', data=[None, 20, 'none'], trigger_id=run)
        assert ask(found, '/gradio_api/queue/join', event)[0] == 200
        assert any('computing' in line for line in process.stdout)
        # An open page holds a connection.
        with socket.create_connection(('127.0.0.1', port)) as held:
            held.sendall(f'GET /gradio_api/heartbeat/a HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n'.encode())
            assert b'200' in held.recv(100)
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert 'computed' in said and 'Traceback' not in said
    assert not list(tmp_path.glob('cmp_mm-*'))


def test_a_port_in_use_is_one_sentence(server):
    with pytest.raises(OSError, match=f'cannot listen at 127.0.0.1, port {server.port}: .*in use'):
        serve(None, port=server.port)


def test_the_page_gets_the_sizes_asked_for(monkeypatch):
    pytest.importorskip('gradio', reason="the page needs gradio: pip install 'cmp_mm[web]'")
    from cmp_mm.apis.web import page

    seen = []

    def build(*args):
        seen.append(args[:3])
        raise RuntimeError('built')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'environ', dict(os.environ))
        patch.setattr(page, 'build_page', build)
        with pytest.raises(RuntimeError, match='built'):
            serve(None, max_side=700, crop_size=96)
    assert seen == [(None, 700, 96)]
