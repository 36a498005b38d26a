"""Loading one training sample: cmp_mm's pipeline against the plain way, on one core, in one run.

The plain way is written out below: decode both frames and both flow pictures with Pillow, resize both
frames bicubically, sample guidance with SciPy, normalise to float32 and draw the guidance map in the worker.
cmp_mm decodes the first frame only, hands uint8 over, and leaves normalisation and map to the device.

Times are processor time of one thread, the files being in the page cache: other load hardly shows.

    python tools/benchmarks/bench_loader.py                      # generated 640 x 480 pairs
    python tools/benchmarks/bench_loader.py --ann-file data/pairs/train.json --json loader.json
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

import cv2
import numpy as np
import torch
from PIL import Image

from cmp_mm.datasets import ImageFlowDataset
from cmp_mm.flow import write_flow
from cmp_mm.guidance import drop_close_points, grid_points, watershed_candidates_reference

MEAN = np.array([123.675, 116.28, 103.53], dtype=np.float32)
STD = np.array([58.395, 57.12, 57.375], dtype=np.float32)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--ann-file', help='annotation of jpg pairs; default: pairs generated here')
    parser.add_argument('--samples', type=int, default=24, help='pairs to load in each round')
    parser.add_argument('--rounds', type=int, default=5, help='rounds; the two ways alternate')
    parser.add_argument('--short-side', type=int, default=416)
    parser.add_argument('--crop', type=int, default=384)
    parser.add_argument('--kernel-size', type=int, default=41, help='watershed K')
    parser.add_argument('--stride', type=int, default=80, help='of the guidance grid, pixels')
    parser.add_argument('--max-points', type=int, default=150, help='most guidance points')
    parser.add_argument('--json', help='write the figures to this file too')
    return parser.parse_args()


def generate_pairs(folder: Path, number: int) -> Path:
    """Write 640 x 480 pairs: textures with detail at all scales; four things moving over a moving ground."""
    rng = np.random.default_rng(0)
    entries = []
    rows, columns = np.mgrid[:480, :640].astype(np.float32)
    for index in range(number):
        frames = []
        for _ in range(2):
            image = np.zeros((480, 640, 3), dtype=np.float32)
            for octave in range(1, 8):
                noise = rng.standard_normal((480 >> octave, 640 >> octave, 3)).astype(np.float32)
                image += cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC) * 3 * octave
            frames.append(np.clip(image + 128, 0, 255).astype(np.uint8))
        flow = np.stack([columns * 0.01, rows * 0.01], axis=2) + rng.uniform(-3, 3, 2).astype(np.float32)
        for _ in range(4):
            centre, radii = rng.uniform((60, 60), (420, 580)), rng.uniform(30, 120, 2)
            inside = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 < 1
            flow[inside] = rng.uniform(-20, 20, 2)
        entry = dict(img_path=f'{index}_0.jpg', img2_path=f'{index}_1.jpg', video=str(index))
        entry['flow_path'] = [f'{index}_x.jpg', f'{index}_y.jpg']
        for frame, key in zip(frames, ('img_path', 'img2_path'), strict=True):
            cv2.imwrite(str(folder / entry[key]), frame, [cv2.IMWRITE_JPEG_QUALITY, 90])
        write_flow(flow, [folder / name for name in entry['flow_path']])
        entries.append(entry)
    ann_file = folder / 'train.json'
    ann_file.write_text(json.dumps(dict(metainfo=dict(flow_format='jpg'), data_list=entries)))
    return ann_file


def plain_sample(info: dict, args: argparse.Namespace, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """The plain way, step by step; see the module's description."""
    images = [Image.open(info[key]).convert('RGB') for key in ('img_path', 'img2_path')]
    bound = info['flow_bound']
    axes = [
        np.array(Image.open(path)).astype(np.float32) / 255 * 2 * bound - bound for path in info['flow_path']
    ]
    flow = np.stack(axes, axis=2)

    width, height = images[0].size
    ratio = args.short_side / min(width, height)
    size = (round(width * ratio), round(height * ratio))
    images = [image.resize(size, Image.BICUBIC) for image in images]
    flow = cv2.resize(flow, size, interpolation=cv2.INTER_LINEAR) * np.float32(ratio)

    left, top = rng.integers(size[0] - args.crop + 1), rng.integers(size[1] - args.crop + 1)
    images = [image.crop((left, top, left + args.crop, top + args.crop)) for image in images]
    flow = flow[top : top + args.crop, left : left + args.crop]
    tensors = [
        torch.from_numpy(((np.asarray(image, dtype=np.float32) - MEAN) / STD).transpose(2, 0, 1).copy())
        for image in images
    ]

    points = watershed_candidates_reference(flow, args.kernel_size)
    points = drop_close_points(points, args.kernel_size, rng)
    points = np.concatenate([points, grid_points(args.crop, args.crop, args.stride)])
    points = rng.permutation(points)[: args.max_points]
    sparse, mask = np.zeros_like(flow), np.zeros_like(flow)
    sparse[points[:, 0], points[:, 1]] = flow[points[:, 0], points[:, 1]]
    mask[points[:, 0], points[:, 1]] = 1
    return (*tensors, *(torch.from_numpy(part.transpose(2, 0, 1).copy()) for part in (flow, sparse, mask)))


def build_dataset(ann_file: str | Path, args: argparse.Namespace) -> ImageFlowDataset:
    strategies = [
        dict(type='watershed', kernel_size=args.kernel_size),
        dict(type='grid', stride=args.stride),
    ]
    return ImageFlowDataset(
        ann_file=ann_file,
        pipeline=[
            dict(type='LoadImage'),
            dict(type='LoadFlow'),
            dict(type='FlowResize', short_side=args.short_side),
            dict(type='FlowRandomCrop', size=(args.crop, args.crop)),
            dict(type='SampleGuidance', strategies=strategies, max_points=args.max_points),
            dict(type='PackFlowInputs'),
        ],
    )


def time_steps(dataset: ImageFlowDataset, number: int) -> dict[str, float]:
    """Processor milliseconds a sample spends in each transform, best of three."""
    best: dict[str, float] = {}
    for index in range(number):
        for _ in range(3):
            data = dataset.get_data_info(index)
            for step in dataset.pipeline.transforms:
                start = time.process_time()
                data = step(data)
                spent = (time.process_time() - start) * 1e3
                key = f'{index}/{type(step).__name__}'
                best[key] = min(best.get(key, spent), spent)
    names = [type(step).__name__ for step in dataset.pipeline.transforms]
    return {name: statistics.mean(best[f'{i}/{name}'] for i in range(number)) for name in names}


def time_round(load: Callable[[int], object], number: int) -> float:
    """Processor milliseconds a sample, over one round."""
    start = time.process_time()
    for index in range(number):
        load(index)
    return (time.process_time() - start) * 1e3 / number


def main() -> None:
    args = parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dataset = build_dataset(args.ann_file or generate_pairs(Path(folder), args.samples), args)
        number = min(args.samples, len(dataset))
        rng = np.random.default_rng(0)
        ways = {
            'plain': lambda index: plain_sample(dataset.get_data_info(index), args, rng),
            'cmp_mm': lambda index: dataset[(index, index)],
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds + 1):  # the first round fills the file cache and is left out
            for name, load in ways.items():
                times[name].append(time_round(load, number))
        steps = time_steps(dataset, number)
    best = {name: min(values[1:]) for name, values in times.items()}
    middle = {name: statistics.median(values[1:]) for name, values in times.items()}
    figures = dict(
        plain_ms=middle['plain'],
        cmp_mm_ms=middle['cmp_mm'],
        ratio=middle['plain'] / middle['cmp_mm'],
        plain_best_ms=best['plain'],
        cmp_mm_best_ms=best['cmp_mm'],
        ratio_of_best=best['plain'] / best['cmp_mm'],
        steps_ms=steps,
        samples=number,
        rounds=args.rounds,
        crop=args.crop,
        kernel_size=args.kernel_size,
        processor=platform.processor() or platform.machine(),
        opencv=cv2.__version__,
    )
    print(f'{"":18}{"median":>10}{"best":>10}   processor ms a sample, {args.rounds} rounds of {number}')
    for name in ways:
        print(f'{name:18}{middle[name]:10.2f}{best[name]:10.2f}')
    print(f'{"ratio":18}{figures["ratio"]:9.1f}x{figures["ratio_of_best"]:9.1f}x')
    print('\nwhere cmp_mm spends it, ms')
    for name, spent in steps.items():
        print(f'  {name:16}{spent:10.2f}')
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
    main()
