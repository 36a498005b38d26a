"""Checkpoints on disk: written whole or not at all, and the last whole one found again."""

import logging
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import print_log

from cmp_mm.flow import write_whole

from .checkpoint_loading import CheckpointError, load_checkpoint_file

# What Runner.resume reads; a file of weights alone (a published one, the best one) cannot be resumed.
RESUMABLE = ('meta', 'state_dict', 'optimizer', 'message_hub')
# In the message hub: the iteration whose validation is the last one in its histories.
VALIDATED_KEY = 'validated_iter'


def write_durably(path: str | os.PathLike, data: bytes) -> None:
    """Write ``data`` so that at every moment ``path`` is absent, the old file or the new one.

    A temporary file in the same folder is written, flushed to the disk and renamed.

    Raises:
        OSError: the folder cannot be written or the disk is full; what was at ``path`` is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_whole([(path, data)], flush=True)
    except OSError as error:
        raise OSError(error.errno, f'cannot write it ({error.strerror})', str(path)) from None
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system can open folders."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems do not sync folders; the rename is still atomic
    finally:
        os.close(handle)


def remove_parts(folder: str | os.PathLike) -> int:
    """Remove what a killed writer left of checkpoints in ``folder``; returns how many files."""
    parts = [path for name in ('*.pth', 'last_checkpoint') for path in Path(folder).glob(f'.{name}.*.tmp')]
    for path in parts:
        path.unlink(missing_ok=True)
    return len(parts)


@register_backend('durable_local', force=True)
class DurableLocalBackend(LocalBackend):
    """mmengine's local file backend whose files appear whole or not at all."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Write bytes, see :func:`write_durably`."""
        write_durably(filepath, obj)

    def put_text(self, obj: str, filepath: str | os.PathLike, encoding: str = 'utf-8') -> None:
        """Write text, see :func:`write_durably`."""
        write_durably(filepath, obj.encode(encoding))


def find_resumable(folders: Iterable[str | os.PathLike]) -> str | None:
    """The checkpoint a killed run goes on from.

    That is the one ``last_checkpoint`` names (in the folder itself, should that have been moved or copied
    since) if it is whole and can be resumed; else the whole one saved last, by the time and iteration
    written in the checkpoints themselves, since copying files changes their own times.

    Args:
        folders: the work directory first, then others where checkpoints were saved.

    Returns:
        Its path, or None if no folder holds one. An address that ``last_checkpoint`` names, of checkpoints
        that are saved elsewhere, as it is.
    """
    folders = [Path(folder) for folder in folders]
    remote = named_by_pointer(folders[0])
    if '://' in remote:
        return remote  # whether it can be read is its file backend's to say
    for path in _pointed_then_latest(folders):
        reason = _why_not(path)
        if reason is None:
            return str(path)
        # Weights alone (the best checkpoint, a published one) lie here by right.
        if reason:
            print_log(f'{path} is passed over: {reason}', logger='current', level=logging.WARNING)
    return None


def _pointed_then_latest(folders: list[Path]) -> Iterator[Path]:
    pointed = list(_pointed(folders))
    yield from pointed
    # Not before it is asked for: to know when each was saved takes opening all of them.
    others = (path for folder in folders for path in folder.glob('*.pth') if path not in pointed)
    yield from sorted(others, key=_saved_at, reverse=True)


def named_by_pointer(folder: str | os.PathLike) -> str:
    """What ``last_checkpoint`` in a folder names, '' where there is none or it is broken."""
    try:
        name = (Path(folder) / 'last_checkpoint').read_text(encoding='utf-8').strip()
    except (OSError, UnicodeDecodeError):
        return ''
    return '' if '\0' in name else name


def _pointed(folders: list[Path]) -> Iterable[Path]:
    name = named_by_pointer(folders[0])
    if not name:
        return
    named = Path(name)
    here = [folder / named.name for folder in folders]
    # A copy of a run still names a file of the run it was copied from.
    ours = any(named.parent.resolve() == folder.resolve() for folder in folders)
    for path in (named, *here) if ours else (*here, named):
        if path.is_file():
            yield path
            return


def _saved_at(path: Path) -> tuple[str, int]:
    try:
        meta = load_checkpoint_file(path, 'cpu', mmap=True).get('meta') or {}
        return str(meta.get('time', '')), int(meta.get('iter', -1))
    except (CheckpointError, AttributeError, TypeError, ValueError):
        return '', -1


def _why_not(path: Path) -> str | None:
    """None if ``path`` can be resumed, '' if it holds weights alone, else what is wrong with it."""
    try:
        checkpoint = load_checkpoint_file(path, 'cpu', mmap=True)
        missing = [key for key in RESUMABLE if key not in checkpoint]
        if missing:
            return ''
        # Mapping reads no tensor: every record's checksum says whether the bytes are those written.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
            if broken is not None:
                return f'its record {broken} is damaged'
    except (CheckpointError, OSError, zipfile.BadZipFile) as error:
        return str(error)
    return None
