"""Which part of the videos this process prepares, when several share the work.

There is no server and no lock. Every process finds the same videos, takes its share by number, and leaves
one record per video in the shared folder; whoever finds all records there merges them. The merge depends
on the records only, so that two doing it at once write the same bytes. What a lost process leaves undone
is done by running any number of processes again, for records belong to videos and not to processes.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TypeVar

from .errors import PrepareError

T = TypeVar('T')

# Rank and number of processes, by launcher; the first that is there counts.
LAUNCHERS = {
    'torchrun': ('RANK', 'WORLD_SIZE'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS'),
}


def read_shard(text: str | None = None, environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Return (rank, number of processes).

    Args:
        text: ``RANK/NUMBER`` given by the user, or None to ask the launcher's environment variables.
        environment: instead of the process's own.

    Raises:
        PrepareError: not two whole numbers, the first below the second.
    """
    environment = os.environ if environment is None else environment
    if text is not None:
        origin, parts = f'shard {text!r}', text.split('/')
    else:
        for names in LAUNCHERS.values():
            if all(name in environment for name in names):
                parts = [environment[name] for name in names]
                origin = ' '.join(f'{name}={value}' for name, value in zip(names, parts, strict=True))
                break
        else:
            return 0, 1
    try:
        rank, number = (int(part) for part in parts)
    except ValueError:
        raise PrepareError(f'{origin} is no shard; expected RANK/NUMBER such as 0/4') from None
    if not 0 <= rank < number:
        raise PrepareError(f'{origin} is no shard; expected a rank from 0 to below the number of processes')
    return rank, number


def take_shard(items: Sequence[T], rank: int, number: int) -> list[T]:
    """Return the part of ``items`` that is this process's: every ``number``-th, from ``rank``."""
    return list(items[rank::number])


def default_workers(environment: Mapping[str, str] | None = None) -> int:
    """Return the processor cores this process may use, shared with torchrun's others on the machine."""
    environment = os.environ if environment is None else environment
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    local = environment.get('LOCAL_WORLD_SIZE', '1')
    return max(1, cores // (int(local) if local.isdigit() and int(local) else 1))
