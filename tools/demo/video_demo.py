"""Animate an image by a few arrows: a gif or mp4 file.

    python tools/demo/video_demo.py image.jpg --arrow 120,80,40,0 --arrow 30,40,0,0 --out video.mp4 \\
        --config cmp_resnet50-skip_8xb8-42k_vip-mpii-384x384 --checkpoint weights.pth

An arrow is x,y,u,v in pixels: where it begins and how far its point moves from the first frame to the last;
0,0 holds a point still. Or --trajectories (json): N lists of T positions [x, y], one for each frame.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cmp_mm.apis import animate, read_image, write_video
from cmp_mm.apis.command_line import (
    add_network_options,
    build_inferencer,
    check_file,
    check_inputs_stay,
    glue_negative_numbers,
    hint_at_size,
    numbers,
    one_line_errors,
    read_json,
)
from cmp_mm.apis.guided_video import HOLE_FILLINGS, MOTIONS
from cmp_mm.apis.video_files import check_video_path, even_size


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
        help='an arrow, in pixels over the whole video; may be given many times',
    )
    parser.add_argument('--trajectories', metavar='JSON', help='file of trajectories, instead of arrows')
    parser.add_argument('--out', type=Path, required=True, help='video to write, .gif or .mp4')
    parser.add_argument('--frames', type=int, help='frames of a video by arrows (default: 16)')
    parser.add_argument('--fps', type=float, default=10.0, help='frames per second (default: %(default)g)')
    parser.add_argument(
        '--motion',
        choices=MOTIONS,
        help='by arrows: one flow for the video, or a new one on every frame (default: straight)',
    )
    parser.add_argument(
        '--fill', choices=HOLE_FILLINGS, default='nearest', help='of holes (default: %(default)s)'
    )
    add_network_options(parser)
    # An arrow over a whole video is easily longer than the network expresses.
    parser.set_defaults(out_of_range='rescale')
    args = parser.parse_args(glue_negative_numbers(argv))
    if args.trajectories is not None and not (args.frames is None and args.motion is None):
        parser.error('--frames and --motion are of arrows; trajectories say where each frame is')
    args.frames = 16 if args.frames is None else args.frames
    args.motion = args.motion or 'straight'
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Animate."""
    args = parse_args(argv)
    check_video_path(args.out, args.fps)
    check_file(args.out)
    check_inputs_stay([args.image, args.trajectories], [args.out])
    image = read_image(args.image)
    trajectories = None if args.trajectories is None else read_json(args.trajectories, 'trajectories')
    inferencer = build_inferencer(args)
    hint_at_size(inferencer, image.shape[:2])
    frames = animate(
        inferencer,
        image,
        args.arrow if trajectories is None or args.arrow else None,
        trajectories,
        num_frames=args.frames,
        motion=args.motion,
        fill=args.fill,
        color_order='rgb',
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    total = args.frames if trajectories is None else len(trajectories[0])
    count = write_video(frames, args.out, args.fps, progress=True, total=total)
    height, width = image.shape[:2] if args.out.suffix.lower() == '.gif' else even_size(image.shape[:2])
    print(f'{count} frames of {width} x {height} pixels in {args.out}')


if __name__ == '__main__':
    with one_line_errors('video_demo.py'):
        main()
