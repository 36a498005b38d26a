"""Inputs that grow from those which reached something new, as coverage-guided fuzzers choose them.

What an input reached is a set of numbers: the steps from line to line in the Python files that parse; the
errors raised in them, with their texts; the kinds and sizes of what our functions return; and what libraries
say on stderr, FFmpeg at its most talkative. Decoders that are compiled (OpenCV's, FFmpeg's, Pillow's,
safetensors') cannot be seen from inside: for them the last three stand in, which tell less.
"""

import contextlib
import fcntl
import os
import pickle
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from .common import ROOT
from .mutate import mutate

# Parts of the paths of the files that are watched: what parses, not all that it calls.
OURS = f'{ROOT}/cmp_mm/'
WATCHED = re.compile(
    re.escape(OURS) + r'(?!guidance/)|/tests/faults/|/PIL/|/json/|/numpy/lib/|/mmengine/fileio/|/safetensors/'
    r'|/(zipfile|gzip|ast|argparse|_weights_only_unpickler|torch/serialization)\.py$'
)
# Texts and sizes that one place may give, and that stderr may: what quotes its input would be new for ever.
KINDS_OF_A_PLACE, KINDS_OF_STDERR = 24, 2000
# An input that grew from another is cut there.
MOST_BYTES = 2**16
STDERR_BYTES = 2**20
_VARIABLE = re.compile(r"""0x[0-9a-f]+|\d+|'[^'\n]*'|"[^"\n]*"|[^ -~\n]+""")


def _kind(value: Any) -> Hashable:
    """What a value is, roughly: its type, and how large."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return 'int', value.bit_length() * (1 if value >= 0 else -1)
    shape = getattr(value, 'shape', None)
    if isinstance(shape, tuple):
        return type(value).__name__, str(value.dtype), tuple(int(side).bit_length() for side in shape)
    if isinstance(value, (str, bytes, list, tuple, dict)):
        return type(value).__name__, len(value).bit_length()
    return type(value).__name__


class Watcher:
    """Notes what code does, as numbers that are equal in all processes forked from one.

    Args:
        watched: tells of a file's path whether its lines count.
    """

    def __init__(self, watched: Callable[[str], Any] = WATCHED.search) -> None:
        self.seen: set[int] = set()
        self._watched, self._before = watched, 0
        # By identity, for equality of code is slow to find out; the code itself is kept so that it stays it.
        self._codes: dict[int, tuple[CodeType, Callable | None]] = {}
        self._kinds: dict[int, set[Hashable]] = defaultdict(set)
        self._said, said = os.pipe2(os.O_NONBLOCK)
        fcntl.fcntl(said, fcntl.F_SETPIPE_SZ, STDERR_BYTES)
        self._stderr = said

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Put what happens inside into `seen`, and nothing else."""
        self.seen.clear()
        self._before = 0
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(None)
            self._hear()

    def take_stderr(self) -> None:
        """Let this process's stderr be heard here, and let libraries say more."""
        os.dup2(self._stderr, 2)
        if 'cv2' in sys.modules:
            logging = sys.modules['cv2'].utils.logging
            logging.setLogLevel(logging.LOG_LEVEL_WARNING)
        if 'av' in sys.modules:
            logging = sys.modules['av'].logging
            logging.restore_default_callback()
            logging.set_libav_level(logging.DEBUG)

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            said = _VARIABLE.sub('', os.read(self._said, STDERR_BYTES)[: 2**15].decode('latin-1'))
            for line, count in Counter(said.splitlines()).items():
                self._note(0, (line[:80], count.bit_length()))

    def _note(self, place: int, kind: Hashable) -> None:
        kinds = self._kinds[place]
        if kind in kinds or len(kinds) < (KINDS_OF_A_PLACE if place else KINDS_OF_STDERR):
            kinds.add(kind)
            self.seen.add(hash((place, kind)))

    def _call(self, frame: FrameType, event: str, arg: Any) -> Callable | None:
        try:
            return self._codes[id(frame.f_code)][1]
        except KeyError:
            code = frame.f_code
            tracer = self._tracer(code) if self._watched(code.co_filename) else None
            self._codes[id(code)] = code, tracer
            return tracer

    def _tracer(self, code: CodeType) -> Callable:
        base = hash((code.co_filename, code.co_name)) & 0xFFFFFFFF
        seen, note, values = self.seen, self._note, code.co_filename.startswith(OURS)

        def trace(frame: FrameType, event: str, arg: Any) -> Callable:
            place = base + frame.f_lineno
            if event == 'line':
                seen.add(self._before << 34 ^ place)
                self._before = place
            elif event == 'exception':
                with contextlib.suppress(Exception):
                    note(place, (arg[0].__name__, _VARIABLE.sub('', str(arg[1]))[:80]))
            elif values:
                note(place, _kind(arg))
            return trace

        return trace


class Growing:
    """Chooses inputs: changes of those kept, which are the ones that reached something new.

    Args:
        reader: what reads them.
        seed: of the changes.
        file: where what is kept is written down; the next process goes on with it.
    """

    def __init__(self, reader: Any, seed: int, file: Path) -> None:
        self.reader, self.seed, self._file = reader, seed, file
        self._watcher, self._known = Watcher(), set[int]()
        self.kept: list[bytes] = []
        self._spent: list[float] = []
        self._parent = 0
        self._places: dict[str, list[int]] = {}
        if file.exists():
            for record in records(file):
                self._add(*record)

    def prepare(self) -> None:
        """Make this process one that reads."""
        self._watcher.take_stderr()

    def input(self, number: int) -> bytes:
        """The next input; the first are the whole files themselves."""
        if number < len(self.reader.corpus):
            return self.reader.corpus[number]
        rng = random.Random(f'{self.seed}/{self.reader.name}/grown/{number}')
        # Each outcome is as likely, or what is broken in many ways would drown what is read.
        places = self._places[rng.choice(list(self._places))]
        # Of two, that whose changes took less time so far: what is new gets its turn, nothing is forgotten,
        # and large pictures do not take all the time.
        self._parent = min(rng.choice(places), rng.choice(places), key=self._spent.__getitem__)
        whole = self.kept[self._parent]
        try:
            changed = self.reader.change(whole, rng, self.kept)
        except Exception:  # bytes that are no zip file any more, say
            changed = mutate(whole, rng, self.kept)
        return changed[: max(MOST_BYTES, *map(len, self.reader.corpus))]

    def read(self, data: bytes) -> str:
        """Let the reader read an input, and keep it if it reached something new."""
        outcome, before = 'undefined error', time.process_time()
        try:
            with self._watcher.watch():
                outcome = self.reader.read(data)
        finally:
            if (reached := self._watcher.seen - self._known) or not self.kept:
                self._add(data, outcome, reached)
                with open(self._file, 'ab') as file:
                    pickle.dump((data, outcome, reached), file)
            self._spent[self._parent] += time.process_time() - before
        return outcome

    def _add(self, data: bytes, outcome: str, reached: set[int]) -> None:
        self._places.setdefault(outcome, []).append(len(self.kept))
        self.kept.append(data)
        self._spent.append(0.0)
        self._known |= reached


def records(file: Path) -> Iterator[tuple[bytes, str, set[int]]]:
    """Yield what was kept, what became of it and what was new in it, as far as it was written whole."""
    with open(file, 'rb') as stream, contextlib.suppress(EOFError, pickle.UnpicklingError):
        while True:
            yield pickle.load(stream)
