"""What batch normalisation needs of a random backbone that is frozen."""

import random

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm

from cmp_mm.registry import HOOKS


@HOOKS.register_module()
class BackboneStatisticsHook(Hook):
    """Gives a backbone the running statistics of some training images before its training begins.

    For a random backbone that is frozen: it stays in evaluation mode, so that its batch normalisations keep
    mean 0 and variance 1 and normalise nothing. The features of a ResNet-50 are then many times as large as
    those of one that brings statistics, an AlexNet's as small, and no learning rate suits both: what is
    compared is the scale. Weights are not touched, and no random number is used up. A run that is resumed
    has its statistics from the checkpoint.

    Args:
        images: how many, spread evenly over the training set.
    """

    def __init__(self, images: int = 32) -> None:
        self.images = images

    def before_train(self, runner: Runner) -> None:
        """Measure, at the first iteration."""
        if runner.iter > 0:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        norms = [
            one for one in model.backbone.modules() if isinstance(one, _BatchNorm) and one.track_running_stats
        ]
        modes = {one: one.training for one in model.modules()}
        momenta = [norm.momentum for norm in norms]
        states = random.getstate(), np.random.get_state()
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices), torch.no_grad():
            for batch in self._batches(runner):
                model.backbone(model.data_preprocessor(batch, True)['inputs'])
        random.setstate(states[0])
        np.random.set_state(states[1])
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training

    def _batches(self, runner: Runner) -> list:
        """Each spread over the whole set, and of two images at least: one may have no variance."""
        loader = runner.train_dataloader
        number = min(self.images, len(loader.dataset))
        indices = np.linspace(0, len(loader.dataset) - 1, number).round().astype(int).tolist()
        # Where a sampler of batches is given, the loader itself has no size.
        size = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', 1)
        batches = max(1, number // max(2, size))
        return [
            loader.collate_fn([loader.dataset[index] for index in indices[first::batches]])
            for first in range(batches)
        ]
