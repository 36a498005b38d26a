"""Draw flow files as pictures, all at one fixed colour scale, with its legend.

    python tools/visualization/flow2rgb.py flow.flo --out flow.png
    python tools/visualization/flow2rgb.py flow_folder other.npz --out pictures --max-radius 30

Reads .flo, KITTI png, npz and jpg pairs; folders are searched with all below them. Unknown pixels are
black, vectors longer than the radius are darkened.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from cmp_mm.flow import FLOW_FORMATS, add_legend, find_flow_files, flow_to_rgb, read_flow, write_whole


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', nargs='+', metavar='SRC', help='flow files (one of a jpg pair) and folders')
    parser.add_argument('--out', required=True, help='folder of the pictures; for one file also NAME.png')
    parser.add_argument(
        '--max-radius', type=float, default=20.0, help='pixels of full saturation (default: %(default)g)'
    )
    parser.add_argument('--from', dest='source_format', choices=FLOW_FORMATS, help='take this format only')
    parser.add_argument(
        '--bound', type=float, default=50.0, help='pixels, of jpg pairs (default: %(default)g)'
    )
    parser.add_argument('--no-legend', action='store_true', help='the flow alone, in its own size')
    args = parser.parse_args(argv)
    for option in ('max_radius', 'bound'):
        if not 0 < getattr(args, option) < float('inf'):
            parser.error(f'--{option.replace("_", "-")} is {getattr(args, option)}; expected pixels above 0')
    return args


def draw(flow: np.ndarray, valid: np.ndarray | None, max_radius: float, legend: bool) -> bytes:
    """Return the picture of one flow field as png bytes."""
    picture = flow_to_rgb(flow, max_radius, valid)
    if legend:
        picture = add_legend(picture, max_radius)
    done, png = cv2.imencode('.png', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f'picture of shape {picture.shape} cannot be written as png')
    return png.tobytes()


def main(argv: Sequence[str] | None = None) -> int:
    """Draw; return 0, 1 where a file failed, 2 where nothing could be begun or no more be written."""
    args = parse_args(argv)
    try:
        files = find_flow_files(args.src, args.source_format)
    except (OSError, ValueError) as error:
        return complain(error, 2)
    if not files:
        return complain(f'no flow files in {", ".join(args.src)}', 2)
    out = Path(args.out)
    if len(files) == 1 and out.suffix.lower() == '.png':
        targets = [out]
    else:
        targets = [out / f'{file.name}.png' for file in files]
    sources = {path.resolve() for file in files for path in file.paths}
    if len(set(targets)) < len(targets) or any(target.resolve() in sources for target in targets):
        return complain('two pictures would have one name, or the name of a source; draw them one by one', 2)

    fastest, beyond, failed = 0.0, 0, 0
    for file, target in zip(tqdm(files, unit='flow', disable=len(files) == 1), targets, strict=True):
        try:
            flow, valid = read_flow(file.source, file.fmt, args.bound)
            picture = draw(flow, valid, args.max_radius, not args.no_legend)
        except (OSError, ValueError) as error:
            failed += 1
            tqdm.write(f'flow2rgb: {error}', file=sys.stderr)
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole([(target, picture)])
        except OSError as error:
            return complain(f'cannot write {target}: {error.strerror or error}', 2)
        radius = float(np.hypot(flow[..., 0], flow[..., 1]).max())
        fastest, beyond = max(fastest, radius), beyond + (radius > args.max_radius)
    print(
        f'{len(files) - failed} drawn to {args.out}, {failed} failed; fastest vector {fastest:.4g} px, '
        f'{beyond} with vectors beyond the radius of {args.max_radius:g} px'
    )
    return 1 if failed else 0


def complain(message: object, code: int) -> int:
    """Print one line and return the exit code."""
    print(f'flow2rgb: {message}', file=sys.stderr)
    return code


if __name__ == '__main__':
    sys.exit(main())
