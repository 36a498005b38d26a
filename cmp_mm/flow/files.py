"""Reading and writing flow files. A file appears under its name whole or not at all."""

import os
import stat
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .formats import MAX_PIXELS, FlowFormatError, decode_flow, encode_flow

PathLike = str | os.PathLike
SUFFIX_FORMATS = {'.flo': 'flo', '.png': 'kitti', '.npz': 'npz'}
JPG_SUFFIXES = ('.jpg', '.jpeg')
# float64 npz, stored: 16 bytes a pixel and a mask. No whole flow file is longer.
MAX_FILE_BYTES = 17 * MAX_PIXELS + 2**20


def read_flow(
    path: PathLike | Sequence[PathLike], fmt: str | None = None, bound: float = 50.0
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a flow file, or an (x, y) pair of jpg files.

    Args:
        path: one path, or two for the jpg pair.
        fmt: 'flo', 'kitti', 'npz' or 'jpg'; None takes it from the suffix.
        bound: pixels, for 'jpg' only.

    Returns:
        flow (H, W, 2) float32 and valid (H, W) bool or None, as from `decode_flow`.

    Raises:
        OSError: a file is missing or cannot be read.
        FlowFormatError: a file is not a flow file of this format; the message starts with its path.
    """
    fmt, paths = _resolve(path, fmt)
    data = tuple(_read_bytes(one) for one in paths)
    try:
        return decode_flow(data if fmt == 'jpg' else data[0], fmt, bound)
    except FlowFormatError as error:
        raise FlowFormatError(f'{_name(paths)}: {error}') from None


def write_flow(
    flow: np.ndarray,
    path: PathLike | Sequence[PathLike],
    fmt: str | None = None,
    bound: float = 50.0,
    valid: np.ndarray | None = None,
) -> None:
    """Write a flow file, or an (x, y) pair of jpg files, into a folder that exists.

    Each file is written beside its final place and then renamed, so a killed process leaves no half file
    under the final name. A pair is two files: both are complete before the first is renamed, x before y,
    so y alone tells that a new pair is whole.

    Args:
        flow: (H, W, 2) pixels.
        path: one path, or two for the jpg pair.
        fmt: 'flo', 'kitti', 'npz' or 'jpg'; None takes it from the suffix.
        bound: pixels, for 'jpg' only.
        valid: (H, W), true where the flow is known; None means everywhere it is finite.

    Raises:
        OSError: a file cannot be written.
        FlowFormatError: the flow cannot be stored in this format.
    """
    fmt, paths = _resolve(path, fmt)
    try:
        data = encode_flow(flow, fmt, bound, valid)
    except FlowFormatError as error:
        raise FlowFormatError(f'{_name(paths)}: {error}') from None
    write_whole(list(zip(paths, data if fmt == 'jpg' else (data,), strict=True)))


def temporary_beside(path: Path) -> Path:
    """A new name in a file's folder to write it by; two writers, on two machines too, have two."""
    return path.with_name(f'.{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp')


def write_whole(files: Sequence[tuple[PathLike, bytes]], flush: bool = False) -> None:
    """Write files so that none appears under its name before all of them are completely written.

    Args:
        files: (path, content) of each; the folders exist.
        flush: wait for the disk before the files get their names, so that not even a power cut leaves an
            empty file under one. Takes milliseconds each; without it only killed processes are provided for.

    Raises:
        OSError: a file cannot be written; nothing is left behind except files already renamed.
    """
    waiting = [(Path(path), temporary_beside(Path(path))) for path, _ in files]
    try:
        for (_, temporary), (_, content) in zip(waiting, files, strict=True):
            with open(temporary, 'xb') as file:
                file.write(content)
                if flush:
                    file.flush()
                    os.fsync(file.fileno())
        for path, temporary in waiting:
            os.replace(temporary, path)
    finally:
        for _, temporary in waiting:
            temporary.unlink(missing_ok=True)


def _resolve(path: PathLike | Sequence[PathLike], fmt: str | None) -> tuple[str, list[Path]]:
    paths = [Path(path)] if isinstance(path, (str, os.PathLike)) else [Path(one) for one in path]
    if fmt is None:
        suffix = paths[0].suffix.lower() if paths else ''
        if suffix in JPG_SUFFIXES:
            fmt = 'jpg'
        elif suffix in SUFFIX_FORMATS:
            fmt = SUFFIX_FORMATS[suffix]
        else:
            raise FlowFormatError(
                f'{_name(paths)}: no flow format has the suffix {suffix!r}; expected .flo, .png (KITTI), '
                '.npz or a pair of .jpg'
            )
    if len(paths) != (2 if fmt == 'jpg' else 1):
        expected = 'a pair of files, x and y' if fmt == 'jpg' else 'one file'
        raise FlowFormatError(f'{_name(paths)}: {fmt} flow is {expected}; got {len(paths)}')
    return fmt, paths


def _read_bytes(path: Path) -> bytes:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise FlowFormatError(f'{path}: not a file')
    if status.st_size > MAX_FILE_BYTES:
        raise FlowFormatError(f'{path}: has {status.st_size} bytes; no flow file has over {MAX_FILE_BYTES}')
    with open(path, 'rb') as file:
        return file.read(MAX_FILE_BYTES)


def _name(paths: list[Path]) -> str:
    return ', '.join(str(path) for path in paths)
