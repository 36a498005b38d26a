"""Render a procedural clip set: articulated figures with exact flow, part masks and key-points."""

import argparse
import contextlib
import re
import signal
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from cmp_mm.datasets.preparation.errors import EXIT_DONE, EXIT_INCOMPLETE, EXIT_INTERRUPTED, PrepareError
from cmp_mm.datasets.puppets.render_set import render_set
from cmp_mm.datasets.puppets.writer import ClipSettings
from cmp_mm.flow import FLOW_FORMATS


def size(text: str) -> tuple[int, int]:
    """Read ``160x192`` as height and width."""
    match = re.fullmatch(r'(\d{1,5})x(\d{1,5})', text)
    if match is None:
        raise argparse.ArgumentTypeError(f'{text!r}; expected height x width, such as 160x192')
    return int(match[1]), int(match[2])


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--out', type=Path, required=True, help='folder of the set; continued if begun before'
    )
    parser.add_argument('--clips', type=int, default=60, help='number of clips (default: 60)')
    parser.add_argument('--frames', type=int, default=12, help='frames in a clip (default: 12)')
    parser.add_argument(
        '--size', type=size, default=(160, 192), metavar='HxW', help='height x width, px (default: 160x192)'
    )
    parser.add_argument('--seed', type=int, default=0, help='another seed, another set (default: 0)')
    parser.add_argument('--workers', type=int, default=2, help='processes (default: 2)')
    parser.add_argument(
        '--flow-format',
        choices=sorted(FLOW_FORMATS),
        default='kitti',
        help='kitti: png, to 1/128 px (default); flo, npz: exact; jpg: to .2 px, as the reference reads it',
    )
    parser.add_argument(
        '--flow-bound', type=float, default=50.0, help='range of the jpg pair, px (default: 50)'
    )
    parser.add_argument(
        '--val-share', type=float, default=0.2, help='share of the clips to validate on (default: 0.2)'
    )
    return parser.parse_args()


def main() -> int:
    """Render the set; the exit codes are those of video2pairs."""
    args = parse_args()
    again = 'start the same command again to continue'
    try:
        settings = ClipSettings(args.seed, args.frames, *args.size, args.flow_format, args.flow_bound)
        with contextlib.ExitStack() as stack:
            bars: list[tqdm] = []

            def progress(clips: int) -> None:
                if bars:
                    bars[0].update(clips)
                    return
                # The first call counts what an earlier run left, which must not enter the ETA.
                bar = tqdm(initial=clips, total=args.clips, unit='clip', desc='rendering', dynamic_ncols=True)
                bars.append(stack.enter_context(bar))

            summary = render_set(args.out, settings, args.clips, args.val_share, args.workers, progress)
    except PrepareError as error:
        print(f'error: {error}', file=sys.stderr)
        return error.exit_code
    except BrokenProcessPool:
        print(
            f'error: a worker died, perhaps for want of memory; {again}, with fewer --workers',
            file=sys.stderr,
        )
        return EXIT_INCOMPLETE
    except KeyboardInterrupt:
        print(f'stopped; {again}', file=sys.stderr)
        return EXIT_INTERRUPTED
    for split in ('train', 'val'):
        pairs, clips = summary['pairs'][split], summary['videos'][split]
        print(f'{split}: {pairs} pairs of {clips} clips, {args.out / split}.json')
    if summary['clipped_vectors']:
        print(
            f'{summary["clipped_vectors"]} vectors exceed --flow-bound {args.flow_bound:g} and were clipped'
        )
    mean = summary['motion']['mean_px']['mean']
    print(f'mean flow {mean} px; look at {args.out / "contact_sheet.png"}')
    return EXIT_DONE


if __name__ == '__main__':
    # A scheduler's SIGTERM ends the run as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
