"""Flow that was computed before, looked up by the name of the frame."""

import os
from pathlib import Path, PurePosixPath

import numpy as np

from ..files import read_flow
from ..formats import FlowFormatError, check_format
from ..geometry import resize_flow
from .base import FlowEstimator

# Where the flow of a frame may be, by format. The last of jpg is as denseflow has it, whose frames are
# img_NUMBER.
LAYOUTS = {
    'flo': [('{stem}.flo',)],
    'npz': [('{stem}.npz',)],
    'kitti': [('{stem}.png',)],
    'jpg': [
        ('{stem}_x.jpg', '{stem}_y.jpg'),
        ('flow_x_{stem}.jpg', 'flow_y_{stem}.jpg'),
        ('flow_x_{number}.jpg', 'flow_y_{number}.jpg'),
    ],
}


_ALIKE = 0.05  # by how much the shape of one thing may be off from sizes being rounded


class PrecomputedFlow(FlowEstimator):
    """Reads the flow of a pair from a folder that mirrors the source.

    The flow of frame ``walk/000012.jpg`` (to the next frame used) is ``walk/000012.flo``, ``.npz``,
    ``.png`` (KITTI), ``walk/000012_x.jpg`` with ``_y.jpg``, or ``walk/flow_x_000012.jpg`` with ``flow_y``
    under the folder, the first of these that is there; that of ``walk/img_00012.jpg`` may also be
    ``walk/flow_x_00012.jpg``, as denseflow has it. Flow of another size than the frames is resized, vectors
    included.

    Args:
        root: the folder.
        fmt: 'flo', 'npz', 'kitti' or 'jpg' to look for this one only.
        bound: pixels, for jpg pairs.

    Raises:
        NotADirectoryError: the folder is not there.
    """

    def __init__(self, root: str | os.PathLike, fmt: str | None = None, bound: float = 50.0) -> None:
        self._root = Path(root)
        if not self._root.is_dir():
            raise NotADirectoryError(f'folder of precomputed flow is not there: {root}')
        if fmt is not None:
            check_format(fmt)
        self._formats = [fmt] if fmt else list(LAYOUTS)
        self._bound = bound

    def __call__(self, frame0: np.ndarray, frame1: np.ndarray) -> np.ndarray:
        """Refuse: two frames without their names do not tell which file is theirs."""
        raise TypeError("flow estimator 'precomputed' needs the names of the frames; call for_pair")

    def for_pair(
        self, frame0: np.ndarray, frame1: np.ndarray, name0: str, name1: str | None = None
    ) -> np.ndarray:
        """Read the flow of the frame ``name0``, in the size of ``frame0``.

        Returns:
            (H, W, 2) float32 pixels, NaN where the file says unknown.

        Raises:
            FileNotFoundError: there is no flow of that name.
            FlowFormatError: the file is broken, or its flow is of the frame before it was turned upright.
            ValueError: the name leads out of the folder.
        """
        flow, valid = self._read(name0)
        if valid is not None:
            flow[~valid] = np.nan
        (rows, columns), (height, width) = flow.shape[:2], frame0.shape[:2]
        turned = columns * width / (rows * height)  # 1 where the flow would fit if it were turned
        if (rows - columns) * (height - width) < 0 and abs(turned - 1) < _ALIKE:
            raise FlowFormatError(
                f'flow of frame {name0!r} is {columns} x {rows} pixels, the frame {width} x {height}: it is '
                'of the frame before it was turned upright as its file says (EXIF)'
            )
        if flow.shape[:2] != frame0.shape[:2]:
            flow = resize_flow(flow, frame0.shape[:2], nearest=valid is not None)
        return flow

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        relative = PurePosixPath(name)
        if relative.is_absolute() or '..' in relative.parts or not relative.name:
            raise ValueError(f'frame name {name!r} is not a path below the source')
        folder, stem = self._root / relative.parent, relative.stem
        number = stem.removeprefix('img_')
        for fmt in self._formats:
            for layout in LAYOUTS[fmt]:
                paths = [folder / part.format(stem=stem, number=number) for part in layout]
                if all(path.is_file() for path in paths):
                    return read_flow(paths if fmt == 'jpg' else paths[0], fmt, self._bound)
        raise FileNotFoundError(
            f'no precomputed flow of frame {name!r} in {folder} (looked for {", ".join(self._formats)})'
        )
