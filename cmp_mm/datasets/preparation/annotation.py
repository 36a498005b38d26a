"""The annotation files, made of the records alone: split by video, always the same bytes.

Entries are written as they are read from the records, so that a million pairs need no memory to speak of.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from cmp_mm.flow.files import temporary_beside

from .errors import IncompleteError, PrepareError
from .settings import MergeSettings, PairSettings
from .store import Store, flow_names, frame_name

SPLITS = ('train', 'val')
# What the reference's reader multiplies its jpg flow with is fixed.
REFERENCE_BOUND = 50.0


def check_reference_lists(settings: PairSettings) -> None:
    """Refuse lists for flow that the reference implementation cannot read.

    Raises:
        PrepareError: the format or the bound is not one it knows.
    """
    if settings.flow_format not in ('jpg', 'flo'):
        raise PrepareError(f'the reference reads flow as jpg or flo; got flow format {settings.flow_format}')
    if settings.flow_format == 'jpg' and settings.flow_bound != REFERENCE_BOUND:
        raise PrepareError(
            f'the reference reads jpg flow of bound {REFERENCE_BOUND:g}; got {settings.flow_bound:g}'
        )


def group_of(label: str, group_by: str | None) -> str:
    """Return the group of a video: its label, or the part of it that ``group_by`` finds."""
    match = re.search(group_by, label) if group_by is not None else None
    if match is None:
        return label
    found = match.group(1) if match.re.groups else match.group()
    return found or label


def choose_val(groups: Iterable[str], val_share: float) -> set[str]:
    """Choose the groups for validation.

    Each group has a place between 0 and 1 that depends on its name only, and goes to validation below
    ``val_share``: adding videos moves no other. Where that would leave one side of a split empty although
    there are two groups, the group nearest to the limit is moved; a single group is trained on.

    Args:
        groups: names of the groups that have pairs.
        val_share: 0 to 1; at 0 and 1 one side is meant to be empty.
    """
    places = {group: _place(group) for group in groups}
    chosen = {group for group, place in places.items() if place < val_share}
    if 0 < val_share < 1:
        if len(chosen) == len(places) > 0:
            chosen.remove(max(places, key=places.get))
        elif not chosen and len(places) > 1:
            chosen = {min(places, key=places.get)}
    return chosen


def _place(group: str) -> float:
    digest = hashlib.sha256(os.fsencode(group)).digest()
    return int.from_bytes(digest[:8], 'big') / 2**64


def records_of(store: Store, videos: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the records of the videos, in their order.

    Raises:
        IncompleteError: one is not there.
    """
    for video in videos:
        record = store.read_record(video)
        if record is None:
            raise IncompleteError(f'{store.record_path(video)}: no record of these settings')
        yield record


def write_annotations(
    store: Store, videos: Sequence[str], val_groups: set[str], merge: MergeSettings
) -> None:
    """Write ``train.json`` and ``val.json`` and, if asked for, the reference's ``train.txt`` and ``val.txt``.

    Not asked for, lists of an earlier merge are removed.

    Args:
        store: the output folder, every video of which has a record.
        videos: names of the videos, in the order of the files.
        val_groups: from `choose_val`.
        merge: how to split.

    Raises:
        IncompleteError: a record is not there.
        OSError: a file cannot be written.
    """
    settings = store.settings
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(_whole(store.out / f'{name}.json')) for name in SPLITS}
        lists = {}
        if merge.reference_lists:
            lists = {name: stack.enter_context(_whole(store.out / f'{name}.txt')) for name in SPLITS}
        else:
            # Those of an earlier merge may split the videos another way.
            for name in SPLITS:
                (store.out / f'{name}.txt').unlink(missing_ok=True)
        for name, file in files.items():
            metainfo = {
                'dataset_type': 'ImageFlowDataset',
                'split': name,
                'flow_format': settings.flow_format,
                'flow_bound': settings.flow_bound,
                'estimator': settings.estimator,
                'short_side': settings.short_side,
            }
            file.write(f'{{"metainfo": {json.dumps(metainfo)}, "data_list": [')
        separators = dict.fromkeys(SPLITS, '\n')
        for record in records_of(store, videos):
            name = 'val' if group_of(record['label'], merge.group_by) in val_groups else 'train'
            for entry in _entries(record, settings.flow_format):
                files[name].write(separators[name] + json.dumps(entry))
                separators[name] = ',\n'
                if lists:
                    flow = entry['flow_path']
                    columns = [
                        entry['img_path'],
                        entry['img2_path'],
                        *([flow] if isinstance(flow, str) else flow),
                    ]
                    lists[name].write(' '.join(columns) + '\n')
        for file in files.values():
            file.write('\n]}\n')


def _entries(record: dict[str, Any], flow_format: str) -> Iterator[dict[str, Any]]:
    video = record['video']
    for index, height, width, *_ in record['pairs']:
        flow = flow_names(video, index, flow_format)
        yield {
            'img_path': frame_name(video, index),
            'img2_path': frame_name(video, index + 1),
            'flow_path': flow if len(flow) > 1 else flow[0],
            'video': video,
            'height': height,
            'width': width,
        }


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[IO[str]]:
    """Open a text file that appears under its name when the block ends well and it is on the disk."""
    temporary = temporary_beside(path)
    try:
        with open(temporary, 'x', encoding='utf-8') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
