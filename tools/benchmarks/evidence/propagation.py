r"""Error of propagated motion against the number of guidance points, beside interpolation.

    python tools/benchmarks/evidence/propagation.py --pairs data/clips --recipes cmp cmp-4 walker \
        --sets clips=data/clips/val.json --out work_dirs/evidence/clips

Recipes that are not trained yet are trained first; the same command continues what was interrupted. Guidance
of n points is the first n of one list per image: watershed and grid candidates in a random order, then random
pixels. Each network counts as it is, and corrected: with what it misses at the points spread by distance and
added; all images, then those where the camera moves (one motion everywhere has less than .8 of the error of
none) and where it stands; then how much of the arrows is left at their points (the slope of predicted over
given vectors). Of several --pretrain-seeds it is the mean, with the spread over them. The result is
OUT/propagation.{md,json,png}.
"""

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from recipes import (
    GRID,
    RECIPES,
    WATERSHED,
    Distinct,
    add_backbone,
    add_pairs,
    add_recipes,
    add_scale,
    at_least,
    chosen_pairs,
    chosen_scale,
    pretrain_all,
    pretraining_config,
)
from tqdm import tqdm

from cmp_mm.apis.loading import load_network
from cmp_mm.datasets import ImageFlowDataset
from cmp_mm.engine import ending_children, write_durably
from cmp_mm.evaluation import correct_at_points, interpolate_guidance
from cmp_mm.guidance import guidance_map, sample_points
from cmp_mm.models import CMP

NUMBERS = (1, 2, 4, 8, 16, 32)
FADED = 'idw, faded'  # what the correction makes of the points where no network says anything
BASELINES = ('nearest', 'idw', FADED, 'rbf', 'mean', 'zero')
CORRECTED = ', corrected'  # after the name of a network
# The camera moves where one motion everywhere has less than this of the error of none.
CAMERA = 0.8


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_pairs(parser)
    add_scale(parser)
    add_backbone(parser)
    add_recipes(parser)
    parser.add_argument(
        '--sets',
        nargs='+',
        required=True,
        metavar='NAME=ANNOTATION',
        help='what to measure on: an annotation (JSON, or a list of "image0 image1 flow")',
    )
    parser.add_argument(
        '--numbers',
        nargs='+',
        type=at_least(0),
        action=Distinct,
        default=list(NUMBERS),
        help='of guidance points',
    )
    parser.add_argument(
        '--max-images', type=at_least(1), default=200, help='of each set, spread evenly over it'
    )
    parser.add_argument('--seed', type=at_least(0), default=0, help='of the points')
    parser.add_argument('--out', type=Path, required=True)
    return parser.parse_args()


def ordered_points(flow: np.ndarray, valid: np.ndarray | None, number: int, seed: int) -> np.ndarray:
    """(number, 2) (row, column): candidates in a random order, then random pixels where they are too few."""
    rng = np.random.default_rng(seed)
    points = sample_points(flow, [WATERSHED, GRID], -1, rng, valid)
    points = points[np.sort(np.unique(points, axis=0, return_index=True)[1])]
    if len(points) < number:
        known = np.ones(flow.shape[:2], bool) if valid is None else valid.copy()
        known[points[:, 0], points[:, 1]] = False
        rest = np.argwhere(known)
        points = np.concatenate([points, rng.permutation(rest)])
    return points[:number]


def epe(flow: np.ndarray, target: np.ndarray, valid: np.ndarray | None) -> float:
    """Mean end-point error over the known pixels."""
    error = np.linalg.norm(flow - target, axis=-1)
    return float(error.mean() if valid is None else error[valid].mean())


@torch.inference_mode()
def network_flows(model: CMP, image: np.ndarray, sets: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Flow (T, H, W, 2) for T guidance sets on one image (H, W, 3), BGR."""
    preprocessor = model.data_preprocessor
    planes = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1).float()
    features = model.encode_image(((planes - preprocessor.mean) / preprocessor.std)[None])
    size = image.shape[:2]
    maps = np.stack([guidance_map(points, vectors, size) for points, vectors in sets])
    guidance = torch.from_numpy(maps).permute(0, 3, 1, 2).float()
    if not model.use_guidance:
        guidance = torch.zeros_like(guidance[:1])
    flows = model.to_flow(model.decode(features, model.encode_guidance(guidance)), size)
    return flows.permute(0, 2, 3, 1).expand(len(sets), -1, -1, -1).numpy()


def open_sets(texts: list[str], cfg: Config) -> dict[str, ImageFlowDataset]:
    """Name -> data set of each ``--sets`` entry, images and flow at the size of a config's validation.

    Raises:
        ValueError: an entry is not NAME=ANNOTATION, or its annotation is missing or cannot be read, or two
            entries have the same name.
        RuntimeError: the files of its first image are missing or cannot be read.
    """
    pipeline = [
        step
        for step in cfg.val_dataloader.dataset.pipeline
        if step.type not in ('SampleGuidance', 'PackFlowInputs')
    ]
    sets = {}
    for text in texts:
        name, separator, annotation = text.partition('=')
        if not separator:
            raise ValueError(f'--sets {text}: expected NAME=ANNOTATION')
        if name in sets:
            raise ValueError(f'--sets {text}: expected another name, {name} is of an earlier set')
        file = Path(annotation).absolute()  # a relative one would be looked for below the root
        sets[name] = ImageFlowDataset(ann_file=str(file), data_root=str(file.parent), pipeline=pipeline)
        sets[name][0]  # are its files there?
    return sets


def camera_moves(flow: np.ndarray, valid: np.ndarray | None) -> bool:
    """Whether much of the motion (H, W, 2) is the same everywhere, as of a camera that turns."""
    mean = flow.reshape(-1, 2).mean(axis=0) if valid is None else flow[valid].mean(axis=0)
    return epe(np.broadcast_to(mean, flow.shape), flow, valid) < CAMERA * epe(0 * flow, flow, valid)


def kept(flows: np.ndarray, sets: list[tuple[np.ndarray, np.ndarray]]) -> list[list[float]]:
    """Of each guidance set: products of predicted and given vectors at the points, of the given ones."""
    found = []
    for flow, (points, given) in zip(flows, sets, strict=True):
        predicted = flow[points[:, 0], points[:, 1]]
        found.append([float((predicted * given).sum()), float((given * given).sum())])
    return found


def interpolated(name: str, points: np.ndarray, vectors: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Flow (H, W, 2) of one of ``BASELINES``."""
    if name == FADED:
        return correct_at_points(np.zeros((*size, 2), np.float32), points, vectors)
    return interpolate_guidance(points, vectors, size, name)


def measure(models: dict[str, list[CMP]], dataset: ImageFlowDataset, args: argparse.Namespace) -> dict:
    """Mean error over the images of one set: method -> one figure per number of points.

    Each network counts twice: as it is, and with what it misses at the points interpolated and added.
    Of a method's several networks it is their mean; ``std`` has the spread where there are several. Then the
    same of the images where the camera moves and where it stands, and, per network as it is, ``kept``: how
    much of the arrows is left at their points (the slope of predicted over given vectors).
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, args.max_images).round().astype(int))
    networks = [row for name in models for row in (name, name + CORRECTED)]
    errors: dict[str, list[list[list[float]]]] = {name: [] for name in (*networks, *BASELINES)}
    moves, products = [], {name: [] for name in models}
    for index in tqdm(chosen, desc=Path(dataset.ann_file).parent.name, unit='image'):
        sample = dataset[int(index)]
        flow, valid = sample['flow'], sample.get('flow_valid')
        points = ordered_points(flow, valid, max(args.numbers), args.seed * 1_000_003 + int(index))
        sets = [(points[:n], flow[points[:n, 0], points[:n, 1]]) for n in args.numbers]
        moves.append(camera_moves(flow, valid))
        for name, several in models.items():
            found = [network_flows(model, sample['img'], sets) for model in several]
            errors[name].append([[epe(one, flow, valid) for one in flows] for flows in found])
            products[name].append([kept(flows, sets) for flows in found])
            found = [
                [correct_at_points(one, *given) for one, given in zip(flows, sets, strict=True)]
                for flows in found
            ]
            errors[name + CORRECTED].append([[epe(one, flow, valid) for one in flows] for flows in found])
        for name in BASELINES:
            flows = (interpolated(name, *one, flow.shape[:2]) for one in sets)
            errors[name].append([[epe(one, flow, valid) for one in flows]])
    measured = dict(images=len(chosen), **_summary(errors, products))
    for name, wanted in (('camera moves', True), ('camera stands', False)):
        errors_there, products_there = (
            {
                method: [row for row, is_so in zip(rows, moves, strict=True) if is_so == wanted]
                for method, rows in of_methods.items()
            }
            for of_methods in (errors, products)
        )
        if 0 < moves.count(wanted) < len(moves):
            measured[name] = dict(images=moves.count(wanted), **_summary(errors_there, products_there))
    return measured


def _summary(errors: dict[str, list], products: dict[str, list]) -> dict[str, dict[str, list]]:
    """Mean and spread over networks, and what they keep; from lists of images of networks of numbers."""
    of_networks = {name: np.mean(rows, axis=0) for name, rows in errors.items()}
    sums = {name: np.sum(rows, axis=(0, 1)) for name, rows in products.items()}  # (T, 2)
    return dict(
        mean={name: rows.mean(axis=0).tolist() for name, rows in of_networks.items()},
        std={name: rows.std(axis=0, ddof=1).tolist() for name, rows in of_networks.items() if len(rows) > 1},
        kept={name: [float(a / b) if b else None for a, b in rows] for name, rows in sums.items()},
    )


def render(measured: dict, numbers: list[int]) -> str:
    """Markdown: the tables of a set, and how much of the arrows each network keeps."""
    text = '\n'.join(render_table(part, numbers, where) for where, part in _parts(measured))
    lines = ['| part of the arrows left at their points, % | ' + ' | '.join(map(str, numbers)) + ' |']
    lines.append('| --- |' + ' --- |' * len(numbers))
    for where, part in _parts(measured):
        for name, row in part['kept'].items():
            cells = ('' if value is None else f'{100 * value:.0f}' for value in row)
            lines.append(f'| {name}{where} | ' + ' | '.join(cells) + ' |')
    return text + '\n' + '\n'.join(lines) + '\n'


def render_table(measured: dict, numbers: list[int], where: str = '') -> str:
    """Markdown: a row per method, a column per number of points."""
    lines = [f'| EPE, px, {measured["images"]} images{where} | ' + ' | '.join(map(str, numbers)) + ' |']
    lines.append('| --- |' + ' --- |' * len(numbers))
    best = np.min(list(measured['mean'].values()), axis=0)
    for name, row in measured['mean'].items():
        cells = [f'**{v:.2f}**' if v == b else f'{v:.2f}' for v, b in zip(row, best, strict=True)]
        if name in measured['std']:
            cells = [f'{cell} ± {std:.2f}' for cell, std in zip(cells, measured['std'][name], strict=True)]
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def plot(results: dict, numbers: list[int], path: Path) -> None:
    """A row of panels for each set: all images, and those where the camera moves and where it stands."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    rows = [
        [(f'{name}{where}, {part["images"]} images', part) for where, part in _parts(measured)]
        for name, measured in results.items()
    ]
    shape = len(rows), max(map(len, rows))
    figure, axes = plt.subplots(
        *shape, figsize=(4.2 * shape[1] + 2, 3.3 * shape[0]), squeeze=False, layout='constrained'
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for row, panels in zip(axes, rows, strict=True):
        for axis, (title, part) in zip(row, panels, strict=False):
            axis.set_axis_on()
            _draw(axis, title, part['mean'], numbers)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc='outside right upper', fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format='png', dpi=110)
    plt.close(figure)
    write_durably(path, picture.getvalue())


def _parts(measured: dict) -> list[tuple[str, dict]]:
    parts = [(f', {name}', measured[name]) for name in ('camera moves', 'camera stands') if name in measured]
    return [('', measured), *parts]


def _draw(axis: Any, title: str, mean: dict[str, list[float]], numbers: list[int]) -> None:
    networks = [name for name in mean if name not in BASELINES and not name.endswith(CORRECTED)]
    for method, row in mean.items():
        corrected = method.endswith(CORRECTED)
        own = method.removesuffix(CORRECTED)
        # A network has one colour, corrected or not.
        number = networks.index(own) if own in networks else len(networks) + BASELINES.index(method)
        style = '-.' if corrected else '-' if own in networks else '--'
        axis.plot(numbers, row, style, color=f'C{number % 10}', marker='o', markersize=3, label=method)
    axis.set_title(title, fontsize=10)
    axis.set(xlabel='guidance points', ylabel='end-point error, px')
    # Without points there is no logarithm.
    axis.set_xscale(**(dict(value='symlog', linthresh=1) if 0 in numbers else dict(value='log')))
    axis.set_ylim(0, 1.15 * max(max(row) for name, row in mean.items() if name != 'rbf'))
    axis.set_xticks(numbers, [str(number) for number in numbers])
    axis.minorticks_off()


def main() -> int:
    """Pretrain what is missing, measure, write table, plot and JSON."""
    args = parse_args()
    init_default_scope('cmp_mm')
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        any_pairs = next(iter(chosen_pairs(args).values()))
        cfg = pretraining_config(
            RECIPES[args.recipes[0]], any_pairs, chosen_scale(args), backbone=args.backbone
        )
        sets = open_sets(args.sets, cfg)  # before the trainings: they take longest
        trained = pretrain_all(args)
        models = {
            name: [load_network(one['config'], one['checkpoint']).eval() for one in several]
            for name, several in trained.items()
        }
        results = {}
        for name, dataset in sets.items():
            results[name] = measure(models, dataset, args)
            print(f'\n{name}\n\n{render(results[name], args.numbers)}', flush=True)
    except (RuntimeError, ValueError, OSError) as error:
        print(f'propagation: {error}', file=sys.stderr)
        return 1
    text = '\n'.join(f'{name}\n\n{render(measured, args.numbers)}' for name, measured in results.items())
    report = dict(numbers=args.numbers, seed=args.seed, sets=results, pretrained=trained)
    write_durably(args.out / 'propagation.md', text.encode())
    write_durably(args.out / 'propagation.json', json.dumps(report, indent=1).encode())
    plot(results, args.numbers, args.out / 'propagation.png')
    return 0


if __name__ == '__main__':
    with ending_children():
        sys.exit(main())
