"""Convert flow files from one format to another.

    python tools/dataset_converters/convert_flow.py flow.flo --out converted --to kitti
    python tools/dataset_converters/convert_flow.py flow_folder --out converted --to jpg --bound 50

Reads and writes .flo, KITTI png, compressed npz and the jpg pair (NAME_x.jpg, NAME_y.jpg). Folders are
searched with all below them, and their tree is kept. Files that are there already and not older than their
source are left alone, so a run that was stopped continues when it is started again.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cmp_mm.flow import (
    FLOW_FORMATS,
    FlowFile,
    FlowFormatError,
    encode_flow,
    find_flow_files,
    read_flow,
    write_whole,
)
from cmp_mm.flow.formats.kitti import MAX_FLOW, MIN_FLOW

ENDINGS = {'flo': ('.flo',), 'kitti': ('.png',), 'npz': ('.npz',), 'jpg': ('_x.jpg', '_y.jpg')}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', nargs='+', metavar='SRC', help='flow files (one of a jpg pair) and folders')
    parser.add_argument('--out', required=True, help='folder of the converted files')
    parser.add_argument('--to', required=True, choices=FLOW_FORMATS, help='format to write')
    parser.add_argument('--from', dest='source_format', choices=FLOW_FORMATS, help='take this format only')
    parser.add_argument(
        '--bound', type=float, default=50.0, help='pixels, of jpg pairs written (default: %(default)g)'
    )
    parser.add_argument(
        '--from-bound', type=float, help='pixels, of jpg pairs read (default: the same as --bound)'
    )
    parser.add_argument(
        '--fill-unknown',
        action='store_true',
        help='write unknown vectors as zero motion; without it a jpg pair, which cannot mark them, fails',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='convert again what is there already; for another bound or --fill-unknown',
    )
    args = parser.parse_args(argv)
    if args.from_bound is None:
        args.from_bound = args.bound
    for option in ('bound', 'from_bound'):
        if not 0 < getattr(args, option) < float('inf'):
            parser.error(f'--{option.replace("_", "-")} is {getattr(args, option)}; expected pixels above 0')
    return args


def target_of(file: FlowFile, out: Path, fmt: str) -> list[Path]:
    """Return the files a flow becomes."""
    return [out / f'{file.name}{ending}' for ending in ENDINGS[fmt]]


def plan(files: list[FlowFile], out: Path, fmt: str) -> list[list[Path]]:
    """Return the files to write for each flow; refuse names that meet each other or a source.

    Raises:
        ValueError: two results would have one name, or a result the name of a source.
    """
    sources = {path.resolve(): path for file in files for path in file.paths}
    taken: dict[Path, Path] = {}
    targets = []
    for file in files:
        target = target_of(file, out, fmt)
        for path in target:
            if path.resolve() in sources:
                raise ValueError(
                    f'{path} would overwrite a source; choose another --out, or name what to read by --from'
                )
            if path in taken:
                raise ValueError(
                    f'{taken[path]} and {file.paths[0]} would both become {path}; '
                    'convert them to separate folders, or name one format by --from'
                )
            taken[path] = file.paths[0]
        targets.append(target)
    return targets


def without_results(files: list[FlowFile], out: Path, fmt: str) -> list[FlowFile]:
    """Leave out of the sources what an earlier run into the same folder made of the others."""
    made = {
        path.resolve()
        for file in files
        if file.fmt != fmt
        for target in [target_of(file, out, fmt)]
        if is_done(file, target)
        for path in target
    }
    return [file for file in files if not {path.resolve() for path in file.paths} <= made]


def is_done(file: FlowFile, target: list[Path]) -> bool:
    """Tell whether the result is there, whole, and not older than its source."""
    try:
        newest = max(path.stat().st_mtime_ns for path in file.paths)
        return all(path.stat().st_mtime_ns >= newest for path in target)
    except OSError:
        return False


def is_clipped(flow: np.ndarray, fmt: str, bound: float) -> bool:
    """Tell whether the format cannot hold the longest components."""
    low, high = {'jpg': (-bound, bound), 'kitti': (MIN_FLOW, MAX_FLOW)}.get(fmt, (-np.inf, np.inf))
    return bool(flow.min() < low or flow.max() > high)


def convert(file: FlowFile, target: list[Path], args: argparse.Namespace) -> bool:
    """Convert one flow; return whether vectors were clipped.

    Raises:
        FlowFormatError: the source is broken or cannot be stored in the format.
        OSError: the source cannot be read.
        UnwritableError: the result cannot be written.
    """
    flow, valid = read_flow(file.source, file.fmt, args.from_bound)
    if args.fill_unknown:
        valid = None  # unknown vectors are read as zero
    try:
        data = encode_flow(flow, args.to, args.bound, valid)
    except FlowFormatError as error:
        raise FlowFormatError(f'{file.paths[0]}: {error}') from None
    try:
        target[0].parent.mkdir(parents=True, exist_ok=True)
        write_whole(list(zip(target, data if args.to == 'jpg' else (data,), strict=True)))
    except OSError as error:
        raise UnwritableError(f'cannot write {target[0]}: {error.strerror or error}') from None
    return is_clipped(flow, args.to, args.bound)


class UnwritableError(Exception):
    """The folder of results takes no more files: going on would only repeat it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; return 0, 1 where a file failed, 2 where nothing could be begun or no more be written."""
    args = parse_args(argv)
    try:
        files = find_flow_files(args.src, args.source_format)
        if not args.overwrite:
            files = without_results(files, Path(args.out), args.to)
        targets = plan(files, Path(args.out), args.to)
    except (OSError, ValueError) as error:
        return complain(error, 2)
    if not files:
        return complain(f'no flow files in {", ".join(args.src)}', 2)

    counts: Counter[str] = Counter()
    for file, target in zip(tqdm(files, unit='flow', disable=len(files) == 1), targets, strict=True):
        if not args.overwrite and is_done(file, target):
            counts['kept'] += 1
            continue
        try:
            clipped = convert(file, target, args)
        except UnwritableError as error:
            return complain(error, 2)
        except (OSError, ValueError) as error:
            counts['failed'] += 1
            tqdm.write(f'convert_flow: {error}', file=sys.stderr)
            continue
        counts['converted'] += 1
        counts['clipped'] += clipped
    print(
        f'{counts["converted"]} converted to {args.out}, {counts["kept"]} there already, '
        f'{counts["failed"]} failed'
    )
    if counts['clipped']:
        print(f'{counts["clipped"]} of them have vectors beyond what {args.to} holds, which were clipped')
    return 1 if counts['failed'] else 0


def complain(message: object, code: int) -> int:
    """Print one line and return the exit code."""
    print(f'convert_flow: {message}', file=sys.stderr)
    return code


if __name__ == '__main__':
    sys.exit(main())
