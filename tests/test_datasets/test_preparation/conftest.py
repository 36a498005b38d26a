import hashlib
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from cmp_mm.datasets.preparation.settings import PairSettings
from cmp_mm.datasets.preparation.sources import Source

# Loaded by every Python process that finds it on its path, worker processes too: it makes them fail where
# real ones do, when they open a file.
FAULTS = """
import errno, os, signal, sys, time

def hook(event, arguments):
    if event != 'open' or not isinstance(arguments[0], str):
        return
    path = arguments[0]
    if 'killer' in os.path.basename(os.path.dirname(path)) and path.endswith('.png'):
        os.kill(os.getpid(), signal.SIGKILL)
    if 'once' in os.path.basename(os.path.dirname(path)) and path.endswith('.png'):
        try:
            os.close(os.open({mark!r}, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGSEGV)
    if 'sleeper' in os.path.basename(os.path.dirname(path)) and path.endswith('.png'):
        time.sleep(600)
    if path.endswith('.tmp'):
        time.sleep({delay})
        if {full} and '000003' in path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

sys.addaudithook(hook)
"""


@pytest.fixture
def texture() -> np.ndarray:
    """A fixed random picture, (450, 600, 3) uint8, with structure of several pixels."""
    rng = np.random.default_rng(0)
    # Fine in brightness and coarse in colour, for that is how video is stored.
    bright, colour = rng.uniform(30, 225, (60, 80, 1)), rng.uniform(-25, 25, (7, 10, 3))
    bright = cv2.resize(bright, (600, 450), interpolation=cv2.INTER_CUBIC)
    colour = cv2.resize(colour, (600, 450), interpolation=cv2.INTER_CUBIC)
    return np.clip(bright[..., None] + colour, 0, 255).astype(np.uint8)


@pytest.fixture
def moving_frames(texture: np.ndarray) -> Callable[..., list[np.ndarray]]:
    """A function that returns RGB frames in which everything moves by (2, 1) pixels a frame."""

    def make(
        number: int, size: tuple[int, int] = (64, 96), step: tuple[int, int] = (2, 1), mirrored: bool = False
    ) -> list[np.ndarray]:
        source = texture[:, ::-1] if mirrored else texture
        frames = []
        for index in range(number):
            # A window that moves left and up makes what it shows move right and down.
            left, top = 350 - step[0] * index, 250 - step[1] * index
            frames.append(np.ascontiguousarray(source[top : top + size[0], left : left + size[1]]))
        return frames

    return make


@pytest.fixture
def write_video() -> Callable[..., Path]:
    """A function that writes RGB frames as a video file."""

    def write(path: Path, frames: list[np.ndarray], rate: int = 10) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), 'w') as container:
            stream = container.add_stream('mpeg4', rate=rate)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = 'yuv420p'
            stream.bit_rate = 4_000_000
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24')))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture
def write_folder() -> Callable[..., Path]:
    """A function that writes RGB frames as a folder of png images without leading zeros."""

    def write(path: Path, frames: list[np.ndarray]) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        for index, frame in enumerate(frames):
            cv2.imwrite(str(path / f'frame{index}.png'), frame[..., ::-1])
        return path

    return write


@pytest.fixture
def videos(tmp_path: Path, moving_frames, write_video, write_folder) -> Path:
    """A folder with three videos of 6 frames: a file, a file in a subfolder, a folder of frames."""
    root = tmp_path / 'videos'
    write_video(root / 'walk.mp4', moving_frames(6))
    write_video(root / 'more' / 'run.avi', moving_frames(6, mirrored=True))
    write_folder(root / 'jump', moving_frames(6, step=(3, -1)))
    return root


@pytest.fixture
def source_of() -> Callable[[Path], Source]:
    """A function that makes a `Source` of a file or folder."""

    def make(path: Path) -> Source:
        kind = 'frames' if path.is_dir() else 'video'
        return Source(str(path), kind, path.stem, path.stem if kind == 'video' else '', path.stem)

    return make


@pytest.fixture
def small() -> PairSettings:
    """Settings that leave the frames above as they are."""
    return PairSettings(short_side=64)


@pytest.fixture
def inject(tmp_path: Path, monkeypatch) -> Callable[..., None]:
    """A function that makes the processes started from here on fail; see FAULTS."""

    def apply(delay: float = 0.0, full: bool = False) -> None:
        folder = tmp_path / 'faults'
        folder.mkdir(exist_ok=True)
        mark = str(folder / 'mark')
        text = FAULTS.format(mark=mark, delay=delay, full=full)
        (folder / 'sitecustomize.py').write_text(text)
        monkeypatch.setenv('PYTHONPATH', str(folder))

    return apply


@pytest.fixture
def contents() -> Callable[[Path], dict[str, str]]:
    """A function that returns the hash of every file below a folder, by relative path."""

    def read(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob('*'))
            if path.is_file()
        }

    return read
