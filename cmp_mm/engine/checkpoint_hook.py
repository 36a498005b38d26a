"""The checkpoint hook: mmengine's, with files that are whole, plain data, and never one too few."""

import math
import os.path as osp
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, barrier, broadcast_object_list, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from cmp_mm.registry import HOOKS

from .checkpoint_files import RESUMABLE, VALIDATED_KEY, find_resumable, remove_parts, write_durably
from .checkpoint_loading import CheckpointError, check_some_weights_fit, check_weights_fit, state_dict_of
from .plain_state import restore_histories, to_plain

_OUTDATED = 'outdated_ckpt_id'
# Seconds, and iterations at most, between two questions to the other processes whether one was told to stop:
# torchrun and slurm kill 30 seconds after they have told one. An accelerator waits while it is asked.
_ASK_WITHIN, _ASK_EVERY = 5.0, 10
# What changes in a learning-rate scheduler from step to step, or follows from the optimizer.
_CHANGING = (
    *('optimizer', 'last_step', 'base_values', '_global_step', '_last_value', 'verbose'),
    *('best', 'num_bad_epochs', 'cooldown_counter'),  # of those that wait for a plateau
)
_ANEW = 'start anew in another work directory with load_from, which takes the weights alone'
_OTHER_SCHEDULE = 'train with the same schedule, or anew in another work directory'
# Settings of torch's optimizers that a step depends on; mmengine gives them the checkpoint's values.
_OPTIMIZER_SETTINGS = ('lr', 'momentum', 'betas', 'weight_decay', 'dampening', 'nesterov', 'eps', 'alpha')


class TrainingStopped(KeyboardInterrupt):
    """Training ended after a step because it was asked to, its checkpoint saved.

    Attributes:
        signum: the signal it was asked by.
        path: the checkpoint.
    """

    def __init__(self, signum: int, path: str) -> None:
        super().__init__(f'stopped by {signal.Signals(signum).name}; saved {path}')
        self.signum, self.path = signum, path


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` for runs that may be killed at any moment.

    - A checkpoint appears whole or not at all, and an old one is removed only once the new one is on disk
      and ``last_checkpoint`` names it (mmengine removes first).
    - A checkpoint holds plain data, so that resuming too reads it with ``weights_only=True``.
    - ``resume=True`` without a file goes on from the last whole checkpoint in the work directory, whatever
      has become of ``last_checkpoint``; where there is none the run starts afresh.
    - ``stop_after_step`` ends the run with a checkpoint of the step it is in, where steps are counted by
      iteration; with several processes, of one in the seconds after it, the same for all. Where gradients
      are accumulated, it is the next step that updates the weights: those kept so far are saved nowhere.
    - ``meta['model']`` holds the model's config as data: exporting needs to know the network, and the
      config's text in ``meta['cfg']`` is a program.

    - ``resume=True`` into another schedule or optimizer than the checkpoint's is refused, or with a learning
      rate scaled to another batch size: the checkpoint's would stay. Of other settings of the optimizer,
      which stay too, a warning tells.

    Arguments are those of ``mmengine.hooks.CheckpointHook``.

    Attributes:
        start_from: weights that a run starts from where ``resume=True`` finds no checkpoint.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.args:
            # mmengine takes them, and fails when the first checkpoint is due.
            name = next(iter(self.args))
            raise TypeError(f'AtomicCheckpointHook.__init__() got an unexpected keyword argument {name!r}')
        if self.file_client_args is None and self.backend_args is None and '://' not in str(self.out_dir):
            self.backend_args = dict(backend='durable_local')
        self._asked_by = self._stopped_by = 0  # signal that came to this process; that all stop by
        self._ask_every = self._until_asked = 1
        self._last_asked = 0.0
        self.start_from: str | None = None

    def stop_after_step(self, signum: int) -> None:
        """Have the run save a checkpoint and end once the step it is in is done.

        Args:
            signum: the signal that asks for it.

        Raises:
            ValueError: the hook counts by epoch, and no epoch can be resumed in its middle.
        """
        if self.by_epoch:
            raise ValueError(
                'a run that saves by epoch cannot be stopped after a step; expected by_epoch=False'
            )
        self._asked_by = signum

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Save where it is due; save and end where it is asked for.

        Raises:
            TrainingStopped: after ``stop_after_step``.
        """
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self.by_epoch:
            return
        self._agree()
        if self._stopped_by and (runner.iter + 1) % _accumulative_counts(runner) == 0:
            saved = self.last_ckpt is not None and self.last_ckpt.endswith(
                self.filename_tmpl.format(runner.iter + 1)
            )
            if not saved:
                self._save_checkpoint(runner)
            # The first process that ends makes torchrun end the others.
            barrier()
            raise TrainingStopped(self._stopped_by, self.last_ckpt)

    def _agree(self) -> None:
        """Learn whether any process was told to stop, after the same steps in all of them.

        All leave after the same step: one that is left behind would wait for the others for ever.
        """
        if get_world_size() == 1:
            self._stopped_by = self._asked_by
            return
        self._until_asked -= 1
        if self._until_asked > 0:
            return
        now = time.monotonic()
        answers = torch.tensor([self._asked_by, (now - self._last_asked) / self._ask_every])
        self._last_asked = now
        all_reduce(answers, 'max')
        self._stopped_by, seconds = int(answers[0]), float(answers[1])
        if get_device() != 'cpu':
            self._ask_every = min(max(int(_ASK_WITHIN / max(seconds, 1e-3)), 1), _ASK_EVERY)
        self._until_asked = self._ask_every

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Save where it is the best, with the iteration that the metrics are of."""
        runner.message_hub.update_info(VALIDATED_KEY, runner.iter)
        super().after_val_epoch(runner, metrics)

    def before_run(self, runner: Runner) -> None:
        """Find the checkpoint that ``resume=True`` means, before the runner looks for it."""
        if not runner._resume or runner._load_from is not None:
            return
        folders = [runner.work_dir]
        if self.out_dir is not None:
            folders.append(osp.join(self.out_dir, osp.basename(runner.work_dir.rstrip(osp.sep))))
        # One process decides, so that all ranks go on from the same file.
        found = [find_resumable(folders) if is_main_process() else None]
        broadcast_object_list(found)
        if found[0] is None:
            runner._resume = False
            runner._load_from = self.start_from
            weights = f', with the weights of {self.start_from}' if self.start_from else ''
            runner.logger.info(
                f'No whole checkpoint in {runner.work_dir}: the run starts at iteration 0{weights}'
            )
        else:
            runner._load_from = found[0]

    def before_train(self, runner: Runner) -> None:
        """Open the output folder and clear what a killed run left half written there."""
        super().before_train(runner)
        self._last_asked = time.monotonic()
        counts = _accumulative_counts(runner)
        if not self.by_epoch and self.interval > 0 and self.interval % counts:
            runner.logger.warning(
                f'The checkpoint interval {self.interval} is no multiple of accumulative_counts {counts}: a '
                'run that is resumed between two steps of the optimizer goes on without the gradients it had'
            )
        if is_main_process():
            for folder in {self.out_dir, runner.work_dir}:
                remove_parts(folder)
            self._remove_left_over(runner)

    def _remove_left_over(self, runner: Runner) -> None:
        """Remove what a run killed right after a save did not come to; only where its own file is resumed."""
        outdated = runner.message_hub.runtime_info.get(_OUTDATED)
        if not runner._resume or not isinstance(outdated, int):
            return
        if self._is_own(runner._load_from):
            self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(outdated)))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make the checkpoint plain data; the last hook to see it, by its priority."""
        model = runner.cfg.get('model')
        if isinstance(model, dict):
            checkpoint['meta']['model'] = model
        for name in list(checkpoint):
            checkpoint[name] = to_plain(checkpoint[name], name)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check what is to be resumed, and give the message hub its histories back.

        ``Runner.resume`` restores the message hub and reads ``meta`` after this.

        Raises:
            CheckpointError: the file is of another model, schedule, optimizer or scaled learning rate, or
                holds weights alone; one to start from has not a single weight of the model.
        """
        if isinstance(checkpoint.get('message_hub'), dict):
            restore_histories(checkpoint['message_hub'])
        path = runner._load_from
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not runner._resume:
            check_some_weights_fit(model, state_dict_of(checkpoint), path)
            return
        missing = [key for key in RESUMABLE if not isinstance(checkpoint.get(key), dict)]
        if missing:
            raise CheckpointError(f'checkpoint {path} cannot be resumed: it holds no {", ".join(missing)}')
        check_weights_fit(model, state_dict_of(checkpoint), path)
        self._check_schedule(runner, checkpoint.get('param_schedulers'), path)
        self._check_scaled_rate(runner, checkpoint['optimizer'], path)
        self._check_optimizer(runner, checkpoint['optimizer'], path)
        meta = checkpoint['meta']
        # Runner.resume compares pickles, and warns of another dataset where a plain copy is the same one.
        current = getattr(runner.train_dataloader.dataset, 'metainfo', None)
        if repr(to_plain(current)) == repr(meta.get('dataset_meta')):
            meta['dataset_meta'] = current

    def _check_schedule(self, runner: Runner, saved: Any, path: str) -> None:
        """Refuse a checkpoint of another schedule.

        mmengine gives each scheduler the checkpoint's begin, end and shape in place of the config's: a run
        made longer by the config would spend what was added at the rate the shorter one ended with.
        """
        built = runner.param_schedulers or []
        saved = [] if saved is None else saved
        if not isinstance(built, list) or not isinstance(saved, (list, tuple)):
            return  # one list for each optimizer
        if len(built) != len(saved):
            found = f'{len(saved)} schedulers, the config {len(built)}'
            raise CheckpointError(f'checkpoint {path} cannot be resumed: it has {found}; {_OTHER_SCHEDULE}')
        for index, (scheduler, state) in enumerate(zip(built, saved, strict=True)):
            now = to_plain({key: value for key, value in vars(scheduler).items() if key not in _CHANGING})
            for key in sorted(now.keys() & state.keys()):
                if repr(now[key]) != repr(state[key]):
                    raise CheckpointError(
                        f'checkpoint {path} cannot be resumed: {key} of its param_scheduler.{index} is '
                        f'{state[key]}, of the config {now[key]}; {_OTHER_SCHEDULE}'
                    )

    def _check_optimizer(self, runner: Runner, saved: dict, path: str) -> None:
        """Refuse a checkpoint of another optimizer, and tell of settings that are not the config's."""
        # The wrapper's own list has one more where parameters have settings of their own.
        groups = getattr(getattr(runner.optim_wrapper, 'optimizer', None), 'param_groups', None)
        before = saved.get('param_groups')
        if not isinstance(groups, list) or not isinstance(before, list):
            return  # one for each of several optimizers
        other = 'train with the same optimizer, or anew in another work directory'
        if len(groups) != len(before):
            found = f'{len(before)} groups of parameters, the config {len(groups)}'
            raise CheckpointError(f'checkpoint {path} cannot be resumed: its optimizer has {found}; {other}')
        told = set()  # once of each setting, however many groups there are
        for now, then in zip(groups, before, strict=True):
            changing = {key.removeprefix('initial_') for key in (*now, *then) if key.startswith('initial_')}
            if 'momentum' in changing:
                changing.add('betas')  # of which a schedule of momentum changes the first
            for name in _OPTIMIZER_SETTINGS:
                if name == 'lr' and (runner.auto_scale_lr or {}).get('enable'):
                    continue  # has rules of its own
                key = f'initial_{name}' if f'initial_{name}' in now and f'initial_{name}' in then else name
                if (key == name and name in changing) or (key not in now and key not in then):
                    continue
                if (key in now) != (key in then):
                    owner = 'its' if key in then else "the config's"
                    raise CheckpointError(
                        f'checkpoint {path} cannot be resumed: only {owner} optimizer has {name}; {other}'
                    )
                values = [repr(to_plain(group[key])) for group in (then, now)]
                if values[0] != values[1] and name not in told:
                    told.add(name)
                    runner.logger.warning(
                        f"The {name} of the resumed checkpoint's optimizer stays, {values[0]}; that of the "
                        f'config, {values[1]}, has no effect. To change it, {_ANEW}'
                    )

    def _check_scaled_rate(self, runner: Runner, saved: dict, path: str) -> None:
        """Refuse to scale the learning rate of a run that has begun with another one.

        mmengine scales it, says so, and then takes the checkpoint's.
        """
        groups = getattr(runner.optim_wrapper, 'param_groups', None)
        if not (runner.auto_scale_lr or {}).get('enable') or not isinstance(groups, list):
            return
        for group, before in zip(groups, saved.get('param_groups', []), strict=False):
            now, then = (float(part.get('initial_lr', part['lr'])) for part in (group, before))
            counts = _accumulative_counts(runner)
            if counts > 1 and math.isclose(now, then * counts, rel_tol=1e-6):
                runner.logger.warning(
                    f'The learning rate of checkpoint {path} was scaled by another rule, which did not count '
                    f'the {counts} batches of a step: it stays {then:g}'
                )
                return
            if not math.isclose(now, then, rel_tol=1e-6):
                raise CheckpointError(
                    f'checkpoint {path} cannot be resumed with the learning rate scaled to this batch size, '
                    f"{now:g}: it has {then:g}, which stays; train with the checkpoint's batch size, or "
                    'without --auto-scale-lr'
                )

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save, then point to it, then remove what is one too many."""
        outdated = None
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated = self.keep_ckpt_ids.popleft()
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        # Goes into the new checkpoint: a run killed before it removes the old one does so when it is resumed.
        runner.message_hub.update_info(_OUTDATED, outdated)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_durably(Path(runner.work_dir) / 'last_checkpoint', self.last_ckpt.encode())
            if outdated is not None:
                self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(outdated)))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint, then remove the one it replaces."""
        if not self.save_best:
            return
        with self._best_kept_back() as previous:
            super()._save_best_checkpoint(runner, metrics)
        if is_main_process():
            current = self._best_paths().values()
            for path in previous.values():
                # Resumed into another folder, the best of the run it comes from is not this run's to remove.
                if path and path not in current and self._is_own(path):
                    self._remove(path)
                    runner.logger.info(f'The previous best checkpoint {path} is removed')

    @contextmanager
    def _best_kept_back(self) -> Iterator[dict]:
        """Hide the previous best paths from mmengine's method, which would remove them before it saves."""
        previous = self._best_paths()
        self._set_best_paths(dict.fromkeys(previous))
        try:
            yield previous
        finally:
            current = self._best_paths()
            self._set_best_paths({key: current[key] or path for key, path in previous.items()})

    def _best_paths(self) -> dict:
        if hasattr(self, 'best_ckpt_path_dict'):
            return dict(self.best_ckpt_path_dict)
        return dict(best=self.best_ckpt_path)

    def _set_best_paths(self, paths: dict) -> None:
        if hasattr(self, 'best_ckpt_path_dict'):
            self.best_ckpt_path_dict = paths
        else:
            self.best_ckpt_path = paths['best']

    def _is_own(self, path: str) -> bool:
        return osp.realpath(osp.dirname(path)) == osp.realpath(self.out_dir)

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)  # deepspeed writes folders


def _accumulative_counts(runner: Runner) -> int:
    """Iterations to a step of the optimizer."""
    return getattr(runner.optim_wrapper, '_accumulative_counts', 1)


def checkpoint_hook_of(runner: Runner) -> AtomicCheckpointHook | None:
    """The hook of a runner that writes its checkpoints; None where that is another package's."""
    return next((hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)), None)
