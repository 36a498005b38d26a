"""What a preparation gave, as a file and as a text to read."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .annotation import choose_val, group_of, records_of
from .filters import REJECTIONS
from .settings import MergeSettings
from .store import Store

QUANTILES = (5, 25, 50, 75, 95)
PRINTED_PROBLEMS = 10


class Overview(NamedTuple):
    """What one reading of all records tells.

    Attributes:
        summary: the content of ``summary.json``.
        val_groups: names of the groups that go to validation.
        pairs: number of pairs of each video that has some, in the order of the videos.
    """

    summary: dict[str, Any]
    val_groups: set[str]
    pairs: dict[str, int]


def summarise(store: Store, videos: Sequence[str], merge: MergeSettings) -> Overview:
    """Read all records once, count, and split the groups.

    Args:
        store: the output folder.
        videos: names of its videos.
        merge: how to split.

    Raises:
        IncompleteError: a video has no record.
    """
    status, rejected, sizes = Counter(), Counter(), Counter()
    groups: Counter[str] = Counter()
    pairs_of: dict[str, int] = {}
    problems, means, fasts = [], [], []
    frames = empty = clipped = clipped_pairs = vectors = 0
    for record in records_of(store, videos):
        status[record['status']] += 1
        rejected.update(record['rejected'])
        frames += record['frames']
        if record['status'] != 'ok':
            problems.append({key: record[key] for key in ('video', 'source', 'status', 'reason')})
        pairs = record['pairs']
        empty += record['status'] == 'ok' and not pairs
        if pairs:
            pairs_of[record['video']] = len(pairs)
            groups[group_of(record['label'], merge.group_by)] += len(pairs)
        for _, height, width, mean, fast, _, beyond in pairs:
            sizes[f'{width}x{height}'] += 1
            means.append(mean)
            fasts.append(fast)
            vectors += height * width
            clipped += beyond
            clipped_pairs += beyond > 0
    val = choose_val(groups, merge.val_share)
    val_pairs = sum(count for group, count in groups.items() if group in val)
    summary = {
        'settings': store.settings.to_dict(),
        'val_share': merge.val_share,
        'group_by': merge.group_by,
        'videos': {
            'total': len(videos),
            **{name: status[name] for name in ('ok', 'damaged', 'skipped')},
            'without_pairs': empty,
        },
        'frames': frames,
        'pairs': {'total': len(means), 'train': len(means) - val_pairs, 'val': val_pairs},
        'groups': {'total': len(groups), 'train': len(groups) - len(val), 'val': len(val)},
        'rejected': {name: rejected[name] for name in REJECTIONS},
        'motion': {'mean_px': spread(means), 'fastest_1_percent_px': spread(fasts)},
        'clipped': {
            'bound_px': store.settings.flow_bound,
            'vectors_share': round(clipped / vectors, 8) if vectors else 0.0,
            'pairs': clipped_pairs,
        },
        'sizes': dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))),
        'problems': problems,
        'complete': True,
    }
    return Overview(summary, val, pairs_of)


def describe(summary: dict[str, Any], out: str) -> str:
    """Return a summary as lines for a terminal."""
    videos, pairs, groups = summary['videos'], summary['pairs'], summary['groups']
    lines = [
        f'{pairs["total"]} pairs of {summary["frames"]} sampled frames of {videos["total"]} videos in {out}',
        f'  train {pairs["train"]} pairs of {groups["train"]} groups, val {pairs["val"]} of {groups["val"]}',
    ]
    left_out = [f'{count} {REJECTIONS[name]}' for name, count in summary['rejected'].items() if count]
    lines.append(f'  left out: {", ".join(left_out) or "none"}')
    for name, title in (
        ('mean_px', 'mean flow'),
        ('fastest_1_percent_px', 'flow exceeded by 1 % of the pixels'),
    ):
        spread = summary['motion'][name]
        if spread:
            quantiles = ', '.join(f'{key} % {value:g}' for key, value in spread['quantiles'].items())
            lines.append(f'  {title}: {spread["mean"]:g} px on average ({quantiles})')
    clipped = summary['clipped']
    if clipped['pairs']:
        # Every format but the jpg pair holds longer vectors; the network's own range is the bound too.
        verb = 'clipped to' if summary['settings']['flow_format'] == 'jpg' else 'beyond'
        lines.append(
            f'  {verb} {clipped["bound_px"]:g} px: {clipped["vectors_share"]:.3%} of the vectors, '
            f'in {clipped["pairs"]} pairs'
        )
    if videos['without_pairs']:
        lines.append(f'  readable videos without a pair: {videos["without_pairs"]}')
    if groups['total'] == 1:
        side = 'val' if pairs['train'] else 'train'
        what = (
            'train with --no-validate, or validate on what is learnt by --cfg-options '
            'val_dataloader.dataset.ann_file=train.json'
            if side == 'val'
            else 'a smaller --val-share, such as 0, fills it'
        )
        lines.append(f'  there is one group of videos only, so {side}.json is empty: {what}')
    for problem in summary['problems'][:PRINTED_PROBLEMS]:
        lines.append(f'  {problem["status"]}: {problem["source"]}: {problem["reason"]}')
    more = len(summary['problems']) - PRINTED_PROBLEMS
    if more > 0:
        lines.append(f'  ... and {more} more, listed in summary.json')
    return '\n'.join(lines)


def spread(values: Sequence[float]) -> dict[str, Any] | None:
    """Mean and quantiles of numbers; None where there are none."""
    if len(values) == 0:
        return None
    quantiles = np.percentile(values, QUANTILES)
    return {
        'mean': round(float(np.mean(values)), 3),
        'quantiles': {
            str(key): round(float(value), 3) for key, value in zip(QUANTILES, quantiles, strict=True)
        },
    }
