"""What ``tools/train.py`` and ``tools/test.py`` do around the runner: processes, precision, endings."""

import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import parent_process
from pathlib import Path
from types import TracebackType
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.runner import Runner, find_latest_checkpoint
from torch import distributed

from cmp_mm.datasets import AnnotationError, OutsideRootError, TooManyBadSamplesError

from .bfloat16_optim_wrapper import computes_in_bfloat16
from .checkpoint_hook import TrainingStopped, checkpoint_hook_of
from .checkpoint_loading import CheckpointError
from .config_mistakes import config_mistake
from .finite_loss_hook import DivergedError
from .run_config import UsageError

_BFLOAT16 = 'Bfloat16OptimWrapper'
_EXPECTED = (
    AnnotationError,
    CheckpointError,
    DivergedError,
    OSError,
    OutsideRootError,
    TooManyBadSamplesError,
)
_SECONDS_AHEAD = 10  # of the first process of a machine with an error that all of them make
# What gloo says to a process whose neighbour has ended.
_LOST = re.compile(r'(gloo|pair\.cc).*(Connection closed by peer|Connection reset by peer)', re.DOTALL)


def _in_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _wait_for_the_first() -> None:
    """Let one process of each machine tell of a mistake in command line or config, which all of them find.

    The launcher ends the others as it ends. What ended first would be what the launcher reports, and might
    keep the first from telling; so the others wait, and tell themselves where no one ended them.
    """
    names = ('LOCAL_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'SLURM_LOCALID')
    if next((os.environ[name] for name in names if name in os.environ), '0') != '0':
        time.sleep(_SECONDS_AHEAD)


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

    Of several processes on a machine one tells of a mistake in command line or config.

    Args:
        program: name to begin the line with.
    """
    try:
        with _dead_workers_first():
            yield
    except (UsageError, *_EXPECTED) as error:
        if isinstance(error, UsageError):
            _wait_for_the_first()
        # A data worker hands over its traceback as text, the message behind the name of the error.
        message = str(error).rpartition(f'{type(error).__name__}: ')[2].strip()
        sys.exit(f'{program}: error: {message or type(error).__name__}')
    except (KeyError, TypeError, ValueError) as error:
        mistake = config_mistake(error)
        if mistake is None:
            raise
        _wait_for_the_first()
        sys.exit(f'{program}: error: config: {mistake}')
    except RuntimeError as error:
        if _in_group() and distributed.get_world_size() > 1 and _LOST.search(str(error)):
            reason = str(error).strip().splitlines()[0]
            sys.exit(f'{program}: another process ended; see its message ({reason})')
        if not str(error).startswith('DataLoader worker'):
            raise
        sys.exit(
            f'{program}: error: {str(error).splitlines()[0]}; out of memory? Fewer data workers need less: '
            '--cfg-options train_dataloader.num_workers=1'
        )
    except TrainingStopped as stop:
        print(f'{program}: {stop}; --resume goes on from there', file=sys.stderr)
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt as stop:
        print('; '.join([f'{program}: interrupted', *map(str, stop.args)]), file=sys.stderr)
        sys.exit(130)


def start_where_nothing_resumes(runner: Runner, start_from: str | None) -> None:
    """Let a run that is to go on, and finds nothing to go on from, start from the weights of its config.

    Args:
        runner: built with ``resume=True`` and no ``load_from``.
        start_from: ``load_from`` of the config.
    """
    hook = checkpoint_hook_of(runner)
    if hook is not None:
        hook.start_from = start_from
    elif start_from is not None and find_latest_checkpoint(runner.work_dir) is None:
        runner._resume, runner._load_from = False, start_from


def warn_of_long_schedule(cfg: Config, logger: logging.Logger) -> None:
    """Tell of a learning rate that would come down after the run's end, as of one made shorter.

    Args:
        cfg: the config.
        logger: what tells.
    """
    last, schedulers = (cfg.get('train_cfg') or {}).get('max_iters'), cfg.get('param_scheduler') or []
    if not isinstance(last, int) or not isinstance(schedulers, (list, dict)):
        return
    keys = {'param_scheduler': schedulers}
    if isinstance(schedulers, list):
        keys = {f'param_scheduler.{index}': one for index, one in enumerate(schedulers)}
    keys = {
        key: one
        for key, one in keys.items()
        if not one.get('by_epoch', True) and str(one.get('type')).endswith('LR')
    }
    if not keys:
        return
    key, scheduler = keys.popitem()
    begin, end = scheduler.get('begin', 0), scheduler.get('end', 0)
    if end > last:
        also = f' {key}.T_max={last - begin}' if 'T_max' in scheduler else ''
        hint = f'--cfg-options {key}.end={last}{also} ends it with the run'
        if begin >= last:
            hint = f'it begins at {begin} only'
        logger.warning(
            f'train_cfg.max_iters is {last}, but the schedule of the learning rate, {key} '
            f'({scheduler["type"]}), ends at {end}: {hint}'
        )


def drop_missing_backends(cfg: Config) -> None:
    """Leave TensorBoard out of the visual backends where it is not installed, and say so."""
    backends = (cfg.get('visualizer') or {}).get('vis_backends') or []
    kept = [backend for backend in backends if backend.get('type') != 'TensorboardVisBackend']
    if len(kept) < len(backends) and find_spec('tensorboard') is None:
        print_log(
            'TensorBoard is not installed, its log is left out: pip install tensorboard', logger='current'
        )
        cfg.visualizer.vis_backends = kept


def start_processes(cfg: Config, launcher: str, local_rank: int = 0, training: bool = True) -> None:
    """Set the launcher; where there is no accelerator, start the process group here, over gloo.

    mmengine's launchers put each process on a CUDA device and wrap the model for that device; on CPUs
    they fail, as does synchronised batch normalisation, which becomes that of each process there, with a
    warning where it matters. Any config, also another package's, validates the weights that are saved.

    Args:
        cfg: the config, changed in place.
        launcher: none, pytorch, slurm or mpi.
        local_rank: of this process on its machine, where the environment does not say.
        training: whether the processes train, or test only.

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
    _validate_what_is_saved(cfg)
    if not on_cpu:
        return
    distributed.init_process_group('gloo')
    if _drop_sync_bn(cfg) and training and distributed.get_world_size() > 1 and distributed.get_rank() == 0:
        print_log(
            'Batch normalisation is not synchronised on CPUs: each process has the statistics of its own '
            'part of the batch, unlike on accelerators',
            'current',
            logging.WARNING,
        )
    wrapper = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = {**wrapper, **cfg.get('model_wrapper_cfg', {}), 'device_ids': None}


def _validate_what_is_saved(cfg: Config) -> None:
    """Give each process the main one's buffers before it validates: no other's are saved."""
    hooks = list(cfg.get('custom_hooks') or [])
    names = [str(hook.get('type')).rpartition('.')[2] for hook in hooks if isinstance(hook, dict)]
    if 'BroadcastBuffersHook' not in names:
        cfg.custom_hooks = [*hooks, dict(type='cmp_mm.BroadcastBuffersHook')]


def _drop_sync_bn(cfg: Config) -> bool:
    """Put batch normalisation of each process in the place of synchronised; False if there was none."""
    whole, layers = cfg.pop('sync_bn', None), list(_synchronised(cfg.get('model')))
    for layer in layers:
        layer['type'] = 'BN'
    return bool(whole or layers)


def _synchronised(node: Any) -> Iterator[dict]:
    """The configs of normalisation in a model's that are synchronised."""
    if isinstance(node, dict):
        if str(node.get('type', '')).endswith(('SyncBN', 'SyncBatchNorm')):
            yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from _synchronised(part)


def stop_processes() -> None:
    """Leave the process group, if there is one."""
    if _in_group():
        distributed.destroy_process_group()


def use_amp(cfg: Config) -> None:
    """Train in mixed precision: as mmengine does on an accelerator, in bfloat16 on a CPU.

    Raises:
        UsageError: an optimizer wrapper, or on a CPU a package, that cannot.
    """
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper', _BFLOAT16, f'cmp_mm.{_BFLOAT16}'):
        raise UsageError(f'--amp: optim_wrapper.type is {kind}, expected OptimWrapper')
    if get_device() == 'mps':
        raise UsageError("--amp: mmengine has no mixed precision on Apple's GPUs; train without")
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
    if cfg.optim_wrapper.get('type') != 'AmpOptimWrapper':
        return
    if get_device() == 'mps':
        raise UsageError(
            "optim_wrapper.type AmpOptimWrapper: mmengine has no mixed precision on Apple's GPUs; use "
            'OptimWrapper'
        )
    if get_device() == 'cpu':
        raise UsageError(
            'optim_wrapper.type AmpOptimWrapper needs an accelerator and there is none; with --amp a CPU '
            'trains in bfloat16'
        )


def scale_learning_rate(cfg: Config) -> None:
    """Scale the learning rate to the samples that each step of the optimizer sees.

    mmengine counts the batch of all processes; the batches that are accumulated are taken into account here.

    Raises:
        UsageError: the config does not say for which batch size its rate is meant.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UsageError('--auto-scale-lr: the config has no auto_scale_lr=dict(base_batch_size=...)')
    scaling = cfg.auto_scale_lr
    scaling.enable = True
    counts = cfg.optim_wrapper.get('accumulative_counts', 1)
    before = scaling.get('accumulative_counts', 1)  # in the config that a run has left
    if counts != before:
        scaling.base_batch_size *= before / counts
        scaling.accumulative_counts = counts
        print_log(
            f'--auto-scale-lr: each step of the optimizer sees {counts} batches, so the base batch size '
            f'counts as {scaling.base_batch_size:g}',
            'current',
        )


def default_work_dir(config: str) -> str:
    """``work_dirs/NAME`` for a config ``.../NAME.py``."""
    return str(Path('work_dirs') / Path(config).stem)
