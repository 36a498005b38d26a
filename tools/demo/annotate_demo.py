"""Mask an object from a few points: pulled points on it, held points beside it.

    python tools/demo/annotate_demo.py image.jpg --positive 120,80 --positive 130,95 --static 30,40 \\
        --config cmp_resnet50-skip_8xb8-42k_vip-mpii-384x384 --checkpoint weights.pth --out result

Writes mask.png (0 / 255), score.png, overlay.png and panel.png, the four flows the mask is made from.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cmp_mm.apis import PointAnnotator, overlay_mask, read_image
from cmp_mm.apis.annotation import DIRECTIONS, SCORES
from cmp_mm.apis.command_line import (
    add_network_options,
    build_inferencer,
    check_folder,
    check_inputs_stay,
    glue_negative_numbers,
    hint_at_size,
    numbers,
    one_line_errors,
    png,
    save,
)
from cmp_mm.visualization import draw_arrows, draw_panel

_FILES = ('mask.png', 'score.png', 'overlay.png', 'panel.png')
_CROP_SIZE = 384


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('image', help='image file')
    for kind, where in (('positive', 'on the object'), ('static', 'beside it')):
        parser.add_argument(
            f'--{kind}',
            type=numbers(2, 'x,y'),
            action='append',
            default=[],
            metavar='X,Y',
            help=f'a point {where}, in pixels; may be given many times',
        )
    parser.add_argument('--out', type=Path, required=True, help='folder of the results')
    parser.add_argument('--method', choices=tuple(SCORES), default='reference', help='(default: %(default)s)')
    parser.add_argument(
        '--velocity', type=float, default=10.0, help='of the pull, pixels (default: %(default)g)'
    )
    parser.add_argument('--threshold', type=float, default=0.5, help='(default: %(default)g)')
    parser.add_argument(
        '--zoom-factor',
        type=float,
        default=0.0,
        help='with several positive points, look at a square of this many times their extent, where that is '
        'smaller than the image (4 is usual; 0, the default, never zooms)',
    )
    parser.add_argument(
        '--crop-size',
        type=int,
        help='with --zoom-factor: that square is enlarged to; best the size the network was trained with '
        f'(default: {_CROP_SIZE})',
    )
    add_network_options(parser, masks=True)
    args = parser.parse_args(glue_negative_numbers(argv))
    if args.crop_size is not None and args.zoom_factor == 0:
        parser.error('--crop-size is of the square that --zoom-factor looks at; give --zoom-factor too')
    args.crop_size = _CROP_SIZE if args.crop_size is None else args.crop_size
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Annotate."""
    args = parse_args(argv)
    check_folder(args.out)
    check_inputs_stay([args.image], [args.out / name for name in _FILES])
    image = read_image(args.image)
    with tqdm(total=3, desc='annotating', unit='step') as bar:
        inferencer = build_inferencer(args)
        bar.update()
        annotator = PointAnnotator(
            inferencer,
            image,
            velocity=args.velocity,
            threshold=args.threshold,
            method=args.method,
            zoom_factor=args.zoom_factor,
            crop_size=args.crop_size,
            color_order='rgb',
        )
        bar.update()
        made = annotator.mask(args.positive, args.static)
        bar.update()
    if made.box == (0, 0, *image.shape[:2]):  # else it was enlarged to --crop-size
        hint_at_size(inferencer, image.shape[:2])
    points = np.array([*args.positive, *args.static])[:, ::-1]
    still = np.zeros_like(points)
    over = draw_arrows(
        overlay_mask(image, made.mask), points[: len(args.positive)], still[: len(args.positive)]
    )
    over = draw_arrows(over, points[len(args.positive) :], still[len(args.positive) :], colour=(255, 60, 60))
    top, left, bottom, right = made.box
    flows = {
        f'pulled by {u * args.velocity:g}, {v * args.velocity:g} px of the working size': flow
        for (u, v), flow in zip(DIRECTIONS, made.flows, strict=True)
    }
    panel = draw_panel(
        image[top:bottom, left:right], np.zeros((0, 2)), np.zeros((0, 2)), flows, 2 * args.velocity
    )
    pictures = (made.mask.astype(np.uint8) * 255, np.rint(made.score * 255).astype(np.uint8), over, panel)
    save(args.out, {name: png(picture) for name, picture in zip(_FILES, pictures, strict=True)})
    print(f'{made.mask.sum()} pixels, {made.mask.mean():.1%} of the image')


if __name__ == '__main__':
    with one_line_errors('annotate_demo.py'):
        main()
