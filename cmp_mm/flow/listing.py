"""Finding flow files in folders."""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from .files import JPG_SUFFIXES, SUFFIX_FORMATS
from .formats import FlowFormatError, check_format
from .formats.kitti import SIGNATURE

_KITTI_KIND = (16, 2)  # bits, and RGB


@dataclass(frozen=True)
class FlowFile:
    """One flow field on disk.

    Attributes:
        paths: the file, or the x and y file of a jpg pair.
        fmt: its format.
        name: where it is below the folder it was found in, without suffix, '/' between the parts. A jpg pair
            is named by what its two files share: ``a_x.jpg`` is ``a``, denseflow's ``flow_x_007.jpg`` is
            ``007``.
    """

    paths: tuple[Path, ...]
    fmt: str
    name: str

    @property
    def source(self) -> Path | tuple[Path, ...]:
        """What `read_flow` takes: a path, or the pair of a jpg flow."""
        return self.paths if self.fmt == 'jpg' else self.paths[0]


def find_flow_files(sources: Sequence[str | os.PathLike], fmt: str | None = None) -> list[FlowFile]:
    """List the flow files that some files and folders stand for.

    Folders are searched with all below them. There, a png is taken for flow only if it is 16-bit RGB, as
    KITTI's is, so that frames lying beside the flow are left out; a jpg only if its name marks it as x or y.
    Either file of a jpg pair stands for the pair; if the other is missing, reading it will say so.

    Args:
        sources: files and folders.
        fmt: 'flo', 'kitti', 'npz' or 'jpg' to take files of this format only.

    Returns:
        The files in the order of the sources, sorted by path within each folder, each once.

    Raises:
        FileNotFoundError: a source is not there.
        FlowFormatError: a source is a file that is not named like a flow file.
    """
    if fmt is not None:
        check_format(fmt)
    found: dict[tuple[Path, ...], FlowFile] = {}
    for source in map(Path, sources):
        if source.is_dir():
            inside = sorted(path for path in _files_below(source) if path.name[0] != '.')
            files = [as_flow_file(path, source) for path in inside if not _is_frame(path)]
        elif source.exists():
            file = as_flow_file(source, source.parent)
            if file is None:
                raise FlowFormatError(
                    f'{source}: not named like a flow file; expected .flo, .png (KITTI), .npz, or one of a '
                    'pair NAME_x.jpg, NAME_y.jpg or flow_x_NAME.jpg, flow_y_NAME.jpg'
                )
            files = [file]
        else:
            raise FileNotFoundError(f'{source}: no such file or folder')
        for file in files:
            if file is not None and fmt in (None, file.fmt):
                found.setdefault(file.paths, file)
    return list(found.values())


def _files_below(folder: Path) -> Iterator[Path]:
    """The files in a folder and all below it, linked folders included, each folder once."""
    seen, waiting = set(), [os.fspath(folder)]
    # Links last, so that what lies below the folder itself has its own name.
    while waiting:
        links = []
        for place, folders, names in os.walk(waiting.pop(0)):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            links += [path for name in folders if os.path.islink(path := os.path.join(place, name))]
            yield from (path for name in names if (path := Path(place, name)).is_file())
        waiting += sorted(links)


def as_flow_file(path: Path, root: Path) -> FlowFile | None:
    """What a file is named like as flow, found in the folder ``root``; None where it is not."""
    suffix = path.suffix.lower()
    if suffix in SUFFIX_FORMATS:
        return FlowFile((path,), SUFFIX_FORMATS[suffix], path.relative_to(root).with_suffix('').as_posix())
    if suffix not in JPG_SUFFIXES:
        return None
    stem = path.stem
    if stem[-2:] in ('_x', '_y') and len(stem) > 2:
        name, pattern = stem[:-2], '{name}_{axis}'
    elif stem[:7] in ('flow_x_', 'flow_y_') and len(stem) > 7:
        name, pattern = stem[7:], 'flow_{axis}_{name}'
    else:
        return None
    paths = tuple(path.with_name(pattern.format(name=name, axis=axis) + path.suffix) for axis in 'xy')
    return FlowFile(paths, 'jpg', path.relative_to(root).with_name(name).as_posix())


def is_kitti_flow(path: str | os.PathLike) -> bool:
    """Tell whether a file is a png of flow as KITTI keeps it: 16-bit RGB with blue 0 or 1."""
    if not has_kitti_header(path):
        return False
    image = cv2.imread(os.fspath(path), cv2.IMREAD_UNCHANGED)
    # A black picture has no 1 there, and flow that is known nowhere is of no use.
    return image is not None and image.ndim == 3 and int(image[..., 0].max()) == 1


def has_kitti_header(path: str | os.PathLike) -> bool:
    """Tell whether a file is a png of 16-bit RGB, as KITTI keeps flow and few cameras pictures."""
    return _png_kind(Path(path)) == _KITTI_KIND


def _is_frame(path: Path) -> bool:
    """Tell whether a png is an ordinary picture. A png too broken to tell is not: its reader will say so."""
    return _png_kind(path) not in (None, _KITTI_KIND)


def _png_kind(path: Path) -> tuple[int, int] | None:
    """Bits and colour type that the header of a png tells; None if it is no png or too broken."""
    if path.suffix.lower() != '.png':
        return None
    try:
        with open(path, 'rb') as file:
            head = file.read(26)
    except OSError:
        return None
    if len(head) < 26 or head[:8] != SIGNATURE:
        return None
    return struct.unpack('>BB', head[24:])
