"""Draw samples as training sees them: the image after the pipeline, its guidance, and the target flow.

    python tools/visualization/browse_dataset.py CONFIG --data-root DIR --out pictures --number 20

The drawing and its colour scale are those of the pictures that training and validation leave.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.registry import init_default_scope
from tqdm import tqdm

from cmp_mm.datasets import ImageFlowDataset
from cmp_mm.engine import launch, run_config
from cmp_mm.registry import DATASETS
from cmp_mm.visualization import FlowVisualizer


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--out', type=Path, required=True, help='folder of the pictures')
    parser.add_argument('--data-root', help='folder of the pairs, for every dataset of the config')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train', help='default: train')
    parser.add_argument(
        '--number', type=int, default=20, help='samples to draw, spread over the set (default: %(default)s)'
    )
    parser.add_argument(
        '--draw', type=int, default=0, help='another number, other crops and guidance (default: %(default)s)'
    )
    parser.add_argument(
        '--max-radius', type=float, help="pixels of full saturation (default: the config's visualizer's)"
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=run_config.ConfigOptions,
        metavar='KEY=VALUE',
        help='change settings of the config',
    )
    args = parser.parse_args(argv)
    if args.number < 1 or args.draw < 0:
        parser.error(f'--number is {args.number} and --draw {args.draw}; expected at least 1 and 0')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Draw."""
    args = parse_args(argv)
    cfg = run_config.load_config(args.config, args.cfg_options, args.data_root, (args.split,))
    loader = cfg.get(f'{args.split}_dataloader')
    if loader is None:
        raise run_config.UsageError(f'config {args.config} has no {args.split}_dataloader')
    run_config.require_data(cfg, (args.split,))
    init_default_scope(cfg.get('default_scope') or 'cmp_mm')
    drawing = cfg.get('visualizer') or {}
    settings = {key: drawing[key] for key in ('max_radius', 'arrow_scale') if key in drawing}
    if args.max_radius is not None:
        settings['max_radius'] = args.max_radius
    try:
        visualizer = FlowVisualizer(**settings)
    except ValueError as error:
        raise run_config.UsageError(str(error)) from None
    dataset = DATASETS.build(loader.dataset)
    if not isinstance(dataset, ImageFlowDataset):
        raise run_config.UsageError(
            f'config {args.config}: its {args.split} set is a {type(dataset).__name__}, expected an '
            'ImageFlowDataset; the browse_dataset.py of its own package draws it'
        )
    dataset.full_init()
    args.out.mkdir(parents=True, exist_ok=True)
    indices = np.unique(np.linspace(0, len(dataset) - 1, args.number).round().astype(int)).tolist()
    counts = []
    for index in tqdm(indices, unit='sample', desc='drawing', dynamic_ncols=True):
        packed = dataset[(index, args.draw)]
        image, sample = packed['inputs']['image'].numpy(), packed['data_samples']
        if 'guidance_points' in sample:
            counts.append(len(sample.guidance_points))
        rgb = np.ascontiguousarray(image[::-1].transpose(1, 2, 0))
        visualizer.add_datasample(f'{index}', rgb, sample, out_file=str(args.out / f'{index:08d}.png'))
    print(f'{len(indices)} of {len(dataset)} samples of {args.split} in {args.out}')
    if counts:
        print(f'guidance vectors: {np.mean(counts):.1f} on average, from {min(counts)} to {max(counts)}')


if __name__ == '__main__':
    with launch.one_line_errors('browse_dataset.py'):
        main()
