"""DIS flow (Kroeger et al., *Fast Optical Flow using Dense Inverse Search*, ECCV 2016), from OpenCV."""

import cv2
import numpy as np

from .base import FlowEstimator, check_frames

PRESETS = {
    'ultrafast': cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    'fast': cv2.DISOPTICAL_FLOW_PRESET_FAST,
    'medium': cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class DISFlow(FlowEstimator):
    """Runs on the CPU, without weights; the default.

    Args:
        preset: 'medium' (default), 'fast' or 'ultrafast'.
    """

    def __init__(self, preset: str = 'medium') -> None:
        if preset not in PRESETS:
            raise ValueError(f'DIS preset is {preset!r}; expected one of {", ".join(PRESETS)}')
        self._dis = cv2.DISOpticalFlow_create(PRESETS[preset])
        # Where a side holds no whole patch at the finest level used, OpenCV chooses its levels by the width
        # alone, and a low, wide image then crashes the process (seen with OpenCV 5.0 at 12 x 40).
        self._min_side = self._dis.getPatchSize() << self._dis.getFinestScale()

    def __call__(self, frame0: np.ndarray, frame1: np.ndarray) -> np.ndarray:
        check_frames(frame0, frame1)
        height, width = frame0.shape[:2]
        flow = self._dis.calc(self._grey(frame0), self._grey(frame1), None)
        return np.ascontiguousarray(flow[:height, :width])

    def _grey(self, frame: np.ndarray) -> np.ndarray:
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        below, right = (max(0, self._min_side - side) for side in grey.shape)
        if not (below or right):
            return grey
        return cv2.copyMakeBorder(grey, 0, below, 0, right, cv2.BORDER_REPLICATE)
