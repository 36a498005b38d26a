"""IoU of masks from few points, beside a disc around the point and GrabCut from the point.

    python tools/benchmarks/bench_annotation.py --images data/clips --masks data/clips_masks \\
        --config CONFIG --checkpoint weights.pth --json annotation.json

Both folders hold a folder of frames per clip, masks under the same names as png: 0 / 255, or class indices.
One frame per clip is taken, in it every object of at least --min-area of the image. Points are set as an
annotator would: the first in the middle of the object, each next one in the middle of the largest error of
that method's own mask, positive where something is missing, static where something is too much.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from cmp_mm.apis import CMPInferencer, PointAnnotator, read_image
from cmp_mm.apis.annotation import SCORES
from cmp_mm.apis.command_line import add_network_options, build_inferencer, one_line_errors
from cmp_mm.apis.errors import InputError
from cmp_mm.engine import write_durably

Segmenter = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Radius of the disc, as a share of the image's short side.
DISC_RADII = (0.1, 0.2, 0.3)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=Path, required=True, help='folder of clips')
    parser.add_argument('--masks', type=Path, required=True, help='folder of their masks')
    parser.add_argument('--points', type=int, default=5, help='points to set (default: %(default)s)')
    parser.add_argument('--velocity', type=float, default=10.0, help='of the pull (default: %(default)g)')
    parser.add_argument(
        '--thresholds', type=float, nargs='+', default=[0.5], help='one row each (default: 0.5)'
    )
    parser.add_argument('--zoom-factor', type=float, default=0.0, help='(default: no zoom)')
    parser.add_argument(
        '--crop-size',
        type=int,
        default=384,
        help='the longer side to which a zoomed square is enlarged, that of training (default: %(default)s)',
    )
    parser.add_argument(
        '--min-area', type=float, default=0.005, help='share of the image (default: %(default)g)'
    )
    parser.add_argument('--json', type=Path, help='write the figures to this file too')
    add_network_options(parser)
    args = parser.parse_args(argv)
    if args.points < 1:
        parser.error(f'--points is {args.points}; expected at least 1')
    return args


def load_objects(images: Path, masks: Path, min_area: float) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, (H, W, 3) RGB, (H, W) bool) of every object in the middle masked frame of each clip."""
    found = []
    for folder in sorted(path for path in masks.iterdir() if path.is_dir()):
        pairs = [
            (frame, mask)
            for mask in sorted(folder.glob('*.png'))
            for frame in (images / folder.name).glob(f'{mask.stem}.*')
        ]
        if not pairs:
            continue
        frame, mask = pairs[len(pairs) // 2]
        image, labels = read_image(frame), read_labels(mask)
        for label in np.unique(labels[labels > 0]):
            truth = labels == label
            if truth.mean() >= min_area:
                found.append((f'{folder.name}:{label}', image, truth))
    if not found:
        raise InputError(f'no masks of frames in {images} were found in {masks}')
    return found


def read_labels(path: Path) -> np.ndarray:
    """(H, W) integers: the indices in a png, with or without a palette, or a number for each colour."""
    try:
        with Image.open(path) as opened:
            labels = np.array(opened)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f'mask {path} cannot be read: {error}') from None
    if labels.ndim == 2:
        return labels.astype(np.int64)
    planes = labels[..., : 3 if labels.shape[2] > 2 else 1].astype(np.int64)  # without how opaque they are
    return planes @ (256 ** np.arange(planes.shape[2]))


def middle(region: np.ndarray) -> tuple[int, int]:
    """(x, y) of the pixel farthest from the border of a region."""
    padded = np.pad(region.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    return int(x), int(y)


def next_point(mask: np.ndarray, truth: np.ndarray) -> tuple[tuple[int, int], bool] | None:
    """Where the annotator clicks next, and whether it is a positive point; None if nothing is wrong."""
    best = None
    for wrong, positive in ((truth & ~mask, True), (mask & ~truth, False)):
        count, parts, stats, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8), connectivity=4)
        if count > 1:
            largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
            area = int(stats[largest, cv2.CC_STAT_AREA])
            if best is None or area > best[0]:
                best = area, parts == largest, positive
    return None if best is None else (middle(best[1]), best[2])


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union."""
    return float((mask & truth).sum() / (mask | truth).sum())


def disc(image: np.ndarray, share: float) -> Segmenter:
    """What is within a radius of a positive point, and nearer to it than to a static one."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]

    def distance(points: np.ndarray) -> np.ndarray:
        each = [np.hypot(x - px, y - py) for px, py in points]
        return np.min(each, axis=0) if each else np.full(x.shape, np.inf)

    def segment(positive: np.ndarray, static: np.ndarray) -> np.ndarray:
        near = distance(positive)
        return (near < share * min(x.shape)) & (near < distance(static))

    return segment


def grab_cut(image: np.ndarray) -> Segmenter:
    """GrabCut (Rother et al., 2004): the points' surroundings are certain, a larger disc is likely object."""
    inner, outer = disc(image, 0.03), disc(image, 0.35)
    bgr = np.ascontiguousarray(image[..., ::-1])

    def segment(positive: np.ndarray, static: np.ndarray) -> np.ndarray:
        trimap = np.where(outer(positive, static[:0]), cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
        trimap[inner(static, static[:0])] = cv2.GC_BGD
        trimap[inner(positive, static[:0])] = cv2.GC_FGD
        if (trimap == cv2.GC_BGD).sum() < 10:  # GrabCut needs some background to model
            trimap[[0, -1]] = cv2.GC_BGD
        cv2.setRNGSeed(0)
        cv2.grabCut(bgr, trimap, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
        return (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)

    return segment


def segmenters(
    image: np.ndarray, inferencer: CMPInferencer, args: argparse.Namespace
) -> dict[str, Segmenter]:
    """All methods, for one image."""
    made: dict[str, Segmenter] = {}
    for method in SCORES:
        for threshold in args.thresholds:
            annotator = PointAnnotator(
                inferencer,
                image,
                velocity=args.velocity,
                threshold=threshold,
                method=method,
                zoom_factor=args.zoom_factor,
                crop_size=args.crop_size,
                color_order='rgb',
            )
            made[f'CMP, {method}, threshold {threshold:g}'] = lambda positive, static, annotator=annotator: (
                annotator.mask(positive, static).mask
            )
    for share in DISC_RADII:
        made[f'disc, {share:.0%} of the short side'] = disc(image, share)
    made['GrabCut'] = grab_cut(image)
    return made


def click(segment: Segmenter, truth: np.ndarray, points: int) -> list[float]:
    """IoU after 1, 2, ... points."""
    positive, static, scores = [middle(truth)], [], []
    for _ in range(points):
        mask = segment(np.array(positive), np.array(static).reshape(-1, 2))
        scores.append(iou(mask, truth))
        found = next_point(mask, truth)
        if found is None:
            break
        (static, positive)[found[1]].append(found[0])
    return scores + [scores[-1]] * (points - len(scores))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse_args(argv)
    objects = load_objects(args.images, args.masks, args.min_area)
    inferencer = build_inferencer(args)
    results: dict[str, list[list[float]]] = {}
    for _, image, truth in tqdm(objects, unit='object', desc='annotating', dynamic_ncols=True):
        for name, segment in segmenters(image, inferencer, args).items():
            results.setdefault(name, []).append(click(segment, truth, args.points))
    columns = ' | '.join(f'{n} point{"s" * (n > 1)}' for n in range(1, args.points + 1))
    print(f'mean IoU of {len(objects)} objects, one frame of each clip\n\n| method | {columns} |')
    print('|---' * (args.points + 1) + '|')
    for name, scores in results.items():
        print(f'| {name} | {" | ".join(f"{value:.3f}" for value in np.mean(scores, axis=0))} |')
    if args.json:
        figures = dict(objects=[name for name, *_ in objects], iou=results)
        write_durably(args.json, json.dumps(figures, indent=1).encode())


if __name__ == '__main__':
    with one_line_errors('bench_annotation.py'):
        main()
