import asyncio
import json

import pytest

from cmp_mm.apis.web.gate import Gate

LOCAL = frozenset(('127.0.0.1', 'localhost'))


@pytest.fixture
def folder(tmp_path):
    """A served folder with a file and a link that leads out; a secret beside it."""
    (tmp_path / 'secret').write_text('secret')
    served = tmp_path / 'served'
    served.mkdir()
    (served / 'own.png').write_text('own')
    (served / 'link').symlink_to(tmp_path / 'secret')
    (tmp_path / 'served-too').mkdir()
    (tmp_path / 'served-too' / 'other').write_text('other')
    return served


@pytest.fixture
def ask(folder):
    """`ask(path, ...)` -> (status, body): 200 and what the application got, or the gate's refusal."""

    async def application(scope, receive, send):
        message = await receive()
        await send(dict(type='http.response.start', status=200, headers=[]))
        await send(dict(type='http.response.body', body=message['body']))

    def send_one(path, method='GET', body=b'', parts=1, hosts=LOCAL, host='127.0.0.1:7860', **headers):
        size = -(-len(body) // parts) or 1
        chunks = [body[i * size : (i + 1) * size] for i in range(parts)]
        sent = []

        async def receive():
            return dict(type='http.request', body=chunks.pop(0), more_body=bool(chunks))

        async def send(message):
            sent.append(message)

        names = [(b'host', host.encode()), *((k.encode(), v.encode()) for k, v in headers.items())]
        scope = dict(type='http', method=method, path=path, headers=names)
        asyncio.run(Gate(application, folder, hosts)(scope, receive, send))
        return sent[0]['status'], sent[1]['body'], dict(sent[0]['headers'])

    return send_one


@pytest.mark.parametrize(
    'path', ['/', '/config', '/theme.css', '/assets/a.js', '/static/fonts/a.woff2', '/gradio_api/queue/data']
)
def test_what_the_page_uses_passes(ask, path):
    status, _, headers = ask(path)
    assert status == 200
    assert b"default-src 'self'" in headers[b'content-security-policy']


@pytest.mark.parametrize(
    ('path', 'method'),
    [
        ('/gradio_api/proxy=http://example.com/', 'GET'),
        ('/gradio_api/file/etc/hostname', 'GET'),
        ('/gradio_api/runs', 'GET'),
        ('/monitoring', 'GET'),
        ('/docs', 'GET'),
        ('/openapi.json', 'GET'),
        ('/gradio_api/openapi.json', 'GET'),
        ('/gradio_api/vibe-edit', 'POST'),
        ('/gradio_api/run/predict', 'POST'),
        ('/gradio_api/call/predict', 'POST'),
        ('/gradio_api/component_server', 'POST'),
        ('/', 'POST'),
        ('/config', 'DELETE'),
    ],
)
def test_what_it_does_not_use_is_refused(ask, path, method):
    assert ask(path, method)[0] == 403


def test_only_files_of_the_folder(ask, folder):
    assert ask(f'/gradio_api/file={folder}/own.png')[0] == 200
    for path in (
        '/etc/hostname', 'own.png', '', f'{folder}', f'{folder}/../secret', f'{folder}/link',
        f'{folder}-too/other', '../../etc/hostname', 'http://example.com/a.png', 'file:///etc/hostname',
        '~/.bashrc', f'{folder}/a\0b',
    ):  # fmt: skip
        assert ask(f'/gradio_api/file={path}')[0] == 403, path


def test_an_event_names_only_files_of_the_folder(ask, folder):
    def join(data, **options):
        body = json.dumps(dict(data=data, fn_index=0)).encode()
        status, received, _ = ask('/gradio_api/queue/join', 'POST', body, **options)
        assert status != 200 or received == body
        return status

    assert join([None, dict(path=f'{folder}/own.png', meta={})]) == 200
    assert join([None, 'text', 3, [dict(path=None)]], parts=3) == 200
    for path in ('/etc/hostname', f'{folder}/link', 'http://example.com/a.png', 'relative', 7, ['/etc']):
        assert join([None, [dict(deep=dict(path=path))]]) == 403, path
    assert join(['x' * 2**20]) == 403
    assert ask('/gradio_api/queue/join', 'POST', b'no json')[0] == 403
    assert ask('/gradio_api/queue/join', 'POST', b'[' * 200_000)[0] == 403
    assert ask('/gradio_api/queue/join/', 'POST', b'{"path": "/etc/hostname"}')[0] == 403


def test_names_of_the_server_and_pages_elsewhere(ask):
    assert ask('/', host='localhost:7860')[0] == 200
    assert ask('/', host='example.com')[0] == 403
    assert ask('/', host='[')[0] == 403
    assert ask('/', host='example.com', hosts=None)[0] == 200
    assert ask('/', origin='http://127.0.0.1:7860')[0] == 200
    for origin in ('http://example.com', 'http://127.0.0.1:9999', 'null'):
        assert ask('/gradio_api/upload', 'POST', origin=origin)[0] == 403
