"""The output folder: where things lie, and what says that a video is done.

::

    DIR/settings.json                    the pair settings, one set per folder
    DIR/records/<video>.json             appears when the video is finished, whatever came of it
    DIR/records/<video>.part             one line per pair already dealt with, while it is not
    DIR/frames/<video>/000012.jpg        sampled frame 12
    DIR/flow/<video>/000012.flo ...      flow from it to frame 13
    DIR/train.json val.json summary.json contact_sheet.png ...

Every file but ``.part`` is written beside its place and renamed, and a record is written after all files
it speaks of, so that what a killed process leaves is either whole or not believed.

A power cut can leave a renamed file empty. Flushing each frame and flow by itself would take milliseconds a
file; instead the file system is flushed once per video, before its record, and what a journal speaks of is
looked at before it is believed.
"""

import contextlib
import ctypes
import errno
import json
import math
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmp_mm.flow import write_whole

from .errors import OutputError, PrepareError
from .settings import LAYOUT_VERSION, PairSettings, digest_of

FLOW_ENDINGS = {'jpg': ('_x.jpg', '_y.jpg'), 'flo': ('.flo',), 'kitti': ('.png',), 'npz': ('.npz',)}
# How the files of pairs end when they are whole; of .flo the length tells.
ENDS = {'.jpg': b'\xff\xd9', '.png': b'IEND\xaeB`\x82', '.npz': b'PK\x05\x06'}
OWN_NAMES = ('frames', 'flow', 'records', 'train.json', 'val.json', 'summary.json')
# What the merge makes of all records; summary.json says that the others are whole, so it goes first.
MERGED_NAMES = ('summary.json', 'train.json', 'val.json', 'train.txt', 'val.txt', 'contact_sheet.png')


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn an error of the file system into one line about the output folder."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename or out)
        if place.suffix == '.tmp':
            place = place.parent
        raise OutputError(f'cannot write {place}: {error.strerror or error}') from None


class Store:
    """The output folder of one preparation.

    Args:
        out: the folder; made by `claim`.
        settings: what its pairs are made with.
    """

    def __init__(self, out: str | os.PathLike, settings: PairSettings) -> None:
        self.out = Path(out)
        self.settings = settings
        self.digest = settings.digest()
        # An earlier version told 20 from 20.0: records may bear its name for these settings.
        self._digests = [self.digest]

    @classmethod
    def open(cls, out: str | os.PathLike) -> 'Store':
        """Open a folder with the settings it was prepared with.

        Raises:
            PrepareError: nothing was prepared there, or by another version.
        """
        with writing(Path(out)):
            present = read_json(Path(out) / 'settings.json')
        if present is None:
            raise PrepareError(f'{out} holds no settings.json; nothing was prepared there')
        if present.get('layout_version') != LAYOUT_VERSION:
            raise PrepareError(
                f'{out} was prepared by another version (layout {present.get("layout_version")!r}, '
                f'expected {LAYOUT_VERSION})'
            )
        store = cls(out, PairSettings.from_dict(present))
        store._digests.append(digest_of(present))
        return store

    def claim(self, overwrite: bool = False) -> None:
        """Make the folder, or check that it holds pairs made with the same settings.

        Several processes may do so at the same time.

        Args:
            overwrite: take a folder with other settings; its videos are then prepared again one by one,
                for their records name other settings.

        Raises:
            PrepareError: it holds pairs made with other settings, or something else under our names.
            OutputError: it cannot be made or written.
        """
        path = self.out / 'settings.json'
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            present = read_json(path)
            if present is None and not overwrite:
                foreign = [name for name in OWN_NAMES if (self.out / name).exists()]
                # Another process may have claimed the folder since.
                if foreign and read_json(path) is None:
                    raise PrepareError(
                        f'{self.out} holds {foreign[0]} but no settings.json of this tool; choose another '
                        'folder, or overwrite'
                    )
            wanted = self.settings.to_dict()
            # Where nothing was prepared yet, a first attempt with a typing error does not count.
            if present not in (None, wanted) and not overwrite and self._prepared():
                changed = [
                    f'{name} {present.get(name)!r}, now {wanted.get(name)!r}'
                    for name in sorted({*present, *wanted})
                    if present.get(name) != wanted.get(name)
                ]
                raise PrepareError(
                    f'{self.out} was prepared with other settings ({"; ".join(changed)}); use the same, '
                    'choose another folder, or overwrite'
                )
            if present not in (None, wanted):
                self.withdraw()
            if present == wanted:
                wanted = present  # as it is written
                self._digests.append(digest_of(present))
            # Also where it is there already: whether the folder can be written shows now, not in an hour.
            # First: killed right after, the folder must not look like someone else's to the next run.
            write_whole([(path, dump_json(wanted, indent=1))], flush=True)
            for name in ('records', 'frames', 'flow'):
                (self.out / name).mkdir(exist_ok=True)

    def withdraw(self) -> None:
        """Remove what the last merge wrote: it speaks of files that are about to be made anew.

        Stopped in between, the folder would else pass for a finished set, with old sizes and new flow.
        """
        for name in MERGED_NAMES:
            (self.out / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what killed processes were writing; only where no other process works in the folder."""
        with writing(self.out):
            for folder in (self.out, self.out / 'records'):
                for name in os.listdir(folder):
                    if name.startswith('.') and name.endswith('.tmp'):
                        (folder / name).unlink(missing_ok=True)

    def frame_path(self, video: str, index: int) -> Path:
        """Return where sampled frame ``index`` is stored."""
        return self.out / frame_name(video, index)

    def flow_paths(self, video: str, index: int) -> list[Path]:
        """Return where the flow from sampled frame ``index`` to the next is stored."""
        return [self.out / name for name in flow_names(video, index, self.settings.flow_format)]

    def record_path(self, video: str) -> Path:
        """Return the path of a video's record."""
        return self.out / 'records' / f'{video}.json'

    def recorded(self) -> set[str]:
        """Return the names of the videos that have a record, of whatever settings."""
        with writing(self.out):
            return {
                name[: -len('.json')]
                for name in os.listdir(self.out / 'records')
                if name.endswith('.json') and not name.startswith('.')
            }

    def read_record(self, video: str) -> dict[str, Any] | None:
        """Return a video's record if it is there and of these settings, else None."""
        record = read_json(self.record_path(video))
        if record is None or record.get('settings') not in self._digests:
            return None
        return record

    def finished(self, video: str, fingerprint: dict[str, Any]) -> bool:
        """Tell whether a video needs no more work: its record is of these settings and of this source.

        What was lost to a dying worker, and may go well this time, is not finished; neither is a video
        whose files were taken away.
        """
        record = self.read_record(video)
        if record is None or not _same_source(record['fingerprint'], fingerprint) or record['retry']:
            return False
        return self._files_are_there(video, record)

    def holds_pairs(self, video: str) -> bool:
        """Tell whether pairs of these settings are there, whatever has become of their source."""
        record = self.read_record(video)
        return record is not None and bool(record['pairs']) and self._files_are_there(video, record)

    def write_record(self, video: str, record: dict[str, Any], keep_journal: bool = False) -> None:
        """Write the record of a video, once its files are on the disk; its journal is dropped or kept."""
        if record['pairs']:
            flush_file_system(self.out)
        content = dump_json({**record, 'settings': self.digest})
        write_whole([(self.record_path(video), content)], flush=True)
        if not keep_journal:
            self.drop_journal(video)

    def drop_journal(self, video: str) -> None:
        """Remove the journal of a finished video."""
        self._part_path(video).unlink(missing_ok=True)

    def clear(self, video: str) -> None:
        """Remove everything of a video, record first, so that nothing is believed that is half gone."""
        self.record_path(video).unlink(missing_ok=True)
        self._part_path(video).unlink(missing_ok=True)
        for kind in ('frames', 'flow'):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.out / kind / video)

    def resume(self, video: str, fingerprint: dict[str, Any]) -> 'Journal':
        """Open the journal of a video: as it was left if it is of these settings and this source, else new.

        Raises:
            OSError: the folder cannot be written.
        """
        path = self._part_path(video)
        head = {'settings': self.digest, 'fingerprint': fingerprint}
        rows = _read_part(path, head)
        if rows is None:
            self.clear(video)
            rows = []
        for number, row in enumerate(rows):
            if row[1] is None and not all(map(is_whole, self._pair_files(video, row[0]))):
                del rows[number:]
                break
        self.record_path(video).unlink(missing_ok=True)
        for kind in ('frames', 'flow'):
            (self.out / kind / video).mkdir(exist_ok=True)
        self.drop_temporary(video)
        # Written anew rather than appended to: the last line may be torn.
        lines = [head, *rows]
        write_whole([(path, b''.join(dump_json(line) for line in lines))])
        return Journal(path, rows)

    def drop_temporary(self, video: str) -> None:
        """Remove what a killed process was writing of a video."""
        for kind in ('frames', 'flow'):
            folder = self.out / kind / video
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(folder):
                    if name.endswith('.tmp'):
                        (folder / name).unlink(missing_ok=True)

    def _prepared(self) -> bool:
        """Tell whether a video was begun or finished here."""
        records = self.out / 'records'
        return records.is_dir() and any(not name.startswith('.') for name in os.listdir(records))

    def _files_are_there(self, video: str, record: dict[str, Any]) -> bool:
        ends = {row[0] for row in (record['pairs'][:1] + record['pairs'][-1:])}
        return all(path.exists() for index in ends for path in self._pair_files(video, index))

    def _part_path(self, video: str) -> Path:
        return self.out / 'records' / f'{video}.part'

    def _pair_files(self, video: str, index: int) -> list[Path]:
        frames = [self.frame_path(video, number) for number in (index, index + 1)]
        return [*frames, *self.flow_paths(video, index)]


class Journal:
    """The pairs of an unfinished video that are dealt with, so that a killed run goes on where it was.

    Attributes:
        rows: of the pairs there were when it was opened, in order.
    """

    def __init__(self, path: Path, rows: list[list]) -> None:
        self.rows = rows
        self._file = open(path, 'ab', buffering=0)  # noqa: SIM115 - closed by close()

    def add(self, row: list) -> None:
        """Note a pair whose files, if it stays, are in place."""
        line = dump_json(row)
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def frame_name(video: str, index: int) -> str:
    """Return the path of a stored frame below the output folder."""
    return f'frames/{video}/{index:06d}.jpg'


def flow_names(video: str, index: int, flow_format: str) -> list[str]:
    """Return the path or, for the jpg pair, the two paths of a stored flow below the output folder."""
    return [f'flow/{video}/{index:06d}{ending}' for ending in FLOW_ENDINGS[flow_format]]


def dump_json(value: Any, indent: int | None = None) -> bytes:
    """Return JSON of one line (or indented), ASCII, with a newline at its end."""
    return (json.dumps(value, indent=indent) + '\n').encode()


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object a JSON file holds, or None where there is no such file or it is none of ours."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _read_part(path: Path, head: dict[str, Any]) -> list[list] | None:
    """Return the whole lines of a journal, or None where it is missing or not of this video as it is."""
    try:
        lines = path.read_bytes().split(b'\n')[:-1]
        values = [json.loads(line) for line in lines]
    except (FileNotFoundError, ValueError):
        return None
    if not values or not isinstance(values[0], dict) or values[0].get('settings') != head['settings']:
        return None
    if not _same_source(values[0].get('fingerprint'), head['fingerprint']):
        return None
    # [index, reason, perhaps more of it] of a pair left out, [index, None, and what was measured] of one that
    # stays.
    rows = values[1:]
    return rows if all(isinstance(row, list) and len(row) > 1 for row in rows) else None


def _same_source(recorded: Any, now: dict[str, Any]) -> bool:
    """Whether a source is the one that was recorded, as `Source.fingerprint` tells.

    Precomputed flow that was taken away since changes nothing that is stored, and earlier versions did not
    look at it.
    """
    if not isinstance(recorded, dict):
        return False
    if not recorded.get('flow', '') or not now.get('flow'):
        was_looked_for = recorded.get('flow') == '' and bool(now.get('flow'))
        recorded, now = ({k: v for k, v in one.items() if k != 'flow'} for one in (recorded, now))
        return recorded == now and not was_looked_for
    return recorded == now


def is_whole(path: Path) -> bool:
    """Tell whether the file of a pair is there to its end."""
    try:
        with open(path, 'rb') as file:
            head = file.read(12)
            size = file.seek(0, os.SEEK_END)
            # An npz ends with its directory's 22 bytes, which begin with the mark.
            file.seek(max(0, size - 22))
            tail = file.read()
    except OSError:
        return False
    if path.suffix == '.flo':
        return len(head) == 12 and size == 12 + 8 * math.prod(struct.unpack('<ii', head[4:]))
    return ENDS[path.suffix] in tail


def flush_file_system(folder: Path) -> None:
    """Bring to the disk all that was written to the file system of ``folder``.

    Raises:
        OSError: it could not all be written.
    """
    libc = ctypes.CDLL(None, use_errno=True) if os.name == 'posix' else None
    if hasattr(libc, 'syncfs'):
        handle = os.open(folder, os.O_RDONLY)
        try:
            if libc.syncfs(handle) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(folder))
        finally:
            os.close(handle)
    elif hasattr(os, 'sync'):
        os.sync()
