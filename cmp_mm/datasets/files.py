"""Reading a sample's files through mmengine's backends, without trusting what a path leads to."""

import functools
import os
import stat

from mmengine.fileio import get_file_backend
from mmengine.fileio.backends import LocalBackend

from cmp_mm.flow.files import MAX_FILE_BYTES

from .annotations import OUTSIDE_HINT
from .bad_samples import BadSampleError


class OutsideRootError(ValueError):
    """A file of the data set is reached through a link that leaves the data root.

    Not a `BadSampleError`: nothing is skipped in silence where somebody may be reaching for other files.
    """


def read_file(path: str, backend_args: dict | None = None, root: str | None = None) -> bytes:
    """Read a whole file.

    Args:
        path: path or address, as the backend takes it.
        backend_args: mmengine's; None means by the prefix of the path, usually the local disk.
        root: folder (local disk only) that the file must lie in after all links are followed; None checks
            nothing.

    Raises:
        BadSampleError: the file is missing, not a regular file, too long or unreadable.
        OutsideRootError: it lies outside ``root``.
    """
    backend = get_file_backend(path, backend_args=backend_args, enable_singleton=True)
    if isinstance(backend, LocalBackend):
        _check_local(path, root)
    try:
        data = backend.get(path)
    except MemoryError:
        raise
    except Exception as error:  # each backend has errors of its own, and none of them says more than this
        raise BadSampleError(f'{path} cannot be read: {error}') from None
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise BadSampleError(f'{path} is not in the store')
    return bytes(data)


def _check_local(path: str, root: str | None) -> None:
    try:
        status = os.lstat(path)
        if root is not None:
            # Folders are resolved once each; a file costs one look at itself.
            folder = _real_folder(os.path.dirname(path))
            linked = stat.S_ISLNK(status.st_mode)
            real = os.path.realpath(path) if linked else os.path.join(folder, os.path.basename(path))
            inside = _real_folder(root)
            if os.path.commonpath([real, inside]) != inside:
                raise OutsideRootError(
                    f'{path} leads to {real}, outside the data root {root or "."}; {OUTSIDE_HINT}'
                )
        if stat.S_ISLNK(status.st_mode):
            status = os.stat(path)
    except (OSError, UnicodeError) as error:
        raise BadSampleError(f'{path} cannot be read: {error}') from None
    if not stat.S_ISREG(status.st_mode):
        raise BadSampleError(f'{path} is not a regular file')
    if status.st_size > MAX_FILE_BYTES:
        raise BadSampleError(f'{path} has {status.st_size} bytes; at most {MAX_FILE_BYTES} are read')


@functools.lru_cache(maxsize=2**14)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
