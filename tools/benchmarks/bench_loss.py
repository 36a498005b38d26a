"""The loss, logits upsampled to full size and cross-entropy per axis, forward and backward, in one run.

cmp_mm's paths ('blocked' on the CPU, 'triton' on a GPU) against the plain one, `impl='reference'`:
torch's interpolate and cross_entropy on the full-size logits. The paths alternate. The plain path spends
much of its time on fresh memory, as it does in training; nothing is done for or against that.

Peak memory is what the step needs beyond its inputs, the gradient of the logits included. On the CPU each
path is measured in a process of its own.

    python tools/benchmarks/bench_loss.py                        # the two sizes of the paper's training
    python tools/benchmarks/bench_loss.py --threads 1 2 --json loss.json
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from cmp_mm.ops import upsample_cross_entropy

# name, batch, bins, nodes (height = width), full size
SIZES = [('AlexNet, stride 32', 12, 99, 12, 384), ('ResNet-50, stride 8', 10, 99, 40, 320)]
GROWTH = [
    ('size', 2, 99, 6, 192),
    ('size', 2, 99, 12, 384),
    ('size', 2, 99, 24, 768),
    ('stride', 2, 99, 96, 384),
    ('stride', 2, 99, 48, 384),
    ('bins', 2, 21, 12, 384),
    ('bins', 2, 199, 12, 384),
    ('batch', 8, 99, 12, 384),
]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--threads', type=int, nargs='+', default=(1, 2), help='CPU threads to try')
    parser.add_argument(
        '--memory-threads', type=int, nargs='*', default=(16,), help='threads whose memory is measured too'
    )
    parser.add_argument('--rounds', type=int, default=3, help='rounds; the paths alternate')
    parser.add_argument('--no-growth', action='store_true', help='leave out other sizes, bins, batches')
    parser.add_argument('--json', help='write the figures to this file too')
    parser.add_argument('--memory-of', nargs=5, help=argparse.SUPPRESS)
    return parser.parse_args()


def problem(batch: int, bins: int, nodes: int, size: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, 2 * bins, nodes, nodes, generator=generator) * 3
    target = torch.randint(0, bins, (batch, 2, size, size), generator=generator)
    return logits.to(device).requires_grad_(), target.to(device)


def step(logits: torch.Tensor, target: torch.Tensor, impl: str) -> tuple[float, float]:
    """One forward and backward pass: wall seconds, and processor seconds of the whole process."""
    logits.grad = None
    wall, processor = time.perf_counter(), time.process_time()
    upsample_cross_entropy(logits, target, logits.shape[1] // 2, impl=impl).backward()
    if logits.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - processor


def compare(row: tuple, impl: str, device: str, rounds: int) -> dict:
    """Both paths, alternating; the gradients' largest difference relative to their scale."""
    name, batch, bins, nodes, size = row
    logits, target = problem(batch, bins, nodes, size, device)
    grads, times = {}, {'reference': [], impl: []}
    for i in range(rounds + 1):
        for path in times:
            seconds = step(logits, target, path)
            grads[path] = logits.grad
            if i:  # the first round starts threads, compiles kernels, fills caches
                times[path].append(seconds)
    difference = (grads['reference'] - grads[impl]).abs().max() / grads['reference'].abs().max()
    figures = dict(name=name, batch=batch, bins=bins, nodes=nodes, size=size, impl=impl, device=device)
    for path, values in times.items():
        key = 'plain' if path == 'reference' else 'fast'
        wall, processor = zip(*values, strict=True)
        figures[f'{key}_s'], figures[f'{key}_best_s'] = statistics.median(wall), min(wall)
        figures[f'{key}_processor_s'] = statistics.median(processor)
    figures['ratio'] = figures['plain_s'] / figures['fast_s']
    figures['ratio_of_best'] = figures['plain_best_s'] / figures['fast_best_s']
    figures['gradient_difference'] = difference.item()
    return figures


def status(field: str) -> int:
    """A field of this process's memory status in bytes."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f'no {field} in /proc/self/status: peak memory can only be read on Linux')


def extra_memory_here(impl: str, row: tuple[int, ...]) -> int:
    """Bytes one step needs beyond its inputs, in this fresh process."""
    logits, target = problem(*row, 'cpu')
    small = problem(1, 3, 4, 32, 'cpu')
    step(*small, impl)  # what a first call loads is not this step's
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
    before = status('VmRSS')
    step(logits, target, impl)
    return status('VmHWM') - before


def extra_memory(impl: str, row: tuple, device: str, threads: int) -> int:
    numbers = row[1:]
    if device == 'cpu':
        command = [sys.executable, __file__, '--threads', str(threads), '--memory-of', impl]
        command += map(str, numbers)
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    logits, target = problem(*numbers, device)
    step(logits, target, impl)
    logits.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(logits, target, impl)
    return torch.cuda.max_memory_allocated() - before


def lines(rows: list[dict]) -> Iterator[str]:
    yield (
        f'{"":22}{"logits":>20}{"to":>6}{"threads":>9}{"plain s":>10}{"fast s":>9}{"ratio":>8}{"of best":>9}'
        f'{"  grad diff":>12}'
    )
    for row in rows:
        shape = f'{row["batch"]}x{2 * row["bins"]}x{row["nodes"]}x{row["nodes"]}'
        yield (
            f'{row["name"]:22}{shape:>20}{row["size"]:6}{row.get("threads", ""):>9}{row["plain_s"]:10.3f}'
            f'{row["fast_s"]:9.3f}{row["ratio"]:7.1f}x{row["ratio_of_best"]:8.1f}x'
            f'{row["gradient_difference"]:12.0e}'
        )


def main() -> None:
    args = parse_args()
    if args.memory_of:
        impl, *numbers = args.memory_of
        torch.set_num_threads(args.threads[0])
        print(extra_memory_here(impl, tuple(map(int, numbers))))
        return
    impl = 'blocked' if args.device == 'cpu' else 'triton'
    threads = args.threads if args.device == 'cpu' else (torch.get_num_threads(),)
    speed = []
    for count in threads:
        torch.set_num_threads(count)
        speed += [compare(row, impl, args.device, args.rounds) | dict(threads=count) for row in SIZES]
    print(f'forward and backward, {impl} on {args.device}, median of {args.rounds} rounds')
    print('\n'.join(lines(speed)))

    memory = []
    print('\npeak memory beyond the inputs')
    for count in (*threads, *(args.memory_threads if args.device == 'cpu' else ())):
        for row in SIZES:
            plain, fast = (extra_memory(path, row, args.device, count) for path in ('reference', impl))
            figures = dict(name=row[0], plain_bytes=plain, fast_bytes=fast, ratio=plain / fast, threads=count)
            memory.append(figures)
            sizes = f'{plain / 2**20:10.0f} MiB{fast / 2**20:9.1f} MiB   1/{plain / fast:.0f}'
            print(f'{row[0]:22}{count:4} threads{sizes}')

    growth = []
    if not args.no_growth:
        torch.set_num_threads(threads[0])
        growth = [compare(row, impl, args.device, args.rounds) | dict(threads=threads[0]) for row in GROWTH]
        print('\nwith the size of the image, the stride, the bins, the batch')
        print('\n'.join(lines(growth)))
    if args.device == 'cpu':
        print('\ntriton on cuda: not run')
    if args.json:
        figures = dict(
            speed=speed,
            memory=memory,
            growth=growth,
            processor=platform.processor() or platform.machine(),
            device=torch.cuda.get_device_name() if args.device == 'cuda' else 'cpu',
            torch=torch.__version__,
            numpy=np.__version__,
        )
        Path(args.json).write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
    main()
