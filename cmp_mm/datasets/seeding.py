"""Random numbers that belong to a sample, not to the process that happens to load it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def sample_seed(*key: int) -> Iterator[None]:
    """Seed python, numpy and torch (CPU) from ``key`` inside the block, and restore them after it.

    Args:
        key: non-negative integers, here (dataset seed, draw, sample index). Equal keys give equal random
            numbers whatever the number of data workers and wherever a run was resumed.
    """
    words = np.random.SeedSequence(key).generate_state(6)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    # torch.manual_seed and fork_rng would touch CUDA in every worker; only the CPU generator is needed.
    torch_state = torch.default_generator.get_state()
    try:
        random.seed(int(words[0]) << 32 | int(words[1]))
        np.random.seed(words[2:4])
        torch.default_generator.manual_seed(int(words[4]) << 31 | int(words[5]))
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.default_generator.set_state(torch_state)
