"""Run the benchmarks of this folder, one after the other, and put their figures into one table.

Each gets a process and a time limit of its own; what it prints goes to ``NAME.log`` and its figures to
``NAME.json`` in the output folder, then ``table.md`` is written anew, so that an interrupted run leaves what
was done. A line for a GPU is 'not run' where there is none. Exit code 1 if anything failed.

    python tools/benchmarks/run_all.py --out bench                   # everything, 7 minutes on 2 cores
    python tools/benchmarks/run_all.py --out bench --only gpu        # the GPU's lines and tests, minutes
    python tools/benchmarks/run_all.py --out bench --only loss loader
    python tools/benchmarks/run_all.py --out bench --table           # the table of figures that are there
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NOT_RUN = 'not run'
Row = tuple[str, str, str, str]  # what, plain, fast, ratio


@dataclass(frozen=True)
class Benchmark:
    """A command, and how its figures read in the table."""

    name: str
    command: list[str]  # {json} is the file for the figures
    minutes: float  # limit
    rows: Callable[[dict], Iterator[Row]]
    needs_gpu: bool = False


def guidance_rows(figures: dict) -> Iterator[Row]:
    for row in figures['candidates']:
        yield (
            f'watershed candidates, {row["height"]} x {row["width"]}, K {row["kernel_size"]}, one core',
            f'{row["plain_ms"]:.1f} ms',
            f'{row["fast_ms"]:.2f} ms',
            times(row['ratio']) + ('' if row['same_points'] else ', OTHER POINTS'),
        )
    for row in figures['batched']:
        if row['device'] == 'cuda':
            yield (
                f'batched guidance, {row["batch"]} images, K {row["kernel_size"]}, {row["gpu"]}',
                f'{row["plain_ms"]:.1f} ms',
                f'{row["ms"]:.2f} ms',
                times(row['plain_ms'] / row['ms']) + ('' if row['same_points'] else ', OTHER POINTS'),
            )


def loss_rows(figures: dict) -> Iterator[Row]:
    threads = {row.get('threads') for row in figures['speed']}
    for row in figures['speed']:
        note = f', {row["threads"]} threads' if len(threads) > 1 else ''
        yield (
            f'loss, {row["name"]}, {figures["device"]}{note}',
            f'{row["plain_s"] * 1e3:.2f} ms',
            f'{row["fast_s"] * 1e3:.2f} ms',
            f'{times(row["ratio"])}, gradient within {row["gradient_difference"]:.0e}',
        )
    for row in figures['memory']:
        note = f', {row["threads"]} threads' if len(threads) > 1 else ''
        yield (
            f'its extra memory, {row["name"]}{note}',
            f'{row["plain_bytes"] / 2**20:.0f} MiB',
            f'{row["fast_bytes"] / 2**20:.1f} MiB',
            f'1/{row["ratio"]:.0f}',
        )


def loader_rows(figures: dict) -> Iterator[Row]:
    yield (
        f'loader, one core, 640 x 480 to {figures["crop"]}',
        f'{figures["plain_ms"]:.1f} ms',
        f'{figures["cmp_mm_ms"]:.1f} ms',
        times(figures['ratio']),
    )


def step_rows(figures: dict) -> Iterator[Row]:
    plain = {}
    for row in figures['rows']:
        if row['way'] == 'plain':
            plain[row['case'], row['asked']] = row
            continue
        slow = plain[row['case'], row['asked']]
        batches = ' and '.join(str(one) for one in dict.fromkeys((slow['batch'], row['batch'])))
        peak = ' of '.join(
            f'{one["peak_bytes"] / 2**30:.1f} GiB' for one in (row, slow) if one['peak_bytes'] is not None
        )
        yield (
            f'training step, {row["case"]}, batch {batches}, {row["way"]}, {figures["device"]}',
            f'{slow["images_per_s"]:.1f} images/s',
            f'{row["images_per_s"]:.1f} images/s',
            f'{times(row["ratio"])}; from memory {times(row["ratio_from_memory"])}; waiting '
            f'{row["waiting"]:.1%}, slower than from memory {row["slower_than_from_memory"]:.1%}'
            + (f'; peak {peak}' if peak else ''),
        )


def sets_rows(figures: dict) -> Iterator[Row]:
    for row in figures['rows']:
        yield (
            f'{row["T"]} guidance sets for one image of {figures["size"]} px, {figures["device"]}',
            f'{row["again_s"]:.3f} s',
            f'{row["once_s"]:.3f} s',
            times(row['ratio']),
        )


def prepare_rows(figures: dict) -> Iterator[Row]:
    for row in figures['ways']:
        if row['way'].startswith('prepare'):
            yield (
                'preparing pairs, processor time over raw OpenCV',
                '1',
                f'{row["processor_ratio"]:.2f}',
                '',
            )
    for row in figures['workers'][1:]:
        first = figures['workers'][0]
        yield (
            f'preparing pairs with {row["workers"]} workers',
            f'{first["pairs_per_second"]:.1f} pairs/s',
            f'{row["pairs_per_second"]:.1f} pairs/s',
            times(row['times_the_first']),
        )


def resume_rows(figures: dict) -> Iterator[Row]:
    yield (
        f'resume at iteration {figures["iteration"]} over a fresh start',
        f'{figures["plain_more_s_scaled"] / 60:+.0f} min (scaled)',
        f'{figures["more_s"]:+.2f} s',
        '',
    )


def test_rows(figures: dict) -> Iterator[Row]:
    yield 'tests marked gpu', '', figures['summary'], ''


def times(ratio: float) -> str:
    return f'{ratio:.1f}'


def script(name: str, *options: str) -> list[str]:
    return [sys.executable, str(HERE / f'bench_{name}.py'), *options, '--json', '{json}']


BENCHMARKS = [
    # The GPU's come first: where time is short they are what cannot be had elsewhere.
    Benchmark('loss_gpu', script('loss', '--device', 'cuda', '--rounds', '10'), 4, loss_rows, True),
    Benchmark('guidance_gpu', script('guidance', '--gpu-only'), 3, guidance_rows, True),
    Benchmark(
        'sets_gpu', script('guidance_sets', '--sets', '1', '4', '16', '--device', 'cuda'), 3, sets_rows, True
    ),
    Benchmark(
        'step_gpu',
        script('training_step', '--device', 'cuda', '--profile', '--seconds', '2'),
        15,
        step_rows,
        True,
    ),
    Benchmark('tests_gpu', ['{tests}'], 5, test_rows, True),
    Benchmark('guidance', script('guidance'), 5, guidance_rows),
    Benchmark('loss', script('loss', '--device', 'cpu'), 10, loss_rows),
    Benchmark('loader', script('loader'), 5, loader_rows),
    Benchmark('prepare', script('prepare'), 10, prepare_rows),
    Benchmark('resume', script('resume'), 10, resume_rows),
    Benchmark(
        'sets',
        script('guidance_sets', '--sets', '1', '4', '16', '--size', '128', '--device', 'cpu'),
        10,
        sets_rows,
    ),
    Benchmark(
        'step',
        script('training_step', '--device', 'cpu', '--size', 'small', '--pairs', '16', '--seconds', '2'),
        5,
        step_rows,
    ),
]


def run(benchmark: Benchmark, out: Path, minutes: float | None) -> str:
    """Run one; 'done', or what went wrong."""
    target, log = out / f'{benchmark.name}.json', out / f'{benchmark.name}.log'
    target.unlink(missing_ok=True)
    is_test = benchmark.command == ['{tests}']
    command = [part.replace('{json}', str(target)) for part in benchmark.command]
    if is_test:
        # Not the whole folder: collecting it would need every package that some test is of.
        files = [str(file) for file in ROOT.glob('tests/**/test_*.py') if 'mark.gpu' in file.read_text()]
        command = [sys.executable, '-m', 'pytest', '-m', 'gpu', '-rs', '-p', 'no:cacheprovider', *files]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]))
    limit = 60 * (minutes or benchmark.minutes)
    with log.open('wb') as stream:
        try:
            code = in_a_group(
                command, limit, stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
            )
        except subprocess.TimeoutExpired:
            return f'stopped after {limit:.0f} s, see {log}'
    if is_test:
        lines = log.read_text(errors='replace').strip().splitlines()
        target.write_text(json.dumps(dict(summary=lines[-1] if lines else 'no output')) + '\n')
    return 'done' if code == 0 else f'failed with exit code {code}, see {log}'


def in_a_group(command: list[str], limit: float, **options: Any) -> int:
    """Exit code of a command that, when it is stopped, takes along all that it started.

    What went on would be measured beside: benchmarks and tests run programs themselves.
    """
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        return process.wait(limit)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def table(out: Path) -> str:
    """What was measured, and what was not."""
    lines = ['| what | plain | fast | ratio |', '|---|---|---|---|']
    for benchmark in BENCHMARKS:
        file = out / f'{benchmark.name}.json'
        rows = [(benchmark.name, NOT_RUN, NOT_RUN, NOT_RUN)]
        if file.exists():
            rows = list(benchmark.rows(json.loads(file.read_text())))
        lines += [f'| {" | ".join(row)} |' for row in rows]
    return '\n'.join(lines) + '\n'


def has_gpu() -> bool:
    command = [sys.executable, '-c', 'import sys, torch; sys.exit(not torch.cuda.is_available())']
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser.add_argument('--out', type=Path, required=True, help='folder for figures, logs and the table')
    parser.add_argument(
        '--only',
        nargs='+',
        choices=['gpu', 'cpu', *names],
        metavar='NAME',
        help=f'gpu, cpu, {", ".join(names)}',
    )
    parser.add_argument('--minutes', type=float, help='limit of each, instead of its own')
    parser.add_argument('--table', action='store_true', help='run nothing, write the table')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    out, failed, gpu = args.out.resolve(), 0, None
    for benchmark in () if args.table else BENCHMARKS:
        group = 'gpu' if benchmark.needs_gpu else 'cpu'
        if args.only and not {benchmark.name, group} & set(args.only):
            continue
        print(f'{benchmark.name} ... ', end='', flush=True)
        if benchmark.needs_gpu:
            gpu = has_gpu() if gpu is None else gpu
            if not gpu:
                print('not run: no GPU')
                continue
        start = time.monotonic()
        result = run(benchmark, out, args.minutes)
        failed += result != 'done'
        print(f'{result} ({time.monotonic() - start:.0f} s)', flush=True)
        (out / 'table.md').write_text(table(out))
    (out / 'table.md').write_text(table(out))
    print(table(out), end='')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
