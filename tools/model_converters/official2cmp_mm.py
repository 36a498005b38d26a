"""Convert a checkpoint of the reference implementation, or an encoder extracted from one, to cmp_mm.

    python tools/model_converters/official2cmp_mm.py SRC DST

Which network SRC holds is recognised from its keys; DST is a mmengine checkpoint of weights alone, and its
``meta['model']`` is the config of that network. Only tensors are read: nothing in SRC is executed.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

import torch

import cmp_mm
from cmp_mm.engine.checkpoint_files import write_durably
from cmp_mm.engine.checkpoint_loading import CheckpointError, load_checkpoint_file, state_dict_of
from cmp_mm.models.official import OfficialFormatError, convert_official
from cmp_mm.registry import MODELS


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('src', metavar='SRC', help='checkpoint of the reference implementation')
    parser.add_argument('dst', metavar='DST', help='file to write, .pth')
    parser.add_argument(
        '--alexnet-stride',
        type=int,
        default=32,
        choices=(32, 8),
        help='which AlexNet it is, for meta only: the weights of both look alike (default: %(default)s)',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Convert, write, read again; returns the exit code."""
    args = parse_args(argv)
    try:
        official = state_dict_of(load_checkpoint_file(args.src, 'cpu'))
        if os.path.exists(args.dst) and os.path.samefile(os.path.expanduser(args.src), args.dst):
            raise CheckpointError(f'{args.dst} is SRC itself, which holds more; name another DST')
        config, state = convert_official(official, args.alexnet_stride)
        meta = dict(cmp_mm_version=cmp_mm.__version__, source=os.path.basename(args.src), model=config)
        buffer = io.BytesIO()
        torch.save(dict(meta=meta, state_dict=state), buffer)
        write_durably(args.dst, buffer.getvalue())
        reloaded = state_dict_of(load_checkpoint_file(args.dst, 'cpu'))
    except OfficialFormatError as error:
        print(f'error: {args.src}: {error}', file=sys.stderr)
        return 1
    except (CheckpointError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    whole = config['type'] == 'CMP'
    module = MODELS.build({'_scope_': 'cmp_mm', **config})
    if not whole:
        reloaded = {k.removeprefix('backbone.'): v for k, v in reloaded.items() if k.startswith('backbone.')}
    missing, unexpected = module.load_state_dict(reloaded, strict=False)
    print(f'{args.dst}: {describe(config)}')
    print(f'{len(state)} tensors; missing keys: {list(missing)}, unexpected keys: {list(unexpected)}')
    return 1 if missing or unexpected else 0


def describe(config: dict) -> str:
    """One line on what was recognised."""
    backbone = config.get('backbone', config)
    encoder = {'AlexNetFCN': 'AlexNet'}.get(backbone['type'], f'ResNet-{backbone.get("depth")}')
    if 'decoder' not in config:
        return f'{encoder} image encoder'
    decoder = config['decoder']
    return f'{encoder}, {decoder["type"]} over scales {decoder["combo"]}, {decoder["out_channels"]} channels'


if __name__ == '__main__':
    sys.exit(main())
