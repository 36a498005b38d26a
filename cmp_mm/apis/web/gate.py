"""What the page's server answers, to whom, and what the page itself may reach.

gradio's server does more than this page needs: it fetches addresses it is asked for, and serves what lies in
a folder other programs may share. So requests pass a list of what the page uses; the rest is refused.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_FILE = '/gradio_api/file='
_JOIN = '/gradio_api/queue/join'
_READ = re.compile(
    r'/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?|/(assets|static|svelte)/.+'
    r'|/gradio_api/(startup-events|queue/data|upload_progress|theme\.css|app_id/?|info/?|heartbeat/\w+)'
)
_WRITE = re.compile(r'/gradio_api/(queue/join|upload|cancel|reset)/?')
_MAX_JOIN_BYTES = 2**20

# The browser, too, is told to fetch nothing from elsewhere. gradio's own scripts are partly inline.
_HEADERS = {
    'content-security-policy': (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; "
        "base-uri 'self'; form-action 'self'"
    ),
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
}


class Gate:
    """ASGI middleware in front of gradio's application.

    Args:
        app: the application.
        folder: uploads and results; files from elsewhere are refused.
        hosts: names the server may be addressed by, against pages elsewhere whose name is made to point
            here; None allows all.
    """

    def __init__(
        self, app: Callable[..., Awaitable[None]], folder: Path, hosts: frozenset[str] | None
    ) -> None:
        self.app, self.folder, self.hosts = app, folder.resolve(), hosts

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on or answer it with 403."""
        if scope['type'] == 'lifespan':
            return await self.app(scope, receive, send)
        if scope['type'] != 'http':
            raise RuntimeError(f'a connection of type {scope["type"]!r} was refused')
        refusal = self._refusal(scope)
        if refusal is None and scope['method'] == 'POST' and scope['path'].rstrip('/') == _JOIN:
            body = await _read_body(receive)
            if body is None or not self._names_own_files(body):
                refusal = 'it names a file that was not uploaded here'
            else:
                receive = _replayed(body, receive)
        if refusal is not None:
            return await _refuse(send, refusal)

        async def send_with_headers(message: Message) -> None:
            if message['type'] == 'http.response.start':
                extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message['headers'] = [*message.get('headers', ()), *extra]
            await send(message)

        return await self.app(scope, receive, send_with_headers)

    def _refusal(self, scope: MutableMapping[str, Any]) -> str | None:
        headers = {
            name.decode('latin-1').lower(): value.decode('latin-1') for name, value in scope['headers']
        }
        host = headers.get('host', '')
        if self.hosts is not None and (_hostname(f'//{host}') not in self.hosts):
            return 'the server is not addressed by this name'
        origin = headers.get('origin')
        if origin is not None and origin.partition('://')[2] != host:
            return 'it comes from a page elsewhere'
        path, method = scope['path'], scope['method']
        if method == 'POST':
            return None if _WRITE.fullmatch(path) else 'the page has no use for it'
        if method not in ('GET', 'HEAD'):
            return 'the page has no use for it'
        if path.startswith(_FILE):
            return None if self._is_own(path[len(_FILE) :]) else 'the file was not given to the page'
        return None if _READ.fullmatch(path) else 'the page has no use for it'

    def _names_own_files(self, body: bytes) -> bool:
        try:
            return all(self._is_own(path) for path in _paths_in(json.loads(body)))
        except (ValueError, RecursionError):
            return False

    def _is_own(self, path: Any) -> bool:
        try:
            # Links are followed first; an address such as http://... becomes a path outside.
            resolved = Path(path).resolve()
        except (TypeError, ValueError, OSError, RuntimeError):
            return False
        return Path(path).is_absolute() and resolved != self.folder and resolved.is_relative_to(self.folder)


def _paths_in(value: Any) -> Iterator[Any]:
    """What gradio will take for the path of a file."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            if one.get('path') is not None:
                yield one['path']
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)


def _hostname(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


async def _read_body(receive: Receive) -> bytes | None:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message['type'] != 'http.request':
            return None
        parts.append(message.get('body', b''))
        size += len(parts[-1])
        if size > _MAX_JOIN_BYTES:
            return None
        more = message.get('more_body', False)
    return b''.join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    waiting = [{'type': 'http.request', 'body': body, 'more_body': False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _refuse(send: Send, reason: str) -> None:
    body = json.dumps({'detail': f'Refused: {reason}.'}).encode()
    headers = [(b'content-type', b'application/json'), (b'content-length', str(len(body)).encode())]
    await send({'type': 'http.response.start', 'status': 403, 'headers': headers})
    await send({'type': 'http.response.body', 'body': body})
