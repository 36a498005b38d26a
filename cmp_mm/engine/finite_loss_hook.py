"""A loss that is no number any more is reported with the files that led to it."""

import math

from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cmp_mm.registry import HOOKS


class DivergedError(RuntimeError):
    """The training loss became NaN or infinite."""


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops training at a NaN or infinite loss, before it gets into a checkpoint.

    The message names the iteration and the files of the batch. Under mixed precision with a loss scaler an
    overflow now and then is ordinary (the scaler skips that step), so only ``patience`` such iterations in a
    row stop the run there.

    Args:
        patience: iterations in a row that may overflow where a loss scaler is at work.

    Raises:
        DivergedError: in every process, so that none waits for another.
    """

    def __init__(self, patience: int = 20) -> None:
        self.patience = patience
        self._in_a_row = 0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Look at ``outputs['loss']``."""
        loss = (outputs or {}).get('loss')
        if loss is None:
            return
        value = loss.detach().float()
        if runner.distributed:
            value = value.clone()
            all_reduce(value)
        if math.isfinite(value.item()):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        message = (
            f'The loss is {loss.item()} at iteration {runner.iter + 1}; files of the batch: '
            f'{", ".join(_files(data_batch)) or "unknown"}'
        )
        if hasattr(runner.optim_wrapper, 'loss_scaler') and self._in_a_row <= self.patience:
            runner.logger.warning(message)
            return
        raise DivergedError(f'{message}. A lower learning rate or gradient clipping may help')


def _files(data_batch: dict | None) -> list[str]:
    samples = data_batch.get('data_samples', []) if isinstance(data_batch, dict) else []
    return [str(sample.img_path) for sample in samples if 'img_path' in sample]
