"""What is drawn in a step hangs on seed, process and iteration, and on nothing else."""

import random
from types import SimpleNamespace

import numpy as np
import torch

from cmp_mm.engine import IterationSeedHook, iteration_seed_hook


def test_seed_rank_and_iteration_each_matter(monkeypatch):
    def drawn(rank=0, step=3, seed=7):
        monkeypatch.setattr(iteration_seed_hook, 'get_rank', lambda: rank)
        IterationSeedHook().before_train_iter(SimpleNamespace(seed=seed, iter=step), 0)
        return random.random(), np.random.rand(), torch.rand(1).item()

    one = drawn()
    assert drawn() == one
    for other in (drawn(rank=1), drawn(step=4), drawn(seed=8)):
        assert all(a != b for a, b in zip(one, other, strict=True))
