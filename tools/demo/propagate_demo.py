"""Spread a few arrows over an image: dense flow, as pictures and as files.

    python tools/demo/propagate_demo.py image.jpg --arrow 120,80,15,0 --arrow 30,40,0,0 \\
        --config cmp_resnet50-skip_8xb8-42k_vip-mpii-384x384 --checkpoint weights.pth --out result

An arrow is x,y,u,v in pixels: where it begins and how far it points to the right and down; 0,0 holds a
point still. Writes panel.png (image, flow, legend), overlay.png, flow.flo and flow.npz. With --trajectories
(json: N lists of T positions [x, y]) there is a folder for each of the T guidance sets.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cmp_mm.apis import flow_to_array, overlay_flow, read_image, trajectories_to_arrows
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
    read_json,
    save,
)
from cmp_mm.apis.errors import InputError
from cmp_mm.flow import add_legend, encode_flow
from cmp_mm.visualization import draw_arrows, draw_panel

_FILES = ('panel.png', 'overlay.png', 'flow.flo', 'flow.npz')


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
    check_folder(args.out)
    image = read_image(args.image)
    if args.arrow:
        sets = [args.arrow]
    else:
        sets = trajectories_to_arrows(read_json(args.trajectories, 'trajectories'))
    digits = len(str(len(sets) - 1))
    folders = [args.out / f'{t:0{digits}d}' for t in range(len(sets))] if len(sets) > 1 else [args.out]
    check_inputs_stay(
        [args.image, args.trajectories], [folder / name for folder in folders for name in _FILES]
    )
    inferencer = build_inferencer(args)
    hint_at_size(inferencer, image.shape[:2])
    encoded = inferencer.encode(image, color_order='rgb')
    flows = flow_to_array(inferencer.propagate(encoded, sets, progress=len(sets) > 1))
    bar = tqdm(flows, desc='writing', unit='set', disable=len(sets) == 1)
    for flow, arrows, folder in zip(bar, sets, folders, strict=True):
        rows = np.asarray(arrows, np.float64)
        points, vectors = rows[:, 1::-1], rows[:, 2:]
        over = draw_arrows(overlay_flow(image, flow, args.max_radius), points, vectors)
        contents = (
            png(draw_panel(image, points, vectors, dict(flow=flow), args.max_radius)),
            png(add_legend(over, args.max_radius)),
            encode_flow(flow, 'flo'),
            encode_flow(flow, 'npz'),
        )
        save(folder, dict(zip(_FILES, contents, strict=True)))
    speed = np.hypot(flows[..., 0], flows[..., 1])
    told = f'mean motion {speed.mean():.3g} px, fastest {speed.max():.3g} px'
    left = share_left(flows, sets)
    print(told if left is None else f'{told}; at their points {left:.0%} of the arrows is left')
    if left is not None and left < 0.7 and args.correction == 'none':
        print('hint: the flow falls short of the arrows; --correction fade meets them', file=sys.stderr)


def share_left(flows: np.ndarray, sets: Sequence) -> float | None:
    """The slope of the flow over the arrows at their points; None where all arrows are zero."""
    given, found = [], []
    for flow, arrows in zip(flows, sets, strict=True):
        rows = np.asarray(arrows, np.float32)
        x, y = rows[:, :2].round().astype(int).T
        given.append(rows[:, 2:])
        found.append(flow[y, x])
    given, found = np.concatenate(given).astype(np.float64), np.concatenate(found)
    energy = (given**2).sum()
    return float((given * found).sum() / energy) if energy > 0 else None


if __name__ == '__main__':
    with one_line_errors('propagate_demo.py'):
        main()
