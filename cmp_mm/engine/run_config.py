"""A config as the tools run it: read, changed by the command line, and checked against the data at hand."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from cmp_mm.datasets.sources import FlowSource

from .checkpoint_files import named_by_pointer
from .config_options import ConfigOptions as ConfigOptions
from .config_options import UsageError, require_effect

_SPLITS = ('train', 'val', 'test')
# The hooks that draw predictions: what switches each on, and what names its folder beside the visualizer's.
_DRAWS = dict(
    FlowVisualizationHook={},
    SegVisualizationHook=dict(draw=True, interval=1),
    PoseVisualizationHook=dict(enable=True),
    DetVisualizationHook=dict(draw=True),
)
_SAVED = re.compile(r'(iter|epoch)_(\d+)\.pth')
# What to do where a side of the split is empty, as after preparing one video.
_WITHOUT_SAMPLES = dict(
    train='prepare more videos, or the one with a smaller --val-share',
    val='train with --no-validate, or validate on what is learnt by --cfg-options '
    'val_dataloader.dataset.ann_file=train.json',
    test='test on what was learnt by --cfg-options test_dataloader.dataset.ann_file=train.json',
)
_OUT_DIR = dict(PoseVisualizationHook='out_dir', DetVisualizationHook='test_out_dir')


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
    require_effect(cfg, options)
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f'--cfg-options do not fit config {path}: {error.args[0] if error.args else error}'
        ) from error
    for root in {option.partition('.')[0] for option in options}:
        _drop_delete_marks(cfg.get(root))
    if data_root is not None:
        set_data_root(cfg, str(data_root), splits)
    for split in _SPLITS:
        loader = cfg.get(f'{split}_dataloader')
        if loader and loader.get('num_workers') == 0:
            loader.pop('persistent_workers', None)  # torch refuses it, and one changes the number alone
            loader.pop('prefetch_factor', None)
    return cfg


def _drop_delete_marks(node: Any) -> None:
    """Drop ``_delete_``, which mmengine leaves in an option's dict where there was nothing to delete."""
    if isinstance(node, dict):
        node.pop('_delete_', None)
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            _drop_delete_marks(part)


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
    return any(file for one in _folders_of(cfg) for file in one.glob('*.pth'))


def require_no_run(cfg: Config) -> None:
    """Refuse to begin a run in the folder of another one: of their checkpoints none could tell whose it is.

    Raises:
        UsageError: the work directory, or where checkpoints are kept, holds some.
    """
    named = named_by_pointer(cfg.work_dir)
    saved = {file.name for folder in _folders_of(cfg) for file in folder.glob('*.pth')}
    if '://' in named:  # they are kept by a file backend
        saved.add(Path(named).name)
    matches = [match for match in map(_SAVED.fullmatch, saved) if match]
    # The last one saved may not be that of most iterations, where two runs were begun in one folder.
    last = next((match for match in matches if match[0] == Path(named).name), None)
    last = last or max(matches, key=lambda match: int(match[2]), default=None)
    if last:
        unit = {'iter': 'iteration', 'epoch': 'epoch'}[last[1]] + ('s' if last[2] != '1' else '')
        raise UsageError(
            f'{cfg.work_dir} holds a run of {last[2]} {unit}; add --resume to go on with it, or name another '
            '--work-dir'
        )


def _folders_of(cfg: Config) -> list[Path]:
    """The work directory, and where else the checkpoints of a run are kept."""
    folder = Path(cfg.work_dir)
    elsewhere = (cfg.get('default_hooks') or {}).get('checkpoint', {}).get('out_dir')
    return [folder] if elsewhere is None else [folder, Path(elsewhere, folder.name)]


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
    """Check that the annotation files are there, and hold samples, before anything is built.

    Args:
        cfg: the config.
        splits: of 'train', 'val', 'test', those that will be read.

    Raises:
        UsageError: names the file and how to make it.
    """
    for split, dataset in datasets_of(cfg):
        if split not in splits:
            continue
        paths = []
        for source in dataset.get('sources') or [dict(ann_file=dataset.get('ann_file'))]:
            root = source.get('data_root', dataset.get('data_root'))
            path = FlowSource(ann_file=source.get('ann_file'), data_root=root).ann_file
            paths.append(path)
            if '://' not in path and not os.path.isfile(path):
                raise UsageError(
                    f'{split} annotation {path}: there is no such file; make one from videos by '
                    'tools/dataset_converters/video2pairs.py SRC --out DIR and add --data-root DIR'
                )
        if all(map(_is_empty, paths)):
            raise UsageError(
                f'{split} annotation {", ".join(paths)} holds no samples, expected at least one; '
                + _WITHOUT_SAMPLES[split]
            )


def _is_empty(path: str) -> bool:
    """Whether an annotation in JSON has no samples; a long one is not read to know it has some."""
    if '://' in path or not path.endswith('.json') or os.path.getsize(path) > 1 << 16:
        return False
    try:
        return json.loads(Path(path).read_bytes())['data_list'] == []
    except (KeyError, TypeError, ValueError, RecursionError):
        return False  # what is wrong with it is the data set's to say


def require_numbers(cfg: Config, splits: Sequence[str] = _SPLITS) -> None:
    """Check the numbers of a config that are changed most, of which torch tells by a traceback.

    Args:
        cfg: the config.
        splits: of 'train', 'val', 'test', those that will be read.

    Raises:
        UsageError: one that is none, or too small.
    """
    for split in splits:
        for key, least in (('batch_size', 1), ('num_workers', 0)):
            value = (cfg.get(f'{split}_dataloader') or {}).get(key)
            if value is not None and (type(value) is not int or value < least):
                raise UsageError(
                    f'{split}_dataloader.{key} is {value!r}; expected a whole number of at least {least}'
                )
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') if 'train' in splits else None
    for key in ('lr', 'weight_decay'):
        value = (optimizer or {}).get(key)
        if isinstance(value, str) or (isinstance(value, (int, float)) and value < 0):
            raise UsageError(f'optim_wrapper.optimizer.{key} is {value!r}; expected a number of at least 0')


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
