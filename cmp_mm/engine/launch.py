"""What ``tools/train.py`` and ``tools/test.py`` do between the command line and the runner."""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import parent_process
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.runner import Runner, find_latest_checkpoint
from torch import distributed

from cmp_mm.datasets import AnnotationError, OutsideRootError, TooManyBadSamplesError
from cmp_mm.datasets.sources import FlowSource

from .bfloat16_optim_wrapper import computes_in_bfloat16
from .checkpoint_hook import AtomicCheckpointHook, TrainingStopped
from .checkpoint_loading import CheckpointError
from .finite_loss_hook import DivergedError

_BFLOAT16 = 'Bfloat16OptimWrapper'
_SPLITS = ('train', 'val', 'test')
# The hooks that draw predictions: what switches each on, and what names its folder beside the visualizer's.
_DRAWS = dict(
    FlowVisualizationHook={},
    SegVisualizationHook=dict(draw=True),
    PoseVisualizationHook=dict(enable=True),
    DetVisualizationHook=dict(draw=True),
)
_OUT_DIR = dict(PoseVisualizationHook='out_dir', DetVisualizationHook='test_out_dir')
_EXPECTED = (
    AnnotationError,
    CheckpointError,
    DivergedError,
    OSError,
    OutsideRootError,
    TooManyBadSamplesError,
)


class UsageError(ValueError):
    """A command line or config that cannot be run; the message is one line."""


@contextmanager
def _dead_workers_first() -> Iterator[None]:
    """Let torch name a data worker that died before what its death broke is reported.

    One that dies as it hands over a tensor shows as a lost connection or a missing socket first. torch tells
    of the worker from its signal handler, a moment later, at whatever line is then run: here. The workers
    that live lose their connection to this process in the middle of something then; forked ones, which
    inherit the hook, do not add a traceback of that.
    """
    shown = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        lost = issubclass(kind, (ConnectionError, EOFError)) and parent_process() is not None
        if not lost:
            shown(kind, error, traceback)

    sys.excepthook = show
    try:
        yield
    except (ConnectionError, EOFError, FileNotFoundError):
        time.sleep(0.5)
        raise
    finally:
        sys.excepthook = shown


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turn the errors a user can cause into one line and exit code 1; others keep their traceback.

    Args:
        program: name to begin the line with.
    """
    try:
        with _dead_workers_first():
            yield
    except (UsageError, *_EXPECTED) as error:
        # A data worker hands over its traceback as text, the message behind the name of the error.
        message = str(error).rpartition(f'{type(error).__name__}: ')[2].strip()
        sys.exit(f'{program}: error: {message or type(error).__name__}')
    except RuntimeError as error:
        if not str(error).startswith('DataLoader worker'):
            raise
        sys.exit(
            f'{program}: error: {str(error).splitlines()[0]}; out of memory? Fewer data workers need less: '
            '--cfg-options train_dataloader.num_workers=1'
        )
    except TrainingStopped as stop:
        print(f'{program}: {stop}; --resume goes on from there', file=sys.stderr)
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt:
        print(f'{program}: interrupted; --resume goes on from the last checkpoint', file=sys.stderr)
        sys.exit(130)


@contextmanager
def saving_when_stopped(runner: Runner) -> Iterator[None]:
    """Let Ctrl-C and a scheduler's SIGTERM end a training after its step, with a checkpoint of it.

    Either a second time ends it at once, and so does the first where checkpoints are saved by epoch or by
    another hook than ours. Where Ctrl-C is ignored, as in a shell's background, it stays ignored.
    """
    hook = _checkpoint_hook(runner)
    if hook is None or hook.by_epoch:
        yield
        return
    process = os.getpid()

    def ask(signum: int, _frame: FrameType | None) -> None:
        # Ctrl-C reaches the data workers too; forked ones inherit this, and live on to finish the step.
        if os.getpid() != process:
            return
        for number in before:
            signal.signal(number, signal.default_int_handler)
        hook.stop_after_step(signum)
        print('stopping after this step; once more to stop at once', file=sys.stderr, flush=True)

    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_where_nothing_resumes(runner: Runner, start_from: str | None) -> None:
    """Let a run that is to go on, and finds nothing to go on from, start from the weights of its config.

    Args:
        runner: built with ``resume=True`` and no ``load_from``.
        start_from: ``load_from`` of the config.
    """
    hook = _checkpoint_hook(runner)
    if hook is not None:
        hook.start_from = start_from
    elif start_from is not None and find_latest_checkpoint(runner.work_dir) is None:
        runner._resume, runner._load_from = False, start_from


def _checkpoint_hook(runner: Runner) -> AtomicCheckpointHook | None:
    return next((hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)), None)


class ConfigOptions(DictAction):
    """mmengine's ``KEY=VALUE`` options; one that is none is an error of usage, not a traceback."""

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
        super().__call__(parser, namespace, values, option_string)


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

    Files that evaluators and datasets name below the old root move along (COCO's annotations).

    Raises:
        UsageError: a dataset has several sources, each with its own root.
    """
    for split, dataset in _datasets(cfg, only_ours=False):
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
            for key in ('ann_file', 'bbox_file'):
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
        hook[_OUT_DIR[kind]] = folder
    cfg.setdefault('visualizer', dict(type='FlowVisualizer'))['save_dir'] = folder


def require_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that the annotation files are there, before anything is built.

    Args:
        cfg: the config.
        splits: of 'train', 'val', 'test', those that will be read.

    Raises:
        UsageError: names the file and how to make it.
    """
    for split, dataset in _datasets(cfg):
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


def _datasets(cfg: Config, only_ours: bool = True) -> Iterator[tuple[str, dict]]:
    """(split, config) of every ImageFlowDataset, or of all that have a root, also inside wrappers."""

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


def drop_missing_backends(cfg: Config) -> None:
    """Leave TensorBoard out of the visual backends where it is not installed, and say so."""
    backends = (cfg.get('visualizer') or {}).get('vis_backends') or []
    kept = [backend for backend in backends if backend.get('type') != 'TensorboardVisBackend']
    if len(kept) < len(backends) and find_spec('tensorboard') is None:
        print_log(
            'TensorBoard is not installed, its log is left out: pip install tensorboard', logger='current'
        )
        cfg.visualizer.vis_backends = kept


def start_processes(cfg: Config, launcher: str, local_rank: int = 0) -> None:
    """Set the launcher; where there is no accelerator, start the process group here, over gloo.

    mmengine's launchers put each process on a CUDA device and wrap the model for that device; on CPUs
    they fail.

    Raises:
        UsageError: a launcher that needs an accelerator, or one outside its environment.
    """
    cfg.launcher = launcher
    if launcher == 'none':
        return
    on_cpu = get_device() == 'cpu'
    if on_cpu and launcher != 'pytorch':
        raise UsageError(
            f'--launcher {launcher} needs an accelerator and there is none; use torchrun on CPUs'
        )
    if launcher == 'mpi' and 'OMPI_COMM_WORLD_LOCAL_RANK' in os.environ:
        # mmengine puts the process on this device, and wraps the model for that of LOCAL_RANK.
        os.environ['LOCAL_RANK'] = os.environ['OMPI_COMM_WORLD_LOCAL_RANK']
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    needed = dict(
        pytorch=('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
        slurm=('SLURM_PROCID',),
        mpi=('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'MASTER_ADDR'),
    )
    absent = [name for name in needed.get(launcher, ()) if name not in os.environ]
    if absent:
        start = dict(
            pytorch='tools/dist_train.sh',
            slurm='tools/slurm_train.sh',
            mpi="Open MPI's mpirun -x MASTER_ADDR=HOST",
        )[launcher]
        raise UsageError(f'--launcher {launcher}: {", ".join(absent)} not set; start by {start}')
    if not on_cpu:
        return
    distributed.init_process_group('gloo')
    wrapper = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = {**wrapper, **cfg.get('model_wrapper_cfg', {}), 'device_ids': None}
    cfg.setdefault('env_cfg', {})['dist_cfg'] = dict(backend='gloo')


def stop_processes() -> None:
    """Leave the process group, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def use_amp(cfg: Config) -> None:
    """Train in mixed precision: as mmengine does on an accelerator, in bfloat16 on a CPU.

    Raises:
        UsageError: an optimizer wrapper, or on a CPU a package, that cannot.
    """
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper', _BFLOAT16, f'cmp_mm.{_BFLOAT16}'):
        raise UsageError(f'--amp: optim_wrapper.type is {kind}, expected OptimWrapper')
    if get_device() == 'cpu':
        if cfg.get('default_scope') == 'mmpose':
            raise UsageError(
                '--amp on a CPU is bfloat16, which numpy does not know and mmpose hands to it; train without'
            )
        if computes_in_bfloat16() is False:
            print_log(
                '--amp: this CPU has no instructions for bfloat16; it trains much faster without',
                'current',
                logging.WARNING,
            )
        # By its full name: the config may be another package's.
        cfg.optim_wrapper.type = f'cmp_mm.{_BFLOAT16}'
        for only_of_amp in ('loss_scale', 'dtype', 'use_fsdp'):
            cfg.optim_wrapper.pop(only_of_amp, None)
        return
    if kind.endswith(_BFLOAT16):
        return
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def require_accelerator_for_amp(cfg: Config) -> None:
    """mmengine's mixed precision is for accelerators; said before anything is built.

    Raises:
        UsageError: the config asks for it and there is none.
    """
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise UsageError(
            'optim_wrapper.type AmpOptimWrapper needs an accelerator and there is none; with --amp a CPU '
            'trains in bfloat16'
        )


def scale_learning_rate(cfg: Config) -> None:
    """Scale the learning rate to the batch size in use.

    Raises:
        UsageError: the config does not say for which batch size its rate is meant.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UsageError('--auto-scale-lr: the config has no auto_scale_lr=dict(base_batch_size=...)')
    cfg.auto_scale_lr.enable = True


def default_work_dir(config: str) -> str:
    """``work_dirs/NAME`` for a config ``.../NAME.py``."""
    return str(Path('work_dirs') / Path(config).stem)
