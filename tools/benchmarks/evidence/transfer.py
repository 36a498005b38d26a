r"""Fine-tune a small backbone from random, Walker and CMP weights with few labels, and compare.

    python tools/benchmarks/evidence/transfer.py --task puppets --data-root data/puppets_labels \
        --pairs data/puppets_video --recipes walker cmp-4 --labels 10 40 all --seeds 3 --frozen \
        --out work_dirs/evidence/puppets

Recipes that are not trained yet are trained first. Each initialisation gets the learning rate that suits it,
chosen on labelled images kept out of training. For each number of labelled images the comparison is
``compare_inits.py``'s, in folders of its own, so the same command continues what was interrupted.
OUT/transfer.{md,json,png} are the result.
"""

import argparse
import copy
import io
import json
import statistics
import sys
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from recipes import (
    PRETRAINED_STRIDE,
    ROOT,
    Distinct,
    add_backbone,
    add_labels,
    add_pairs,
    add_recipes,
    add_scale,
    at_least,
    chosen_labels,
    chosen_pairs,
    pretrain_all,
    require_all_measured,
)

from cmp_mm.downstream import check_config
from cmp_mm.engine import child_process, ending_children, in_parallel, launch, run_config, write_durably

SEGMENTATION = {
    name: f'configs/downstream/mmseg/cmp_fcn_r18-3stages-d8_1xb8-1k_{name}-{size}.py'
    for name, size in (
        ('puppets', '112x112'),
        ('foreground', '112x112'),
        ('ccp', '160x160'),
        ('camvid', '160x160'),
    )
}
POSE = {
    'puppets-pose': 'configs/downstream/mmpose/cmp_td-hm_res18-3stages_1xb8-1k_puppets-128x96.py',
}
TASKS = {**SEGMENTATION, **POSE}
# Of the larger backbones, for an accelerator.
LARGER = {
    backbone: {
        name: f'configs/downstream/mmseg/{model}_1xb8-1k_{name}-160x160.py' for name in ('ccp', 'camvid')
    }
    for backbone, model in (('resnet50', 'cmp_fcn_r50-d8'), ('alexnet', 'cmp_fcn-32s_alexnet'))
}
# AdamW's to choose from. Random AlexNets lose 4 mIoU from .0001 to .0003, and 7 more to .001.
FINE_TUNE_LR = {
    'resnet18': (5e-4, 1e-3, 2e-3),
    'resnet50': (3e-4, 1e-3),
    'alexnet': (3e-5, 1e-4, 3e-4),
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    rates = '; '.join(f'{", ".join(map(str, lrs))} for {name}' for name, lrs in FINE_TUNE_LR.items())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_pairs(parser)
    add_scale(parser)
    add_backbone(parser)
    parser.add_argument('--task', choices=TASKS, required=True)
    parser.add_argument(
        '--data-root', required=True, help='of the labelled set; see the README of its config'
    )
    add_recipes(parser)
    add_labels(parser)
    parser.add_argument(
        '--first',
        action='store_true',
        help='label the first images of the set instead of a draw of them: of camvid frames of one drive',
    )
    parser.add_argument('--seeds', type=at_least(1), default=3, help='of the fine-tuning')
    parser.add_argument('--iterations', type=at_least(1), default=150, help='of the fine-tuning')
    parser.add_argument(
        '--lr',
        type=float,
        nargs='+',
        action=Distinct,
        help="of the fine-tuning's AdamW; of several, each initialisation gets the one that is best on a "
        f'fifth of the labelled images, kept out of training for that (default: {rates})',
    )
    parser.add_argument(
        '--frozen',
        action='store_true',
        help='also on the frozen backbone, at the rate chosen for fine-tuning: one linear layer for a '
        'segmentation, the whole head for a pose',
    )
    parser.add_argument(
        '--amp', action='store_true', help='fine-tune in mixed precision, as for tools/train.py'
    )
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    require_all_measured(parser, args)
    args.lr = args.lr or list(FINE_TUNE_LR[args.backbone])
    return args


def task_file(task: str, backbone: str) -> Path:
    """The config of a task for a backbone.

    Raises:
        ValueError: there is none.
    """
    configs = TASKS if backbone == 'resnet18' else LARGER[backbone]
    if task not in configs:
        raise ValueError(f'--task {task} has no config for {backbone}, which has {", ".join(configs)}')
    return ROOT / configs[task]


def compare_inits(
    args: argparse.Namespace, cfg: Config, backbones: dict[str, list[str]], seeds: int, out: Path, jobs: int
) -> dict:
    """Run ``compare_inits.py`` on a config, ``jobs`` trainings at once; its report.

    Raises:
        RuntimeError: it failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    cfg.dump(out / f'{args.task}.py')
    command = [sys.executable, ROOT / 'tools/benchmarks/compare_inits.py', out / f'{args.task}.py']
    command += ['--inits', *(f'{name}={file}' for name, files in backbones.items() for file in files)]
    command += ['--seeds', seeds, '--data-root', args.data_root, '--out', out]
    command += ['--metric', 'PCK'] if args.task in POSE else []
    command += ['--frozen'] if args.frozen else []
    command += ['--amp'] if args.amp else []
    command += ['--jobs', jobs]
    with child_process([*map(str, command)]) as process:
        process.wait()
    if process.returncode != 0:
        raise RuntimeError(f'{args.task} in {out} failed; run the same command again to continue')
    report = json.loads((out / 'results.json').read_text(encoding='utf-8'))
    return in_percent(report) if args.task in POSE else report


def compare_inits_at_once(calls: list[tuple], jobs: int) -> list[dict]:
    """The reports of several :func:`compare_inits`, which share the trainings at once.

    Raises:
        RuntimeError: one failed.
    """
    at_once = min(jobs, len(calls))
    return list(in_parallel(compare_inits, [(*call, jobs // at_once) for call in calls], at_once))


def in_percent(report: dict) -> dict:
    """A report whose metric is a share, as mmpose's are, in the unit of the others."""
    for row in report['summary']:
        row.update(mean=100 * row['mean'], values=[100 * value for value in row['values']])
        row['std'] = None if row['std'] is None else 100 * row['std']
    for run in report['runs']:
        run.update(final=100 * run['final'], best=100 * run['best'])
        run['curve'] = [(step, 100 * value) for step, value in run['curve']]
    return dict(report, metric=f'{report["metric"]}, %')


def task_config(
    args: argparse.Namespace, lr: float, indices: list[int], held_out: list[int] | None
) -> Config:
    """The config of a fine-tuning on some of the labelled images.

    Args:
        args: the command line.
        lr: learning rate of AdamW.
        indices: the images to train on.
        held_out: other images of the training split, to validate on; None for the validation split.
    """
    cfg = Config.fromfile(task_file(args.task, args.backbone))
    # AdamW's steps do not depend on the size of the gradients, which differs between the initialisations.
    cfg.optim_wrapper.optimizer = dict(type='AdamW', lr=lr, weight_decay=0.01)
    cfg.param_scheduler[0].update(end=args.iterations, eta_min=1e-6)
    cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = args.iterations
    cfg.default_hooks.checkpoint.interval = args.iterations
    if held_out is not None:
        validation = copy.deepcopy(cfg.train_dataloader.dataset)
        validation.update(pipeline=cfg.val_dataloader.dataset.pipeline, indices=held_out)
        if args.task in POSE:
            validation.test_mode = True
            # CocoMetric counts over all figures of one file, of which these are some.
            cfg.val_evaluator = cfg.test_evaluator = [
                metric for metric in cfg.val_evaluator if 'ann_file' not in metric
            ]
        cfg.val_dataloader.dataset = cfg.test_dataloader.dataset = validation
    cfg.train_dataloader.dataset.indices = indices
    # Where the config has the paper's stride and the pretraining had another.
    cfg.model.backbone.update(PRETRAINED_STRIDE.get(args.backbone, {}))
    return cfg


def count_samples(file: Path, data_root: str) -> int:
    """Number of images, or of figures, in the training split of a downstream config."""
    cfg = Config.fromfile(file)
    run_config.set_data_root(cfg, data_root)
    check_config(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return len(DATASETS.build(cfg.train_dataloader.dataset))


def require_enough(labels: str, total: int, rates: list[float]) -> None:
    """Refuse a choice between rates that no image is left for.

    Raises:
        ValueError: fewer than 5 images to choose a rate by.
    """
    if len(rates) > 1 and (total if labels == 'all' else int(labels)) < 5:
        raise ValueError(f'--labels {labels}: expected 5 or more to choose one of several --lr by a fifth')


def compare(args: argparse.Namespace, labels: str, total: int, backbones: dict[str, list[str]]) -> dict:
    """Fine-tune every initialisation with so many labelled images, each at the rate that suits it.

    Every rate is tried once, seed 0, with a fifth of the labelled images kept out of training; the one that
    is best on these is used for all seeds, now with all of the labelled images. The validation split has no
    say in it. Seed ``i`` has draw ``i`` of the labelled images, at random, or by ``--first`` the first ones;
    frozen rows have the rate that fine-tuning chose.

    Args:
        args: the command line.
        labels: number of labelled images, or 'all'.
        total: number of images of the training split.
        backbones: name -> what the backbone starts from, seed by seed and around.

    Returns:
        The report of ``compare_inits.py``; each row of ``summary`` with the ``lr`` used, and ``tried``:
        rate -> name -> metric on the images kept out.

    Raises:
        RuntimeError: a training failed.
        ValueError: as :func:`require_enough`.
    """
    require_enough(labels, total, args.lr)
    out = args.out / (f'labels-first-{labels}' if args.first else f'labels-{labels}')
    number = total if labels == 'all' else min(int(labels), total)
    draws = [list(range(total))]
    if number < total:
        orders = [np.random.default_rng(seed).permutation(total) for seed in range(args.seeds)]
        if args.first:
            orders = [np.arange(total)] * args.seeds
        draws = [order[:number].tolist() for order in orders]
    chosen, tried = dict.fromkeys(backbones, args.lr[0]), {}
    if len(args.lr) > 1:
        # In an order of its own: all images, as they come, are the scenes one after the other.
        order = np.random.default_rng(0).permutation(draws[0]).tolist()
        parts = order[number // 5 :], order[: number // 5]
        fine_tuned = argparse.Namespace(**{**vars(args), 'frozen': False})
        firsts = {name: files[:1] for name, files in backbones.items()}
        calls = [
            (fine_tuned, task_config(args, lr, *parts), firsts, 1, out / f'try-{lr:g}') for lr in args.lr
        ]
        reports = compare_inits_at_once(calls, args.jobs)
        tried = {
            lr: {row['init']: row['mean'] for row in report['summary']}
            for lr, report in zip(args.lr, reports, strict=True)
        }
        chosen = {name: max(args.lr, key=lambda lr: tried[lr][name]) for name in backbones}
    summary, runs, calls, rates = [], [], [], list(dict.fromkeys(chosen.values()))
    for lr in rates:
        some = {name: backbones[name] for name in backbones if chosen[name] == lr}
        cfg = task_config(args, lr, draws[0], None)
        if number < total:
            cfg.labelled_draws = draws
        calls.append((args, cfg, some, args.seeds, out / f'lr-{lr:g}'))
    for lr, report in zip(rates, compare_inits_at_once(calls, args.jobs), strict=True):
        summary += [dict(row, lr=lr) for row in report['summary']]
        runs += [dict(run, lr=lr) for run in report['runs']]
    names = list(backbones)
    summary.sort(key=lambda row: (row['mode'] != 'fine-tuned', names.index(row['init'])))
    return dict(report, summary=summary, runs=runs, tried=tried)


def rows_of(labels: str, report: dict) -> list[dict]:
    """One row per mode and initialisation, with the difference to random, seed by seed."""
    rows = []
    for row in report['summary']:
        random = next(r for r in report['summary'] if r['mode'] == row['mode'] and r['init'] == 'random')
        gains = [a - b for a, b in zip(row['values'], random['values'], strict=True)]
        spread = statistics.stdev(gains) if len(gains) > 1 else None
        rows.append(dict(labels=labels, **row, gain=statistics.mean(gains), gain_std=spread))
    return rows


def render_table(rows: list[dict], metric: str) -> str:
    """Markdown: mean and standard deviation over the seeds."""
    lines = [
        f'| labelled images | training | initialisation | rate | {metric} | over random | runs |',
        '| --- ' * 7 + '|',
    ]

    def pair(mean: float, std: float | None, sign: str) -> str:
        return f'{mean:{sign}.1f}' + (f' ± {std:.1f}' if std is not None else '')

    for row in rows:
        values = ', '.join(f'{value:.1f}' for value in row['values'])
        gain = pair(row['gain'], row['gain_std'], '+') if row['init'] != 'random' else ''
        cells = [row['labels'], row['mode'], row['init'], f'{row["lr"]:g}']
        cells += [pair(row['mean'], row['std'], ''), gain, values]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def plot(rows: list[dict], metric: str, path: Path, panel: str = 'mode') -> None:
    """Score by initialisation and number of labels, a panel for each value that ``panel`` has in the rows."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys(row[panel] for row in rows))
    labels = list(dict.fromkeys(row['labels'] for row in rows))
    inits = list(dict.fromkeys(row['init'] for row in rows))
    figure, axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 3.6), squeeze=False, sharey=True)
    for axis, title in zip(axes[0], panels, strict=True):
        for number, init in enumerate(inits):
            found = [row for row in rows if row[panel] == title and row['init'] == init]
            places = [labels.index(row['labels']) + 0.06 * (number - len(inits) / 2) for row in found]
            spread = [row['std'] or 0 for row in found]
            axis.errorbar(places, [row['mean'] for row in found], spread, marker='o', capsize=3, label=init)
        axis.set(title=title, xlabel='labelled images')
        axis.set_xticks(range(len(labels)), labels)
        axis.set_xlim(-0.5, len(labels) - 0.5)
    axes[0][0].set_ylabel(metric)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format='png', dpi=110)
    plt.close(figure)
    write_durably(path, picture.getvalue())


def main() -> int:
    """Pretrain what is missing, compare, write table, plot and JSON."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        chosen_pairs(args)
        if args.amp:
            launch.use_amp(Config.fromfile(task_file(args.task, args.backbone)))  # or says why not
        total = count_samples(task_file(args.task, args.backbone), args.data_root)
        args.labels = chosen_labels(args.labels, total)
        for labels in args.labels:
            require_enough(labels, total, args.lr)
        trained = pretrain_all(args)
        backbones = {'random': ['random']}
        backbones.update({name: [one['backbone'] for one in several] for name, several in trained.items()})
        reports = {labels: compare(args, labels, total, backbones) for labels in args.labels}
    except (run_config.UsageError, RuntimeError, ValueError, OSError, ImportError) as error:
        print(f'transfer: {error}', file=sys.stderr)
        return 1
    rows = [row for labels, report in reports.items() for row in rows_of(labels, report)]
    metric = next(iter(reports.values()))['metric']
    table = render_table(rows, metric)
    settings = {key: str(value) for key, value in vars(args).items()}
    machine = next(iter(reports.values()))['machine']
    result = dict(
        task=args.task, metric=metric, settings=settings, machine=machine, rows=rows, pretrained=trained
    )
    result['tried'] = {labels: report['tried'] for labels, report in reports.items()}
    write_durably(args.out / 'transfer.md', table.encode())
    write_durably(args.out / 'transfer.json', json.dumps(result, indent=1).encode())
    plot(rows, metric, args.out / 'transfer.png')
    print(f'\n{table}\n{args.out}/transfer.md, transfer.json, transfer.png')
    return 0


if __name__ == '__main__':
    with ending_children():
        sys.exit(main())
