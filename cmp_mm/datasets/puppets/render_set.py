"""Rendering of a whole set: clips spread over processes, continued where an earlier call stopped."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import cv2

from cmp_mm.flow import write_whole

from ..preparation.errors import PrepareError
from ..preparation.store import OWN_NAMES, dump_json, read_json, writing
from .collect import write_set
from .writer import ClipSettings, read_record, write_clip


def _claim(out: Path, settings: ClipSettings) -> None:
    """Make the folder, or check that it holds clips of these settings."""
    path = out / 'settings.json'
    wanted = settings.to_dict()
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        present = read_json(path)
        foreign = [name for name in OWN_NAMES if (out / name).exists()]
        if present is None and foreign:
            raise PrepareError(f'{out} holds {foreign[0]} but no settings.json; choose another folder')
        if present is not None and present != wanted:
            keys = [key for key in sorted({*present, *wanted}) if present.get(key) != wanted.get(key)]
            changed = '; '.join(f'{key} {present.get(key)!r}, now {wanted.get(key)!r}' for key in keys)
            raise PrepareError(
                f'{out} was made with other settings ({changed}); use the same, or another folder'
            )
        write_whole([(path, dump_json(wanted, indent=1))])


def _begin_worker() -> None:
    # The processes share the cores; OpenCV's own threads would only get in their way.
    cv2.setNumThreads(1)
    # Ctrl-C reaches the whole group of processes; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker waits for tasks in a pipe that it holds open itself, so it would outlive a killed parent."""
    multiprocessing.parent_process().join()
    os._exit(1)


def render_set(
    out: Path,
    settings: ClipSettings,
    clips: int,
    val_share: float = 0.2,
    workers: int = 1,
    progress: Callable[[int], object] = lambda done: None,
) -> dict:
    """Render the clips that are not there yet, then write what describes the set.

    Args:
        out: folder of the set; made if missing.
        settings: what the clips depend on.
        clips: number of clips. A larger number than before adds clips and keeps the others.
        val_share: share of the clips to validate on.
        workers: processes; up to 1 renders in this one.
        progress: called with a number of clips that are now there, first with those found.

    Returns:
        The summary.

    Raises:
        PrepareError: bad settings, a folder that holds something else, or one that cannot be written.
        concurrent.futures.process.BrokenProcessPool: a worker died.
    """
    if not 1 <= clips <= 100_000:
        raise PrepareError(f'clips is {clips}; expected a whole number from 1 to 100000')
    if not 0 <= val_share <= 1:
        raise PrepareError(f'val share is {val_share}; expected a number from 0 to 1')
    _claim(out, settings)
    with writing(out):
        records = {index: read_record(out, index) for index in range(clips)}
        missing = [index for index, record in records.items() if record is None]
        progress(clips - len(missing))
        for index, record in _render(out, missing, settings, workers):
            records[index] = record
            progress(1)
        return write_set(out, records, settings, val_share)


def _render(
    out: Path, indices: list[int], settings: ClipSettings, workers: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each clip's number and record as it gets ready."""
    if workers <= 1 or len(indices) <= 1:
        for index in indices:
            yield index, write_clip(out, index, settings)
        return
    # A server imports once, and the workers are its copies; it exists everywhere but on Windows.
    method = 'forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn'
    context = multiprocessing.get_context(method)
    if method == 'forkserver':
        context.set_forkserver_preload([write_clip.__module__])
    with ProcessPoolExecutor(min(workers, len(indices)), context, _begin_worker) as pool:
        try:
            futures = {pool.submit(write_clip, out, index, settings): index for index in indices}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
