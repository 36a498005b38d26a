"""The training loop whose resume costs nothing."""

from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.base_loop import BaseLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from mmengine.runner.utils import calc_dynamic_intervals
from torch import nn
from torch.utils.data import DataLoader

from cmp_mm.registry import LOOPS


class NoTraining(BaseLoop):
    """What hooks ask of a training in a test, where building the real one would read its data.

    Args:
        runner: the runner.
        train_cfg: of the training that there could be.
    """

    dataloader = None
    iter = epoch = 0
    stop_training = False

    def __init__(self, runner: Runner, train_cfg: dict | None) -> None:
        self._runner = runner
        train_cfg = train_cfg or {}
        self.max_iters = train_cfg.get('max_iters', 0)
        self.max_epochs = train_cfg.get('max_epochs', 1)

    def run(self) -> None:
        """Nothing is trained."""
        raise RuntimeError('this runner tests')


_SEED_KEY = 'train_sampler_seed'
_DRAWS_KEY = 'train_draws'  # samples that all processes together have drawn


@LOOPS.register_module()
class ResumableTrainLoop(IterBasedTrainLoop):
    """``IterBasedTrainLoop`` that goes on after a resume without reading again what was seen.

    mmengine draws and throws away one batch per iteration already done. Here the sampler is set to the
    first sample not yet seen (``sampler.set_start``, see :class:`ResumableSampler`) before the data workers
    are started. A sampler without ``set_start`` is advanced mmengine's way. A checkpoint tells how many
    samples were drawn, so that a run may go on with another batch size or number of processes; what
    does not divide among these, at most a sample for each but one, is left out.

    A checkpoint is saved before the validation of its iteration, so a resumed run begins with that.

    Args:
        runner: the runner.
        dataloader: the dataloader or its config.
        max_iters: number of training iterations.
        val_begin: first iteration that may validate.
        val_interval: validate every so many iterations, and after the last.
        dynamic_intervals: (iteration, val_interval) pairs that replace ``val_interval`` from then on.
    """

    def __init__(
        self,
        runner,
        dataloader: DataLoader | dict,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        # Not the parent's: it makes the iterator at once, which starts the workers at sample 0, while the
        # iteration to start from is known only after the checkpoint has been read.
        BaseLoop.__init__(self, runner, dataloader)
        if int(max_iters) != max_iters or max_iters < 1:
            raise ValueError(f'max_iters is {max_iters}, expected a positive whole number')
        self._max_iters = int(max_iters)
        self._max_epochs = 1
        self._epoch = 0
        self._iter = 0
        self.val_begin = val_begin
        self.val_interval = val_interval
        self.stop_training = False
        self.runner.visualizer.dataset_meta = getattr(self.dataloader.dataset, 'metainfo', None)
        self.dynamic_milestones, self.dynamic_intervals = calc_dynamic_intervals(
            val_interval, dynamic_intervals
        )
        self.dataloader_iterator = None
        self._draws: int | None = None  # None for a sampler that cannot be set

    def run(self) -> nn.Module:
        """Train to ``max_iters``; returns the model."""
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        if self._iter > 0:
            self._decide_current_val_interval()
            self._validate_if_due()
        if self._iter < self._max_iters:
            self.dataloader_iterator = self._iterator_from(self._iter)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self._count_draws()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            self._validate_if_due()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _validate_if_due(self) -> None:
        due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
        if self.runner.val_loop is not None and self._iter >= self.val_begin and due:
            self.runner.val_loop.run()

    def _iterator_from(self, iteration: int) -> _InfiniteDataloaderIterator:
        """The batches from ``iteration`` on."""
        batch_sampler = self.dataloader.batch_sampler
        sampler = getattr(batch_sampler, 'sampler', None)
        if not hasattr(sampler, 'set_start'):
            iterator = _InfiniteDataloaderIterator(self.dataloader)
            if iteration > 0:
                print_log(
                    f'{type(sampler).__name__} has no set_start: reading the {iteration} batches seen before',
                    logger='current',
                )
                for _ in range(iteration):
                    next(iterator)
            return iterator
        hub, processes = self.runner.message_hub, get_world_size()
        self._draws = iteration * batch_sampler.batch_size * processes
        if iteration > 0 and _SEED_KEY in hub.runtime_info:
            # With no fixed seed in the config every start draws its own; the first one's orders the data.
            sampler.seed = hub.get_info(_SEED_KEY)
        if iteration > 0 and _DRAWS_KEY in hub.runtime_info:
            self._draws = -(-hub.get_info(_DRAWS_KEY) // processes) * processes
        hub.update_info(_SEED_KEY, sampler.seed)
        sampler.set_start(self._draws // processes)
        return _InfiniteDataloaderIterator(self.dataloader)

    def _count_draws(self) -> None:
        """Count the samples of the next iteration; its hooks save the number."""
        if self._draws is not None:
            self._draws += self.dataloader.batch_sampler.batch_size * get_world_size()
            self.runner.message_hub.update_info(_DRAWS_KEY, self._draws)
