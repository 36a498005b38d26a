"""A worker process: prepares the videos named on its standard input, one JSON line each.

A process of its own, started by path rather than forked, so that a decoder that crashes takes nothing with
it, and a script calling `prepare` needs no ``if __name__ == '__main__'``. It ends when its standard input
does, so none outlives the process that started it.
"""

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import Any

import av
import cv2

from cmp_mm.flow import FlowEstimator, build_flow_estimator

from .errors import PrepareError, is_passing
from .settings import PairSettings
from .sources import Source
from .store import Store
from .video import fingerprint_of, prepare_video, skip_video

REPORT_SECONDS = 0.2


def main() -> None:
    """Serve the process that started this one until it closes the pipe or dies."""
    # What libraries print must not get between the messages.
    messages = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)
    # Ctrl-C reaches the whole group of processes; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    cv2.ocl.setUseOpenCL(False)
    av.logging.set_level(None)
    tasks: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    worker = _Worker(messages)
    worker.say(kind='ready')
    while True:
        worker.serve(tasks.get())


def _listen(tasks: queue.SimpleQueue) -> None:
    for line in sys.stdin:
        tasks.put(json.loads(line))
    # Whatever is being prepared continues from its journal in the next run.
    os._exit(0)


class _Worker:
    def __init__(self, messages) -> None:
        self._messages = messages
        self._estimators: list[FlowEstimator] = []

    def serve(self, task: dict[str, Any]) -> None:
        """Prepare one video and say what came of it."""
        settings = PairSettings.from_dict(task['settings'])
        store = Store(task['out'], settings)
        source = Source(**task['source'])
        try:
            estimators = self._build(settings, task['threads'])
        except Exception as error:
            # The same for every video: an extra that is missing, a wrong option, a device that is not there.
            self.say(kind='fatal', message=_one_line(error), exit_code=PrepareError.exit_code)
            return
        try:
            record = self._prepare(source, store, estimators)
        except PrepareError as error:
            self.say(kind='fatal', message=_one_line(error), exit_code=error.exit_code)
            return
        self.say(
            kind='done',
            status=record['status'],
            reason=record['reason'],
            kept=len(record['pairs']),
            rejected=sum(record['rejected'].values()),
        )

    def _prepare(self, source: Source, store: Store, estimators: list[FlowEstimator]) -> dict[str, Any]:
        sent = 0.0

        def report(share: float, kept: int, rejected: int) -> None:
            nonlocal sent
            now = time.monotonic()
            if now - sent >= REPORT_SECONDS:
                sent = now
                self.say(kind='progress', share=share, kept=kept, rejected=rejected)

        try:
            return prepare_video(source, store, estimators, report)
        except PrepareError:
            raise
        except Exception as error:
            # A library met something in this video that it does not expect: the others go on.
            traceback.print_exc()
            reason = f'cannot be prepared ({type(error).__name__}: {_one_line(error)})'
            # RuntimeError is what torch says of a device that failed or is full, whatever else it says it of.
            passing = is_passing(error) or isinstance(error, RuntimeError)
            fingerprint = fingerprint_of(source, store)[0]
            return skip_video(source, store, reason, fingerprint, retry=passing, keep=passing)

    def _build(self, settings: PairSettings, threads: int) -> list[FlowEstimator]:
        # A worker's tasks all have the same settings.
        while len(self._estimators) < threads:
            self._estimators.append(build_flow_estimator(settings.estimator, **settings.estimator_options))
        return self._estimators[:threads]

    def say(self, **message: Any) -> None:
        """Send a message to the parent, as one JSON line."""
        with contextlib.suppress(BrokenPipeError):
            self._messages.write(json.dumps(message) + '\n')


def _one_line(error: BaseException) -> str:
    return ' '.join(str(error).split()) or type(error).__name__
