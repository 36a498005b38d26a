"""Worker processes whose death, or silence, costs at most the video they were at."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cmp_mm

from .errors import OutputError, PrepareError
from .frames import MAX_PIXELS
from .sources import Source
from .store import Store

# A death may have been the machine's (memory, a preempting user), so a video gets a second worker.
ATTEMPTS = 2
POLL_SECONDS = 0.5
EXIT_SECONDS = 5.0
START_SECONDS = 300.0  # to load the libraries, from a busy network drive
MAX_FALSE_STARTS = 10
# A worker of a killed parent must be gone before the next run starts, for it would remove what that one
# made; Linux sees to it, elsewhere the worker notices that its standard input has ended.
# Workers need numpy, OpenCV and PyAV only; `cmp_mm.datasets` imports torch and mmengine, 2 seconds and
# 200 MB each, so it is entered without its __init__.
BOOTSTRAP = """
import contextlib, ctypes, os, signal, sys, types
with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    os._exit(0)
import cmp_mm
package = types.ModuleType('cmp_mm.datasets')
package.__path__ = [path + '/datasets' for path in cmp_mm.__path__]
sys.modules['cmp_mm.datasets'] = package
from cmp_mm.datasets.preparation.worker import main
main()
"""

OnMessage = Callable[[Source, dict[str, Any]], None]


class WorkerPool:
    """Prepares videos in worker processes.

    Args:
        store: the output folder, claimed.
        workers: processor cores to use: one worker process each while there are that many videos, more
            threads per worker when there are fewer.
        stall_seconds: a worker that says nothing for so long is killed; it counts as dead.
    """

    def __init__(self, store: Store, workers: int, stall_seconds: float) -> None:
        self._store = store
        self._workers = workers
        self._stall_seconds = stall_seconds
        self._threaded = store.settings.estimator == 'dis'
        self._false_starts = 0

    def run(self, sources: Iterable[Source], on_message: OnMessage) -> None:
        """Prepare all sources.

        Args:
            sources: the videos.
            on_message: called with a source and what its worker says of it: ``kind`` 'progress' (share,
                kept, rejected), 'done' (status, reason, kept, rejected), or 'died' (reason, attempts_left)
                when its worker is gone.

        Raises:
            PrepareError: a worker met something that ends the whole preparation, such as a full disk.
        """
        waiting = deque(sources)
        attempts: dict[str, int] = {}
        alive: dict[int, _Process] = {}
        processes = max(1, min(self._workers, len(waiting)))
        selector = selectors.DefaultSelector()
        try:
            while waiting or any(process.source for process in alive.values()):
                for slot in range(processes):
                    if slot not in alive and waiting:
                        alive[slot] = _Process(self._environment(slot, processes))
                        selector.register(alive[slot].messages, selectors.EVENT_READ, alive[slot])
                for process in alive.values():
                    if process.ready and process.source is None and waiting:
                        busy = sum(one.source is not None for one in alive.values())
                        self._give(process, waiting.popleft(), busy + len(waiting) + 1)
                self._read(selector, on_message)
                for slot, process in list(alive.items()):
                    if process.ended or self._stalled(process):
                        selector.unregister(process.messages)
                        del alive[slot]
                        self._bury(process, waiting, attempts, on_message)
        finally:
            for process in alive.values():
                process.stop()
            selector.close()

    def _give(self, process: '_Process', source: Source, unfinished: int) -> None:
        threads = max(1, self._workers // min(self._workers, unfinished)) if self._threaded else 1
        process.give(
            source,
            {
                'settings': self._store.settings.to_dict(),
                'out': os.fspath(self._store.out),
                'source': asdict(source),
                'threads': threads,
            },
        )

    def _read(self, selector: selectors.BaseSelector, on_message: OnMessage) -> None:
        for key, _ in selector.select(POLL_SECONDS):
            process = key.data
            for message in process.receive():
                if message['kind'] == 'fatal':
                    error = OutputError if message['exit_code'] == OutputError.exit_code else PrepareError
                    raise error(message['message'])
                if message['kind'] == 'ready':
                    process.ready = True
                    continue
                on_message(process.source, message)
                if message['kind'] == 'done':
                    process.source = None

    def _stalled(self, process: '_Process') -> bool:
        silence = time.monotonic() - process.heard
        if process.ready:
            process.stalled = process.source is not None and silence > self._stall_seconds
        else:
            process.stalled = silence > START_SECONDS
        return process.stalled

    def _bury(
        self, process: '_Process', waiting: deque[Source], attempts: dict[str, int], on_message: OnMessage
    ) -> None:
        code = process.stop()
        if not process.ready:
            self._false_starts += 1
            # An exit code is a library that is missing and stays so; a signal may be the machine's doing.
            if code > 0 or self._false_starts > MAX_FALSE_STARTS:
                raise PrepareError(f'worker processes do not start ({_describe(code)})')
        source = process.source
        if source is None:
            return
        attempts[source.name] = attempts.get(source.name, 0) + 1
        left = ATTEMPTS - attempts[source.name]
        if process.stalled:
            reason = f'its worker said nothing for {self._stall_seconds:g} seconds'
        else:
            reason = f'its worker died ({_describe(code)})'
        if left:
            # At the end of the line, so that one bad video holds up no other.
            waiting.append(source)
        on_message(source, {'kind': 'died', 'reason': reason, 'attempts_left': left})

    def _environment(self, slot: int, processes: int) -> dict[str, str]:
        root = str(Path(cmp_mm.__file__).parents[1])
        paths = [root, *filter(None, [os.environ.get('PYTHONPATH')])]
        environment = {
            # Unless someone decided otherwise; read when the libraries are loaded.
            'OMP_NUM_THREADS': '1' if self._threaded else str(max(1, self._workers // processes)),
            'OPENCV_IO_MAX_IMAGE_PIXELS': str(MAX_PIXELS),
            'OPENCV_LOG_LEVEL': 'SILENT',
            **os.environ,
            'PYTHONPATH': os.pathsep.join(paths),
        }
        devices = visible_gpus(os.environ)
        if devices and 'device' not in self._store.settings.estimator_options:
            rank = os.environ.get('LOCAL_RANK', '0')
            place = (int(rank) if rank.isdigit() else 0) * processes + slot
            environment['CUDA_VISIBLE_DEVICES'] = devices[place % len(devices)]
        return environment


def visible_gpus(environment: Mapping[str, str], driver: str = '/proc/driver/nvidia/gpus') -> list[str]:
    """Return the names of the GPUs CUDA would offer, without starting it."""
    given = environment.get('CUDA_VISIBLE_DEVICES')
    if given is not None:
        return [name.strip() for name in given.split(',') if name.strip()]
    with contextlib.suppress(OSError):
        return [str(number) for number in range(len(os.listdir(driver)))]
    return []


class _Process:
    """One worker process and what is known of it.

    Attributes:
        source: what it is at, or None.
        heard: when it last said something.
        ended: it closed its side of the pipe.
        stalled: it is to be killed for its silence.
        ready: it has started, with everything it needs.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, '-c', BOOTSTRAP, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
        except OSError as error:
            raise PrepareError(f'cannot start a worker process ({error.strerror or error})') from None
        self.messages = self._process.stdout
        os.set_blocking(self.messages.fileno(), False)
        self.source: Source | None = None
        self.heard = time.monotonic()
        self.ended = False
        self.stalled = False
        self.ready = False
        self._buffer = b''

    def give(self, source: Source, task: dict[str, Any]) -> None:
        self.source = source
        self.heard = time.monotonic()
        # A dead worker is noticed at the other end of its pipe.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write((json.dumps(task) + '\n').encode())
            self._process.stdin.flush()

    def receive(self) -> list[dict[str, Any]]:
        """Return the whole messages that have arrived, without waiting."""
        data = os.read(self.messages.fileno(), 1 << 16)
        self.ended = not data
        self.heard = time.monotonic()
        *lines, self._buffer = (self._buffer + data).split(b'\n')
        return [json.loads(line) for line in lines]

    def stop(self) -> int:
        """Make sure that the process is gone and return how it ended; what it was at is in its journal."""
        if not self.ended or self.stalled:
            self._process.kill()
        try:
            code = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return code


def _describe(code: int) -> str:
    if code >= 0:
        return f'exit code {code}'
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f'signal {-code}'
