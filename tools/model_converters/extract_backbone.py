"""Extract the pretrained backbone: ``extract_backbone.py CKPT OUT``.

OUT holds the backbone's tensors and nothing else, *without* the ``backbone.`` prefix. A downstream config
loads it, and stops where a key is missing or left over, by::

    custom_imports = dict(imports=['cmp_mm.downstream'])
    model = dict(backbone=dict(type='ResNet', init_cfg=dict(type='cmp_mm.BackboneInit', source='OUT')))

and ``pretrained=None`` in ``model`` where its base has another; it prints the setting for its network, which
takes the place of the base's (``_delete_``), and the channels of each map for the heads. The weights are held
against a backbone built from the config, and OUT, read again as data, too; where a key is missing or left
over the exit code is 1, and nothing is written.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

import torch

from cmp_mm.engine import CheckpointError, compare_keys, export, launch, load_checkpoint_file, run_config

# Backbones that take no other initialiser than mmengine's own, or write over what another loads. It reads no
# safetensors.
ONLY_PRETRAINED = ('Swin', 'PyramidVisionTransformer', 'ShuffleNet', 'DetectoRS')
# And one that takes for its weights what a checkpoint wraps around them.
NO_INITIALISER = ('PIDNet',)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', metavar='CKPT', help='checkpoint of a training run, or a published one')
    parser.add_argument('out', metavar='OUT', help='file to write')
    parser.add_argument(
        '--config', help='config of the model, where the checkpoint does not say which it is (meta["model"])'
    )
    parser.add_argument(
        '--layout',
        choices=export.LAYOUTS,
        help='mmengine: dict(meta, state_dict), for the zoo; torchvision: the bare state dict, for '
        'torchvision.models.resnetNN().load_state_dict(..., strict=False), ResNets only; safetensors: the '
        'bare tensors in that format (default: mmengine, and safetensors where OUT ends so)',
    )
    parser.add_argument(
        '--raw', action='store_true', help='of a run with EMA take the raw weights, not the averaged ones'
    )
    args = parser.parse_args(argv)
    named = args.out.endswith('.safetensors')
    if named and args.layout not in (None, 'safetensors'):
        parser.error(f'{args.out} is named as safetensors, --layout is {args.layout}: change one of them')
    if args.layout == 'safetensors' and not named:
        # Whoever reads it goes by its name.
        parser.error(f'--layout is safetensors, and {args.out} has not that ending: change one of them')
    args.layout = args.layout or ('safetensors' if named else 'mmengine')
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Extract, write, read again; returns the exit code."""
    args = parse_args(argv)
    checkpoint = load_checkpoint_file(args.checkpoint, 'cpu')
    if os.path.exists(args.out) and os.path.samefile(os.path.expanduser(args.checkpoint), args.out):
        raise CheckpointError(
            f'{args.out} is CKPT itself, which holds more than its backbone; name another OUT'
        )
    try:
        model = run_config.load_config(args.config).model if args.config else export.model_config(checkpoint)
        weights = export.select_backbone(export.select_weights(checkpoint, args.raw))
        if model is None:
            raise CheckpointError('it does not say of which model it is; add --config CONFIG')
        # official2cmp_mm.py also writes encoders alone.
        config = model.get('backbone', model)
        if args.layout == 'torchvision' and config['type'].rpartition('.')[2] != 'ResNet':
            raise CheckpointError(f'its backbone is {config["type"]}; torchvision has no such network')
        try:
            backbone = export.build_module(config, trusted=bool(args.config))
        except CheckpointError as error:
            if config is model or model.get('type', 'CMP').rpartition('.')[2] == 'CMP':
                raise
            raise CheckpointError(
                f'{error}; BackboneInit takes a checkpoint of {model["type"]} as it is, as its source'
            ) from None
    except CheckpointError as error:
        raise CheckpointError(f'checkpoint {args.checkpoint}: {error}') from None
    report = compare_keys(backbone, weights)
    if report.fits:
        meta = export.export_meta(checkpoint, backbone=config)
        export.write_backbone(args.out, weights, meta, args.layout)
        report = compare_keys(backbone, export.read_backbone(args.out, args.layout))
    print(f'{args.out}: {config["type"]}, {report}')
    if not report.fits:
        print(
            f'extract_backbone.py: error: the backbone of {args.checkpoint} does not fill {config["type"]}',
            file=sys.stderr,
        )
        return 1
    unreadable = NO_INITIALISER if args.layout == 'mmengine' else ONLY_PRETRAINED + NO_INITIALISER
    if args.layout != 'torchvision' and not config['type'].rpartition('.')[2].startswith(unreadable):
        print(
            f"downstream: custom_imports=dict(imports=['cmp_mm.downstream']), {downstream(config, args.out)}"
        )
        widths = channels(config, trusted=bool(args.config))
        if widths:
            stages, counts = (', '.join(map(str, part)) for part in (widths, widths.values()))
            print(f'# for heads: maps of out_indices {stages}, which in_index counts, have {counts} channels')
    return 0


def downstream(config: Mapping, out: str) -> str:
    """The setting of a downstream config that takes the backbone ``config`` with the weights in ``out``.

    It takes the place of the backbone of the base, whose other settings are not this one's.
    """
    kind = config['type']
    name = kind.rpartition('.')[2]
    if name not in ('AlexNetFCN', 'ResNet'):
        rest = [f'{key}={value!r}, ' for key, value in config.items() if key not in ('type', *export.LOADERS)]
        init = f"type='cmp_mm.BackboneInit', source={out!r}"
        if name.startswith(ONLY_PRETRAINED):
            init = f"type='Pretrained', checkpoint={out!r}"
        return f"backbone=dict(_delete_=True, type='{kind}', {''.join(rest)}init_cfg=dict({init}))"
    shape = {key: config[key] for key in ('depth', 'stride') if key in config}
    stages = config.get('num_stages', 4)
    if kind == 'AlexNetFCN':  # the other packages' registries have none
        kind = f'cmp_mm.{kind}'
    elif kind == 'ResNet' and (stages < 4 or config.get('depth', 50) < 50):
        # mmsegmentation's leaves every second 3x3 of a dilated stage of basic blocks undilated.
        kind = f'cmp_mm.{kind}'
        shape.update(num_stages=stages, out_indices=tuple(range(stages)))
    shape = ''.join(f'{key}={value!r}, ' for key, value in shape.items())
    init = f"type='cmp_mm.BackboneInit', source={out!r}"
    return f"backbone=dict(_delete_=True, type='{kind}', {shape}init_cfg=dict({init}))"


def channels(config: Mapping, trusted: bool) -> dict[int, int]:
    """Widths of the maps that the backbone of :func:`downstream` returns, by their out_indices.

    Empty where a backbone of another package does not return maps of a square image.
    """
    config = dict(config)
    if config['type'] in ('ResNet', 'cmp_mm.ResNet'):
        # All stages, as the other packages' return by default.
        config.update(out_indices=tuple(range(config.get('num_stages', 4))), out_stem=False)
    elif config['type'] in ('AlexNetFCN', 'cmp_mm.AlexNetFCN'):
        config.pop('out_indices', None)
    backbone = export.build_module(config, trusted)
    backbone.eval()  # not all return themselves
    indices = getattr(backbone, 'out_indices', None)
    image = torch.zeros(1, 3, 224, 224, device=next(backbone.parameters()).device)
    try:
        with torch.no_grad():
            maps = backbone(image)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return {}
    if not isinstance(indices, Sequence) or not isinstance(maps, (list, tuple)) or len(maps) != len(indices):
        return {}
    return {index: part.shape[1] for index, part in zip(indices, maps, strict=True) if part.dim() == 4}


if __name__ == '__main__':
    with launch.one_line_errors('extract_backbone.py'):
        sys.exit(main())
