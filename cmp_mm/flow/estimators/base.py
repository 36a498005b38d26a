"""The interface of everything that makes flow from two frames."""

from abc import ABC, abstractmethod

import numpy as np


class FlowEstimator(ABC):
    """Estimates the flow from one frame to the next.

    A subclass holds what is built once (a network, an OpenCV object); such objects do not travel between
    processes, so each worker builds its own with `build_flow_estimator`.
    """

    @abstractmethod
    def __call__(self, frame0: np.ndarray, frame1: np.ndarray) -> np.ndarray:
        """Estimate the flow from ``frame0`` to ``frame1``.

        Args:
            frame0: (H, W, 3) uint8, RGB.
            frame1: of the same shape.

        Returns:
            (H, W, 2) float32 pixels, u to the right, v down; NaN where it is unknown.

        Raises:
            ValueError: the frames are not two images of one size.
        """

    def for_pair(
        self, frame0: np.ndarray, frame1: np.ndarray, name0: str, name1: str | None = None
    ) -> np.ndarray:
        """Return the flow of a pair that is known by name; what a converter of many videos calls.

        Estimators look at the frames only. `PrecomputedFlow` looks up the name and takes from the frames
        only the size the flow is wanted in.

        Args:
            frame0: (H, W, 3) uint8, RGB.
            frame1: of the same shape.
            name0: path of the first frame relative to the root of the source, '/' between its parts; for a
                video file ``<video without suffix>/<number of the decoded frame, six digits>``.
            name1: the same of the second frame.

        Returns:
            (H, W, 2) as from ``__call__``.
        """
        return self(frame0, frame1)


def check_frames(frame0: np.ndarray, frame1: np.ndarray) -> None:
    """Raise ``ValueError`` unless both frames are (H, W, 3) uint8 of one size."""
    for frame in (frame0, frame1):
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or frame.size == 0:
            raise ValueError(
                f'frame has shape {frame.shape} and type {frame.dtype}; expected (height, width, 3) uint8'
            )
    if frame0.shape != frame1.shape:
        raise ValueError(f'frames have shapes {frame0.shape} and {frame1.shape}; expected one size')


def pick_device(device: str) -> str:
    """Return the device to run on; 'auto' is CUDA where there is some, else the CPU."""
    import torch

    if device != 'auto':
        return device
    return 'cuda' if torch.cuda.is_available() else 'cpu'
