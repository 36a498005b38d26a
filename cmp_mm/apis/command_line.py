"""What the command-line demos share: the network's options, arrows as text, files out, errors as one line."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cmp_mm.engine import CheckpointError
from cmp_mm.flow import write_whole

from .arrows import COLLISIONS, OUT_OF_RANGE
from .correction import CORRECTIONS
from .errors import InputError
from .inferencer import NORMALIZATIONS, CMPInferencer
from .loading import HOW_TO_GET_WEIGHTS

_MAX_JSON_BYTES = 2**26


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Options that :func:`build_inferencer` reads."""
    group = parser.add_argument_group('network')
    group.add_argument('--config', help='name or path of the config, where the checkpoint does not tell it')
    group.add_argument('--checkpoint', help=f'weights, own or of the reference; {HOW_TO_GET_WEIGHTS}')
    group.add_argument('--device', help='such as cuda:1 (default: the first CUDA device, else the CPU)')
    group.add_argument(
        '--normalization', choices=NORMALIZATIONS[:2], default='reference', help='(default: %(default)s)'
    )
    group.add_argument(
        '--working-size', type=int, metavar='PIXELS', help='resize the short side to this for the network'
    )
    group.add_argument(
        '--collisions', choices=COLLISIONS, default='last', help='arrows in one pixel (default: %(default)s)'
    )
    group.add_argument(
        '--out-of-range',
        choices=OUT_OF_RANGE,
        default='warn',
        help="vectors beyond the network's range (default: %(default)s)",
    )
    group.add_argument(
        '--correction',
        choices=CORRECTIONS,
        default='none',
        help='fade adds what the flow misses at the arrows, less with distance; masks are made without '
        '(default: %(default)s)',
    )


def build_inferencer(args: argparse.Namespace) -> CMPInferencer:
    """The inferencer of :func:`add_network_options`."""
    return CMPInferencer(
        args.config,
        args.checkpoint,
        args.device,
        normalization=args.normalization,
        working_size=args.working_size,
        collisions=args.collisions,
        out_of_range=args.out_of_range,
        correction=args.correction,
    )


def numbers(count: int, names: str) -> Callable[[str], tuple[float, ...]]:
    """A type for argparse: ``count`` numbers with commas between, such as ``120,80,15,0``."""

    def read(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(','))
        except ValueError:
            values = ()
        if len(values) != count:
            raise argparse.ArgumentTypeError(f'{text!r} is not {names}')
        return values

    return read


def glue_negative_numbers(argv: Sequence[str] | None) -> list[str]:
    """Let a value such as ``-3,4`` follow its option: argparse would take it for an option itself."""
    words = list(sys.argv[1:] if argv is None else argv)
    glued: list[str] = []
    for word in words:
        # A space in front changes nothing for float() and everything for argparse.
        begins_negative = len(word) > 1 and word[0] == '-' and (word[1].isdigit() or word[1] == '.')
        glued.append(f' {word}' if begins_negative and ',' in word else word)
    return glued


def read_json(path: str, what: str) -> Any:
    """The content of a json file; InputError if it is none."""
    try:
        if Path(path).stat().st_size > _MAX_JSON_BYTES:
            raise InputError(f'{what} {path} has over {_MAX_JSON_BYTES} bytes')
        return json.loads(Path(path).read_text(encoding='utf-8'))
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, 'strerror', None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f'{what} {path} cannot be read: {reason}') from None


def png(picture: np.ndarray) -> bytes:
    """An (H, W, 3) RGB or (H, W) grey uint8 picture as the bytes of a png file."""
    if picture.ndim == 3:
        picture = picture[..., ::-1]
    return cv2.imencode('.png', np.ascontiguousarray(picture))[1].tobytes()


def save(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a folder, which is made; says where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole([(folder / name, content) for name, content in files.items()])
    print(f'{", ".join(files)} in {folder}')


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turn the errors a user can cause into one line and exit code 1; others keep their traceback."""
    try:
        yield
    except (InputError, CheckpointError, OSError) as error:
        sys.exit(f'{program}: error: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
