"""Draw the loss and the validation error of runs, beside what interpolating the guidance gives.

    python tools/analysis_tools/plot_curve.py work_dirs/NAME --out curve.png
    python tools/analysis_tools/plot_curve.py work_dirs/A work_dirs/B --labels few many --out two.png
    python tools/analysis_tools/plot_curve.py work_dirs/SEG --metric mIoU --out segmentation.png

A RUN is a work directory (a resumed run is read as one) or a scalars json file of mmengine.
"""

import argparse
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmp_mm.engine import read_scalars
from cmp_mm.flow import write_whole

NETWORK = 'cmp'
CORRECTED = 'corrected'  # its flow with what it misses at the arrows added: this changes while training too
METRICS = {
    'epe': 'end-point error (px)',
    'fl': 'Fl: over 3 px and 5 % (% of pixels)',
    'angular': 'angular error (degrees)',
    'bin_acc': 'right bins (%)',
}
COLOURS = ('#1f5fbf', '#d1495b', '#2e8b57', '#8d5fd3', '#e08a1e', '#3f3f3f')
DASHES = ((4, 2), (1, 1.5), (6, 2, 1, 2), (2, 2))
# Series: key -> (steps, values), in order of the steps.
Series = dict[str, tuple[np.ndarray, np.ndarray]]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN', help='work directories or json files')
    parser.add_argument('--out', type=Path, required=True, help='picture to write: .png, .svg or .pdf')
    parser.add_argument('--labels', nargs='+', help='names of the runs (default: their folders)')
    parser.add_argument(
        '--metric',
        default='epe',
        help=f'{", ".join(METRICS)}, or a key of the validation log, such as mIoU; default: epe',
    )
    parser.add_argument('--title', help='line above the picture')
    args = parser.parse_args(argv)
    args.metric = args.metric.removeprefix(f'{NETWORK}/')
    if args.labels and len(args.labels) != len(args.runs):
        parser.error(f'{len(args.labels)} labels for {len(args.runs)} runs; expected one for each')
    if args.out.suffix not in ('.png', '.svg', '.pdf'):
        parser.error(f'--out is {args.out}; expected a name that ends in .png, .svg or .pdf')
    return args


def metric_key(metric: str) -> str:
    """What a metric of the network is called in the log."""
    return f'{NETWORK}/{metric}' if metric in METRICS else metric


def read_run(run: Path) -> Series:
    """The numbers of one run: key -> (steps, values), both (N,).

    Raises:
        FileNotFoundError: see :func:`cmp_mm.engine.read_scalars`.
    """
    series: dict[str, dict[int, float]] = {}
    for row in read_scalars(run):
        for key, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                series.setdefault(key, {})[row['step']] = float(value)
    return {
        key: (np.array(sorted(points)), np.array([points[step] for step in sorted(points)]))
        for key, points in series.items()
    }


def baselines(run: Series, metric: str) -> dict[str, float]:
    """The baselines' errors in a run: name -> value, the best first. They do not change while training."""
    if metric not in METRICS:
        return {}
    found = {
        key.removesuffix(f'/{metric}'): float(values[-1])
        for key, (_, values) in run.items()
        if key.endswith(f'/{metric}') and key not in (f'{NETWORK}/{metric}', f'{CORRECTED}/{metric}')
    }
    return dict(sorted(found.items(), key=lambda item: -item[1] if metric == 'bin_acc' else item[1]))


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over up to ``window`` neighbours, fewer at the ends: (N,) to (N,)."""
    kernel = np.ones(min(window, len(values)))
    return np.convolve(values, kernel, 'same') / np.convolve(np.ones(len(values)), kernel, 'same')


def draw(runs: dict[str, Series], metric: str, title: str | None, suffix: str) -> bytes:
    """Draw the runs: the loss above, the validation metric below if any run has it.

    Args:
        runs: label -> series.
        metric: key of ``METRICS``, or of the log.
        title: line above, or None.
        suffix: 'png', 'svg' or 'pdf'.

    Returns:
        The file's content.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    key = metric_key(metric)
    rows = 2 if any(key in run for run in runs.values()) else 1
    figure = Figure(figsize=(7.5, 3.25 * rows), layout='constrained')
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
    above, below = panels[0], panels[-1]
    references = [baselines(run, metric) for run in runs.values()]
    for number, (label, run) in enumerate(runs.items()):
        colour = COLOURS[number % len(COLOURS)]
        if 'loss' in run:
            steps, loss = run['loss']
            above.plot(steps, loss, color=colour, alpha=0.25, linewidth=0.8)
            above.plot(steps, smooth(loss, max(1, len(loss) // 40)), color=colour, linewidth=1.6, label=label)
        if key in run:
            steps, values = run[key]
            below.plot(steps, values, color=colour, marker='o', markersize=3.5, linewidth=1.6, label=label)
        if key in run and metric in METRICS and f'{CORRECTED}/{metric}' in run:
            steps, values = run[f'{CORRECTED}/{metric}']
            label = f'{label}, {CORRECTED}'
            below.plot(
                steps, values, '-.', color=colour, marker='o', markersize=2.5, linewidth=1.2, label=label
            )
        for kind, (name, value) in enumerate(sorted(baselines(run, metric).items())):
            # Runs on the same data and guidance share a baseline: it is drawn once, and in grey.
            same = all(math.isclose(one.get(name, math.nan), value, rel_tol=1e-6) for one in references)
            if same and number > 0:
                continue
            style = dict(
                color='#555555' if same else colour, dashes=DASHES[kind % len(DASHES)], linewidth=1.1
            )
            below.axhline(value, label=f'{name} {value:.2f}', **style)
    below.set_ylabel(f'validation {METRICS.get(metric, metric)}')
    above.set_ylabel('training loss')  # after the other: they may be one
    below.set_xlabel('iteration')
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, loc='best', ncols=2, framealpha=0.85, edgecolor='none')
    if rows == 2 and metric in METRICS and metric != 'bin_acc':
        # The first validations may be far off; what counts lies around the baselines.
        highest = below.get_ylim()[1]
        worst = max((value for one in references for value in one.values()), default=0)
        below.set_ylim(0, min(highest, 2 * worst) if worst > 0 else highest)
    if title:
        figure.suptitle(title, fontsize=11)
    data = io.BytesIO()
    figure.savefig(data, format=suffix, dpi=130)
    return data.getvalue()


def describe(label: str, run: Series, metric: str) -> str:
    """One line: the best validation of a run beside its baselines; of unknown metrics the highest is best."""
    key = metric_key(metric)
    if key in run and not np.isfinite(run[key][1]).any():
        return f'{label}: {key} is no number in its log'
    if key not in run:
        others = [name for name in run if name.startswith(f'{NETWORK}/')]
        return f'{label}: no {key} in its log' + (f'; there are {", ".join(others)}' if others else '')
    steps, values = run[key]
    rising = metric == 'bin_acc' or metric not in METRICS
    best = int(np.nanargmax(values) if rising else np.nanargmin(values))
    others = ' | '.join(f'{name} {value:.3f}' for name, value in baselines(run, metric).items())
    last = '' if best == len(values) - 1 else f', last {values[-1]:.3f} at {steps[-1]}'
    found = [f'{label}: {metric} {values[best]:.3f} at iteration {steps[best]}{last}']
    if metric in METRICS and f'{CORRECTED}/{metric}' in run:
        of_steps = dict(zip(*run[f'{CORRECTED}/{metric}'], strict=True))
        if steps[best] in of_steps:
            found.append(f'{CORRECTED} {of_steps[steps[best]]:.3f}')
    return ' | '.join([*found, *([others] if others else [])])


def main(argv: Sequence[str] | None = None) -> int:
    """Draw; 0 if done, 2 if a run cannot be read or the picture not be written."""
    args = parse_args(argv)
    labels = args.labels or [(run if run.is_dir() else run.parent).resolve().name for run in args.runs]
    if len(set(labels)) < len(labels):
        labels = [str(run) for run in args.runs]
    try:
        runs = {label: read_run(run) for label, run in zip(labels, args.runs, strict=True)}
        empty = [
            label for label, run in runs.items() if 'loss' not in run and metric_key(args.metric) not in run
        ]
        if empty:
            raise ValueError(
                f'{empty[0]}: neither loss nor {metric_key(args.metric)} in its log; nothing to draw'
            )
        picture = draw(runs, args.metric, args.title, args.out.suffix[1:])
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole([(args.out, picture)])
    except (OSError, ValueError) as error:
        print(f'plot_curve.py: error: {error}', file=sys.stderr)
        return 2
    for label, run in runs.items():
        print(describe(label, run, args.metric))
    print(args.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
