r"""How much of the labels can be read off frozen features by a linear map, in closed form.

    python tools/benchmarks/evidence/probe.py --task puppets --data-root data/puppets_labels \
        --pairs data/puppets_video --recipes walker cmp-4 --labels 10 40 all --out work_dirs/evidence/puppets

Fine-tuning mixes what features hold with how well they train on. This asks for the first alone: ridge
regression from the features of every stage to the classes, each class weighing the same, solved exactly. Mean
class accuracy on the validation images, with the spread over the choice of the labelled images and over the
pretrainings or, for random weights, over those. Beside it the effective rank of the features: how many
directions they use.
OUT/probe.{md,json,png} are the result.
"""

import argparse
import copy
import json
import math
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import DefaultScope
from recipes import (
    LARGER,
    ROOT,
    add_backbone,
    add_labels,
    add_pairs,
    add_recipes,
    add_scale,
    at_least,
    chosen_labels,
    pretrain_all,
    require_all_measured,
)
from torch import Tensor, nn
from tqdm import tqdm
from transfer import SEGMENTATION, count_samples, plot

from cmp_mm.engine import ending_children, load_checkpoint_file, run_config, state_dict_of, write_durably
from cmp_mm.models import FlowDataPreprocessor
from cmp_mm.registry import MODELS

# backbone -> the stages that are described, by their number there
STAGES = {
    'resnet18': dict(layer1=0, layer2=1, layer3=2),
    'resnet50': dict(layer1=0, layer2=1, layer3=2, layer4=3),
    'alexnet': dict(conv3=2, conv5=4, fc7=6),
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_pairs(parser)
    add_scale(parser)
    add_backbone(parser)
    parser.add_argument('--task', choices=SEGMENTATION, required=True)
    parser.add_argument('--data-root', required=True, help='of the labelled set')
    add_recipes(parser)
    add_labels(parser)
    parser.add_argument('--seeds', type=at_least(1), default=3, help='draws of the labelled images')
    parser.add_argument('--short-side', type=at_least(1), default=160, help='of the images the features see')
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    require_all_measured(parser, args)
    return args


def load_images(cfg: Config, split: str, short_side: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every image (H, W, 3) BGR of a split with its labels (H, W)."""
    settings = cfg[f'{split}_dataloader'].dataset
    settings.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='Resize', scale=(100_000, short_side), keep_ratio=True),
    ]
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = ROOT_DATASETS.build(settings)
        return [(one['img'], one['gt_seg_map']) for one in (dataset[i] for i in range(len(dataset)))]


def backbone(name: str, weights: str | None, seed: int, images: list) -> nn.Module:
    """The pretrained backbone; random weights get the running statistics of some images."""
    torch.manual_seed(seed)
    kind = LARGER[name][0] if name in LARGER else dict(type='ResNet', depth=18, num_stages=3)
    out_indices = tuple(STAGES[name].values())
    model = MODELS.build(dict(copy.deepcopy(kind), out_indices=out_indices, _scope_='cmp_mm'))
    if weights is not None:
        model.load_state_dict(state_dict_of(load_checkpoint_file(weights)))
        return model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    model.train()
    for image, _ in images[:32]:
        model(normalized(image))
    return model.eval()


def normalized(image: np.ndarray) -> Tensor:
    """(1, 3, H, W) as the network sees it."""
    preprocessor = FlowDataPreprocessor()
    planes = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1).float()
    return ((planes - preprocessor.mean) / preprocessor.std)[None]


@torch.inference_mode()
def describe(model: nn.Module, images: list, classes: int, name: str) -> list[list[dict]]:
    """For each stage and image: features (P, C) float32 and the labels (P,) at their places."""
    found: list[list[dict]] = []
    for image, labels in tqdm(images, desc=name, unit='image', leave=False):
        stages = model(normalized(image))
        found = found or [[] for _ in stages]
        for stage, features in enumerate(stages):
            rows, columns = features.shape[-2:]
            # Padded convolutions centre cell i of a map of stride s on pixel s * i, not on the cell's middle.
            stride = 2 ** round(math.log2(labels.shape[0] / rows))
            at = labels[: rows * stride : stride, : columns * stride : stride]
            target = torch.from_numpy(at.reshape(-1).astype(np.int64))
            flat = features[0].flatten(1).T
            known = target < classes
            found[stage].append(dict(x=flat[known], y=target[known]))
    return found


def accuracy(train: list[dict], val: list[dict], classes: int) -> tuple[float, float]:
    """Mean class accuracy, percent, of ridge regression; and the effective rank of the training features.

    The rank is the participation ratio of the correlation matrix's eigenvalues, (sum)^2 / sum of squares.
    """
    # Sums over the images: 4096 channels of all of them at once would not fit a small machine.
    number = sum(len(one['y']) for one in train)
    weights = 1 / sum(torch.bincount(one['y'], minlength=classes) for one in train).clamp(min=1)
    mean = sum(one['x'].double().sum(0) for one in train) / number
    std = (sum((one['x'].double() - mean).square().sum(0) for one in train) / (number - 1)).sqrt() + 1e-6
    correlation = gram = targets = 0
    for one in train:
        x = (one['x'].double() - mean) / std
        correlation += x.T @ x
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        weighted = x.T * weights[one['y']]
        gram += weighted @ x
        targets += weighted @ nn.functional.one_hot(one['y'], classes).double()
    eigenvalues = torch.linalg.eigvalsh(correlation / number).clamp(min=0)
    rank = float(eigenvalues.sum() ** 2 / eigenvalues.square().sum())
    solution = torch.linalg.solve(gram + 1e-2 * torch.eye(len(gram), dtype=gram.dtype), targets)
    right, total = torch.zeros(classes), torch.zeros(classes)
    for one in val:
        values = (one['x'].double() - mean) / std
        guess = (values @ solution[:-1] + solution[-1]).argmax(1)
        total += torch.bincount(one['y'], minlength=classes)
        right += torch.bincount(one['y'][guess == one['y']], minlength=classes)
    seen = total > 0
    return float((right[seen] / total[seen]).mean() * 100), rank


def measure(args: argparse.Namespace, cfg: Config, inits: dict[str, list[str | None]]) -> list[dict]:
    """One row per initialisation, stage and number of labels.

    Draw ``i`` of the labelled images is described by the weights ``i``, counted around; None are random ones
    of seed ``i``.
    """
    train, val = (load_images(cfg, split, args.short_side) for split in ('train', 'val'))
    classes = cfg.model.decode_head.num_classes
    scores: dict[tuple, list[tuple[float, float]]] = {}
    for init, several in inits.items():
        for seed in range(args.seeds):
            if seed == 0 or len(several) > 1:
                model = backbone(args.backbone, several[seed % len(several)], seed, train)
                described = [describe(model, images, classes, init) for images in (train, val)]
            order = np.random.default_rng(seed).permutation(len(train))
            for labels in args.labels:
                chosen = order if labels == 'all' else order[: int(labels)]
                for stage, name in enumerate(STAGES[args.backbone]):
                    some = [described[0][stage][i] for i in chosen]
                    result = accuracy(some, described[1][stage], classes)
                    scores.setdefault((labels, name, init), []).append(result)
                    if labels == 'all' and seed >= len(several):
                        scores[labels, name, init].pop()  # the same images and weights again
    rows = []
    for (labels, stage, init), found in scores.items():
        values = [score for score, _ in found]
        std = statistics.stdev(values) if len(values) > 1 else None
        rank = statistics.mean(rank for _, rank in found)
        row = dict(labels=labels, stage=stage, init=init, mean=statistics.mean(values), std=std, rank=rank)
        rows.append(dict(row, values=values))
    return rows


def render_table(rows: list[dict]) -> str:
    """Markdown: a row per initialisation and stage, a column per number of labels."""
    labels = list(dict.fromkeys(row['labels'] for row in rows))
    lines = ['| features | stage | ' + ' | '.join(f'{n} labels' for n in labels) + ' | effective rank |']
    lines.append('| --- ' * (3 + len(labels)) + '|')
    for init in dict.fromkeys(row['init'] for row in rows):
        for stage in dict.fromkeys(row['stage'] for row in rows):
            found = {row['labels']: row for row in rows if (row['init'], row['stage']) == (init, stage)}
            cells = [
                f'{found[n]["mean"]:.1f}'
                + (f' ± {found[n]["std"]:.1f}' if found[n]['std'] is not None else '')
                for n in labels
            ]
            lines.append(
                f'| {init} | {stage} | ' + ' | '.join(cells) + f' | {found[labels[-1]]["rank"]:.0f} |'
            )
    return '\n'.join(lines) + '\n'


def main() -> int:
    """Pretrain what is missing, probe, write table, plot and JSON."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        cfg = Config.fromfile(ROOT / SEGMENTATION[args.task])
        run_config.set_data_root(cfg, args.data_root)
        args.labels = chosen_labels(
            args.labels, count_samples(ROOT / SEGMENTATION[args.task], args.data_root)
        )
        trained = pretrain_all(args)
        inits: dict[str, list[str | None]] = {'random': [None] * args.seeds}
        inits.update({name: [one['backbone'] for one in several] for name, several in trained.items()})
        rows = measure(args, cfg, inits)
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        print(f'probe: {error}', file=sys.stderr)
        return 1
    table = render_table(rows)
    settings = {key: str(value) for key, value in vars(args).items()}
    result = dict(
        task=args.task, metric='mean class accuracy, %', settings=settings, rows=rows, pretrained=trained
    )
    write_durably(args.out / 'probe.md', table.encode())
    write_durably(args.out / 'probe.json', json.dumps(result, indent=1).encode())
    plot(rows, result['metric'], args.out / 'probe.png', 'stage')
    print(f'\n{table}\n{args.out}/probe.md, probe.json, probe.png')
    return 0


if __name__ == '__main__':
    with ending_children():
        sys.exit(main())
