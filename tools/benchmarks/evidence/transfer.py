r"""Fine-tune a small backbone from random, Walker and CMP weights with few labels, and compare.

    python tools/benchmarks/evidence/transfer.py --task puppets --data-root data/puppets_labels \
        --pairs data/puppets_video --recipes walker cmp-4 --labels 10 40 all --seeds 3 --frozen \
        --out work_dirs/evidence/puppets

Recipes that are not trained yet are trained first. For each number of labelled images the comparison is
``compare_inits.py``'s, in a folder of its own, so the same command continues what was interrupted.
OUT/transfer.{md,json,png} are the result.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from mmengine.config import Config
from recipes import ROOT, add_pairs, add_scale, chosen_pairs, chosen_scale, pretrain

from cmp_mm.engine import write_durably

TASKS = {
    name: f'configs/downstream/mmseg/cmp_fcn_r18-3stages-d8_1xb8-1k_{name}-{size}.py'
    for name, size in (
        ('puppets', '112x112'),
        ('foreground', '112x112'),
        ('ccp', '160x160'),
        ('camvid', '160x160'),
    )
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_pairs(parser)
    add_scale(parser)
    parser.add_argument('--task', choices=TASKS, required=True)
    parser.add_argument(
        '--data-root', required=True, help='of the labelled set; see the README of its config'
    )
    parser.add_argument('--recipes', nargs='+', default=['walker', 'cmp', 'cmp-4'], help='see recipes.py')
    parser.add_argument('--labels', nargs='+', default=['all'], help='numbers of labelled images, or all')
    parser.add_argument('--seeds', type=int, default=3, help='of the fine-tuning')
    parser.add_argument('--pretrain-seed', type=int, default=0)
    parser.add_argument('--iterations', type=int, default=150, help='of the fine-tuning')
    parser.add_argument('--lr', type=float, default=1e-3, help="of the fine-tuning's AdamW")
    parser.add_argument('--frozen', action='store_true', help='also one linear layer on the frozen backbone')
    parser.add_argument('--out', type=Path, required=True)
    return parser.parse_args()


def compare(args: argparse.Namespace, labels: str, backbones: dict[str, str]) -> dict:
    """Run ``compare_inits.py`` with so many labelled images; its report.

    Raises:
        RuntimeError: it failed.
    """
    out = args.out / f'labels-{labels}'
    cfg = Config.fromfile(ROOT / TASKS[args.task])
    # AdamW's steps do not depend on the scale of the weights, which differs between the initialisations.
    cfg.optim_wrapper.optimizer = dict(type='AdamW', lr=args.lr, weight_decay=0.01)
    cfg.param_scheduler[0].update(end=args.iterations, eta_min=1e-6)
    cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = args.iterations
    cfg.default_hooks.checkpoint.interval = args.iterations
    if labels != 'all':
        cfg.train_dataloader.dataset.indices = int(labels)
    out.mkdir(parents=True, exist_ok=True)
    cfg.dump(out / f'{args.task}.py')
    command = [sys.executable, ROOT / 'tools/benchmarks/compare_inits.py', out / f'{args.task}.py']
    command += ['--inits', 'random', *(f'{name}={file}' for name, file in backbones.items())]
    command += ['--seeds', args.seeds, '--data-root', args.data_root, '--out', out]
    command += ['--frozen'] if args.frozen else []
    if subprocess.run([*map(str, command)]).returncode != 0:
        raise RuntimeError(f'{args.task} with {labels} labels failed; run the same command again to continue')
    return json.loads((out / 'results.json').read_text(encoding='utf-8'))


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
        f'| labelled images | training | initialisation | {metric} | over random | runs |',
        '| --- ' * 6 + '|',
    ]

    def pair(mean: float, std: float | None, sign: str) -> str:
        return f'{mean:{sign}.1f}' + (f' ± {std:.1f}' if std is not None else '')

    for row in rows:
        values = ', '.join(f'{value:.1f}' for value in row['values'])
        gain = pair(row['gain'], row['gain_std'], '+') if row['init'] != 'random' else ''
        cells = [row['labels'], row['mode'], row['init'], pair(row['mean'], row['std'], ''), gain, values]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def plot(rows: list[dict], metric: str, path: Path) -> None:
    """Score by initialisation and number of labels, a panel per mode."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    modes = list(dict.fromkeys(row['mode'] for row in rows))
    labels = list(dict.fromkeys(row['labels'] for row in rows))
    inits = list(dict.fromkeys(row['init'] for row in rows))
    figure, axes = plt.subplots(1, len(modes), figsize=(4.5 * len(modes), 3.6), squeeze=False)
    for axis, mode in zip(axes[0], modes, strict=True):
        for number, init in enumerate(inits):
            found = [row for row in rows if row['mode'] == mode and row['init'] == init]
            places = [labels.index(row['labels']) + 0.06 * (number - len(inits) / 2) for row in found]
            spread = [row['std'] or 0 for row in found]
            axis.errorbar(places, [row['mean'] for row in found], spread, marker='o', capsize=3, label=init)
        axis.set(title=mode, xlabel='labelled images', ylabel=metric)
        axis.set_xticks(range(len(labels)), labels)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    """Pretrain what is missing, compare, write table, plot and JSON."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        trained = {
            name: pretrain(
                name, chosen_pairs(args), chosen_scale(args), args.pretrained or args.out, args.pretrain_seed
            )
            for name in args.recipes
        }
        backbones = {name: one['backbone'] for name, one in trained.items()}
        reports = {labels: compare(args, labels, backbones) for labels in args.labels}
    except (RuntimeError, ValueError, OSError) as error:
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
    write_durably(args.out / 'transfer.md', table.encode())
    write_durably(args.out / 'transfer.json', json.dumps(result, indent=1).encode())
    plot(rows, metric, args.out / 'transfer.png')
    print(f'\n{table}\n{args.out}/transfer.md, transfer.json, transfer.png')
    return 0


if __name__ == '__main__':
    sys.exit(main())
