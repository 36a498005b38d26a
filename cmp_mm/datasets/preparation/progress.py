"""The progress bar of a preparation: by bytes of source, which the time goes with, and with an ETA."""

import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from .sources import Source

TERMINAL_SECONDS = 0.1
LOG_SECONDS = 15.0


class Progress:
    """Shows what workers say.

    Args:
        sizes: bytes of each video of this process, by name.
        finished: names of those that are ready from an earlier run.
        title: what the bar starts with.
        shown: draw it.
    """

    def __init__(self, sizes: Mapping[str, int], finished: set[str], title: str, shown: bool) -> None:
        # An empty file must still count for something.
        self._sizes = {name: max(1, size) for name, size in sizes.items()}
        self._reached: dict[str, int] = {}
        self._pairs: dict[str, tuple[int, int]] = {}
        self._kept = self._left_out = 0
        self._done = len(finished)
        self._bar = tqdm(
            total=sum(self._sizes.values()),
            initial=sum(self._sizes[name] for name in finished),
            desc=title,
            disable=not shown,
            mininterval=TERMINAL_SECONDS if sys.stderr.isatty() else LOG_SECONDS,
            bar_format='{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}',
            dynamic_ncols=True,
        )
        self._show()

    def hear(self, source: Source, message: dict[str, Any]) -> None:
        """Take a worker's message; see `pool.WorkerPool.run`."""
        kind = message['kind']
        if kind == 'died':
            ending = 'it is tried again' if message['attempts_left'] else 'skipped'
            self.say(f'{source.path}: {message["reason"]}; {ending}')
            self._advance(source, 0.0 if message['attempts_left'] else 1.0)
            if not message['attempts_left']:
                self._done += 1
            self._show()
            return
        self._count(source, message['kept'], message['rejected'])
        if kind == 'done':
            self._done += 1
            self._advance(source, 1.0)
            if message['status'] != 'ok':
                self.say(f'{source.path}: {message["status"]}: {message["reason"]}')
        else:
            self._advance(source, message['share'])
        self._show()

    def say(self, line: str) -> None:
        """Write a line above the bar."""
        if not self._bar.disable:
            # Names of files may hold bytes that are no text.
            self._bar.write(line.encode('utf-8', 'replace').decode(), file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _advance(self, source: Source, share: float) -> None:
        # Whole bytes: sums of fractions would end a little beside the total.
        reached = int(share * self._sizes[source.name])
        self._bar.update(reached - self._reached.get(source.name, 0))
        self._reached[source.name] = reached

    def _count(self, source: Source, kept: int, left_out: int) -> None:
        # Running sums: adding up all videos at each message would cost more the more there are.
        before = self._pairs.get(source.name, (0, 0))
        self._kept += kept - before[0]
        self._left_out += left_out - before[1]
        self._pairs[source.name] = (kept, left_out)

    def _show(self) -> None:
        self._bar.set_postfix_str(
            f'{self._done}/{len(self._sizes)} videos, {self._kept} pairs, {self._left_out} left out',
            refresh=False,
        )
