"""A loss that is no number any more is reported with the files that led to it."""

import math

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cmp_mm.registry import HOOKS


class DivergedError(RuntimeError):
    """The training loss became NaN or infinite."""


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops training at a NaN or infinite loss, before it gets into a checkpoint.

    The message names the iteration and the files of the batch; with several processes, of those processes
    whose loss it is. Under mixed precision with a loss scaler an overflow now and then is ordinary (the
    scaler skips that step), so there only more than ``patience`` such iterations in a row stop the run, or
    one that has reached the running statistics of a normalisation, which the forward pass changes and the
    scaler does not restore.

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
        own = loss.item()
        found = [(own, _files(data_batch))]
        if runner.distributed:
            # Of those alone whose loss it is: the files of the others are as good as any.
            found = all_gather_object(None if math.isfinite(own) else found[0])
        found = [one for one in found if one is not None] or [(value.item(), [])]
        values = ', '.join(sorted({str(each) for each, _ in found}))
        message = (
            f'The loss is {values} at iteration {runner.iter + 1}; files of the batch: '
            f'{", ".join(file for _, files in found for file in files) or "unknown"}'
        )
        if hasattr(runner.optim_wrapper, 'loss_scaler') and self._in_a_row <= self.patience:
            spoilt = _spoilt_buffer(runner)
            if spoilt is None:
                runner.logger.warning(message)
                return
            message += f'. It is in {spoilt} already, from where no later step removes it'
        raise DivergedError(f'{message}. A lower learning rate or gradient clipping may help')


def _spoilt_buffer(runner: Runner) -> str | None:
    """Name of a buffer of the model that is not finite in some process, or None."""
    names = [
        name
        for name, buffer in runner.model.named_buffers()
        if buffer.is_floating_point() and not buffer.isfinite().all()
    ]
    if runner.distributed:
        found = torch.tensor(len(names), device=get_device())
        all_reduce(found)
        if found and not names:
            return 'the statistics of another process'
    return names[0] if names else None


def _files(data_batch: dict | None) -> list[str]:
    samples = data_batch.get('data_samples', []) if isinstance(data_batch, dict) else []
    return [str(sample.img_path) for sample in samples if 'img_path' in sample]
