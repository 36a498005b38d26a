"""One video, from its source to its stored pairs and its record."""

import queue
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from cmp_mm.flow import FlowEstimator, FlowFormatError, encode_flow, write_whole

from .errors import SourceError
from .filters import judge_pair, make_thumb, measure_pair
from .frames import Frame, FrameReader
from .prefetch import prefetch
from .sources import Source
from .store import Journal, Store, writing

# One thread that encodes and writes keeps up with this many that estimate flow.
FLOW_THREADS_PER_WRITER = 6

Report = Callable[[float, int, int], None]


@dataclass
class _Pair:
    """Two sampled frames that follow each other, with what is compared of them."""

    first: Frame
    second: Frame
    thumbs: tuple[np.ndarray, np.ndarray]

    @property
    def is_gap(self) -> bool:
        """Whether a frame between the two is missing."""
        return self.second.after_gap or self.second.index != self.first.index + 1


def prepare_video(
    source: Source, store: Store, estimators: Sequence[FlowEstimator], report: Report
) -> dict[str, Any]:
    """Store the pairs of one source, write its record and return it.

    What an earlier, killed run stored of it is kept. With several estimators as many pairs are worked on
    at the same time; what is stored does not depend on their number.

    Args:
        source: the video.
        store: the output folder, claimed.
        estimators: one per pair to work on at a time.
        report: called with the share done (0 to 1) and the pairs kept and left out so far.

    Returns:
        The record: ``status`` 'ok', 'damaged' (pairs of the readable part are stored) or 'skipped',
        ``reason`` for the last two, ``pairs`` as rows (index, height, width, mean flow, fast flow,
        residual, clipped vectors), ``rejected`` counts by reason, ``frames`` sampled.

    Raises:
        OutputError: the output folder cannot be written.
    """
    fingerprint, unseen = fingerprint_of(source, store)
    try:
        if unseen is not None:
            raise SourceError(f'cannot be read ({unseen})', passing=True)
        try:
            record = _run(source, store, estimators, report, fingerprint)
        except _OtherFramesError:
            # What could not be read then can be now, or the other way round.
            with writing(store.out):
                store.clear(source.name)
            record = _run(source, store, estimators, report, fingerprint)
        _check_unchanged(source, fingerprint, store.settings.flow_root)
    except SourceError as error:
        passing = error.passing or _is_gone(source, store.settings.flow_root)
        return skip_video(source, store, str(error), fingerprint, retry=passing, keep=passing)
    record = {'fingerprint': fingerprint, **record}
    with writing(store.out):
        if not record['pairs']:
            store.clear(source.name)
        store.write_record(source.name, {**_identity(source), **record})
    return record


def fingerprint_of(source: Source, store: Store) -> tuple[dict[str, Any], str | None]:
    """The source's fingerprint, or an empty one and why there is none."""
    try:
        return source.fingerprint(store.settings.flow_root), None
    except OSError as error:
        return {}, error.strerror or str(error)


def skip_video(
    source: Source,
    store: Store,
    reason: str,
    fingerprint: dict[str, Any],
    retry: bool = False,
    keep: bool = False,
) -> dict[str, Any]:
    """Write the record that says why a source is left out, and remove what is stored of it.

    Args:
        source: the video.
        store: the output folder.
        reason: what is wrong with it.
        fingerprint: of the source, {} where it has none any more.
        retry: the next run should try it again.
        keep: leave what is stored, for that run to go on with.

    Raises:
        OutputError: the output folder cannot be written.
    """
    record = {
        'fingerprint': fingerprint,
        'retry': retry,
        'status': 'skipped',
        'reason': reason,
        'frames': 0,
        'pairs': [],
        'rejected': {},
    }
    with writing(store.out):
        if not keep:
            store.clear(source.name)
        store.write_record(source.name, {**_identity(source), **record}, keep_journal=keep)
    return record


def _run(
    source: Source,
    store: Store,
    estimators: Sequence[FlowEstimator],
    report: Report,
    fingerprint: dict[str, Any],
) -> dict[str, Any]:
    with writing(store.out):
        journal = store.resume(source.name, fingerprint)
    try:
        return _Run(source, store, estimators, journal, report).run()
    finally:
        journal.close()


def _identity(source: Source) -> dict[str, str]:
    return {'video': source.name, 'label': source.label, 'source': source.path}


def _check_unchanged(source: Source, fingerprint: dict[str, Any], flow_root: str | None) -> None:
    try:
        same = source.fingerprint(flow_root) == fingerprint
    except OSError as error:
        reason = f'cannot be read any more ({error.strerror or error})'
        raise SourceError(reason, passing=True) from None
    if not same:
        raise SourceError('changed while it was read')


def _is_gone(source: Source, flow_root: str | None) -> bool:
    """Whether the source cannot even be looked at, as where its disk went away."""
    try:
        source.fingerprint(flow_root)
    except OSError:
        return True
    return False


class _OtherFramesError(Exception):
    """A source does not give the frames that its journal speaks of."""


class _Run:
    """Reading, estimating and writing at the same time, in the order of the pairs.

    A reading thread decodes and shrinks, the estimators' threads estimate and measure, writing threads
    encode and store. OpenCV and FFmpeg do all of that outside Python's lock.
    """

    def __init__(
        self,
        source: Source,
        store: Store,
        estimators: Sequence[FlowEstimator],
        journal: Journal,
        report: Report,
    ) -> None:
        self._source = source
        self._store = store
        self._settings = store.settings
        self._journal = journal
        self._report = report
        self._threads = len(estimators)
        self._estimators: queue.SimpleQueue[FlowEstimator] = queue.SimpleQueue()
        for estimator in estimators:
            self._estimators.put(estimator)
        self._reader = FrameReader(source, self._settings, self._threads)
        self._frames = 0
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._rows: list[list] = []
        self._rejected: Counter[str] = Counter()
        self._last_stored = -1
        self._without_flow: str | None = None  # why, of the first such pair

    def run(self) -> dict[str, Any]:
        writers = 1 + self._threads // FLOW_THREADS_PER_WRITER
        estimating: deque[tuple[_Pair, Future | str]] = deque()
        writing_: deque[tuple[list, Future | None]] = deque()
        flow_pool = ThreadPoolExecutor(self._threads, 'flow')
        write_pool = ThreadPoolExecutor(writers, 'write')
        pairs = self._pairs()
        try:
            for number, pair in enumerate(pairs):
                if number < len(self._journal.rows):
                    self._recall(pair, self._journal.rows[number])
                    continue
                estimating.append((pair, self._start(pair, flow_pool)))
                while len(estimating) > self._threads + 1:
                    writing_.append(self._finish(*estimating.popleft(), write_pool))
                while len(writing_) > writers + 1:
                    self._note(*writing_.popleft())
            while estimating:
                writing_.append(self._finish(*estimating.popleft(), write_pool))
            while writing_:
                self._note(*writing_.popleft())
        finally:
            pairs.close()
            flow_pool.shutdown(cancel_futures=True)
            write_pool.shutdown(cancel_futures=True)
        return self._record()

    def _pairs(self) -> Iterator[_Pair]:
        before: tuple[Frame, np.ndarray] | None = None
        with_thumbs = ((frame, make_thumb(frame.image)) for frame in self._reader)
        for frame, thumb in prefetch(with_thumbs, 2 * self._threads + 2):
            self._frames += 1
            self._sizes[frame.image.shape[:2]] += 1
            if before is not None:
                yield _Pair(before[0], frame, (before[1], thumb))
            before = (frame, thumb)

    def _start(self, pair: _Pair, pool: ThreadPoolExecutor) -> Future | str:
        """Return why the pair is left out where that is known without its flow, else start estimating."""
        if pair.is_gap:
            return 'gap'
        if pair.first.image.shape != pair.second.image.shape:
            return 'size'
        # A repeated frame, common where video was converted to a higher rate.
        if self._settings.min_motion and np.array_equal(*pair.thumbs):
            return 'static'
        return pool.submit(self._estimate, pair)

    def _estimate(self, pair: _Pair) -> tuple[np.ndarray | None, list | None, str | None]:
        names = [self._frame_name(frame) for frame in (pair.first, pair.second)]
        estimator = self._estimators.get()
        try:
            flow = estimator.for_pair(pair.first.image, pair.second.image, *names)
        except (FileNotFoundError, FlowFormatError) as error:
            return None, [str(error)], 'no_flow'
        finally:
            self._estimators.put(estimator)
        measure = measure_pair(flow, *pair.thumbs, self._settings.flow_bound)
        reason = judge_pair(measure, self._settings)
        if reason is not None:
            return None, None, reason
        measures = [round(value, 3) for value in (measure.mean, measure.fast, measure.residual)]
        return flow, [*measures, measure.clipped], None

    def _finish(
        self, pair: _Pair, estimate: Future | str, pool: ThreadPoolExecutor
    ) -> tuple[list, Future | None]:
        """Wait for the flow of a pair and start writing it if it stays."""
        index = pair.first.index
        flow, measures, reason = (None, None, estimate) if isinstance(estimate, str) else estimate.result()
        if reason is not None:
            return [index, reason, *(measures or ())], None
        frames = [frame for frame in (pair.first, pair.second) if frame.index > self._last_stored]
        self._last_stored = pair.second.index
        row = [index, None, *flow.shape[:2], *measures]
        return row, pool.submit(self._write, index, flow, frames)

    def _write(self, index: int, flow: np.ndarray, frames: list[Frame]) -> None:
        settings = self._settings
        try:
            encoded = encode_flow(flow, settings.flow_format, settings.flow_bound)
        except FlowFormatError as error:
            raise SourceError(str(error)) from None
        encoded = encoded if settings.flow_format == 'jpg' else (encoded,)
        paths = self._store.flow_paths(self._source.name, index)
        files = list(zip(paths, encoded, strict=True))
        for frame in frames:
            bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
            done, jpg = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, settings.quality])
            if not done:
                raise SourceError(f'frame {frame.number} cannot be stored as jpg')
            files.append((self._store.frame_path(self._source.name, frame.index), jpg))
        with writing(self._store.out):
            write_whole(files)

    def _note(self, row: list, written: Future | None) -> None:
        if written is not None:
            written.result()
        with writing(self._store.out):
            self._journal.add(row)
        self._count(row)

    def _recall(self, pair: _Pair, row: list) -> None:
        """Take a pair as an earlier run left it."""
        if row[0] != pair.first.index or pair.is_gap != (row[1] == 'gap'):
            raise _OtherFramesError
        if row[1] is None:
            self._last_stored = pair.second.index
        self._count(row)

    def _count(self, row: list) -> None:
        if row[1] is None:
            self._rows.append([row[0], *row[2:]])
        else:
            self._rejected[row[1]] += 1
            if row[1] == 'no_flow' and self._without_flow is None:
                self._without_flow = row[2] if len(row) > 2 else ''
        self._report(self._reader.progress, len(self._rows), sum(self._rejected.values()))

    def _record(self) -> dict[str, Any]:
        problems = [self._reader.problem] if self._reader.problem else []
        if self._frames < 2 and not problems:
            raise SourceError(f'has {self._frames} frames at this rate; a pair needs 2')
        if len(self._sizes) > 1:
            sizes = ', '.join(f'{width} x {height} ({n})' for (height, width), n in self._sizes.items())
            problems.append(f'frames of {len(self._sizes)} sizes: {sizes}')
        if self._rejected['no_flow']:
            why = f' ({self._without_flow})' if self._without_flow else ''
            problems.append(f'no usable flow for {self._rejected["no_flow"]} pairs{why}')
        reason = '; '.join(problems)
        if problems and not self._rows:
            raise SourceError(reason, self._reader.passing)
        return {
            'retry': self._reader.passing,
            'status': 'damaged' if problems else 'ok',
            'reason': reason or None,
            'frames': self._frames,
            'pairs': self._rows,
            'rejected': dict(sorted(self._rejected.items())),
        }

    def _frame_name(self, frame: Frame) -> str:
        file = frame.file or f'{frame.number:06d}'
        return f'{self._source.relative}/{file}' if self._source.relative else file
