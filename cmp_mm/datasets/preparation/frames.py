"""Reading the sampled frames of a video file (PyAV) or a folder of images, in their stored size."""

import errno
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from ..image_header import check_image_header
from .errors import SourceError, is_passing
from .settings import PairSettings
from .sources import Source, list_frames

# Two 8K frames. Larger ones are refused before memory is asked for.
MAX_PIXELS = 2**26
# The same for FFmpeg, which decodes a first frame as it opens a file, so that it must know it then already.
LIMITS = dict(max_pixels=str(MAX_PIXELS))
# OpenCV's DIS flow reads outside its memory below 16; nothing is learnt from such frames anyway.
MIN_SIDE = 16
# A stream that ends this much before its stated end was cut off.
MISSING_SECONDS = 1.0
MISSING_SHARE = 0.1
# Matroska, WebM, FLV and ASF round times to milliseconds: a frame and the first one by half of it each.
TIME_STEP = 1e-3
# Faults of one image's reading that may be over the next time; forbidden or missing it stays.
PASSING = {
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM),
    *(errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EBUSY),
}
# How the images begin whose headers are checked: JPEG and PNG.
CHECKED_IMAGES = (b'\xff\xd8', b'\x89PNG')


@dataclass
class Frame:
    """One sampled frame.

    Attributes:
        index: its number among the sampled frames.
        number: its number among all frames of the source.
        image: (H, W, 3) uint8, RGB, in the size it is stored in.
        file: name of the file it was read from, '' for a video.
        after_gap: the frame before it in the source could not be read, so the two make no pair.
    """

    index: int
    number: int
    image: np.ndarray
    file: str = ''
    after_gap: bool = False


class FrameReader:
    """Iterates over the sampled frames of one source, once.

    Attributes:
        problem: after the iteration, what was wrong with a part of the source, or None.
        passing: that was not the content of the source but the reading of it: another run may do better.
        progress: share of the source read so far, 0 to 1.
    """

    def __init__(self, source: Source, settings: PairSettings, threads: int = 1) -> None:
        self.problem: str | None = None
        self.passing = False
        self.progress = 0.0
        self._source = source
        self._settings = settings
        self._threads = threads
        self._next_tick = -1
        self._index = -1

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            SourceError: nothing can be read.
        """
        try:
            yield from self._read_video() if self._source.kind == 'video' else self._read_folder()
        except av.error.FFmpegError as error:
            raise SourceError(f'cannot be read as a video ({_reason(error)})', is_passing(error)) from None
        except OSError as error:
            raise SourceError(f'cannot be read ({error.strerror or error})', passing=True) from None
        except SourceError:
            raise
        except Exception as error:
            # PyAV answers a few broken files with whatever its own code stumbles over.
            reason = f'cannot be read ({type(error).__name__}: {error})'
            raise SourceError(reason, is_passing(error)) from None
        self.progress = 1.0

    def _sampled(self, number: int, seconds: float) -> bool:
        """Tell whether a frame is one of those to keep, and count it if so."""
        if self._settings.fps is None:
            wanted = number % self._settings.stride == 0
        else:
            # The first frame at or after each tick; a slower source gives each of its frames once.
            tick = math.floor((seconds + TIME_STEP) * self._settings.fps + 1e-6)
            wanted = tick > self._next_tick
            if wanted:
                self._next_tick = tick
        self._index += wanted
        return wanted

    def _read_video(self) -> Iterator[Frame]:
        with av.open(self._source.path, metadata_errors='replace', options=LIMITS) as container:
            stream = container.streams.best('video')
            if stream is None:
                raise SourceError('has no video stream')
            context = stream.codec_context
            if context is None:
                raise SourceError('is of a codec that is not known here')
            _check_size(context.height, context.width)
            # Slices only, unless this video may use more cores: one decoder per worker is enough.
            context.thread_type = 'AUTO' if self._threads > 1 else 'SLICE'
            context.thread_count = self._threads
            # What frames themselves claim, whatever the file says of them.
            context.options = {**context.options, **LIMITS}
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            length = _stated_length(container, stream)
            resizer = _VideoResizer(self._settings.short_side)
            number, start, end, errors, lost, gap = -1, None, 0.0, 0, False, False
            before, disordered = -math.inf, False
            for packet in container.demux(stream):
                try:
                    decoded = packet.decode()
                except av.error.InvalidDataError:
                    errors, lost = errors + 1, True
                    continue
                for frame in decoded:
                    number += 1
                    time = frame.time if frame.time is not None else number / rate
                    # AVI keeps times in the order of decoding, not that of the frames.
                    disordered |= time < before
                    if disordered:
                        time = start + number / rate
                    before = time
                    start = time if start is None else start
                    # A frame that says how long it is shown, as those of a GIF do, lasts that long.
                    shown = (
                        float(frame.duration * frame.time_base)
                        if frame.duration and frame.time_base
                        else 1 / rate
                    )
                    end = time - start + shown
                    self.progress = min(max(end / length, 0.0), 1.0) if length else 0.0
                    # A damaged frame spoils those that refer to it, up to the next key frame.
                    if frame.is_corrupt:
                        errors, lost = errors + 1, True
                    elif frame.key_frame:
                        lost = False
                    gap |= lost
                    if self._sampled(number, time - start) and not lost:
                        yield Frame(self._index, number, resizer(frame), after_gap=gap)
                        gap = False
            if number < 0:
                raise SourceError('holds no frame that can be decoded')
            if errors:
                self.problem = f'{errors} packets or frames cannot be decoded'
            elif length and length - end > max(MISSING_SECONDS, MISSING_SHARE * length):
                self.problem = f'ends after {end:.1f} of {length:.1f} seconds'

    def _read_folder(self) -> Iterator[Frame]:
        rate = self._settings.folder_fps
        if self._settings.fps is not None and rate is None:
            raise SourceError('a folder of frames has no frame rate: give folder fps, or stride for fps')
        paths = list_frames(self._source.path)
        unreadable, gap, passing = [], False, False
        for number, path in enumerate(paths):
            self.progress = number / len(paths)
            if not self._sampled(number, number / rate if rate else 0.0):
                continue
            try:
                image = _read_image(path)
            except OSError as error:
                image, passing = None, passing or error.errno in PASSING
            if image is None:
                unreadable.append(os.path.basename(path))
                gap = True
                continue
            image = _shrink(image, self._settings.short_side)
            yield Frame(self._index, number, image, os.path.basename(path), gap)
            gap = False
        if unreadable:
            self.passing = passing
            self.problem = f'{len(unreadable)} images cannot be read, the first is {unreadable[0]}'


class _VideoResizer:
    """Converts decoded frames to upright RGB arrays of the stored size, in one pass over the pixels."""

    def __init__(self, short_side: int) -> None:
        self._short_side = short_side
        # Kept, for it holds the scaler's tables.
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        _check_size(frame.height, frame.width)
        height, width = stored_size(frame.height, frame.width, self._short_side)
        converted = self._reformatter.reformat(frame, width, height, 'rgb24', interpolation='AREA')
        image = converted.to_ndarray()
        # Phones store portrait video as landscape with a rotation.
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, turns) if turns else image)


def stored_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return (height, width) with the short side scaled down to ``short_side``; never enlarges."""
    ratio = min(short_side / min(height, width), 1.0)
    return round(height * ratio), round(width * ratio)


def _shrink(image: np.ndarray, short_side: int) -> np.ndarray:
    height, width = stored_size(*image.shape[:2], short_side)
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _read_image(path: str) -> np.ndarray | None:
    """Read an image as RGB uint8, or return None where it is broken, cut short, too small or too large.

    Raises:
        OSError: the file cannot be read, whatever is in it.
        cv2.error: there is not enough memory.
    """
    with open(path, 'rb') as file:
        data = file.read()
    try:
        # A decoder fills the rest of a cut file with grey and says nothing, and takes memory for any claim.
        if data.startswith(CHECKED_IMAGES):
            check_image_header(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if image is None:
            return None
        _check_size(*image.shape[:2])
    except (ValueError, SourceError):
        return None
    except cv2.error as error:
        if is_passing(error):
            raise
        return None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_size(height: int, width: int) -> None:
    if min(height, width) < MIN_SIDE or height * width > MAX_PIXELS:
        raise SourceError(
            f'frames are {width} x {height} pixels; expected sides of at least {MIN_SIDE} and at most '
            f'{MAX_PIXELS} pixels in all'
        )


def _stated_length(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """Return the length in seconds that the file claims for its video, or None."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base) or None
    # The container's length is that of its longest stream, which may be the sound.
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / av.time_base or None
    return None


def _reason(error: av.error.FFmpegError) -> str:
    return error.strerror or type(error).__name__
