"""From videos to pairs of frames with flow; the library behind ``video2pairs.py``."""

from .errors import IncompleteError, OutputError, PrepareError
from .prepare import prepare
from .settings import MergeSettings, PairSettings
from .sources import Source, find_sources

__all__ = [
    'IncompleteError',
    'MergeSettings',
    'OutputError',
    'PairSettings',
    'PrepareError',
    'Source',
    'find_sources',
    'prepare',
]
