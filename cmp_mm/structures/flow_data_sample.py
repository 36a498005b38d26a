"""What a sample carries beside its image: the flow, the guidance and, later, the prediction."""

import torch
from mmengine.structures import BaseDataElement


class FlowDataSample(BaseDataElement):
    """Ground truth, guidance and prediction of one image.

    All data fields are tensors and optional; x points right, y points down, flow is in pixels of the
    (cropped, resized) image the sample goes with.

    Attributes:
        gt_flow: (2, H, W) float32, channel 0 = x (u), channel 1 = y (v).
        gt_valid: (H, W) bool, where ``gt_flow`` is known; absent means everywhere.
        guidance_points: (P, 2) int64, (row, column) of each guidance point; P may be 0.
        guidance_vectors: (P, 2) float32, (u, v) at each guidance point.
        pred_flow: (2, H, W) float32, set by ``CMP.predict``.
        pred_bins: (2, H, W) int16, the most likely bin per axis, set by ``CMP.predict`` where the
            output is quantised.

    Metainfo: ``img_path``, ``flow_path``, ``video``, ``ori_shape``, ``img_shape``, ``sample_idx`` and, where
    points are chosen on the device, ``guidance_seed``.
    """

    def pin_memory(self) -> 'FlowDataSample':
        """The sample in page-locked memory, from which copies to a GPU need not wait.

        A ``DataLoader`` with ``pin_memory=True`` calls it; other containers' tensors it finds by itself.
        """
        pinned = self.new()
        for key, value in self.items():
            if isinstance(value, torch.Tensor):
                pinned.set_data({key: value.pin_memory()})
        return pinned
