"""Finding the videos: files, folders of files and folders of ordered frames, searched recursively."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmp_mm.flow.listing import as_flow_file, has_kitti_header, is_kitti_flow

from .errors import PrepareError

VIDEO_SUFFIXES = (
    *('.mp4', '.m4v', '.mov', '.3gp', '.3g2', '.mkv', '.webm', '.avi', '.divx', '.flv', '.f4v', '.ogv'),
    *('.mpg', '.mpeg', '.m2v', '.ts', '.m2ts', '.mts', '.vob', '.wmv', '.asf', '.rm', '.rmvb', '.dv', '.mxf'),
    *('.gif', '.y4m'),
)
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
MAX_NAME = 150  # bytes; leaves room for the endings of records and temporary files


@dataclass(frozen=True)
class Source:
    """One video: a file, or a folder whose images are its frames.

    Attributes:
        path: of the file or folder.
        kind: 'video' or 'frames'.
        label: path below the SRC it was found in, '/' between parts, without suffix.
        relative: the same, but '' for a SRC whose own images are the frames; what precomputed flow
            mirrors.
        name: the name of its folders and record in the output, unique among the sources.
    """

    path: str
    kind: str
    label: str
    relative: str
    name: str = ''

    def fingerprint(self, flow_root: str | os.PathLike | None = None) -> dict[str, Any]:
        """Return what tells an unchanged source from a changed one: sizes and times of change.

        The path is not part of it, so a moved source is still the same.

        Args:
            flow_root: folder of precomputed flow, if there is one; the source's part of it counts as well.

        Raises:
            OSError: the source is gone or cannot be looked at.
        """
        flow = {} if flow_root is None else {'flow': _flow_state(Path(flow_root, self.relative))}
        if self.kind == 'video':
            status = os.stat(self.path)
            return {'label': self.label, 'bytes': status.st_size, 'changed_ns': status.st_mtime_ns, **flow}
        paths = list_frames(self.path)
        statuses = [os.stat(path) for path in paths]
        names = '\n'.join(os.path.basename(path) for path in paths)
        return {
            'label': self.label,
            'frames': hashlib.sha256(names.encode('utf-8', 'surrogateescape')).hexdigest()[:16],
            'bytes': sum(status.st_size for status in statuses),
            'changed_ns': max((status.st_mtime_ns for status in statuses), default=0),
            **flow,
        }


def natural_key(name: str) -> tuple:
    """Order names as people count: frame2 before frame10; equal numbers by their spelling."""
    parts = re.split(r'([0-9]+)', name)
    return tuple((int(part), '') if index % 2 else (0, part) for index, part in enumerate(parts)), name


def list_frames(folder: str) -> list[str]:
    """Return the paths of a folder's frames in natural order; see `find_sources` for what is none."""
    visible = (entry for entry in os.scandir(folder) if not entry.name.startswith('.'))
    # As os.walk tells files and folders apart.
    names = [entry.name for entry in visible if not entry.is_dir()]
    return [os.path.join(folder, name) for name in sorted(_frames_among(names, folder), key=natural_key)]


def find_sources(paths: Iterable[str | os.PathLike], out: str | os.PathLike | None = None) -> list[Source]:
    """Find the videos in any mix of video files, folders of them and folders of ordered frames.

    Hidden entries are left out, and so is the output folder where it lies inside a source. Images named as
    the videos they lie beside, and a lone one beside or above videos, are taken for pictures of those. Flow
    kept as pictures, both files of a jpg pair or a folder of KITTI's png, is no video.

    Args:
        paths: files and folders.
        out: the output folder.

    Returns:
        The sources with their names, sorted by name: the same list wherever the same paths are searched.

    Raises:
        PrepareError: a path does not exist, is no video, or holds none.
    """
    excluded = os.path.realpath(out) if out is not None else None
    found: dict[str, Source] = {}
    for path in paths:
        path = os.fspath(path)
        before = len(found)
        for source in _search(path, excluded):
            found.setdefault(os.path.realpath(source.path), source)
        if len(found) == before and os.path.isdir(path) and not _holds_any(path, excluded):
            raise PrepareError(
                f'SRC {path}: no video file and no folder of frames in it (flow kept as pictures is neither)'
            )
    if not found:
        raise PrepareError('no SRC given; expected video files, folders of videos or folders of frames')
    return _named(list(found.values()))


def _search(path: str, excluded: str | None) -> Iterable[Source]:
    if not os.path.exists(path):
        raise PrepareError(f'SRC {path}: no such file or folder')
    if not os.path.isdir(path):
        if _is_image(path):
            raise PrepareError(f'SRC {path}: an image; expected a video file or the folder of its frames')
        stem = Path(path).stem
        yield Source(path, 'video', stem, stem)
        return
    if excluded is not None and _inside(os.path.realpath(path), excluded):
        raise PrepareError(f'SRC {path}: lies in the output folder')
    seen = set()
    for folder, folders, files in os.walk(path, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(folder)
        if real in seen or (excluded is not None and _inside(real, excluded)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        visible = sorted(name for name in files if not name.startswith('.'))
        relative = '' if folder == path else Path(folder).relative_to(path).as_posix()
        videos = [name for name in visible if _is_video(name)]
        images = _frames_among(visible, folder)
        several = len(images) > 1 or (images and not videos and not folders)
        if several and not all(is_kitti_flow(os.path.join(folder, images[i])) for i in (0, -1)):
            label = relative or os.path.basename(os.path.abspath(path)) or 'frames'
            yield Source(folder, 'frames', label, relative)
        for name in videos:
            label = (Path(relative) / Path(name).stem).as_posix()
            yield Source(os.path.join(folder, name), 'video', label, label)


def _holds_any(path: str, excluded: str | None) -> bool:
    return any(True for _ in _search(path, excluded))


def _named(sources: Sequence[Source]) -> list[Source]:
    """Give each source a file name that is unique, also where two labels clean up to one name.

    Told apart by what they are called and are, which does not depend on how SRC was written or where it is
    mounted; by their place only if that does not do.
    """
    names = [_clean(source.label) for source in sources]
    ending = [os.path.splitext(source.path)[1] if source.kind == 'video' else '' for source in sources]
    place = [os.path.realpath(source.path) for source in sources]
    for telling in (ending, place):
        uses = Counter(names)
        for i, (source, name) in enumerate(zip(sources, names, strict=True)):
            if uses[name] > 1:
                digest = hashlib.sha256(os.fsencode(f'{source.label}\n{telling[i]}')).hexdigest()[:8]
                names[i] = f'{_clean(source.label)}-{digest}'
    named = [
        Source(source.path, source.kind, source.label, source.relative, name)
        for source, name in zip(sources, names, strict=True)
    ]
    return sorted(named, key=lambda source: source.name)


def _clean(label: str) -> str:
    """Turn a label into one file name without spaces, which the reference's lists could not hold."""
    name = re.sub(r'[^\w.+-]+', '_', label.replace('/', '-')).lstrip('.-') or 'video'
    if len(name.encode('utf-8', 'replace')) > MAX_NAME:
        digest = hashlib.sha256(os.fsencode(label)).hexdigest()[:8]
        name = name.encode('utf-8', 'replace')[: MAX_NAME - 9].decode('utf-8', 'ignore') + f'-{digest}'
    return name


def _frames_among(names: Sequence[str], folder: str) -> list[str]:
    """The images among a folder's files, without those that are flow: a jpg pair, KITTI's beside a frame.

    Nor those named as a video beside them, which are pictures of it.
    """
    present, pictured = set(names), {os.path.splitext(name)[0] for name in names if _is_video(name)}
    images = [
        name
        for name in names
        if _is_image(name)
        and os.path.splitext(name)[0] not in pictured
        and not _is_half_of_flow(name, present)
    ]
    stems = Counter(os.path.splitext(name)[0] for name in images)
    return [
        name
        for name in images
        # By the header alone: each search and look at the folder comes here, and beside an image of the same
        # name the picture in it, were it one, is there already.
        if stems[os.path.splitext(name)[0]] == 1 or not has_kitti_header(os.path.join(folder, name))
    ]


def _is_half_of_flow(name: str, present: Collection[str]) -> bool:
    stem = os.path.splitext(name)[0]
    if not stem.endswith(('_x', '_y')) and not name.startswith(('flow_x_', 'flow_y_')):
        return False  # nearly all are, and paths cost time
    flow = as_flow_file(Path(name), Path())
    return flow is not None and flow.fmt == 'jpg' and all(path.name in present for path in flow.paths)


def _flow_state(folder: Path) -> str:
    """What tells a folder of flow from the same with other files in it; '' where it is not there."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return ''
    digest = hashlib.sha256()
    for entry in entries:
        if entry.is_file():
            status = entry.stat()
            digest.update(os.fsencode(f'{entry.name}\n{status.st_size} {status.st_mtime_ns}\n'))
    return digest.hexdigest()[:16]


def _is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _unreadable(error: OSError) -> None:
    raise PrepareError(f'SRC {error.filename}: cannot be listed ({error.strerror})')
