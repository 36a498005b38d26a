"""Trainings that are processes of their own, and end when the one that began them is told to."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

_children: set[subprocess.Popen] = set()


@contextmanager
def child_process(
    command: Sequence[str | os.PathLike], lock: str | os.PathLike | None = None, **options: Any
) -> Iterator[subprocess.Popen]:
    """Start a process, and wait for it where the block ends.

    Args:
        command: what to run.
        lock: a folder that no other process started by this function works in, also where its parent was
            killed; None for none.
        options: of ``subprocess.Popen``.

    Raises:
        RuntimeError: another one works in that folder.
    """
    handle = None
    if lock is not None and fcntl is not None:
        handle = os.open(Path(lock) / '.lock', os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise RuntimeError(f'{lock}: another process works there; wait for it, or end it') from None
        except OSError:
            pass  # a file system without locks, as some of clusters are
    try:
        # The child holds the lock with us: it may outlive us.
        process = subprocess.Popen(command, pass_fds=() if handle is None else (handle,), **options)
        _children.add(process)
        try:
            with process:
                try:
                    yield process
                except Exception:
                    # Not after Ctrl-C or SIGTERM: it has been told, and told twice it would save nothing.
                    process.terminate()
                    raise
        finally:
            _children.discard(process)
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def ending_children() -> Iterator[None]:
    """Have a scheduler's SIGTERM end the processes started here too; a training saves its checkpoint then.

    Ctrl-C reaches them by itself, as it does every process of a terminal; here it ends the program with a
    sentence and 130. For the main thread of a program that continues where it was stopped.
    """

    def end(signum: int, _frame: FrameType | None) -> None:
        for process in list(_children):
            process.terminate()
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        print('interrupted; run the same command again to continue', file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        signal.signal(signal.SIGTERM, before)
