"""Spread a few arrows over an image: dense flow, as pictures and as files.

    python tools/demo/propagate_demo.py image.jpg --arrow 120,80,15,0 --arrow 30,40,0,0 \\
        --config cmp_resnet50-skip_8xb8-42k_vip-mpii-384x384 --checkpoint weights.pth --out result

An arrow is x,y,u,v in pixels: where it begins and how far it points to the right and down; 0,0 holds a
point still. Writes panel.png (image, flow, legend), overlay.png, flow.flo and flow.npz. With --trajectories
(json: N lists of T positions [x, y]) there is a folder for each of the T guidance sets.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cmp_mm.apis import flow_to_array, overlay_flow, read_image, trajectories_to_arrows
from cmp_mm.apis.command_line import (
    add_network_options,
    build_inferencer,
    glue_negative_numbers,
    numbers,
    one_line_errors,
    png,
    read_json,
    save,
)
from cmp_mm.apis.errors import InputError
from cmp_mm.flow import add_legend, encode_flow
from cmp_mm.visualization import draw_arrows, draw_panel


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('image', help='image file')
    parser.add_argument(
        '--arrow',
        type=numbers(4, 'x,y,u,v'),
        action='append',
        default=[],
        metavar='X,Y,U,V',
        help='an arrow, in pixels; may be given many times',
    )
    parser.add_argument('--trajectories', metavar='JSON', help='file of trajectories, instead of arrows')
    parser.add_argument('--out', type=Path, required=True, help='folder of the results')
    parser.add_argument(
        '--max-radius', type=float, default=20.0, help='pixels of full colour (default: %(default)g)'
    )
    add_network_options(parser)
    args = parser.parse_args(glue_negative_numbers(argv))
    if not 0 < args.max_radius < float('inf'):
        parser.error(f'--max-radius is {args.max_radius}; expected pixels above 0')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Propagate."""
    args = parse_args(argv)
    if bool(args.arrow) == (args.trajectories is not None):
        raise InputError('no arrows were given, or trajectories as well; expected --arrow or --trajectories')
    image = read_image(args.image)
    if args.arrow:
        sets = [args.arrow]
    else:
        sets = trajectories_to_arrows(read_json(args.trajectories, 'trajectories'))
    inferencer = build_inferencer(args)
    encoded = inferencer.encode(image, color_order='rgb')
    flows = flow_to_array(inferencer.propagate(encoded, sets, progress=len(sets) > 1))
    digits = len(str(len(sets) - 1))
    pairs = zip(tqdm(flows, desc='writing', unit='set', disable=len(sets) == 1), sets, strict=True)
    for t, (flow, arrows) in enumerate(pairs):
        rows = np.asarray(arrows, np.float64)
        points, vectors = rows[:, 1::-1], rows[:, 2:]
        over = draw_arrows(overlay_flow(image, flow, args.max_radius), points, vectors)
        files = {
            'panel.png': png(draw_panel(image, points, vectors, dict(flow=flow), args.max_radius)),
            'overlay.png': png(add_legend(over, args.max_radius)),
            'flow.flo': encode_flow(flow, 'flo'),
            'flow.npz': encode_flow(flow, 'npz'),
        }
        save(args.out if len(sets) == 1 else args.out / f'{t:0{digits}d}', files)
    speed = np.hypot(flows[..., 0], flows[..., 1])
    print(f'mean motion {speed.mean():.3g} px, fastest {speed.max():.3g} px')


if __name__ == '__main__':
    with one_line_errors('propagate_demo.py'):
        main()
