"""The whole preparation: find the videos, prepare this process's share, merge when all are ready."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from cmp_mm.flow import write_whole

from .annotation import check_reference_lists, write_annotations
from .errors import IncompleteError, PrepareError
from .pool import WorkerPool
from .progress import Progress
from .settings import MergeSettings, PairSettings
from .sharding import default_workers, read_shard, take_shard
from .sources import Source, find_sources, list_frames
from .store import Store, dump_json, read_json, writing
from .summary import summarise
from .video import fingerprint_of, skip_video

PathLike = str | os.PathLike
STALL_SECONDS = 600.0


def prepare(
    sources: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    workers: int | None = None,
    shard: str | None = None,
    overwrite: bool = False,
    merge_only: bool = False,
    stall_seconds: float = STALL_SECONDS,
    progress: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Turn videos into pairs of frames with flow, and annotation files that `ImageFlowDataset` reads.

    Goes on where an earlier run with the same settings stopped, however it did.

    Args:
        sources: video files, folders of videos, folders of ordered frames, or one of them; searched
            recursively. May be empty with ``merge_only``: then all videos the folder has records of
            with its settings.
        out: the output folder; see `store` for what lies in it.
        workers: processor cores to use; None: those this process may use.
        shard: ``RANK/NUMBER``, this process's share of the videos; None: as torchrun or slurm say, else all.
        overwrite: take a folder that holds pairs made with other settings, and make them anew.
        merge_only: prepare nothing, write the annotation files from the records, with the folder's own
            pair settings.
        stall_seconds: a worker that finishes no pair for so long counts as dead.
        progress: show a bar and what goes wrong on standard error.
        **options: fields of `PairSettings` and `MergeSettings`.

    Returns:
        The summary, as in ``summary.json``. Where other processes' videos are not ready, only
        ``complete`` False and ``missing``, their number, for one of them will merge.

    Raises:
        PrepareError: something is wrong with the arguments, or the whole cannot go on; one line.
            `OutputError`: the folder cannot be written. `IncompleteError`: ``merge_only`` before all videos
            are ready.
        KeyboardInterrupt: Ctrl-C; the next run continues.
    """
    sources = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    settings, merge = _split_options(options)
    workers = default_workers() if workers is None else workers
    if workers < 1:
        raise PrepareError(f'workers is {workers}; expected at least 1')
    if not stall_seconds > 0:
        raise PrepareError(f'stall seconds is {stall_seconds}; expected a number above 0')
    rank, number = read_shard(shard)
    found = find_sources(sources, out) if sources or not merge_only else None
    if merge_only:
        store = Store.open(out)
    else:
        _check_sources(found, settings)
        store = Store(out, settings)
    if merge.reference_lists:
        check_reference_lists(store.settings)
    if not merge_only:
        store.claim(overwrite)
    if number == 1 and not merge_only:
        store.sweep()
    if not merge_only:
        mine = take_shard(found, rank, number)
        title = 'preparing' if number == 1 else f'rank {rank} of {number}'
        _prepare_share(store, mine, workers, stall_seconds, title, progress)
    recorded = store.recorded()
    videos = [source.name for source in found] if found is not None else sorted(recorded)
    missing = [video for video in videos if video not in recorded]
    while not missing:
        try:
            return {**_merge(store, videos, merge), 'other_videos': len(recorded - set(videos))}
        except IncompleteError:
            outdated = {video for video in videos if store.read_record(video) is None}
            if found is None and len(outdated) < len(videos):
                # Nobody named these: they were left out when the folder was prepared anew.
                videos = [video for video in videos if video not in outdated]
                continue
            # Records of other settings, which another process is about to replace.
            missing = [video for video in videos if video in outdated]
    if merge_only or number == 1:
        raise IncompleteError(
            f'{len(missing)} of {len(videos)} videos in {store.out} are not ready, first {missing[0]}; '
            'prepare them first'
        )
    return {'complete': False, 'missing': len(missing)}


def _split_options(options: dict[str, Any]) -> tuple[PairSettings, MergeSettings]:
    names = {one.name for one in fields(MergeSettings)}
    merge = MergeSettings(**{name: value for name, value in options.items() if name in names})
    return PairSettings.from_dict({key: value for key, value in options.items() if key not in names}), merge


def _check_sources(found: Sequence[Source], settings: PairSettings) -> None:
    if settings.flow_root is not None:
        _check_flow_names(found, settings.flow_root)
    if settings.fps is None or settings.folder_fps is not None:
        return
    for source in found:
        if source.kind == 'frames':
            raise PrepareError(
                f'{source.path} is a folder of frames, whose frame rate is unknown; give folder fps, or a '
                'stride instead of fps'
            )


def _check_flow_names(found: Sequence[Source], flow_root: str) -> None:
    """Refuse sources two of which would get the same precomputed flow."""
    videos: dict[str, Source] = {}
    users: dict[str, Source] = {}

    def refuse(one: Source, other: Source, name: str) -> None:
        raise PrepareError(
            f'{one.path} and {other.path} would both get the precomputed flow '
            f'{os.path.join(flow_root, name)}; leave one of them out, or give the folder above them as SRC, '
            'and their flow in folders of different names'
        )

    for source in found:
        if source.kind == 'video' and videos.setdefault(source.relative, source) is not source:
            refuse(videos[source.relative], source, os.path.join(source.relative, f'{0:06d}'))
    for source in found:
        for frame in list_frames(source.path) if source.kind == 'frames' else ():
            stem = Path(frame).stem
            name = os.path.join(source.relative, stem)
            other = users.setdefault(name, source)
            if other is source and stem.isascii() and stem.isdigit() and stem == f'{int(stem):06d}':
                other = videos.get(source.relative, source)  # its frames are numbered so
            if other is not source:
                refuse(other, source, name)


def _prepare_share(
    store: Store, mine: Sequence[Source], workers: int, stall_seconds: float, title: str, shown: bool
) -> None:
    sizes, finished, unseen = {}, set(), []
    with writing(store.out):
        for source in mine:
            fingerprint, reason = fingerprint_of(source, store)
            sizes[source.name] = fingerprint.get('bytes', 0)
            if reason is None and store.finished(source.name, fingerprint):
                finished.add(source.name)
                # A run killed right after the record did not come to it.
                store.drop_journal(source.name)
            elif reason is not None and store.holds_pairs(source.name):
                # A disk that is not mounted says nothing about what was made of its videos.
                finished.add(source.name)
                unseen.append(f'{source.path}: cannot be read ({reason}); what it was prepared to stays')
            else:
                record = read_json(store.record_path(source.name))
                if record is not None and record.get('pairs'):
                    store.withdraw()
                # So that no other process takes an outdated record for this video being ready.
                store.record_path(source.name).unlink(missing_ok=True)
    pending = [source for source in mine if source.name not in finished]
    if not pending and not unseen:
        return
    bar = Progress(sizes, finished, title, shown)
    for line in unseen:
        bar.say(line)

    def hear(source: Source, message: dict[str, Any]) -> None:
        if message['kind'] == 'died' and not message['attempts_left']:
            # What it got to is kept: often the machine was short of memory, or a disk hung.
            with writing(store.out):
                store.drop_temporary(source.name)
            fingerprint = fingerprint_of(source, store)[0]
            skip_video(source, store, message['reason'], fingerprint, retry=True, keep=True)
        bar.hear(source, message)

    try:
        # The long ones first, so that the last worker is not left with one.
        pending.sort(key=lambda source: (-sizes[source.name], source.name))
        WorkerPool(store, workers, stall_seconds).run(pending, hear)
    except PrepareError:
        # Where one worker met a full disk the others are killed, perhaps in a file.
        with contextlib.suppress(OSError):
            for source in pending:
                store.drop_temporary(source.name)
        raise
    finally:
        bar.close()


def _merge(store: Store, videos: Sequence[str], merge: MergeSettings) -> dict[str, Any]:
    # Here, for guidance needs SciPy and torch, and every worker process loads this module.
    from .contact_sheet import draw_contact_sheet

    with writing(store.out):
        overview = summarise(store, videos, merge)
        # First: stopped in between, an old one must not stand for lists that are split in two ways.
        (store.out / 'summary.json').unlink(missing_ok=True)
        write_annotations(store, videos, overview.val_groups, merge)
        sheet = draw_contact_sheet(store, overview.pairs)
        if sheet is None:  # no pairs any more
            (store.out / 'contact_sheet.png').unlink(missing_ok=True)
        else:
            write_whole([(store.out / 'contact_sheet.png', sheet)])
        # Last: where there is a summary, everything else is there.
        write_whole([(store.out / 'summary.json', dump_json(overview.summary, indent=1))], flush=True)
    return overview.summary
