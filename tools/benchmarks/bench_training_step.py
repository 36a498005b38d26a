"""Training steps on one device: the fast path against the plain float32 one, images a second, in one run.

plain   SciPy guidance and float32 images from the data workers, ordinary copies, float32 as torch sets it,
        which with a GPU is convolutions in TF32, contiguous tensors, the loss by torch's interpolate and
        cross_entropy
float32 the same without TF32; with a GPU only, the CPU having none
fast    workers that decode, crop, choose the guidance and put the batch together, uint8 images from
        page-locked memory, bfloat16 autocast, channels_last, the network replayed as a CUDA graph, the fused
        loss, torch's fused optimizer
eager   the same without the CUDA graph; with a GPU only
device  the same, but guidance is chosen on the device
compile (--ways compile) the fast way through torch.compile

On the CPU, which has no use for them, page-locked memory and the fused optimizer are left out, and autocast
unless asked for (``--amp``): not every CPU computes in bfloat16.
Models, pipelines and optimizers are the configs'; the pairs are generated, 640 x 480, and in the page cache.

Each way is timed twice: on batches that lie in memory already, and fed by the data workers. Waiting is the
share of the time in which the loop waits for the workers; with a GPU, which works on meanwhile, that is more
than the GPU waits, and what feeding really costs is how much slower it is than from memory.

    python tools/benchmarks/bench_training_step.py --json step.json           # with a GPU: minutes
    python tools/benchmarks/bench_training_step.py --device cpu --size small  # does it work?
"""

import argparse
import gc
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

import cv2
import numpy as np
import torch
from bench_loader import generate_pairs
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from torch.utils.data import DataLoader

from cmp_mm.datasets import ImageFlowDataset, ResumableSampler, collate_flow
from cmp_mm.datasets.transforms import SampleGuidance
from cmp_mm.guidance import drop_close_points, watershed_candidates_reference
from cmp_mm.guidance.strategies import combine_points
from cmp_mm.guidance.watershed import subsampling
from cmp_mm.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs/cmp'
# name, config, batches: the paper's for one GPU, and that of eight such GPUs together
CASES = {
    'paper': [
        ('AlexNet 384', 'cmp_alexnet-plain_16xb12-70k_yfcc-384x384.py', (12, 96)),
        ('ResNet-50 320', 'cmp_resnet50-plain_16xb10-42k_yfcc-320x320.py', (10, 80)),
    ],
    'small': [('ResNet-18 96', 'cmp_resnet18-plain_quick-1xb16-800_pairs-96x96.py', (2,))],
}
OPTIONS = {
    'plain': dict(guidance='scipy', fast=False),
    'float32': dict(guidance='scipy', fast=False, tf32=False),
    'fast': dict(guidance='workers', fast=True),
    'eager': dict(guidance='workers', fast=True, graph=False),
    'device': dict(guidance='device', fast=True),
    'compile': dict(guidance='workers', fast=True, compiled=True),
}
GPU_ONLY = ('float32', 'eager')


class PlainGuidance(SampleGuidance):
    """Guidance in the data worker with the plain SciPy watershed."""

    def transform(self, results: dict) -> dict:
        flow, rng = results['flow'], np.random.default_rng(np.random.randint(2**31, size=4))
        points = combine_points(
            flow, self.strategies, self.max_points, rng, watershed_points=partial(_plain_watershed, flow, rng)
        ).astype(np.int64)
        results['guidance_points'] = points
        results['guidance_vectors'] = flow[points[:, 0], points[:, 1]]
        return results


def _plain_watershed(flow: np.ndarray, rng: np.random.Generator, kernel_size: int = 81) -> np.ndarray:
    points = watershed_candidates_reference(flow, kernel_size)
    return drop_close_points(points, kernel_size, rng, step=subsampling(*flow.shape[:2]))


def float_images(sample: dict) -> dict:
    """Hand the image over in float32: four times the bytes."""
    sample['inputs']['image'] = sample['inputs']['image'].float()
    return sample


class Way:
    """A model, its optimizer and its loader, set up one way."""

    def __init__(
        self, config: Config, ann_file: Path, batch: int, device: torch.device, workers: int, options: dict
    ) -> None:
        on_gpu, fast = device.type == 'cuda', options['fast']
        self.device, self.workers, self.fast = device, workers, fast
        steps = [dict(step) for step in config.train_dataloader.dataset.pipeline]
        guidance = next(step for step in steps if step['type'] == 'SampleGuidance')
        guidance = {key: value for key, value in guidance.items() if key != 'type'}
        place = [step['type'] for step in steps].index('SampleGuidance')
        preprocessor = {}
        if options['guidance'] == 'device':
            del steps[place]
            preprocessor['guidance'] = guidance
        elif options['guidance'] == 'scipy':
            steps[place] = PlainGuidance(**guidance)
        # Said both ways: the config has settings of its own.
        preprocessor.update(non_blocking=fast and on_gpu, channels_last=fast)
        if not fast:
            steps.append(float_images)
        dataset = ImageFlowDataset(ann_file=str(ann_file), pipeline=steps)
        self.loader = DataLoader(
            dataset,
            batch_size=batch,
            sampler=ResumableSampler(dataset, seed=0),
            num_workers=workers,
            collate_fn=collate_flow if fast else pseudo_collate,
            pin_memory=fast and on_gpu,
            drop_last=True,
        )
        torch.manual_seed(0)
        model = Config(dict(model=config.model))
        graph = fast and options.get('graph', not options.get('compiled'))
        changes = dict(data_preprocessor=preprocessor, loss=dict(impl='auto' if fast else 'reference'))
        model.merge_from_dict(dict(model=dict(changes, cuda_graph=graph)))
        self.model = MODELS.build({'_scope_': 'cmp_mm', **model.model})
        self.model.init_weights()
        self.model.to(device).train()
        if options.get('compiled'):
            self.model.forward = torch.compile(self.model.forward)  # as mmengine's `compile = True`
        optimizer = dict(config.optim_wrapper.optimizer)
        kind = getattr(torch.optim, optimizer.pop('type'))
        self.optimizer = kind(
            self.model.parameters(), **optimizer, **(dict(fused=True) if fast and on_gpu else {})
        )
        self.autocast = fast and (on_gpu or options.get('amp', False))

    def step(self, data: dict) -> torch.Tensor:
        """One iteration; the loss."""
        self.optimizer.zero_grad()
        data = self.model.data_preprocessor(data, training=True)
        with torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext():
            loss = self.model(**data, mode='loss')['loss']
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def wait(self) -> None:
        """Until the device is done."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)

    def timed(
        self, batches: Iterator[dict], seconds: float, least: int, skipped: int, patient: bool = False
    ) -> dict:
        """Steps for some seconds, at least ``least``, after ``skipped`` ones that do not count.

        Those end after as many seconds, unless ``patient``.
        """
        start = time.perf_counter()
        for _ in range(skipped):
            self.step(next(batches))
            self.wait()
            if not patient and time.perf_counter() - start > seconds:
                break
        start, waited, count = time.perf_counter(), 0.0, 0
        while count < least or time.perf_counter() - start < seconds:
            asked = time.perf_counter()
            data = next(batches)
            waited += time.perf_counter() - asked
            self.step(data)
            count += 1
            if count % 10 == 0:
                self.wait()  # the loop must not run far ahead of the device, whose time it measures
        self.wait()
        spent = time.perf_counter() - start
        return dict(step_s=spent / count, waiting=waited / spent, steps=count)


def measure(way: Way, batch: int, args: argparse.Namespace) -> dict:
    """Images a second from memory and from the workers, share of waiting, peak memory, first loss."""
    batches = iter(way.loader)
    kept = [next(batches) for _ in range(2)]
    del batches  # its workers would make two dozen more meanwhile, for seconds if they are large
    first = way.step(kept[0]).item()
    memory = way.timed(itertools.cycle(kept), args.seconds, args.least, args.least)
    if way.device.type == 'cuda':  # only now: cuDNN's search for the best algorithm takes more
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(way.device)
    # What the workers made while nobody timed them must not count as theirs: as many batches as there are
    # in flight are trained on first, and twice as many are timed, since large ones would be a stock for
    # seconds. A plain step can take seconds itself, and its workers are ahead of it anyway.
    batches = iter(way.loader)
    in_flight = 2 * way.workers
    least = max(args.least, 2 * in_flight) if way.fast else args.least
    fed = way.timed(batches, args.seconds, least, in_flight, patient=way.fast)
    # Reserved: what a CUDA graph works in counts as free to everyone but it.
    peak = torch.cuda.max_memory_reserved(way.device) if way.device.type == 'cuda' else None
    figures = dict(
        images_per_s=batch / fed['step_s'],
        images_per_s_from_memory=batch / memory['step_s'],
        waiting=fed['waiting'],
        slower_than_from_memory=max(0.0, 1 - memory['step_s'] / fed['step_s']),
        peak_bytes=peak,
        first_loss=first,
        steps=fed['steps'],
    )
    if args.profile:
        figures['profile'] = profile(way, kept)
    del batches
    return figures


def profile(way: Way, kept: list[dict]) -> list[dict]:
    """The operators that take most of a step's time on the device, each without those it calls."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if way.device.type == 'cuda':
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as record:
        for _ in range(3):
            way.step(kept[0])
        way.wait()
    events = record.key_averages()
    key = 'self_cpu_time_total'
    if way.device.type == 'cuda':
        # Its name changed with torch 2.6.
        key = next(
            name for name in ('self_device_time_total', 'self_cuda_time_total') if hasattr(events[0], name)
        )
    total = sum(getattr(event, key) for event in events) or 1
    events = sorted(events, key=lambda event: getattr(event, key), reverse=True)[:12]
    return [
        dict(name=event.key[:60], ms=getattr(event, key) / 3e3, share=getattr(event, key) / total)
        for event in events
    ]


def compare(case: tuple, batch: int, ann_file: Path, args: argparse.Namespace, device: torch.device) -> list:
    """All ways in turn, ``args.rounds`` times; medians. A batch too large for a way is halved for it."""
    name, config, _ = case
    config = Config.fromfile(str(CONFIGS / config))
    ways = [way for way in OPTIONS if way in args.ways]
    if device.type == 'cpu':
        ways = [way for way in ways if way not in GPU_ONLY]
    found: dict[str, list[dict]] = {way: [] for way in ways}
    fits = dict.fromkeys(ways, batch)
    for way in ways * args.rounds:
        options = dict(OPTIONS[way], amp=args.amp)
        torch.backends.cudnn.allow_tf32 = options.get('tf32', True)  # True is torch's default
        while True:
            say(f'{name}, batch {fits[way]}: {way} ...')
            built = None
            try:
                built = Way(config, ann_file, fits[way], device, args.workers, options)
                found[way].append(measure(built, fits[way], args))
                break
            except RuntimeError as error:
                # Out of memory, or tensors of more elements than some kernel of torch's counts.
                if device.type != 'cuda' or fits[way] == 1:
                    raise
                say(f'{name}, batch {fits[way]}: {way} failed, halved: {str(error).splitlines()[0]}')
                fits[way] //= 2
                found[way].clear()
            finally:
                built = None
                gc.collect()  # what lives on in a cycle, its memory too, would count for the next way
                if device.type == 'cuda':
                    torch.cuda.empty_cache()
    rows = []
    for way, several in found.items():
        row = dict(case=name, way=way, asked=batch, batch=fits[way], rounds=len(several))
        for key, value in several[0].items():
            numbers = isinstance(value, (int, float))
            row[key] = statistics.median(one[key] for one in several) if numbers else several[-1][key]
        rows.append(row)
    for row in rows:
        row['ratio'] = row['images_per_s'] / rows[0]['images_per_s']
        row['ratio_from_memory'] = row['images_per_s_from_memory'] / rows[0]['images_per_s_from_memory']
        print(line(row), flush=True)
    return rows


def allow_many_open_files() -> None:
    """As many as mmengine's runner is let in the configs: a data worker has one open for each tensor."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = Config.fromfile(str(CONFIGS.parent / '_base_/default_runtime.py')).env_cfg.resource_limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, hard), hard))


def say(text: str) -> None:
    print(f'{time.strftime("%X")} {text}', file=sys.stderr, flush=True)


def line(row: dict) -> str:
    peak = 'not measured' if row['peak_bytes'] is None else f'{row["peak_bytes"] / 2**20:.0f} MiB'
    return (
        f'{row["case"]:15}{row["batch"]:6} {row["way"]:8}{row["images_per_s"]:10.1f}{row["ratio"]:7.1f}x'
        f'{row["images_per_s_from_memory"]:12.1f}{row["ratio_from_memory"]:7.1f}x{row["waiting"]:10.1%}'
        f'{row["slower_than_from_memory"]:10.1%}{peak:>14}{row["first_loss"]:8.3f}'
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--size', choices=CASES, default='paper', help='(default: %(default)s)')
    parser.add_argument('--only', help='cases whose name contains this')
    parser.add_argument('--batch', type=int, nargs='+', help='instead of the batches of the case')
    parser.add_argument(
        '--workers', type=int, default=min(16, os.cpu_count() or 1), help='of data (default: %(default)s)'
    )
    parser.add_argument('--pairs', type=int, default=64, help='to generate (default: %(default)s)')
    parser.add_argument('--ann-file', type=Path, help='jpg pairs of your own instead')
    parser.add_argument('--amp', action='store_true', help='autocast on the CPU too')
    parser.add_argument(
        '--ways',
        nargs='+',
        choices=OPTIONS,
        default=[way for way in OPTIONS if way != 'compile'],
        help='besides plain; compile takes minutes (default: %(default)s)',
    )
    parser.add_argument('--rounds', type=int, default=1, help='the ways in turn (default: %(default)s)')
    parser.add_argument('--seconds', type=float, default=6, help='for each timing (default: %(default)s)')
    parser.add_argument('--least', type=int, default=5, help='steps of each (default: %(default)s)')
    parser.add_argument('--profile', action='store_true', help='say what takes the time')
    parser.add_argument('--json', type=Path, help='write the figures to this file too')
    args = parser.parse_args(argv)
    args.ways = {'plain', *args.ways}  # what the others are compared with
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    device = torch.device(args.device)
    allow_many_open_files()
    cv2.setNumThreads(1)
    torch.backends.cudnn.benchmark = True  # as in the configs
    MMLogger.get_current_instance().setLevel('WARNING')  # a line per parameter otherwise
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        say(f'{args.pairs} pairs ...')
        ann_file = args.ann_file or generate_pairs(Path(folder), args.pairs)
        print(
            f'{"":15}{"batch":>6} {"":8}{"images/s":>10}{"":8}{"from memory":>12}{"":8}{"waiting":>10}'
            f'{"slower":>10}{"peak memory":>14}{"loss":>8}'
        )
        for case in CASES[args.size]:
            if args.only and args.only not in case[0]:
                continue
            for batch in args.batch or case[2]:
                rows += compare(case, batch, ann_file, args, device)
                if args.json:  # each time: what is measured stays, whatever comes after
                    write(rows, args, device)
    for row in rows if args.profile else ():
        print(f'\n{row["case"]}, batch {row["batch"]}, {row["way"]}: ms a step, share')
        for one in row['profile']:
            print(f'{one["ms"]:10.2f}{one["share"]:8.1%}  {one["name"]}')
    if device.type == 'cpu':
        print('\non a GPU: not run')


def write(rows: list[dict], args: argparse.Namespace, device: torch.device) -> None:
    figures = dict(
        rows=rows,
        device=torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu',
        workers=args.workers,
        processor=platform.processor() or platform.machine(),
        cores=os.cpu_count(),
        torch=torch.__version__,
    )
    args.json.write_text(json.dumps(figures, indent=1) + '\n')


if __name__ == '__main__':
    main()
