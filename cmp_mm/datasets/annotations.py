"""Annotation files: mmengine's ``{metainfo, data_list}`` JSON and the reference's lists, told apart.

Nothing in an annotation is ever executed: JSON and plain text are all that is read, never pickle or YAML.
"""

import codecs
import io
import json
import math
import os
from collections.abc import Iterator

import mmengine.fileio

from cmp_mm.flow.files import JPG_SUFFIXES, SUFFIX_FORMATS
from cmp_mm.flow.formats import FLOW_FORMATS

OUTSIDE_HINT = 'pass allow_outside=True to the dataset if that is meant'


class AnnotationError(ValueError):
    """An annotation file is missing or is not of the form that is read."""


def read_annotation(ann_file: str) -> tuple[dict, Iterator[dict]]:
    """Read an annotation file.

    Args:
        ann_file: path or address (any that mmengine's file backends resolve by its prefix). Its content is
            either JSON, ``{"metainfo": {...}, "data_list": [{"img_path", "flow_path", ...}, ...]}``, or a
            list with three or four columns, ``img0 img1 flow.flo`` or ``img0 img1 flow_x.jpg flow_y.jpg``.

    Returns:
        metainfo: as in the JSON; empty for a list.
        entries: iterator over dicts with ``img_path`` str, ``img2_path`` str or None, ``flow_path`` str or
            (x, y) pair of str, ``video`` str or None. Checked one by one as they are taken.

    Raises:
        AnnotationError: with one sentence that names the file, the entry, what was found and expected.
    """
    try:
        data = mmengine.fileio.get(ann_file)
    except OSError as error:
        raise AnnotationError(f'annotation {ann_file} cannot be read: {error}') from None
    start = data[:64].removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if start in (b'{', b'['):
        return _parse_json(data, ann_file)
    return {}, _parse_list(data.removeprefix(codecs.BOM_UTF8), ann_file)


def flow_format_of(flow_path: str | tuple[str, str]) -> str | None:
    """Name the format of a flow path by its suffix, 'jpg' for a pair; None where the suffix says nothing."""
    if not isinstance(flow_path, str):
        return 'jpg'
    return SUFFIX_FORMATS.get(os.path.splitext(flow_path)[1].lower())


def check_flow_settings(flow_format: object, flow_bound: object, where: str) -> None:
    """Check a format (None: by suffix) and a bound that came from a config or an annotation.

    Raises:
        AnnotationError: the format is unknown, or the bound is not a finite number above 0.
    """
    if flow_format is not None and flow_format not in FLOW_FORMATS:
        raise AnnotationError(
            f'{where}: flow_format is {flow_format!r}; expected one of {", ".join(FLOW_FORMATS)}'
        )
    if (
        isinstance(flow_bound, bool)
        or not isinstance(flow_bound, (int, float))
        or not math.isfinite(flow_bound)
        or flow_bound <= 0
    ):
        raise AnnotationError(f'{where}: flow_bound is {flow_bound!r}; expected a number of pixels above 0')


def is_plain_text(text: str) -> bool:
    """Whether text has no zero byte and no half surrogate pair: JSON spells both, file names hold neither."""
    if '\0' in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_path_form(path: str, allow_outside: bool, where: str) -> None:
    """Refuse a path that by its form alone leaves the folder it is relative to.

    Links are looked at when a file is read (`cmp_mm.datasets.files`), not for millions of entries here.

    Raises:
        AnnotationError: the path is absolute, an address, or contains '..' (unless ``allow_outside``), is
            empty, or contains a zero byte.
    """
    if not path or not is_plain_text(path):
        raise AnnotationError(f'{where}: {path!r} is not a path')
    if allow_outside:
        return
    if path[0] in '/\\' or '://' in path or (path[1:2] == ':' and path[2:3] in ('/', '\\')):
        raise AnnotationError(f'{where}: {path!r} is not below the data root; {OUTSIDE_HINT}')
    if '..' in path and '..' in path.replace('\\', '/').split('/'):
        raise AnnotationError(f"{where}: {path!r} leaves the data root by '..'; {OUTSIDE_HINT}")


def _parse_json(data: bytes, ann_file: str) -> tuple[dict, Iterator[dict]]:
    try:
        content = json.loads(data.decode('utf-8-sig'))
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f'annotation {ann_file} starts like JSON but is not: {error}') from None
    found = f'keys {sorted(map(str, content))[:5]}' if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or not {'metainfo', 'data_list'} <= content.keys():
        raise AnnotationError(
            f"annotation {ann_file} holds {found}; expected an object with 'metainfo' and 'data_list'"
        )
    metainfo, data_list = content['metainfo'], content['data_list']
    if not isinstance(metainfo, dict) or not isinstance(data_list, list):
        raise AnnotationError(
            f"annotation {ann_file}: 'metainfo' is {type(metainfo).__name__} and 'data_list' is "
            f'{type(data_list).__name__}; expected an object and a list'
        )
    dataset_type = metainfo.get('dataset_type', 'ImageFlowDataset')
    if dataset_type != 'ImageFlowDataset':
        raise AnnotationError(
            f"annotation {ann_file} is for {dataset_type!r}; expected dataset_type 'ImageFlowDataset'"
        )
    return metainfo, _json_entries(data_list, ann_file)


def _json_entries(data_list: list, ann_file: str) -> Iterator[dict]:
    for number, entry in enumerate(data_list):
        data_list[number] = None  # of millions, each is let go as soon as it is read
        where = f'annotation {ann_file}, entry {number}'
        if not isinstance(entry, dict):
            raise AnnotationError(f'{where} is {type(entry).__name__}; expected an object')
        flow_path = entry.get('flow_path')
        if isinstance(flow_path, list) and len(flow_path) == 2:
            flow_path = tuple(flow_path)
        if not all(
            isinstance(one, str) for one in (flow_path if isinstance(flow_path, tuple) else [flow_path])
        ):
            raise AnnotationError(
                f"{where}: 'flow_path' is {flow_path!r}; expected a path or a pair of paths"
            )
        if not isinstance(entry.get('img_path'), str):
            raise AnnotationError(f"{where}: 'img_path' is {entry.get('img_path')!r}; expected a path")
        for key in ('img2_path', 'video'):
            if not isinstance(entry.get(key), (str, type(None))):
                raise AnnotationError(f'{where}: {key!r} is {entry[key]!r}; expected text')
        if entry.get('video') is not None and not is_plain_text(entry['video']):
            raise AnnotationError(f"{where}: 'video' is {entry['video']!r}; expected plain text")
        yield dict(
            img_path=entry['img_path'],
            img2_path=entry.get('img2_path'),
            flow_path=flow_path,
            video=entry.get('video'),
        )


def _parse_list(data: bytes, ann_file: str) -> Iterator[dict]:
    # Bytes, because str.split and str.splitlines also part at characters that file names may hold.
    for number, line in enumerate(io.BytesIO(data), start=1):
        columns = line.split()
        if not columns:
            continue
        where = f'annotation {ann_file}, line {number}'
        try:
            paths = [column.decode() for column in columns]
        except UnicodeDecodeError:
            raise AnnotationError(f'{where} is not text; expected a list of paths, or JSON') from None
        if len(paths) not in (3, 4):
            raise AnnotationError(
                f'{where} has {len(paths)} columns; expected `img0 img1 flow` or `img0 img1 flow_x flow_y` '
                '(or a JSON object in the whole file)'
            )
        flow_path = paths[2] if len(paths) == 3 else (paths[2], paths[3])
        if flow_format_of(flow_path) is None:
            suffixes = ', '.join(sorted(SUFFIX_FORMATS))
            raise AnnotationError(
                f'{where}: flow {paths[2]!r} is not one of {suffixes}; {JPG_SUFFIXES[0]} flow comes as a pair'
            )
        yield dict(img_path=paths[0], img2_path=paths[1], flow_path=flow_path, video=None)
