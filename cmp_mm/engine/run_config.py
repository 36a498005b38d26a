"""A config as the tools run it: read, changed by the command line, and checked against the data at hand."""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from cmp_mm.datasets.sources import FlowSource

from .checkpoint_loading import CHECKPOINT_SUFFIXES

_SPLITS = ('train', 'val', 'test')
# The hooks that draw predictions: what switches each on, and what names its folder beside the visualizer's.
_DRAWS = dict(
    FlowVisualizationHook={},
    SegVisualizationHook=dict(draw=True, interval=1),
    PoseVisualizationHook=dict(enable=True),
    DetVisualizationHook=dict(draw=True),
)
_OUT_DIR = dict(PoseVisualizationHook='out_dir', DetVisualizationHook='test_out_dir')


class UsageError(ValueError):
    """A command line or config that cannot be run; the message is one line."""


class ConfigOptions(DictAction):
    """mmengine's ``KEY=VALUE`` options; one that is none is an error of usage, not a traceback.

    The name of a file of weights, another name with spaces, and that of a file or folder that is there are
    taken as they are: mmengine drops spaces, and splits at commas.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        """Parse the options."""
        for text in values:
            if not text.partition('=')[0] or '=' not in text:
                parser.error(f'{option_string} {text}: expected KEY=VALUE')
        parsed: dict[str, Any] = {}
        for text in values:
            key, _, value = text.partition('=')
            parsed[key] = _as_name(value)
            if parsed[key] is None:
                try:
                    parsed[key] = self._parse_iterable(value)
                except AssertionError as error:  # brackets that do not match
                    parser.error(f'{option_string}: {error}')
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest, None) or {}), **parsed})


def _as_name(value: str) -> str | None:
    """An option's value if it is a name, and no number, list or tuple; without quotes around it."""
    text = value.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in '"\'' and ' ' in text:
        text = value = text[1:-1]
    if text.startswith(('[', '(')) and text.endswith((']', ')')):
        return None
    is_spaced = ' ' in text and ',' not in text
    is_name = text.endswith(CHECKPOINT_SUFFIXES) or is_spaced or (',' in text and os.path.exists(text))
    return value if is_name else None


def load_config(
    path: str,
    options: Mapping[str, Any] | None = None,
    data_root: str | None = None,
    splits: Sequence[str] = _SPLITS,
) -> Config:
    """Read a config.

    Args:
        path: config file.
        options: ``--cfg-options``, dotted keys. ``data_root`` among them is taken as the argument here.
        data_root: folder of the pairs, for every dataset of the config. A variable ``data_root`` in a config
            has done its work once the file is read, so changing it afterwards would change nothing.
        splits: of 'train', 'val', 'test', those that will be read; ``data_root`` is for these.

    Raises:
        UsageError: there is no such file, it is no config, or an option does not fit it.
    """
    if not os.path.isfile(path):
        raise UsageError(f'config {path}: there is no such file')
    try:
        cfg = Config.fromfile(path)
    except Exception as failure:
        # A config is a program of the user's: whatever it raises, its first line says most.
        error = _first_import_error(failure)
        if isinstance(error, UsageError):
            raise error from failure
        reason = (str(error).strip().splitlines() or [''])[0]
        raise UsageError(f'config {path} cannot be read: {type(error).__name__}: {reason}') from error
    options = dict(options or {})
    data_root = options.pop('data_root', None) if data_root is None else data_root
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f'--cfg-options do not fit config {path}: {error.args[0] if error.args else error}'
        ) from error
    if data_root is not None:
        set_data_root(cfg, str(data_root), splits)
    for split in _SPLITS:
        loader = cfg.get(f'{split}_dataloader')
        if loader and loader.get('num_workers') == 0:
            loader.pop('persistent_workers', None)  # torch refuses it, and one changes the number alone
            loader.pop('prefetch_factor', None)
    return cfg


def _first_import_error(error: BaseException) -> BaseException:
    """What a failed import began with: mmengine says of ``custom_imports`` only that they failed."""
    while isinstance(error, ImportError) and not isinstance(error, UsageError):
        earlier = error.__cause__ or error.__context__
        if not isinstance(earlier, ImportError):
            break
        error = earlier
    return error


def set_data_root(cfg: Config, root: str, splits: Sequence[str] = _SPLITS) -> None:
    """Let every dataset of these splits of ``cfg`` read from ``root``, those of other packages too.

    Files that evaluators and datasets name below the old root move along (COCO's annotations, MPII's head
    boxes).

    Raises:
        UsageError: a dataset has several sources, each with its own root.
    """
    for split, dataset in datasets_of(cfg, only_ours=False):
        if split not in splits:
            continue
        if any('data_root' in source for source in dataset.get('sources') or ()):
            raise UsageError(
                f'the {split} set has sources with their own data_root; change them in the config, or by '
                f'--cfg-options {split}_dataloader.dataset.sources.0.data_root=... for each'
            )
        old = dataset.get('data_root')
        dataset['data_root'] = root
        evaluators = cfg.get(f'{split}_evaluator') or []
        for node in (dataset, *(evaluators if isinstance(evaluators, (list, tuple)) else [evaluators])):
            for key in ('ann_file', 'bbox_file', 'headbox_file'):
                path = node.get(key)
                if old and isinstance(path, str) and Path(path).is_relative_to(old):
                    node[key] = str(Path(root) / Path(path).relative_to(old))
    if 'data_root' in cfg:
        cfg.data_root = root


def show_predictions(cfg: Config, folder: str | None, number: int | None) -> None:
    """Have a test draw what it predicts.

    Args:
        cfg: the config, of this package or of mmsegmentation, mmpose or mmdetection.
        folder: where pictures go; None leaves that, and whether other packages draw at all, to the config.
        number: images to draw, of this package's configs; None leaves it to the config.

    Raises:
        UsageError: a config that draws nothing, or all images only.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization') or {}
    kind = str(hook.get('type', '')).rpartition('.')[2]
    if number is not None:
        if kind != 'FlowVisualizationHook':
            raise UsageError(f'--show-number: {kind or "no hook"} of this config does not choose images')
        if number < 0:
            raise UsageError(f'--show-number is {number}; expected 0 or more')
        hook.num_val = number
    if folder is None:
        return
    if kind not in _DRAWS:
        raise UsageError(f'--show-dir: {kind or "no hook"} of this config is not known to draw')
    hook.update(_DRAWS[kind])
    if kind in _OUT_DIR:
        # Theirs is taken as one below the work directory.
        hook[_OUT_DIR[kind]] = os.path.abspath(folder)
    cfg.visualizer = {'type': 'FlowVisualizer', **(cfg.get('visualizer') or {}), 'save_dir': folder}


def is_begun(cfg: Config) -> bool:
    """Whether the run of a config has saved something, in its folder or where its checkpoints are kept."""
    folder = Path(cfg.work_dir)
    elsewhere = (cfg.get('default_hooks') or {}).get('checkpoint', {}).get('out_dir')
    folders = [folder] if elsewhere is None else [folder, Path(elsewhere, folder.name)]
    return any(file for one in folders for file in one.glob('*.pth'))


def validate_what_was_not(cfg: Config) -> None:
    """Have a resumed training by iterations begin with the validation of its checkpoint.

    mmengine's loop saves first and validates then: killed in between, a run would never get that figure, the
    last one included. Only where there is something to resume: a fresh run stays mmengine's to the bit.
    """
    loop = cfg.get('train_cfg') or {}
    kind = str(loop.get('type', 'IterBasedTrainLoop' if loop.get('by_epoch') is False else ''))
    if kind.rpartition('.')[2] == 'IterBasedTrainLoop':
        loop.pop('by_epoch', None)
        loop.type = 'cmp_mm.ResumableTrainLoop'


def require_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that the annotation files are there, before anything is built.

    Args:
        cfg: the config.
        splits: of 'train', 'val', 'test', those that will be read.

    Raises:
        UsageError: names the file and how to make it.
    """
    for split, dataset in datasets_of(cfg):
        if split not in splits:
            continue
        for source in dataset.get('sources') or [dict(ann_file=dataset.get('ann_file'))]:
            root = source.get('data_root', dataset.get('data_root'))
            path = FlowSource(ann_file=source.get('ann_file'), data_root=root).ann_file
            if '://' not in path and not os.path.isfile(path):
                raise UsageError(
                    f'{split} annotation {path}: there is no such file; make one from videos by '
                    'tools/dataset_converters/video2pairs.py SRC --out DIR and add --data-root DIR'
                )


def require_one_codec(cfg: Config) -> None:
    """Check that flow is validated in the bins that the network predicts.

    Raises:
        UsageError: an evaluator has a codec that is not the model's.
    """
    codec = (cfg.get('model') or {}).get('codec')
    for split in ('val', 'test'):
        evaluators = cfg.get(f'{split}_evaluator') or []
        for metric in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
            counted = metric.get('codec')
            if metric.get('type', '').rpartition('.')[2] == 'FlowMetric' and counted not in (None, codec):
                raise UsageError(
                    f'{split}_evaluator.codec is {dict(counted)}, expected that of the model, '
                    f'{dict(codec) if codec else None}: set both'
                )


def datasets_of(cfg: Config, only_ours: bool = True) -> Iterator[tuple[str, dict]]:
    """(split, config) of every ImageFlowDataset, or of every data set with a root, also inside wrappers."""

    def walk(node: Any) -> Iterator[dict]:
        if isinstance(node, dict):
            ours = str(node.get('type', '')).endswith('ImageFlowDataset')
            if ours or (not only_ours and 'data_root' in node):
                yield node
            for key in ('dataset', 'datasets'):
                yield from walk(node.get(key))
        elif isinstance(node, (list, tuple)):
            for item in node:
                yield from walk(item)

    for split in _SPLITS:
        for dataset in walk(cfg.get(f'{split}_dataloader')):
            yield split, dataset
