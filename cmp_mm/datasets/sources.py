"""One source of an `ImageFlowDataset`: an annotation file, where its files lie, how much of it is used."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .annotations import (
    AnnotationError,
    check_flow_settings,
    check_path_form,
    flow_format_of,
    read_annotation,
)

PREFIX_KEYS = ('img', 'flow')


@dataclass
class FlowSource:
    """Where one part of a data set comes from.

    Attributes:
        ann_file: annotation, JSON or list (see `read_annotation`); relative to ``data_root`` unless absolute
            or an address.
        data_root: folder or address that the annotation's paths are relative to. None means the folder of
            the annotation file; '' means the working directory.
        data_prefix: what to put between root and path: one for all, or a dict with ``img`` and ``flow``.
        strip_prefix: taken off the front of each path of the annotation where it is there. The reference's
            lists write paths from its working directory ('data/yfcc/...'); stripped, they move with the root.
        ratio: how often the source is used in an epoch: .25 takes a fixed random quarter, 2 each sample
            twice.
        flow_format: of the flow files; None takes the annotation's, or else each file's suffix.
        flow_bound: pixels, of the jpg pair; None takes the annotation's, or else 50.
        backend_args: mmengine file backend for images and flow. The annotation is read by the prefix of
            its own address.
    """

    ann_file: str
    data_root: str | None = None
    data_prefix: str | dict = ''
    strip_prefix: str = ''
    ratio: float = 1.0
    flow_format: str | None = None
    flow_bound: float | None = None
    backend_args: dict | None = None
    metainfo: dict = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.ann_file, (str, os.PathLike)) or not str(self.ann_file):
            raise AnnotationError(f'ann_file is {self.ann_file!r}; expected the path of an annotation')
        self.ann_file = str(self.ann_file)
        if self.data_root is None:
            self.data_root = os.path.dirname(self.ann_file)
        else:
            self.data_root = str(self.data_root)
            self.ann_file = _join(self.data_root, self.ann_file)
        prefix = self.data_prefix
        prefix = dict(prefix) if isinstance(prefix, Mapping) else dict.fromkeys(PREFIX_KEYS, prefix)
        if not prefix.keys() <= set(PREFIX_KEYS) or not all(isinstance(one, str) for one in prefix.values()):
            raise AnnotationError(
                f'data_prefix is {self.data_prefix!r}; expected text, or a dict with the keys '
                f'{", ".join(PREFIX_KEYS)}'
            )
        self.data_prefix = {key: _join(self.data_root, prefix.get(key, '')) for key in PREFIX_KEYS}
        if (
            isinstance(self.ratio, bool)
            or not isinstance(self.ratio, (int, float))
            or not 0 < self.ratio < 1e6
        ):
            raise AnnotationError(f'ratio of {self.ann_file} is {self.ratio!r}; expected a number above 0')
        bound = 50.0 if self.flow_bound is None else self.flow_bound
        check_flow_settings(self.flow_format, bound, f'source {self.ann_file}')

    def load(self, number: int, seed: int, allow_outside: bool) -> list[bytes]:
        """Read the annotation.

        Args:
            number: of this source in its dataset; `source_of` finds it in a record again.
            seed: chooses the part that a fractional ``ratio`` takes.
            allow_outside: accept paths that leave the data root.

        Returns:
            One record per sample, for `complete`: the annotation's texts joined by zero bytes, because
            there may be millions.

        Raises:
            AnnotationError: the annotation cannot be read or is of the wrong form.
        """
        self.metainfo, entries = read_annotation(self.ann_file)
        where = f'annotation {self.ann_file}, metainfo'
        if self.flow_format is None:
            self.flow_format = self.metainfo.get('flow_format')
        if self.flow_bound is None:
            self.flow_bound = self.metainfo.get('flow_bound', 50.0)
        check_flow_settings(self.flow_format, self.flow_bound, where)
        records = []
        for entry in entries:
            flow = entry['flow_path']
            flow = (flow, '') if isinstance(flow, str) else flow
            paths = [self._clean(path) for path in (entry['img_path'], entry['img2_path'] or '', *flow)]
            self._check_paths(paths, len(records), allow_outside)
            records.append('\0'.join((str(number), entry['video'] or '', *paths)).encode())
        return self._take_ratio(records, seed)

    def complete(self, record: bytes, allow_outside: bool) -> dict:
        """Make the data information that a pipeline starts from out of a record of `load`."""
        _, video, img_path, img2_path, flow_path, flow_y_path = record.decode().split('\0')
        img, flow = self.data_prefix['img'], self.data_prefix['flow']
        flow_paths = tuple(_join(flow, path) for path in (flow_path, flow_y_path) if path)
        return dict(
            img_path=_join(img, img_path),
            img2_path=_join(img, img2_path) if img2_path else None,
            flow_path=flow_paths if flow_y_path else flow_paths[0],
            flow_format=self._format_of(flow_path, flow_y_path),
            flow_bound=self.flow_bound,
            video=video or os.path.dirname(img_path),
            backend_args=self.backend_args,
            img_root=None if allow_outside else img,
            flow_root=None if allow_outside else flow,
        )

    def _clean(self, path: str) -> str:
        if not self.strip_prefix or not path.startswith(self.strip_prefix):
            return path
        return path[len(self.strip_prefix) :].lstrip('/')

    def _format_of(self, flow_path: str, flow_y_path: str) -> str | None:
        return self.flow_format or flow_format_of((flow_path, flow_y_path) if flow_y_path else flow_path)

    def _check_paths(self, paths: list[str], number: int, allow_outside: bool) -> None:
        where = f'annotation {self.ann_file}, sample {number}'
        img_path, img2_path, flow_path, flow_y_path = paths
        for path in (img_path, flow_path, *filter(None, (img2_path, flow_y_path))):
            check_path_form(path, allow_outside, where)
        flow_format = self._format_of(flow_path, flow_y_path)
        if flow_format is None:
            raise AnnotationError(f'{where}: the format of {flow_path!r} is not known; state flow_format')
        if (flow_format == 'jpg') != bool(flow_y_path):
            found = (flow_path, flow_y_path) if flow_y_path else flow_path
            expected = 'a pair of files' if flow_format == 'jpg' else 'one file'
            raise AnnotationError(f'{where}: flow_path is {found!r}; {flow_format} flow is {expected}')

    def _take_ratio(self, records: list[bytes], seed: int) -> list[bytes]:
        if self.ratio == 1 or not records:
            return records
        whole, part = divmod(max(1, round(self.ratio * len(records))), len(records))
        chosen = np.random.RandomState(seed % 2**32).permutation(len(records))[:part]
        return records * whole + [records[index] for index in np.sort(chosen)]


def source_of(record: bytes) -> int:
    """Number of the source that a record is from."""
    return int(record[: record.index(0)])


def _join(root: str, path: str) -> str:
    # Stores without folders (lmdb) have no join of their own; '/' serves every backend.
    if not root or os.path.isabs(path) or '://' in path:
        return path
    return root + path if root.endswith('/') else f'{root}/{path}'
