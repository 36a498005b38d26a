"""Images as they come, brought to one form whose colour order and value range are known."""

import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cmp_mm.flow.formats import MAX_PIXELS

from .errors import InputError, check_choice

COLOR_ORDERS = ('rgb', 'bgr')
_MAX_FILE_BYTES = 2**30
# Of those Pillow reads, what people keep pictures in. Some others are handed to programs of their own (EPS to
# Ghostscript, which runs what is written in it) or hardly ever met.
FORMATS = ('PNG', 'JPEG', 'GIF', 'WEBP', 'AVIF', 'BMP', 'TIFF', 'JPEG2000', 'PPM', 'TGA', 'ICO')
# Rounding of whoever scaled the values may leave the range by this share.
_SLACK = 1e-3
_READ_ERRORS = (OSError, ValueError, SyntaxError, ArithmeticError, EOFError, Image.DecompressionBombError)

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # of TIFF

ImageLike = str | os.PathLike | np.ndarray | Image.Image | Tensor


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image file; its EXIF orientation is applied, an alpha channel dropped.

    Args:
        path: a file of one of `FORMATS`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: there is no such file, it is no image, is cut short, or claims over 2^26 pixels; says
            which.
    """
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f'image {path} is not a regular file')
        if status.st_size > _MAX_FILE_BYTES:
            raise InputError(f'image {path} has {status.st_size} bytes; at most {_MAX_FILE_BYTES} are read')
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f'image {path} cannot be read: {getattr(error, "strerror", None) or error}'
        ) from None
    return decode_image(data, f'image {path}')


def decode_image(data: bytes, name: str = 'image') -> np.ndarray:
    """Decode the bytes of an image file, see :func:`read_image`.

    Args:
        data: the file's content.
        name: what errors call it.
    """
    try:
        Image.init()
        known = [name for name in FORMATS if name in Image.OPEN]  # Pillow is built with more or fewer
        with Image.open(io.BytesIO(data), formats=known) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(f'{name} claims {width} x {height} pixels; at most {MAX_PIXELS} are read')
            image.load()
            # A copy of an image that needs no change would be up to 256 MB.
            eight_bits = image if image.mode == 'RGB' else _file_to_rgb(image, name)
            turn = _turn(image)
            return np.array(eight_bits if turn is None else eight_bits.transpose(turn))
    except _READ_ERRORS as error:
        if isinstance(error, InputError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, Image.UnidentifiedImageError):
            reason = f'no format that is read ({", ".join(known)})'
        raise InputError(f'{name} is not a whole image file: {reason}') from None


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What brings a file's image upright."""
    # Not ImageOps.exif_transpose, which writes all other tags anew and fails at a broken one. Nor may a block
    # that cannot be read at all, in whatever way, cost a picture that is whole.
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:
        return None


def _file_to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Like ``convert('RGB')``, which cuts 16-bit values off at 255 and so makes nearly all of them white."""
    if image.mode.startswith('I;16'):
        tags = getattr(image, 'tag_v2', {})
        # Pillow hands the values of a TIFF over as they are, of 12 bits and with white as zero too.
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        values = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
        return Image.fromarray(255 - values if tags.get(_PHOTOMETRIC) == 0 else values).convert('RGB')
    if image.mode in ('I', 'F'):
        raise InputError(
            f'{name} has values of mode {image.mode!r}, whose range it does not tell; give an array and its '
            'value_range'
        )
    return image.convert('RGB')


def to_rgb_tensor(
    image: ImageLike,
    color_order: str | None = None,
    value_range: Sequence[float] | None = None,
) -> Tensor:
    """Bring an image to (3, H, W) float32 RGB in 0..255.

    Args:
        image: path; PIL image, taken as its pixels lie, where a file is turned upright as its EXIF says;
            array (H, W, 3), (H, W, 1) or (H, W); tensor (3, H, W), (1, H, W), (H, W) or (1, 3, H, W), which
            keeps its device and its gradient.
        color_order: 'rgb' or 'bgr'; needed for arrays and tensors of three channels, which do not tell.
        value_range: (low, high), the values of black and white. uint8 is (0, 255); everything else must
            state it, such as (0, 1) or (-1, 1).

    Raises:
        InputError: one sentence on what is missing or wrong.
    """
    if color_order is not None:
        check_choice('color_order', color_order, COLOR_ORDERS)
    if isinstance(image, (str, os.PathLike)):
        if value_range is not None and _limits(value_range) != (0, 255):
            raise InputError(f'value_range is {value_range!r}; the values of an image file are 0 to 255')
        image, color_order = read_image(image), 'rgb'
    elif isinstance(image, Image.Image):
        image, color_order = np.array(_to_eight_bits(image)), 'rgb'
    planes = _to_planes(image)
    planes = _scale(planes, value_range)
    if len(planes) == 1:
        return planes.expand(3, -1, -1)
    if color_order is None:
        raise InputError(
            "the image is an array or tensor of three channels; state color_order='rgb' or 'bgr' (cv2 and "
            'mmcv read bgr)'
        )
    return planes.flip(0) if color_order == 'bgr' else planes


def to_rgb_array(
    image: ImageLike,
    color_order: str | None = None,
    value_range: Sequence[float] | None = None,
) -> np.ndarray:
    """As :func:`to_rgb_tensor`, but (H, W, 3) uint8 RGB, for pictures."""
    planes = to_rgb_tensor(image, color_order, value_range).detach().cpu()
    return planes.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith('I') or image.mode == 'F':
        raise InputError(
            f'the PIL image has mode {image.mode!r} of unknown range; give an array and its value_range'
        )
    try:
        return image.convert('RGB')
    except _READ_ERRORS as error:
        raise InputError(f'the PIL image cannot be read: {error}') from None


def _to_planes(image: Any) -> Tensor:
    """(C, H, W) with C 1 or 3, of the type it came in."""
    if isinstance(image, Tensor):
        planes = image
        if planes.ndim == 4 and len(planes) == 1:
            planes = planes[0]
        planes = planes[None] if planes.ndim == 2 else planes
        expected = '(3, H, W), (1, H, W), (H, W) or (1, 3, H, W)'
        if planes.is_complex():
            raise InputError(f'the image tensor is of type {planes.dtype}; expected real numbers')
    elif isinstance(image, np.ndarray):
        if image.dtype.kind not in 'fiu':
            raise InputError(f'the image array is of type {image.dtype}; expected real numbers')
        array = image[..., None] if image.ndim == 2 else image
        expected = '(H, W, 3), (H, W, 1) or (H, W)'
        if array.dtype.kind == 'f' and array.dtype.itemsize > 8:
            array = array.astype(np.float64)  # torch has no longer ones
        if array.dtype.kind == 'u' and array.dtype.itemsize > 1:
            array = array.astype(np.int64)  # torch does little with unsigned types
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder('='))
        array = array.transpose(2, 0, 1) if array.ndim == 3 else array
        planes = torch.from_numpy(np.array(array, order='C'))
    else:
        raise InputError(
            f'the image is a {type(image).__name__}; expected a path, a PIL image, an array or a tensor'
        )
    if planes.ndim != 3 or planes.shape[0] not in (1, 3) or 0 in planes.shape:
        raise InputError(f'the image has shape {tuple(image.shape)}; expected {expected} with pixels in it')
    return planes


def _limits(value_range: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        raise InputError(f'value_range is {value_range!r}; expected (low, high)') from None
    return low, high


def _scale(planes: Tensor, value_range: Sequence[float] | None) -> Tensor:
    eight_bits = planes.dtype == torch.uint8
    if value_range is None:
        if not eight_bits:
            raise InputError(
                f'the image is of type {planes.dtype}; state its value_range, such as (0, 1) or (0, 255)'
            )
        return planes.float()
    low, high = _limits(value_range)
    if not -np.inf < low < high < np.inf:
        raise InputError(f'value_range is {value_range!r}; expected two finite numbers, low below high')
    if eight_bits and (low, high) != (0, 255):
        raise InputError(f'value_range is {value_range!r}, but the image is uint8; its range is (0, 255)')
    planes = planes.float()
    bottom, top = planes.detach().aminmax()
    slack = _SLACK * (high - low)
    # Written so that NaN, which compares False, is refused.
    if not (bottom >= low - slack and top <= high + slack):
        raise InputError(
            f'image values reach from {bottom.item():.4g} to {top.item():.4g}, outside the stated range of '
            f'{low:g} to {high:g}'
        )
    return (planes - low) * (255 / (high - low))
