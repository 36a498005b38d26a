"""Resuming late: the time to the first new iteration, beside a fresh start, with the quick config.

Three commands of ``tools/train.py`` do one iteration each: from the beginning, from a checkpoint of
iteration 40,000 (its log histories as long as a run of that length makes them), and the plain way from a
checkpoint of a few iterations (mmengine's ``InfiniteSampler``, for which every batch is read again), whose
cost grows with the iteration and is scaled to 40,000.

    python tools/benchmarks/bench_resume.py                             # rendered puppets
    python tools/benchmarks/bench_resume.py --data-root data/pairs --json resume.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/cmp/cmp_resnet18-plain_quick-1xb16-800_pairs-96x96.py'
# It cannot be set to a sample: the loop reads what was seen before, as mmengine's does.
PLAIN = ('train_dataloader.sampler.type=InfiniteSampler',)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data-root', help='pairs to train on; default: puppets rendered here')
    parser.add_argument('--iteration', type=int, default=40_000, help='iteration to resume at')
    parser.add_argument('--plain-iteration', type=int, default=100, help='the same for the plain way')
    parser.add_argument('--rounds', type=int, default=3, help='rounds; the commands alternate')
    parser.add_argument('--json', help='write the figures to this file too')
    return parser.parse_args()


def train(data_root: str, work: Path, start: int, *options: str) -> float:
    """Train one iteration from iteration ``start`` on; returns the seconds the command took."""
    command = [
        sys.executable,
        str(ROOT / 'tools/train.py'),
        str(CONFIG),
        '--work-dir',
        str(work),
        '--no-validate',
    ]
    command += ['--data-root', data_root]
    if start:
        command += ['--resume', str(work.parent / f'start_{start}.pth')]
    began = time.perf_counter()
    result = subprocess.run(
        [*command, '--cfg-options', f'train_cfg.max_iters={start + 1}', *options],
        capture_output=True,
        text=True,
    )
    if result.returncode:
        sys.exit(result.stderr)
    return time.perf_counter() - began


def age(path: Path, iteration: int) -> None:
    """Write ``start_ITERATION.pth``: the checkpoint of a first iteration, as if it were a later one."""
    checkpoint = torch.load(path, weights_only=True)
    checkpoint['meta']['iter'] = iteration
    hub = checkpoint['message_hub']
    hub['runtime_info']['train_draws'] *= iteration  # the data goes on there too
    for history in hub['log_scalars'].values():
        for key in ('log_history', 'count_history'):
            history[key] = history[key][:1].repeat(iteration)
    torch.save(checkpoint, path.parents[1] / f'start_{iteration}.pth')


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder, data_root = Path(folder), args.data_root
        if data_root is None:
            data_root = str(folder / 'pairs')
            render = [
                sys.executable,
                str(ROOT / 'tools/dataset_converters/render_puppets.py'),
                '--clips',
                '10',
            ]
            subprocess.run([*render, '--out', data_root], check=True, capture_output=True)
        train(data_root, folder / 'first', 0)
        for iteration in (args.iteration, args.plain_iteration):
            age(folder / 'first' / 'iter_1.pth', iteration)
        times: dict[str, list[float]] = {'fresh': [], 'resumed': [], 'plain': []}
        for number in range(args.rounds):
            times['fresh'].append(train(data_root, folder / f'fresh{number}', 0))
            times['resumed'].append(train(data_root, folder / 'resumed', args.iteration))
            times['plain'].append(train(data_root, folder / 'plain', args.plain_iteration, *PLAIN))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    reread = (seconds['plain'] - seconds['fresh']) / args.plain_iteration * args.iteration
    figures = dict(
        iteration=args.iteration,
        fresh_s=seconds['fresh'],
        resumed_s=seconds['resumed'],
        more_s=seconds['resumed'] - seconds['fresh'],
        plain_more_s_scaled=reread,
        plain_iteration=args.plain_iteration,
        plain_s=seconds['plain'],
        rounds=args.rounds,
        torch=torch.__version__,
    )
    rows = (
        ('fresh start', seconds['fresh'], None),
        (f'resumed at {args.iteration}', seconds['resumed'], figures['more_s']),
        (f'plain way at {args.plain_iteration}', seconds['plain'], None),
        (f'plain way, scaled to {args.iteration}', seconds['fresh'] + reread, reread),
    )
    print(f'{"":36}{"seconds":>10}{"more":>10}   to the end of one iteration, median of {args.rounds}')
    for name, spent, more in rows:
        print(f'{name:36}{spent:10.1f}' + ('' if more is None else f'{more:+10.1f}'))
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
    main()
