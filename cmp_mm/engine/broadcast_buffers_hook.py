"""The same statistics in every process for a validation."""

from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cmp_mm.registry import HOOKS


@HOOKS.register_module()
class BroadcastBuffersHook(Hook):
    """Gives every process the main process's buffers before a validation.

    Where batch normalisation is not synchronised each process has running statistics of its own, a checkpoint
    holds those of the main process alone, and a validation that is shared between the processes would measure
    a mixture that is saved nowhere. The training is the same with or without: it normalises by the batch.
    """

    # Before anything of the validation itself, and after an EMAHook has put its averaged buffers in place.
    priority = 'BELOW_NORMAL'

    def before_val_epoch(self, runner: Runner) -> None:
        """Copy the buffers of rank 0; with one process there is nothing to do."""
        if runner.distributed:
            for buffer in runner.model.buffers():
                broadcast(buffer)
