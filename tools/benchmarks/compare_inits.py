r"""Train one downstream config from several initialisations and seeds, and compare what it reaches.

    CONFIG=configs/downstream/mmseg/cmp_fcn_r18-3stages-d8_1xb8-1k_ccp-160x160.py
    python tools/benchmarks/compare_inits.py $CONFIG \
        --inits random cmp.pth walker=other.pth --seeds 3 --data-root data/ccp --frozen

Every run trains in a folder of its own (config, log, checkpoints) and is skipped once its result is there, so
the same command continues what was interrupted. A label given several times, ``cmp=a.pth cmp=b.pth``, is one
initialisation from several pretrainings: seed 0 starts from the first, seed 1 from the second, and so on
around. In the end OUT holds ``table.md``, ``results.json`` and
``curves.png``. The figure compared is the last validation's, not the best one's: choosing the best would
choose by the validation set.
"""

import argparse
import copy
import functools
import hashlib
import io
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import cmp_mm
from cmp_mm.downstream import BackboneInit, check_config
from cmp_mm.engine import (
    CheckpointError,
    child_process,
    ending_children,
    in_parallel,
    launch,
    read_curve,
    run_config,
    write_durably,
)

ROOT = Path(__file__).resolve().parents[2]
METRICS = {'mmseg': 'mIoU', 'mmpose': 'coco/AP', 'mmdet': 'coco/segm_mAP'}
# Backbones freeze by number of stages; these are all of them.
ALL_STAGES = {'cmp_mm.AlexNetFCN': 7, 'cmp_mm.ResNet': 4, 'ResNet': 4}
NAMED = ('random', 'imagenet', 'cmp')
READ_OF_END = 2**12  # bytes


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog='OUT/table.md, results.json and curves.png are the result.',
    )
    parser.add_argument('config', help='a config of configs/downstream')
    parser.add_argument(
        '--inits',
        nargs='+',
        default=['random', 'cmp'],
        help='random, imagenet, cmp, FILE or LABEL=FILE; a LABEL again for another pretraining of it',
    )
    parser.add_argument('--seeds', type=int, default=3, help='runs per initialisation, seeds 0, 1, ...')
    parser.add_argument(
        '--frozen', action='store_true', help='also with the backbone frozen (linear for FCN)'
    )
    parser.add_argument('--out', type=Path, help='default: work_dirs/compare_inits/CONFIG')
    parser.add_argument('--data-root', help='data root of every data set in the config')
    parser.add_argument(
        '--metric',
        help='key of the validation log; default: what the config saves its best checkpoint by, or by '
        'package mIoU, coco/AP, ...',
    )
    parser.add_argument('--amp', action='store_true', help='as for tools/train.py')
    parser.add_argument(
        '--cfg-options', nargs='+', action=run_config.ConfigOptions, default={}, help='as for tools/train.py'
    )
    parser.add_argument(
        '--jobs', type=int, default=1, help='runs at once; small ones leave a large GPU mostly idle'
    )
    args = parser.parse_args()
    for name in ('seeds', 'jobs'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} is {getattr(args, name)}; expected at least 1')
    return args


def parse_inits(texts: Sequence[str]) -> dict[str, list[str]]:
    """Label -> sources of all ``--inits`` entries, those of one label in the order given.

    Raises:
        ValueError: see :func:`parse_init`; or two files of one name, and no label to tell whether they are
            one initialisation or two.
    """
    inits: dict[str, list[str]] = {}
    unlabelled: dict[str, str] = {}
    for text in texts:
        label, source = parse_init(text)
        if not text.startswith(f'{label}='):
            unlabelled.setdefault(label, source)
        inits.setdefault(label, []).append(source)
    for label, source in unlabelled.items():
        other = next((one for one in inits[label] if one != source), None)
        if other is not None:
            raise ValueError(
                f'--inits: {source} and {other} would both be called {label!r}; give LABEL=FILE, the same '
                'LABEL only for pretrainings of one initialisation'
            )
    return inits


def require_all_measured(inits: dict[str, list[str]], seeds: int) -> None:
    """Refuse more pretrainings of one initialisation than there are seeds to start from them.

    Raises:
        ValueError: there are; says of which.
    """
    for label, sources in inits.items():
        if len(sources) > seeds:
            raise ValueError(
                f'--seeds is {seeds}; expected at least {len(sources)}, as many as {label!r} has '
                f'pretrainings: {sources[-1]} would not be measured'
            )


def parse_init(text: str) -> tuple[str, str]:
    """Label and source of one ``--inits`` entry.

    Raises:
        ValueError: neither a known name nor a file.
    """
    label, equals, source = text.partition('=')
    if not equals or '://' in label or Path(text).is_file():
        label, source = '', text
    if source in NAMED or '://' in source:
        return label or source, source
    if not Path(source).is_file():
        raise ValueError(f'--inits {text}: expected {", ".join(NAMED)}, FILE or LABEL=FILE; no such file')
    return label or Path(source).stem, str(Path(source).resolve())


def freeze(cfg: Config) -> None:
    """Freeze the whole backbone; a plain FCN head becomes one linear classifier per pixel.

    Raises:
        ValueError: a backbone whose stages are not known here.
    """
    backbone = cfg.model.backbone
    if backbone.type not in ALL_STAGES:
        raise ValueError(f'--frozen knows {", ".join(ALL_STAGES)}; the backbone is {backbone.type}')
    if backbone.type == 'ResNet' or backbone.get('zero_init_residual'):
        # Zeros at the end of each block would stay there, and a random backbone be its stem and shortcuts.
        backbone.zero_init_residual = False
    backbone.frozen_stages = min(ALL_STAGES[backbone.type], backbone.get('num_stages', 7))
    head = cfg.model.get('decode_head')
    if head and head.type == 'FCNHead':
        head.update(num_convs=0, concat_input=False, channels=head.in_channels)
        cfg.model.auxiliary_head = None


def make_config(args: argparse.Namespace, source: str, seed: int, mode: str) -> Config:
    """The config of one run.

    A list ``labelled_draws`` in the config holds the indices of the training images, seed by seed.

    Raises:
        ValueError: the backbone has no ``BackboneInit`` to choose a start by.
    """
    cfg = run_config.load_config(args.config, args.cfg_options, args.data_root)
    start = (cfg.get('model') or {}).get('backbone', {}).get('init_cfg')
    if not isinstance(start, dict) or 'source' not in start:
        raise ValueError(
            f'{args.config}: its backbone has no init_cfg of type BackboneInit; expected a config of '
            'configs/downstream'
        )
    start.source = source
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    # Of few labelled images which ones they are matters: each seed may have its own.
    draws = cfg.pop('labelled_draws', None)
    if draws:
        cfg.train_dataloader.dataset.indices = draws[seed % len(draws)]
    if args.amp:
        launch.use_amp(cfg)
    if mode == 'frozen':
        freeze(cfg)
        if source == 'random':
            hooks = list(cfg.get('custom_hooks') or [])
            cfg.custom_hooks = [*hooks, dict(type='cmp_mm.BackboneStatisticsHook')]
    return cfg


def check_starts(cfg: Config, sources: Iterable[str]) -> None:
    """Start the backbone of a config from each source, so that a wrong one is told before any training.

    Raises:
        CheckpointError: a file does not fill the backbone.
        OSError: a file is not there.
        ImportError: torchvision, which has the ImageNet weights, is not installed.
    """
    settings = copy.deepcopy(cfg.model.backbone)
    start = settings.pop('init_cfg')
    start.pop('type')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        for source in sources:
            BackboneInit(**{**start, 'source': source})(MODELS.build(copy.deepcopy(settings)))


def fingerprint(cfg: Config, source: str, without: Path | None = None) -> str:
    """Changes when the run would be another one: its config, data, or the weights it starts from.

    Args:
        cfg: of the run.
        source: what its backbone starts from.
        without: a folder that is no data, should it lie among them: that of the results.
    """
    digest = hashlib.sha256(cfg.pretty_text.encode())
    for path in data_paths(cfg):
        digest.update(contents(path, without).encode(errors='surrogateescape'))
    files = Path('checkpoints').glob('cmp_*_backbone.pth') if source == 'cmp' else [Path(source)]
    for file in sorted(file for file in files if file.is_file()):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def data_paths(cfg: Config) -> list[str]:
    """Annotation files, and folders of images and labels, of the data sets of training and validation."""

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, (list, tuple)):
            for item in node:
                yield from walk(item)
        elif isinstance(node, dict):
            root = node.get('data_root') or ''
            prefixes = node.get('data_prefix') or {}
            folders = [name for name in prefixes.values() if name] if isinstance(prefixes, dict) else []
            # Where no folder is named the images are anywhere below the root.
            named = [node.get('ann_file'), *(folders or [''])]
            paths = [os.path.join(root, name) for name in named if isinstance(name, str)]
            # These are not below the root, as mmpose has it.
            paths += [node.get(key) for key in ('bbox_file', 'headbox_file')]
            yield from filter(None, paths)
            for key in ('dataset', 'datasets'):
                yield from walk(node.get(key))

    loaders = (cfg.get(f'{split}_dataloader') or {} for split in ('train', 'val'))
    return sorted({path for loader in loaders for path in walk(loader.get('dataset'))})


@functools.cache
def contents(path: str, without: Path | None = None) -> str:
    """Names, sizes and digests of the files at or below ``path``, but those below ``without``.

    Times of change are no part of it: data laid out anew is the same. A file that ``path`` names is read
    whole; of those in a folder, which may be a hundred thousand, the end alone, in which a PNG has the
    checksums of all its pixels.
    """
    whole = os.path.isfile(path)
    files = [path] if whole else [str(file) for file in sorted(Path(path).rglob('*'))]
    if without is not None:
        files = [
            file for file in files if not os.path.abspath(file).startswith(f'{without.absolute()}{os.sep}')
        ]
    lines = []
    for file in filter(os.path.isfile, files):
        size = os.path.getsize(file)
        with open(file, 'rb') as data:
            data.seek(0 if whole else max(0, size - READ_OF_END))
            digest = hashlib.file_digest(data, 'sha256').hexdigest()
        lines.append(f'{os.path.relpath(file, path)} {size} {digest}')
    return '\n'.join(lines)


def train(cfg: Config, folder: Path, prefix: str) -> None:
    """Run ``tools/train.py`` on a config, show its progress, keep its log.

    Raises:
        RuntimeError: it failed; with the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cfg.dump(folder / 'config.py')
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(folder / 'config.py')]
    command += ['--work-dir', str(folder), '--resume']
    log = folder / 'console.log'
    environment = {**os.environ, 'PYTHONUNBUFFERED': '1'}
    with (
        open(log, 'a', encoding='utf-8') as file,
        child_process(
            command,
            lock=folder,
            encoding='utf-8',
            errors='replace',  # names of files may be any bytes
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        ) as process,
    ):
        for line in process.stdout:
            file.write(line)
            progress = re.search(r'((?:Iter|Epoch)\((?:train|val)\).*)', line)
            if progress:
                print(f'{prefix} {progress[1][:100]}', flush=True)
    if process.returncode != 0:
        end = ''.join(log.read_text(encoding='utf-8').splitlines(keepends=True)[-8:])
        raise RuntimeError(f'{prefix} failed; the end of {log}:\n{end}')


def last_saved(folder: Path) -> int:
    """Iteration or epoch of the last checkpoint of a run; 0 if it saved none."""
    pointer = folder / 'last_checkpoint'
    name = pointer.read_text(encoding='utf-8').strip() if pointer.is_file() else ''
    number = re.search(r'_(\d+)\.pth$', name)
    return int(number[1]) if number else 0


def one_run(
    cfg: Config, source: str, metric: str, folder: Path, result: dict, prefix: str
) -> tuple[dict, bool]:
    """The result of one run, trained now or before, and whether it was now.

    Args:
        cfg: its config.
        source: what its backbone starts from.
        metric: key of the validation log.
        folder: for all runs of this mode, initialisation and seed.
        result: what is known before, for the file.
        prefix: of every line printed.

    Raises:
        RuntimeError: the training failed, or its log has no such metric, or not at its end.
    """
    stamp = fingerprint(cfg, source, folder.parents[2])
    file = folder / f'result-{stamp}.json'
    known = json.loads(file.read_text(encoding='utf-8')) if file.exists() else {}
    has_log = any((folder / stamp).rglob('scalars.json'))
    # Those of earlier versions do not say which metric they are of.
    if known.get('metric', None if has_log else metric) == metric and known:
        return known, False
    is_new = not (known and has_log)
    if is_new:
        started = time.monotonic()
        train(cfg, folder / stamp, prefix)
        result = dict(result, source=source, seconds=round(time.monotonic() - started, 1))
    else:
        result = known
    curve = read_curve(folder / stamp, metric)
    if not curve:
        raise RuntimeError(f'{prefix} no {metric!r} in the log of {folder / stamp}; name another --metric')
    reached = last_saved(folder / stamp)
    # 0: iterations whose validations are counted by epoch.
    if 0 < curve[-1][0] < reached:
        file.unlink(missing_ok=True)
        raise RuntimeError(
            f'{prefix} the log of {folder / stamp} ends with a validation at {curve[-1][0]} of {reached}; '
            'remove that folder and run the same command again'
        )
    result.update(metric=metric, final=curve[-1][1], best=max(value for _, value in curve), curve=curve)
    write_durably(file, json.dumps(result).encode())
    return result, is_new


def summarize(results: Iterable[dict]) -> list[dict]:
    """Mean, spread and values per initialisation and mode, in the order of first appearance."""
    groups: dict[tuple[str, str], list[float]] = {}
    for result in results:
        groups.setdefault((result['mode'], result['init']), []).append(result['final'])
    return [
        dict(
            mode=mode,
            init=init,
            mean=statistics.mean(values),
            # One seed has no spread; 0 would claim that it is known.
            std=statistics.stdev(values) if len(values) > 1 else None,
            values=values,
        )
        for (mode, init), values in groups.items()
    ]


def render_table(rows: list[dict], metric: str) -> str:
    """Markdown: mean and standard deviation over the seeds, and every value."""
    lines = [f'| training | initialisation | {metric} | runs |', '| --- | --- | --- | --- |']
    # Shares, as mmpose's, need two digits more than percent.
    digits = 4 if all(abs(value) <= 1 for row in rows for value in row['values']) else 2
    for row in rows:
        spread = f' ± {row["std"]:.{digits}f}' if row['std'] is not None else ''
        values = ', '.join(f'{value:.{digits}f}' for value in row['values'])
        lines.append(f'| {row["mode"]} | {row["init"]} | {row["mean"]:.{digits}f}{spread} | {values} |')
    return '\n'.join(lines) + '\n'


def plot(results: list[dict], metric: str, path: Path) -> None:
    """Validation curves: a thin line per run, a thick one for the mean of each initialisation."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    modes = list(dict.fromkeys(result['mode'] for result in results))
    inits = list(dict.fromkeys(result['init'] for result in results))
    figure, axes = plt.subplots(1, len(modes), figsize=(6 * len(modes), 4), squeeze=False)
    for axis, mode in zip(axes[0], modes, strict=True):
        for number, init in enumerate(inits):
            curves = [dict(r['curve']) for r in results if r['mode'] == mode and r['init'] == init]
            for curve in curves:
                axis.plot(list(curve), list(curve.values()), color=f'C{number}', alpha=0.3, linewidth=1)
            steps = sorted(set.intersection(*map(set, curves))) if curves else []
            means = [statistics.mean(curve[step] for curve in curves) for step in steps]
            axis.plot(steps, means, color=f'C{number}', linewidth=2, marker='o', label=init)
        axis.set(title=mode, xlabel='iteration or epoch', ylabel=metric)
        axis.legend()
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format='png', dpi=120)
    plt.close(figure)
    write_durably(path, picture.getvalue())


def machine() -> dict[str, Any]:
    """What it was run on, as far as it matters for repeating it."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return dict(
        cmp_mm=cmp_mm.__version__,
        torch=torch.__version__,
        python=platform.python_version(),
        cores=os.cpu_count(),
        gpu=gpu,
    )


def main() -> int:
    """Run what is missing, then write table, plot and JSON."""
    args = parse_args()
    contents.cache_clear()
    out = args.out or Path('work_dirs/compare_inits') / Path(args.config).stem
    try:
        inits = parse_inits(args.inits)
        base = make_config(args, 'random', 0, 'fine-tuned')
        check_config(base)
        check_starts(base, dict.fromkeys(source for sources in inits.values() for source in sources))
        require_all_measured(inits, args.seeds)
    except (ValueError, OSError, ImportError, CheckpointError) as error:
        print(f'compare_inits: {error}', file=sys.stderr)
        return 2
    best = (base.get('default_hooks') or {}).get('checkpoint', {}).get('save_best')
    named = best if isinstance(best, str) and best != 'auto' else None
    metric = args.metric or named or METRICS.get(base.get('default_scope'))
    if metric is None:
        print(
            f'compare_inits: name the --metric; scope {base.get("default_scope")!r} has none', file=sys.stderr
        )
        return 2
    modes = ['fine-tuned', 'frozen'] if args.frozen else ['fine-tuned']
    runs = [(mode, init, seed) for seed in range(args.seeds) for mode in modes for init in inits]
    started, trained, results = time.monotonic(), 0, []
    try:
        calls = []
        for number, (mode, init, seed) in enumerate(runs, 1):
            source = inits[init][seed % len(inits[init])]
            prefix = f'[{number}/{len(runs)}] {mode} {init} seed {seed}:'
            known = dict(mode=mode, init=init, seed=seed)
            cfg = make_config(args, source, seed, mode)
            calls.append((cfg, source, metric, out / mode / init / f'seed{seed}', known, prefix))
        for path in data_paths(calls[0][0]):
            contents(path, out)  # once: runs at once would each look
        for call, (result, is_new) in zip(calls, in_parallel(one_run, calls, args.jobs), strict=True):
            results.append(result)
            trained += is_new
            left = (len(runs) - len(results)) * (time.monotonic() - started) / max(trained, 1)
            print(f'{call[-1]} {metric} {result["final"]:.2f}; about {left / 60:.0f} min to go', flush=True)
    except (OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    rows = summarize(results)
    table = render_table(rows, metric)
    report = dict(config=args.config, metric=metric, machine=machine(), summary=rows, runs=results)
    write_durably(out / 'table.md', table.encode())
    write_durably(out / 'results.json', json.dumps(report, indent=1).encode())
    plot(results, metric, out / 'curves.png')
    print(f'\n{table}\n{out}/table.md, results.json, curves.png')
    return 0


if __name__ == '__main__':
    with ending_children():
        sys.exit(main())
