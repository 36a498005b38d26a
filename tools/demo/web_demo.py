"""Serve a page to draw arrows and see the flow, animate an image, and mask objects by points.

    python tools/demo/web_demo.py --checkpoint w.pth

The page is served to this machine only unless --host says otherwise, loads nothing from the network and reads
no files but those its visitors choose. Needs `pip install 'cmp_mm[web]'`.
"""

import argparse
import sys
from collections.abc import Sequence

from cmp_mm.apis.command_line import add_network_options, build_inferencer, one_line_errors
from cmp_mm.apis.loading import HOW_TO_GET_WEIGHTS
from cmp_mm.apis.web import serve


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen at; 0.0.0.0 lets other machines in (default: %(default)s)',
    )
    parser.add_argument('--port', type=int, help='(default: the first free one from 7860 on)')
    parser.add_argument(
        '--max-side',
        type=int,
        default=1024,
        metavar='PIXELS',
        help='shrink images whose long side is larger (default: %(default)s)',
    )
    parser.add_argument(
        '--crop-size',
        type=int,
        default=384,
        metavar='PIXELS',
        help='where masks look at a square around the points, it is enlarged to this; best the size the '
        'network was trained with (default: %(default)s)',
    )
    add_network_options(parser)
    # Clicked arrows are easily too long, and a page has no place for warnings.
    parser.set_defaults(out_of_range='rescale')
    args = parser.parse_args(argv)
    if args.port is not None and not 0 < args.port < 65536:
        parser.error(f'--port is {args.port}; expected 1 to 65535')
    if args.max_side < 1:
        parser.error(f'--max-side is {args.max_side}; expected pixels, at least 1')
    if args.crop_size < 1:
        parser.error(f'--crop-size is {args.crop_size}; expected pixels, at least 1')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Serve."""
    args = parse_args(argv)
    inferencer = None
    if args.checkpoint is None:
        print(
            f'No checkpoint is given, the page only tells how to make one: {HOW_TO_GET_WEIGHTS}.',
            file=sys.stderr,
        )
    else:
        inferencer = build_inferencer(args)
    serve(inferencer, args.host, args.port, args.max_side, args.crop_size)


if __name__ == '__main__':
    with one_line_errors('web_demo.py'):
        main()
