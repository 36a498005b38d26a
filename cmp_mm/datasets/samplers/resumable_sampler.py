"""An endless sampler that can be set to any point of a run without walking there."""

from collections.abc import Iterator, Sized

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from cmp_mm.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class ResumableSampler(Sampler):
    """Draw samples without end, each epoch in a new order, the same for every number of ranks.

    The draws of all ranks together are numbered 0, 1, 2, ... Draw d takes place ``d % len(dataset)`` of a
    permutation that depends on (seed, d // len(dataset)) alone. Rank r of W takes draws r, r + W, r + 2 W,
    ... So a batch of B on each of W ranks holds the samples that one process with a batch of W * B would
    hold, every sample comes once per epoch, and the number of draws is all there is to save: `set_start`
    computes the place. The number of the draw goes along with the index, to seed the sample's augmentation.

    Args:
        dataset: anything with a length.
        shuffle: a new random order each epoch, or always the order of the dataset.
        seed: equal on all ranks; None takes a random one and shares it.

    Yields:
        (index, draw): index into the dataset, number of the draw.

    Raises:
        ValueError: the dataset is empty.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.size = len(dataset)
        if self.size == 0:
            raise ValueError('the dataset to sample from is empty; expected at least one sample')
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.start = 0

    def set_start(self, samples_per_rank: int) -> None:
        """Let the next ``iter()`` begin where a rank has already drawn this many samples.

        Args:
            samples_per_rank: draws of all ranks together over the number of ranks: where neither that nor the
                batch size has changed, finished iterations times the batch size of one rank.

        Raises:
            ValueError: the number is negative.
        """
        if samples_per_rank < 0:
            raise ValueError(f'samples_per_rank is {samples_per_rank}; expected 0 or more')
        self.start = samples_per_rank

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: there is one endless sequence of draws, and `set_start` is the way to move in it.

        Loops call this on every sampler.
        """

    def __iter__(self) -> Iterator[tuple[int, int]]:
        draw = self.rank + self.start * self.world_size
        while True:
            epoch, place = divmod(draw, self.size)
            for index in self._order(epoch)[place :: self.world_size].tolist():
                yield index, draw
                draw += self.world_size

    def __len__(self) -> int:
        """Samples of one rank in one epoch, rounded up."""
        return -(-self.size // self.world_size)

    def _order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.size)
        # RandomState's streams are frozen across numpy versions; default_rng's are not.
        bits = np.random.MT19937(np.random.SeedSequence((self.seed, epoch)))
        return np.random.RandomState(bits).permutation(self.size)
