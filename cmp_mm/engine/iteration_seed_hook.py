"""Randomness inside a training step as a function of the iteration alone."""

import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cmp_mm.registry import HOOKS


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seeds Python, numpy and torch (all devices) from (seed, rank, iteration) before each training step.

    A resumed run then draws the same dropout masks as one that was never stopped, with no generator state
    in the checkpoint, whatever validation or pictures drew in between. Data workers are not concerned:
    the dataset seeds each sample by itself.
    """

    # The last word before the step.
    priority = 'VERY_LOW'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Seed for iteration ``runner.iter``."""
        sequence = np.random.SeedSequence([runner.seed, get_rank(), runner.iter])
        low, high = (int(word) for word in sequence.generate_state(2))
        random.seed(low)
        np.random.seed(low)
        torch.manual_seed(high << 32 | low)
