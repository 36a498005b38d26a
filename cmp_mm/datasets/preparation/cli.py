"""The command line of the preparation."""

import argparse
import ast
import signal
import sys
from collections.abc import Sequence
from typing import Any

from cmp_mm.flow import FLOW_FORMATS

from . import errors
from .errors import PrepareError
from .prepare import STALL_SECONDS, prepare
from .settings import MergeSettings, PairSettings
from .sharding import read_shard
from .summary import describe

# Options of estimators that name a file or folder.
PATH_OPTIONS = ('root', 'weights')

EPILOG = f"""
Started again with the same arguments it continues, whatever stopped it. The share of each process comes from
torchrun (RANK, WORLD_SIZE) or slurm (SLURM_PROCID, SLURM_NTASKS), or from --shard.

exit codes:
  {errors.EXIT_DONE}    all videos are prepared (or this process's share of them)
  {errors.EXIT_SKIPPED}    done, but videos were skipped or damaged, or no pair is left; see summary.json
  {errors.EXIT_USAGE}    wrong arguments or sources, other settings than the folder's, or an estimator that
       cannot be used: a missing extra, a device that is not there
  {errors.EXIT_OUTPUT}    the output folder cannot be written: full, read-only, vanished
  {errors.EXIT_INCOMPLETE}    --merge-only, but videos are still to be prepared
  {errors.EXIT_INTERRUPTED}  interrupted (Ctrl-C, SIGTERM)
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; defaults are those of `PairSettings` and `MergeSettings`."""
    pairs, merge = PairSettings(), MergeSettings()
    parser = argparse.ArgumentParser(
        prog='video2pairs.py',
        description='Turn videos into pairs of frames with optical flow, ready for training.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('src', nargs='*', metavar='SRC', help='video files, folders of videos, folders of ordered frames')
    add('--out', required=True, metavar='DIR', help='output folder')
    group = parser.add_argument_group('frames')
    add = group.add_argument
    add('--fps', type=float, help='frames per second to sample; default: see --stride')
    add('--stride', type=int, default=pairs.stride, help='sample every STRIDE-th frame (%(default)s)')
    add('--folder-fps', type=float, help='frames per second that folders of frames were taken at, for --fps')
    add(
        '--short-side',
        type=int,
        default=pairs.short_side,
        help='scale longer short sides down to this; shorter ones stay as they are (%(default)s)',
    )
    add('--quality', type=int, default=pairs.quality, help='JPEG quality of the frames (%(default)s)')
    group = parser.add_argument_group('flow')
    add = group.add_argument
    add(
        '--estimator',
        default=pairs.estimator,
        help='dis, raft, ptlflow:MODEL or precomputed (%(default)s)',
    )
    add(
        '--estimator-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='for instance preset=fast (dis), device=cuda:1 (raft), root=DIR (precomputed)',
    )
    add('--flow-format', choices=FLOW_FORMATS, default=pairs.flow_format, help='(%(default)s)')
    add(
        '--flow-bound',
        type=float,
        default=pairs.flow_bound,
        help='pixels; the jpg pair clips beyond it, the others only count (%(default)g)',
    )
    group = parser.add_argument_group('pairs')
    add = group.add_argument
    add(
        '--cut-threshold',
        type=float,
        default=pairs.cut_threshold,
        help='leave out a pair whose second frame, warped back, differs from the first by more than this '
        'share of their contrast; 0 keeps all (%(default)g)',
    )
    add(
        '--min-motion',
        type=float,
        default=pairs.min_motion,
        help='leave out a pair where fewer than 1 %% of the pixels move this far; 0 keeps all (%(default)g)',
    )
    group = parser.add_argument_group('annotation files')
    add = group.add_argument
    add('--val-share', type=float, default=merge.val_share, help='of the groups (%(default)g)')
    add(
        '--group-by',
        metavar='REGEX',
        help="videos with the same match in their path below SRC go to one side; '[^_]+' takes the part "
        'before the first _ (default: each video by itself)',
    )
    add(
        '--reference-lists',
        action='store_true',
        help='also write train.txt and val.txt as the reference reads',
    )
    group = parser.add_argument_group('running')
    add = group.add_argument
    add('--workers', type=int, help='processor cores to use (default: all)')
    add('--shard', metavar='RANK/NUMBER', help='prepare this share of the videos, for instance 0/4')
    add('--merge-only', action='store_true', help='write the annotation files from what DIR holds')
    add(
        '--overwrite',
        action='store_true',
        help='DIR was prepared with other settings: prepare it again with these. What these settings made '
        'already stays; delete DIR to begin anew',
    )
    add(
        '--stall-seconds',
        type=float,
        default=STALL_SECONDS,
        help='a worker that finishes no pair for so long is killed (%(default)g)',
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments; None takes the process's.

    Returns:
        The exit code.
    """
    arguments = build_parser().parse_args(argv)
    options = vars(arguments)
    sources, out = options.pop('src'), options.pop('out')
    # A scheduler's SIGTERM ends the run as Ctrl-C does.
    before = _set_sigterm(signal.default_int_handler)
    try:
        rank, number = read_shard(options['shard'])
        options['estimator_options'] = _parse_options(options['estimator_options'])
        summary = prepare(sources, out, **options)
    except PrepareError as error:
        continues = isinstance(error, errors.OutputError)
        _say(f'error: {error}' + ('; run the same command again to continue' if continues else ''))
        return error.exit_code
    except KeyboardInterrupt:
        _say(f'interrupted; run the same command again to continue in {out}')
        return errors.EXIT_INTERRUPTED
    finally:
        _set_sigterm(before)
    if not summary['complete']:
        print(f'rank {rank} of {number} is done; {summary["missing"]} videos of the others are not ready yet')
        print('the last one writes the annotation files; if it did not, add --merge-only')
        return errors.EXIT_DONE
    print(describe(summary, out).encode('utf-8', 'replace').decode())
    if summary['other_videos']:
        why = 'not among SRC' if sources else 'of other settings'
        print(f'  {summary["other_videos"]} videos in {out} are {why} and were left out')
    if not summary['pairs']['total']:
        skipped = summary['videos']['skipped']
        hint = '' if skipped == summary['videos']['total'] else ', --cut-threshold and --min-motion'
        _say(f'error: no pair is left; see what was left out{hint}')
        return errors.EXIT_SKIPPED
    videos = summary['videos']
    if videos['damaged'] or videos['skipped']:
        _say(f'{videos["skipped"]} videos were skipped and {videos["damaged"]} are damaged')
        return errors.EXIT_SKIPPED
    return errors.EXIT_DONE


def _parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Parse KEY=VALUE; a value that reads as a Python number, bool or None is one, else it is text.

    What names a file or folder stays text, whatever it reads as.
    """
    options = {}
    for text in texts:
        key, equals, value = text.partition('=')
        if not equals or not key:
            raise PrepareError(f'estimator option {text!r} has no value; expected KEY=VALUE')
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            parsed = value
        plain = isinstance(parsed, (int, float, bool, type(None))) and key not in PATH_OPTIONS
        options[key] = parsed if plain else value
    return options


def _set_sigterm(handler: Any) -> Any:
    try:
        return signal.signal(signal.SIGTERM, handler)
    except ValueError:
        # Not the main thread, which alone gets signals.
        return None


def _say(line: str) -> None:
    print(line.encode('utf-8', 'replace').decode(), file=sys.stderr)
