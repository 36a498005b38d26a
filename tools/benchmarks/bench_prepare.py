"""Preparing pairs with DIS against raw OpenCV on the same video, in one run.

Raw OpenCV is the plain loop, on one core: decode with ``cv2.VideoCapture``, resize, grey, DIS. It stores
nothing. Preparing also measures and filters the pairs, encodes frames and flow and writes three files a
pair. The two ways alternate; the ratios are medians over rounds. Wall time tells what one worker takes where
a core is free beside it, processor time what it takes where every core has its own worker.

    python tools/benchmarks/bench_prepare.py                            # generated 1280 x 720 video
    python tools/benchmarks/bench_prepare.py --video walk.mp4 --workers 1 2 4 8 --json prepare.json
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

import av
import cv2
import numpy as np

from cmp_mm.datasets.preparation import PairSettings, prepare
from cmp_mm.datasets.preparation.frames import stored_size
from cmp_mm.datasets.preparation.sources import find_sources
from cmp_mm.datasets.preparation.store import Store
from cmp_mm.datasets.preparation.video import prepare_video
from cmp_mm.flow import build_flow_estimator


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--video', type=Path, help='default: one generated here')
    parser.add_argument('--frames', type=int, default=60, help='of the generated video')
    parser.add_argument('--short-side', type=int, default=416)
    parser.add_argument('--rounds', type=int, default=5, help='the ways alternate')
    parser.add_argument(
        '--workers', type=int, nargs='*', default=[1, 2], help='numbers of workers to compare'
    )
    parser.add_argument('--json', type=Path, help='write the figures to this file too')
    return parser.parse_args()


def generate_video(path: Path, number: int) -> Path:
    """Write 1280 x 720 H.264: a textured scene that pans and zooms, three textured discs moving over it."""
    rng = np.random.default_rng(0)
    texture = sum(
        cv2.resize(rng.uniform(0, 1, (cells, 2 * cells, 3)), (2560, 1440), interpolation=cv2.INTER_CUBIC)
        * weight
        for cells, weight in ((6, 110), (24, 70), (96, 40), (360, 25))
    )
    texture = np.clip(texture, 0, 255).astype(np.uint8)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=25, options={'crf': '20'})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, 'yuv420p'
        for index in range(number):
            zoom = 1.05 + 0.002 * index
            ground = np.float32([[zoom, 0, -400 - 5 * index], [0, zoom, -300 - 2 * index]])
            frame = cv2.warpAffine(texture, ground, (1280, 720), borderMode=cv2.BORDER_REFLECT)
            for disc in range(3):
                shift = np.float32([[1, 0, -900 + 300 * disc + 9 * index], [0, 1, -200 - 90 * disc]])
                layer = cv2.warpAffine(texture[::-1], shift, (1280, 720), borderMode=cv2.BORDER_REFLECT)
                mask = np.zeros((720, 1280), np.uint8)
                cv2.circle(mask, (150 + 350 * disc + 9 * index, 200 + 130 * disc), 90 + 20 * disc, 255, -1)
                frame[mask > 0] = layer[mask > 0]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24')))
        container.mux(stream.encode())
    return path


def raw_opencv(video: Path, short_side: int, interpolation: int) -> int:
    """Decode, resize and estimate; return the number of pairs."""
    capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    before, pairs = None, 0
    while True:
        found, frame = capture.read()
        if not found:
            return pairs
        height, width = stored_size(*frame.shape[:2], short_side)
        grey = cv2.cvtColor(
            cv2.resize(frame, (width, height), interpolation=interpolation), cv2.COLOR_BGR2GRAY
        )
        if before is not None:
            estimator.calc(before, grey, None)
            pairs += 1
        before = grey


def dis_alone(greys: list[np.ndarray]) -> int:
    """Estimate between frames that are in memory already."""
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for first, second in zip(greys, greys[1:], strict=False):
        estimator.calc(first, second, None)
    return len(greys) - 1


def prepare_one(video: Path, short_side: int, folder: Path) -> int:
    """Do what a worker does for one video, in this process."""
    shutil.rmtree(folder, ignore_errors=True)
    store = Store(folder, PairSettings(short_side=short_side))
    store.claim()
    (source,) = find_sources([video])
    record = prepare_video(source, store, [build_flow_estimator('dis')], lambda *_: None)
    return record['frames'] - 1


def read_greys(video: Path, short_side: int) -> list[np.ndarray]:
    capture, greys = cv2.VideoCapture(str(video)), []
    while True:
        found, frame = capture.read()
        if not found:
            return greys
        height, width = stored_size(*frame.shape[:2], short_side)
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        greys.append(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))


def timed(call: Callable[[], int]) -> tuple[float, float, int]:
    """Return wall and processor seconds, and the pairs."""
    wall, processor = time.perf_counter(), time.process_time()
    pairs = call()
    return time.perf_counter() - wall, time.process_time() - processor, pairs


def compare(ways: dict[str, Callable[[], int]], rounds: int, base: str) -> list[dict]:
    """Run the ways in turn; the base way before and after each other one would cost too much, so rounds."""
    seconds: dict[str, list[tuple[float, float, int]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, call in ways.items():
            found = timed(call)
            if number:  # the first round warms caches up
                seconds[name].append(found)
    rows = []
    for name, measured in seconds.items():
        ratios = [
            [one[kind] / reference[kind] for one, reference in zip(measured, seconds[base], strict=True)]
            for kind in (0, 1)
        ]
        pairs = measured[0][2]
        rows.append(
            {
                'way': name,
                'pairs': pairs,
                'wall_ms_per_pair': statistics.median(one[0] for one in measured) / pairs * 1e3,
                'processor_ms_per_pair': statistics.median(one[1] for one in measured) / pairs * 1e3,
                'wall_ratio': statistics.median(ratios[0]),
                'processor_ratio': statistics.median(ratios[1]),
            }
        )
    return rows


def children_seconds() -> float:
    """Processor seconds of the processes started here and ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def scale(video: Path, short_side: int, workers: list[int], folder: Path) -> list[dict]:
    """Prepare copies of the video with several numbers of workers; their start and the merge are included.

    Pairs a second need as many idle cores as workers. What needs none is the processor time: scaling is
    bounded by what a pair costs more among several workers, and by what the main process does alone.
    """
    import cmp_mm.datasets.preparation.contact_sheet  # noqa: F401  # torch with it, which is nobody's share

    copies = folder / 'copies'
    copies.mkdir()
    for number in range(2 * max(workers)):
        shutil.copy2(video, copies / f'{number}{video.suffix}')
    rows = []
    for number in workers:
        out = folder / f'out{number}'
        started, alone, children = time.perf_counter(), time.process_time(), children_seconds()
        summary = prepare([copies], out, workers=number, short_side=short_side, progress=False)
        seconds = time.perf_counter() - started
        alone, children = time.process_time() - alone, children_seconds() - children
        pairs = summary['pairs']['total'] + sum(summary['rejected'].values())
        shutil.rmtree(out)
        rows.append(
            {
                'workers': number,
                'pairs': pairs,
                'pairs_per_second': pairs / seconds,
                'processor_ms_per_pair': (alone + children) / pairs * 1e3,
                'main_process_share': alone / (alone + children),
            }
        )
    for row in rows:
        row['times_the_first'] = row['pairs_per_second'] / rows[0]['pairs_per_second']
    return rows


def main() -> None:
    args = parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = args.video or generate_video(folder / 'video.mp4', args.frames)
        greys = read_greys(video, args.short_side)
        ways = {
            'raw OpenCV': lambda: raw_opencv(video, args.short_side, cv2.INTER_AREA),
            'raw OpenCV, linear resize': lambda: raw_opencv(video, args.short_side, cv2.INTER_LINEAR),
            'DIS alone, frames in memory': lambda: dis_alone(greys),
            'prepare, one worker': lambda: prepare_one(video, args.short_side, folder / 'out'),
        }
        rows = compare(ways, args.rounds, 'raw OpenCV')
        scaling = scale(video, args.short_side, args.workers, folder) if args.workers else []
    result = {
        'frames': len(greys),
        'size': list(greys[0].shape),
        'cores': os.cpu_count(),
        'processor': platform.processor() or platform.machine(),
        'opencv': cv2.__version__,
        'ways': rows,
        'workers': scaling,
    }
    print(f'{len(greys)} frames, stored {greys[0].shape[1]} x {greys[0].shape[0]}, {os.cpu_count()} cores')
    print(f'{"":28} {"ms a pair":>10} {"ratio":>6} {"cpu ms":>8} {"ratio":>6}')
    for row in rows:
        print(
            f'{row["way"]:28} {row["wall_ms_per_pair"]:10.2f} {row["wall_ratio"]:6.2f} '
            f'{row["processor_ms_per_pair"]:8.2f} {row["processor_ratio"]:6.2f}'
        )
    for row in scaling:
        print(
            f'{row["workers"]:3} workers: {row["pairs_per_second"]:7.1f} pairs/s, '
            f'{row["times_the_first"]:.2f} times the first; processor ms a pair '
            f'{row["processor_ms_per_pair"]:.1f}, {row["main_process_share"]:.1%} of it in the main process'
        )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
