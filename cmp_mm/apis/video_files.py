"""Frames to a gif or mp4 file, which appears whole or not at all."""

import os
import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from cmp_mm.flow.files import temporary_beside

from .errors import InputError

VIDEO_SUFFIXES = ('.gif', '.mp4')


def write_video(
    frames: Iterable[np.ndarray],
    path: str | os.PathLike,
    fps: float = 10.0,
    progress: bool = False,
    total: int | None = None,
) -> int:
    """Write frames as they come.

    Args:
        frames: (H, W, 3) uint8 RGB, all of one size, at least one.
        path: .gif (endless; times are whole hundredths of a second) or .mp4 (H.264).
        fps: frames per second, .001 to 240; .002 to 50 for a gif, where viewers go no faster.
        progress: show a bar.
        total: number of frames, for the bar.

    Returns:
        How many frames were written.

    Raises:
        InputError: another suffix, a wrong rate, no frames, or frames of several sizes.
        OSError: the file cannot be written.
    """
    path = Path(path)
    suffix = check_video_path(path, fps)
    shown = tqdm(frames, desc=f'writing {path.name}', unit='frame', total=total, disable=not progress)
    temporary = temporary_beside(path)
    try:
        count = (_write_gif if suffix == '.gif' else _write_mp4)(_checked(shown), temporary, fps)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename == str(temporary):  # whose name says nothing to who asked
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return count


def check_video_path(path: str | os.PathLike, fps: float) -> str:
    """The suffix, in small letters; InputError if it or the rate cannot be written."""
    suffix = Path(path).suffix.lower()
    if suffix not in VIDEO_SUFFIXES:
        raise InputError(f'video {path} has the suffix {suffix!r}; expected {" or ".join(VIDEO_SUFFIXES)}')
    # A GIF counts hundredths of a second in 16 bits.
    slowest, fastest = (0.002, 50) if suffix == '.gif' else (0.001, 240)
    if not slowest <= fps <= fastest:
        raise InputError(f'fps is {fps}; expected {slowest:g} to {fastest} for a {suffix} file')
    return suffix


def even_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an mp4 whose frames have ``size``: a row or column at the rim is repeated.

    The usual pixel format shares colours between 2 x 2 pixels, so sides must be even.
    """
    return size[0] + size[0] % 2, size[1] + size[1] % 2


def _checked(frames: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    shape = None
    for number, frame in enumerate(frames):
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise InputError(
                f'frame {number} is {frame.dtype} of shape {frame.shape}; expected (H, W, 3) uint8'
            )
        shape = shape or frame.shape
        if frame.shape != shape:
            raise InputError(
                f'frame {number} has shape {frame.shape}, the first one {shape}; expected one size'
            )
        yield frame
    if shape is None:
        raise InputError('there are no frames to write')


def _write_gif(frames: Iterable[np.ndarray], path: Path, fps: float) -> int:
    pictures = [Image.fromarray(frame).quantize(255) for frame in frames]
    try:
        pictures[0].save(
            path,
            format='GIF',
            save_all=True,
            append_images=pictures[1:],
            duration=round(100 / fps) * 10,
            loop=0,
        )
    except (struct.error, OverflowError):  # Pillow adds up times of equal frames, a gif counts in 16 bits
        raise InputError(
            f'the picture stands still for over 655 s at fps {fps:g}, longer than a gif can tell; use a '
            'higher fps or .mp4'
        ) from None
    return len(pictures)


def _write_mp4(frames: Iterable[np.ndarray], path: Path, fps: float) -> int:
    import av  # here: it loads all of FFmpeg

    count, stream = 0, None
    try:
        # Without 'file:' FFmpeg takes what is before a colon for a protocol.
        with av.open(f'file:{path}', 'w', format='mp4') as container:
            for frame in frames:
                height, width = even_size(frame.shape[:2])
                frame = np.pad(
                    frame, ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)), 'edge'
                )
                if stream is None:
                    codec = 'libx264' if 'libx264' in av.codecs_available else 'mpeg4'
                    stream = container.add_stream(codec, rate=Fraction(float(fps)).limit_denominator(1001))
                    stream.height, stream.width = height, width
                    stream.pix_fmt = 'yuv420p'
                    if codec == 'libx264':
                        stream.options = dict(crf='18')
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
                count += 1
            if stream is not None:
                container.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        raise OSError(error.errno or 0, f'cannot write it ({error.strerror})', str(path)) from None
    return count
