"""T guidance sets for one image: encoded once by `CMPInferencer`, against encoded again for each set.

    python tools/benchmarks/bench_guidance_sets.py                       # ResNet-50 skip-layer, 384 x 384
    python tools/benchmarks/bench_guidance_sets.py --sets 1 4 16 --json sets.json
    python tools/benchmarks/bench_guidance_sets.py --cfg-options codec.num_bins=199 decoder.out_channels=398

The weights are random: time does not depend on them. What is left, the decoder for each set, bounds the gain.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from tqdm import tqdm

from cmp_mm.apis import CMPInferencer
from cmp_mm.apis.command_line import one_line_errors
from cmp_mm.apis.loading import model_config
from cmp_mm.engine import write_durably
from cmp_mm.engine.run_config import ConfigOptions
from cmp_mm.registry import MODELS


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--config', default='cmp_resnet50_skip', help='name or path (default: %(default)s)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        default={},
        metavar='KEY=VALUE',
        help="change settings of the config's model",
    )
    parser.add_argument('--sets', type=int, nargs='+', default=[16], help='T (default: 16)')
    parser.add_argument('--size', type=int, default=384, help='of the image, pixels (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=8, help='sets at a time (default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=3, help='the two ways alternate (default: %(default)s)')
    parser.add_argument('--device', help='(default: the first CUDA device, else the CPU)')
    parser.add_argument('--json', type=Path, help='write the figures to this file too')
    return parser.parse_args(argv)


def seconds(call: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Wall-clock time of a call, the accelerator's work in it."""
    start = time.perf_counter()
    call()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse_args(argv)
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    model = Config(model_config(args.config))
    model.merge_from_dict(args.cfg_options)
    network = MODELS.build({'_scope_': 'cmp_mm', **model}).to(device)
    inferencer = CMPInferencer(network)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (args.size, args.size, 3), dtype=np.uint8)
    rows = []
    for count in args.sets:
        places = rng.integers(0, args.size, (count, 8, 2))
        sets = np.concatenate([places, rng.uniform(-20, 20, (count, 8, 2))], axis=2)

        def once(sets: np.ndarray = sets) -> torch.Tensor:
            encoded = inferencer.encode(image, 'rgb')
            return inferencer.propagate(encoded, sets, batch_size=args.batch_size)

        def again(sets: np.ndarray = sets) -> torch.Tensor:
            return torch.cat([inferencer.propagate(image, one, color_order='rgb') for one in sets])

        difference = float((once() - again()).abs().max())
        times = {'once': [], 'again': []}
        for _ in tqdm(range(args.rounds), desc=f'T = {count}', unit='round'):
            for name, call in (('again', again), ('once', once)):
                times[name].append(seconds(call, inferencer.device))
        slow, fast = (statistics.median(times[name]) for name in ('again', 'once'))
        rows.append(dict(T=count, again_s=slow, once_s=fast, ratio=slow / fast, max_difference_px=difference))
    changes = ''.join(f' {key}={value}' for key, value in args.cfg_options.items())
    print(
        f'{args.config}{changes}, {args.size} x {args.size}, {inferencer.device}, torch {torch.__version__}, '
        f'{platform.machine()}, {torch.get_num_threads()} threads\n'
    )
    print(
        '| T | encoded for each set, s | encoded once, s | ratio | largest difference, px |\n'
        '|---|---|---|---|---|'
    )
    for row in rows:
        print(
            f'| {row["T"]} | {row["again_s"]:.3f} | {row["once_s"]:.3f} | {row["ratio"]:.2f} | '
            f'{row["max_difference_px"]:.1e} |'
        )
    if args.json:
        figures = dict(
            config=args.config,
            cfg_options=args.cfg_options,
            size=args.size,
            device=str(inferencer.device),
            rows=rows,
        )
        write_durably(args.json, json.dumps(figures, indent=1).encode())


if __name__ == '__main__':
    with one_line_errors('bench_guidance_sets.py'):
        main()
