"""Watershed guidance candidates: cmp_mm's fast path against the plain SciPy path, on one core, in one run.

The plain path is `cmp_mm.guidance.watershed_candidates_reference`: Sobel by convolution, exact Euclidean
distance transform, maximum filter. Both get the same flows and must give the same points. They are timed
twice: each by itself, call after call, and in turns, which leaves the fast path a cold cache, as other work
between two samples does. Times are processor time of one thread: other load on the machine shows less.

    python tools/benchmarks/bench_guidance.py                    # generated scenes
    python tools/benchmarks/bench_guidance.py --flow a.flo b.flo --json guidance.json
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

import cv2
import numpy as np
import torch

from cmp_mm.flow import read_flow
from cmp_mm.guidance import (
    sample_points,
    watershed_candidates,
    watershed_candidates_batched,
    watershed_candidates_reference,
)

GROWTH = [(192, 192), (384, 384), (416, 555), (768, 768), (1080, 1920)]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--flow', nargs='+', help='flow files to use, each as it is; default: scenes')
    parser.add_argument('--scenes', type=int, default=6, help='generated scenes per size')
    parser.add_argument('--rounds', type=int, default=10, help='rounds; the two paths alternate')
    parser.add_argument('--size', type=int, nargs=2, default=(384, 384), metavar=('H', 'W'))
    parser.add_argument('--kernel-size', type=int, nargs='+', default=(15, 41, 81), help='windows K')
    parser.add_argument(
        '--batch', type=int, nargs='+', default=(1, 12, 48), help='images of the batched path'
    )
    parser.add_argument('--gpu-only', action='store_true', help='the batched path on the GPU alone')
    parser.add_argument('--json', help='write the figures to this file too')
    return parser.parse_args()


def scene(height: int, width: int, seed: int) -> np.ndarray:
    """(H, W, 2) flow: a camera that turns and approaches, moving things, an estimate's roughness."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:height, :width].astype(np.float32)
    centre = rng.uniform(0.3, 0.7, 2) * (height, width)
    zoom, turn = rng.normal(0, 0.01, 2)
    down, right = rows - centre[0], cols - centre[1]
    flow = np.stack([zoom * right - turn * down, zoom * down + turn * right], axis=2)
    for _ in range(rng.integers(2, 7)):
        centre, radii = rng.uniform(0.1, 0.9, 2) * (height, width), rng.uniform(0.05, 0.2, 2) * height
        inside = ((rows - centre[0]) / radii[0]) ** 2 + ((cols - centre[1]) / radii[1]) ** 2 < 1
        flow[inside] += rng.normal(0, 8, 2)
    rough = cv2.GaussianBlur(rng.standard_normal((height, width, 2)), (0, 0), 3) * 0.5
    return cv2.GaussianBlur((flow + rough).astype(np.float32), (0, 0), 1.2)


def spent(run: Callable[[], object]) -> float:
    """Milliseconds of this thread's processor time."""
    start = time.thread_time()
    run()
    return (time.thread_time() - start) * 1e3


def compare(flows: list[np.ndarray], kernel_size: int, rounds: int) -> dict:
    """Both paths over all flows: each by itself, then in turns."""
    paths = dict(plain=watershed_candidates_reference, fast=watershed_candidates)
    points = {name: [path(flow, kernel_size) for flow in flows] for name, path in paths.items()}
    figures = dict(
        kernel_size=kernel_size,
        height=flows[0].shape[0],
        width=flows[0].shape[1],
        points=statistics.mean(len(found) for found in points['fast']),
        same_points=all(map(np.array_equal, points['plain'], points['fast'])),
    )
    times: dict[str, list[float]] = {f'{name}{way}': [] for way in ('', '_in_turns') for name in paths}
    for _ in range(rounds):
        for flow in flows:
            for name, path in paths.items():
                # Of three in a row the last two have the caches to themselves.
                three = [spent(lambda path=path, flow=flow: path(flow, kernel_size)) for _ in range(3)]
                times[f'{name}_in_turns'].append(three[0])
                times[name] += three[1:]
    for name, values in times.items():
        figures[f'{name}_ms'] = statistics.median(values)
        figures[f'{name}_best_ms'] = min(values)
    figures['ratio'] = figures['plain_ms'] / figures['fast_ms']
    figures['ratio_in_turns'] = figures['plain_in_turns_ms'] / figures['fast_in_turns_ms']
    figures['ratio_of_best'] = figures['plain_best_ms'] / figures['fast_best_ms']
    return figures


def time_batched(flows: list[np.ndarray], batch: int, kernel_size: int, device: str) -> dict:
    """Wall time of the batched path, and of the plain path on as many images, whose points it must find."""
    chosen = [flows[i % len(flows)] for i in range(batch)]
    stacked = torch.from_numpy(np.stack(chosen).transpose(0, 3, 1, 2).copy()).to(device)
    times = []
    for _ in range(3 if device == 'cpu' else 20):
        start = time.perf_counter()
        points = watershed_candidates_batched(stacked, kernel_size)
        if device == 'cuda':
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    plain_times = []
    for _ in range(3):
        start = time.perf_counter()
        plain = [watershed_candidates_reference(flow, kernel_size) for flow in flows[:batch]]
        plain_times.append((time.perf_counter() - start) * 1e3 / len(plain) * batch)
    plain_ms = statistics.median(plain_times)
    same = all(np.array_equal(one.cpu().numpy(), plain[i % len(flows)]) for i, one in enumerate(points))
    return dict(
        device=device,
        gpu=torch.cuda.get_device_name() if device == 'cuda' else None,
        batch=batch,
        kernel_size=kernel_size,
        ms=statistics.median(times[1:]),
        plain_ms=plain_ms,
        same_points=same,
    )


def table(rows: list[dict]) -> str:
    lines = [
        f'{"size":>12}{"K":>5}{"points":>8}{"plain ms":>10}{"fast ms":>9}{"ratio":>8}'
        f'{"in turns":>10}{"of best":>9}  same'
    ]
    for row in rows:
        size = f'{row["height"]} x {row["width"]}'
        lines.append(
            f'{size:>12}{row["kernel_size"]:5}{row["points"]:8.1f}{row["plain_ms"]:10.2f}{row["fast_ms"]:9.2f}'
            f'{row["ratio"]:7.1f}x{row["ratio_in_turns"]:9.1f}x{row["ratio_of_best"]:8.1f}x'
            f'  {"yes" if row["same_points"] else "NO"}'
        )
    return '\n'.join(lines)


def main() -> None:
    args = parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if args.gpu_only and not torch.cuda.is_available():
        sys.exit('bench_guidance: error: --gpu-only, but torch sees no GPU')
    if args.flow:
        try:
            flows = [read_flow(path)[0] for path in args.flow]
        except (OSError, ValueError) as error:
            sys.exit(f'bench_guidance: error: {error}')
        sets = list(
            {flow.shape: [other for other in flows if other.shape == flow.shape] for flow in flows}.values()
        )
    else:
        sets = [[scene(*args.size, seed) for seed in range(args.scenes)]]
    figures = dict(candidates=[], growth=[], sample_points_ms=None)
    if not args.gpu_only:
        figures.update(on_the_cpu(sets, args))
    batched = []
    middle = sorted(args.batch)[len(args.batch) // 2]
    if not args.gpu_only:
        batched.append(time_batched(sets[0], middle, 41, 'cpu'))
    if torch.cuda.is_available():
        batched += [time_batched(sets[0], batch, 41, 'cuda') for batch in args.batch]
        batched += [time_batched(sets[0], middle, k, 'cuda') for k in args.kernel_size if k != 41]
    print('\nbatched, wall time, beside the plain path image by image')
    for row in batched:
        verdict = 'same points' if row['same_points'] else 'OTHER POINTS'
        print(
            f'{row["device"]:>8}{row["batch"]:5} images, K{row["kernel_size"]:3}{row["ms"]:10.2f} ms, plain '
            f'{row["plain_ms"]:.1f} ms  {verdict}'
        )
    if not torch.cuda.is_available():
        print('    cuda  not run')
    if args.json:
        figures.update(
            batched=batched,
            processor=platform.processor() or platform.machine(),
            numpy=np.__version__,
            opencv=cv2.__version__,
        )
        Path(args.json).write_text(json.dumps(figures, indent=2) + '\n')


def on_the_cpu(sets: list[list[np.ndarray]], args: argparse.Namespace) -> dict:
    """Candidates, their growth with the image, and a whole draw of points; printed on the way."""
    rows = [compare(some, k, args.rounds) for some in sets for k in args.kernel_size]
    growth = []
    if not args.flow:
        growth = [
            compare([scene(*size, seed) for seed in range(3)], 41, max(2, args.rounds // 3))
            for size in GROWTH
        ]
    print(f'candidates, processor ms an image, median of {args.rounds} rounds')
    print(table(rows))
    if growth:
        print('\nwith the size of the image (sides of 800 or more are subsampled)')
        print(table(growth))
    strategies = [dict(type='watershed', kernel_size=41), dict(type='grid', stride=80)]
    rng = np.random.default_rng(0)
    whole = [
        spent(lambda flow=flow: sample_points(flow, strategies, 150, rng))
        for flow in sets[0]
        for _ in range(args.rounds)
    ]
    print(f'\nsample_points, watershed K 41 and grid 80, thinned and cut: {statistics.median(whole):.2f} ms')
    return dict(candidates=rows, growth=growth, sample_points_ms=statistics.median(whole))


if __name__ == '__main__':
    main()
