"""Samples that cannot be used: how they are named, counted across data workers, and when it is too many."""

import math

import numpy as np
import torch

UNSEEN, GOOD, BAD = 0, 1, 2


class BadSampleError(ValueError):
    """A sample's files are missing, unreadable, or do not fit together.

    Loading transforms raise it; `ImageFlowDataset` then takes another sample. Any other exception of a
    pipeline is a fault of the program or of the config, and is not hidden.
    """


class TooManyBadSamplesError(RuntimeError):
    """More samples than `max_bad_share` allows could not be used. The message lists their files."""


class SampleLedger:
    """Which samples of a dataset have been read, and which of them were bad: one byte each.

    The bytes lie in shared memory, so all data workers of a process fill the same ledger and the count
    does not depend on how many there are. Ranks of a distributed run keep one ledger each, over the
    samples that they meet.

    Args:
        size: number of samples.
        max_bad_share: share in [0, 1]; see `too_many`.
        grace: samples up to which the share is taken of this number, so that one bad file among the
            first few does not stop a long run. Cut to ``size``.
    """

    def __init__(self, size: int, max_bad_share: float, grace: int = 1000) -> None:
        self.max_bad_share = max_bad_share
        self.grace = min(grace, size)
        self._shared = torch.zeros(size, dtype=torch.uint8).share_memory_()
        self._state = self._shared.numpy()

    def __getstate__(self) -> dict:
        # A spawned worker gets the shared tensor; a pickled numpy view would be a copy of its own.
        return {key: value for key, value in vars(self).items() if key != '_state'}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._state = self._shared.numpy()

    def mark_good(self, index: int) -> None:
        """Note that a sample was read. A sample once bad stays bad: its file is not to be trusted."""
        if self._state[index] == UNSEEN:
            self._state[index] = GOOD

    def mark_bad(self, index: int) -> bool:
        """Note that a sample was bad; returns True the first time, so that each is logged once."""
        first = bool(self._state[index] != BAD)
        self._state[index] = BAD
        return first

    @property
    def num_bad(self) -> int:
        """Distinct samples that were bad."""
        return int(np.count_nonzero(self._state == BAD))

    @property
    def num_seen(self) -> int:
        """Distinct samples that were read, good or bad."""
        return int(np.count_nonzero(self._state))

    @property
    def bad_indices(self) -> list[int]:
        """Indices of the samples that were bad, in order."""
        return np.flatnonzero(self._state == BAD).tolist()

    def too_many(self) -> bool:
        """Whether distinct bad samples exceed ``ceil(max_bad_share * max(distinct samples read, grace))``."""
        return self.num_bad > math.ceil(self.max_bad_share * max(self.num_seen, self.grace))
