"""Make a checkpoint fit to publish: ``publish_model.py IN OUT``.

Only the weights are kept, and which model they are of; optimizer, logs, config, paths and dates go. The file
is called ``OUT-<sha8>.pth`` after its contents, is read again as data and held against a model built from its
config; nothing is written, and the exit code is 1, where a key is missing or left over.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from cmp_mm.engine import (
    CheckpointError,
    compare_keys,
    export,
    launch,
    load_checkpoint_file,
    run_config,
    state_dict_of,
    write_durably,
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', metavar='IN', help='checkpoint of a training run')
    parser.add_argument('out', metavar='OUT', help='file to write; the digits are added to its name')
    parser.add_argument(
        '--config', help='config of the model, where the checkpoint does not say which it is (meta["model"])'
    )
    parser.add_argument(
        '--raw', action='store_true', help='of a run with EMA take the raw weights, not the averaged ones'
    )
    parser.add_argument(
        '--metafile', metavar='FILE', help="write the model's entry for a metafile.yml there; '-' prints it"
    )
    parser.add_argument(
        '--dataset', default='own videos', help='what the metrics in that entry are of (default: %(default)s)'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Publish, read again; returns the exit code."""
    args = parse_args(argv)
    checkpoint = load_checkpoint_file(args.checkpoint, 'cpu')
    try:
        model = run_config.load_config(args.config).model if args.config else export.model_config(checkpoint)
        if model is None:
            raise CheckpointError('it does not say of which model it is; add --config CONFIG')
        module = export.build_module(model, trusted=bool(args.config))
        weights = export.select_weights(checkpoint, args.raw)
        if 'backbone' not in model and any(key.startswith(export.PREFIX) for key in weights):
            # official2cmp_mm.py also writes encoders alone.
            weights = export.select_backbone(weights)
        report = compare_keys(module, weights)
        if not report.fits:
            raise CheckpointError(f'it does not fill {model["type"]}: {report}')
    except CheckpointError as error:
        raise CheckpointError(f'checkpoint {args.checkpoint}: {error}') from None
    meta = export.export_meta(checkpoint, model=model)
    final = export.write_published(args.out, dict(meta=meta, state_dict=weights))
    report = compare_keys(module, state_dict_of(load_checkpoint_file(final, 'cpu')))
    print(f'{final}: {model["type"]}, {report}')
    if args.metafile:
        entry = yaml.safe_dump([metafile_entry(args, checkpoint, final)], sort_keys=False)
        if args.metafile == '-':
            print(entry, end='')
        else:
            write_durably(args.metafile, entry.encode())
    if not report.fits:
        print(f'publish_model.py: error: {final} does not fill {model["type"]}', file=sys.stderr)
        return 1
    return 0


def metafile_entry(args: argparse.Namespace, checkpoint: dict, final: Path) -> dict:
    """The entry of one model, with its metrics where the checkpoint has them."""
    name = Path(args.config).stem if args.config else final.stem.rpartition('-')[0]
    # Of a run with EMA it is the averaged weights that are validated.
    found = {} if args.raw and 'ema_state_dict' in checkpoint else export.last_validation(checkpoint)
    metrics = {key: round(value, 4) for key, value in found.items()}
    iteration = (checkpoint.get('meta') or {}).get('iter')
    entry = {
        'Name': name,
        'In Collection': 'CMP',
        'Config': f'configs/cmp/{name}.py',
        'Metadata': {'Iterations': iteration} if isinstance(iteration, int) else {},
        'Weights': final.name,
    }
    if metrics:
        results = {'Task': 'Motion Propagation', 'Dataset': args.dataset, 'Metrics': metrics}
        entry['Results'] = [results]
    else:
        print(
            f'{args.checkpoint} tells of no validation of these weights: the entry has no metrics; '
            'tools/test.py measures them',
            file=sys.stderr,
        )
    return entry


if __name__ == '__main__':
    with launch.one_line_errors('publish_model.py'):
        sys.exit(main())
