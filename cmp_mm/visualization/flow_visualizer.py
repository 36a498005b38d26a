"""The visualizer: one picture per sample, to every backend mmengine has."""

from collections.abc import Sequence

import cv2
import numpy as np
from mmengine.dist import master_only
from mmengine.visualization import Visualizer

from cmp_mm.evaluation import INTERPOLATIONS, interpolate_guidance
from cmp_mm.flow import write_whole
from cmp_mm.registry import VISUALIZERS
from cmp_mm.structures import FlowDataSample

from .drawing import draw_panel


@VISUALIZERS.register_module()
class FlowVisualizer(Visualizer):
    """Draws an image with guidance arrows, the target and the predicted flow at one fixed colour scale.

    Args:
        max_radius: speed in pixels that is drawn at full saturation, in every picture. Pictures of one run
            can therefore be compared with one another.
        arrow_scale: length of an arrow in pixels per pixel of motion.
        interpolations: methods of `cmp_mm.evaluation.interpolate_guidance` drawn beside a prediction.
        name: as in mmengine.
        kwargs: other arguments of mmengine's ``Visualizer``, among them ``vis_backends`` and ``save_dir``.

    Raises:
        ValueError: the scale is not positive, or an interpolation is unknown.
    """

    def __init__(
        self,
        max_radius: float = 20.0,
        arrow_scale: float = 1.0,
        interpolations: Sequence[str] = (),
        name: str = 'visualizer',
        **kwargs,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if not 0 < max_radius < float('inf'):
            raise ValueError(f'max_radius is {max_radius}; expected a number of pixels above 0')
        for method in interpolations:
            if method not in INTERPOLATIONS:
                raise ValueError(f'interpolation is {method!r}; expected one of {", ".join(INTERPOLATIONS)}')
        self.max_radius = float(max_radius)
        self.arrow_scale = float(arrow_scale)
        self.interpolations = tuple(interpolations)

    def draw(
        self, image: np.ndarray, data_sample: FlowDataSample, draw_gt: bool = True, draw_pred: bool = True
    ) -> np.ndarray:
        """Draw a sample.

        Args:
            image: (H, W, 3) uint8 RGB.
            data_sample: its guidance, and its target and prediction where it has them.
            draw_gt: whether to draw ``gt_flow``.
            draw_pred: whether to draw ``pred_flow``, and the interpolations.

        Returns:
            (h, w, 3) uint8 RGB.
        """

        def array(key: str, empty: tuple[int, ...]) -> np.ndarray:
            return data_sample.get(key).cpu().numpy() if key in data_sample else np.zeros(empty, np.float32)

        points, vectors = array('guidance_points', (0, 2)), array('guidance_vectors', (0, 2))
        flows = {}
        if draw_gt and 'gt_flow' in data_sample:
            flows['target'] = array('gt_flow', ()).transpose(1, 2, 0)
        valid = array('gt_valid', ()) if flows and 'gt_valid' in data_sample else None
        if draw_pred and 'pred_flow' in data_sample:
            flows['prediction'] = array('pred_flow', ()).astype(np.float32).transpose(1, 2, 0)
            for method in self.interpolations:
                flows[method] = interpolate_guidance(points, vectors, image.shape[:2], method)
        return draw_panel(image, points, vectors, flows, self.max_radius, valid, arrow_scale=self.arrow_scale)

    @master_only
    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: FlowDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        step: int = 0,
    ) -> None:
        """Draw a sample and show it, write it to a file, or hand it to the backends.

        Args:
            name: of the picture in the backends, or the window's title; without '/', which local files
                cannot have.
            image: (H, W, 3) uint8 RGB.
            data_sample: see `draw`; None draws the bare image.
            draw_gt: see `draw`.
            draw_pred: see `draw`.
            show: open a window.
            wait_time: seconds the window stays; 0 is until a key is pressed.
            out_file: write a picture there instead of to the backends.
            step: iteration, for the backends.

        Raises:
            OSError: ``out_file`` cannot be written.
        """
        drawn = self.draw(image, data_sample or FlowDataSample(), draw_gt, draw_pred)
        self.set_image(drawn)
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is None:
            self.add_image(name, drawn, step)
            return
        encoded = cv2.imencode('.png', drawn[..., ::-1])[1].tobytes()
        write_whole([(out_file, encoded)])
