"""What the command-line demos share: options, arrows as text, files out, errors and warnings as one line."""

import argparse
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from cmp_mm.engine import CheckpointError
from cmp_mm.flow import write_whole

from .arrows import COLLISIONS, OUT_OF_RANGE
from .correction import CORRECTIONS
from .errors import InputError, InputWarning
from .inferencer import NORMALIZATIONS, CMPInferencer
from .loading import HOW_TO_GET_WEIGHTS

_MAX_JSON_BYTES = 2**26
# Suffixes that a name has which is meant for a file.
_FILE_SUFFIXES = (
    *('.png', '.jpg', '.jpeg', '.gif', '.webp', '.avif', '.bmp', '.tif', '.tiff'),
    *('.flo', '.npz', '.npy', '.mp4'),
)
# Options of Python that errors and warnings name, and those of the command line.
_OPTIONS = {
    'out_of_range': '--out-of-range',
    'working_size': '--working-size',
    'crop_size': '--crop-size',
    'zoom_factor': '--zoom-factor',
    'num_frames': '--frames',
    'collisions': '--collisions',
    'correction': '--correction',
    'normalization': '--normalization',
}


def add_network_options(parser: argparse.ArgumentParser, masks: bool = False) -> None:
    """Options that :func:`build_inferencer` reads.

    Args:
        parser: to add them to.
        masks: it is for masks alone, whose points never meet and whose flow is not corrected: without the
            options that say how.
    """
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
        '--out-of-range',
        choices=OUT_OF_RANGE,
        default='warn',
        help="vectors beyond the network's range (default: %(default)s)",
    )
    if masks:
        parser.set_defaults(collisions='last', correction='none')
        return
    group.add_argument(
        '--collisions', choices=COLLISIONS, default='last', help='arrows in one pixel (default: %(default)s)'
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


def hint_at_size(inferencer: CMPInferencer, size: tuple[int, int]) -> None:
    """Say on stderr where an image of this (height, width) is far from those the network was trained on."""
    side = inferencer.better_side(size)
    if side is not None:
        print(
            f'hint: the network was trained on images with a short side of {side} px, this one has '
            f'{min(size)}; --working-size {side} may be better',
            file=sys.stderr,
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


def check_folder(folder: Path) -> None:
    """Raise InputError where ``--out`` is not and cannot become a folder, or is named like a file."""
    if folder.is_dir():
        return
    if folder.suffix.lower() in _FILE_SUFFIXES:
        raise InputError(f'--out is a folder; {folder} has the name of a {folder.suffix} file')
    _check_no_file_above('--out is a folder', folder)


def check_file(path: Path) -> None:
    """Raise InputError where ``--out`` is a folder, or would lie in what is none."""
    if path.is_dir():
        raise InputError(f'--out is a file; {path} is a folder')
    _check_no_file_above('--out is a file in a folder', path.parent)


def _check_no_file_above(rule: str, folder: Path) -> None:
    found = next((each for each in (folder, *folder.parents) if each.exists()), None)
    if found is not None and not found.is_dir():
        raise InputError(f'{rule}; {found} is a file')


def check_inputs_stay(inputs: Iterable[str | None], outputs: Iterable[Path]) -> None:
    """Raise InputError where a result would take the place of a file that is read."""
    there = [path for path in outputs if path.exists()]
    for given in inputs:
        if given is not None and Path(given).exists():
            for path in there:
                if path.samefile(given):
                    raise InputError(f'{path} is read and would be overwritten; choose another --out')


def save(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a folder, which is made; says where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole([(folder / name, content) for name, content in files.items()])
    print(f'{", ".join(files)} in {folder}')


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turn the errors a user can cause into one line and exit code 1; others keep their traceback.

    Warnings on the input become one line too.
    """
    try:
        with _one_line_warnings():
            yield
    except (InputError, CheckpointError, OSError) as error:
        sys.exit(f'{program}: error: {_with_options(str(error))}')
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    shown, usual = set(), warnings.showwarning

    def show(message, category, *where, **more) -> None:
        if not issubclass(category, InputWarning):
            usual(message, category, *where, **more)
            return
        # One of a kind: each frame of a video has a largest arrow of its own.
        kind = re.sub(r'[\d.]+', '', str(message))
        if kind not in shown:
            shown.add(kind)
            # Above a bar, not into it.
            tqdm.write(f'warning: {_with_options(str(message))}', file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter('always', InputWarning, append=True)  # after what -W says
        warnings.showwarning = show
        yield


def _with_options(sentence: str) -> str:
    """A sentence that names options as Python has them, as the command line has them."""
    for name, option in _OPTIONS.items():
        sentence = re.sub(
            rf"(?<![\w/.-]){name}=('\w+'(?:(?:, | or )'\w+')*)",
            lambda found, option=option: f'{option} {found.group(1).replace(chr(39), "")}',
            sentence,
        )
        if '_' in name:  # others are words too
            sentence = re.sub(rf'(?<![\w/.-]){name}(?![\w/.-])', option, sentence)
    return sentence
