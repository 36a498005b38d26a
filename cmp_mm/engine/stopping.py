"""Ctrl-C and a scheduler's SIGTERM end a training after its step."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType

from mmengine.runner import Runner

from .checkpoint_hook import AtomicCheckpointHook, TrainingStopped, checkpoint_hook_of

# Seconds; torchrun tells its processes at once of a signal, which a scheduler may have sent to all of them.
_PASSED_ON_WITHIN = 5.0
_saving: list[int] = []  # not empty while a signal ends the training after its step


@cache
def _let_children_outlive_sigterm() -> None:
    """Keep data workers at work when SIGTERM is sent to them too, as schedulers do to every process of a job.

    torch has them die of it, unless it comes from the process they work for, and the step that is to be
    saved never gets its data. Here they only heed that process.
    """
    if hasattr(signal, 'sigwaitinfo'):
        os.register_at_fork(after_in_child=_heed_parent_only)


def _heed_parent_only() -> None:
    if _saving:
        # Blocked, as torch puts a handler of its own in place later.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


@contextmanager
def saving_when_stopped(runner: Runner) -> Iterator[None]:
    """Let Ctrl-C and a scheduler's SIGTERM end a training after its step, with a checkpoint of it.

    Either may come to the data workers too. Either a second time ends it at once, and so does the first
    where checkpoints are saved by epoch or by another hook than ours. Under torchrun, which passes on what
    may have come to its processes already, a second one counts only some seconds after the first. Where
    Ctrl-C is ignored, as in a shell's background, it stays ignored.

    Raises:
        KeyboardInterrupt: ended at once; the message says from where ``--resume`` goes on.
    """
    hook = checkpoint_hook_of(runner)
    try:
        if hook is None or hook.by_epoch:
            yield
        else:
            with _asking(hook):
                yield
    except TrainingStopped:
        raise
    except KeyboardInterrupt:
        saved = Path(runner.work_dir, 'last_checkpoint').is_file()
        left = '--resume goes on from the last checkpoint' if saved else 'nothing was saved yet'
        raise KeyboardInterrupt(left) from None


@contextmanager
def _asking(hook: AtomicCheckpointHook) -> Iterator[None]:
    """Hand signals to the hook that ends the training after its step."""
    process = os.getpid()
    passed_on = 'TORCHELASTIC_RUN_ID' in os.environ
    asked_at: list[float] = []

    def ask(signum: int, frame: FrameType | None) -> None:
        # Ctrl-C reaches the data workers too; forked ones inherit this, and live on to finish the step.
        if os.getpid() != process:
            return
        now = time.monotonic()
        if asked_at:
            if not passed_on or now - asked_at[0] > _PASSED_ON_WITHIN:
                signal.default_int_handler(signum, frame)
            return
        asked_at.append(now)
        hook.stop_after_step(signum)
        later = f', {_PASSED_ON_WITHIN:.0f} s from now,' if passed_on else ''
        print(f'stopping after this step; once more{later} to stop at once', file=sys.stderr, flush=True)

    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    _let_children_outlive_sigterm()
    for number in before:
        signal.signal(number, ask)
    _saving.append(process)
    try:
        yield
    finally:
        _saving.pop()
        for number, handler in before.items():
            signal.signal(number, handler)
