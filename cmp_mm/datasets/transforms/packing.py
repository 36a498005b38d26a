"""The last step of a pipeline: tensors and a `FlowDataSample`."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform

from cmp_mm.registry import TRANSFORMS
from cmp_mm.structures import FlowDataSample

META_KEYS = ('img_path', 'flow_path', 'video', 'ori_shape', 'img_shape', 'sample_idx')


@TRANSFORMS.register_module()
class PackFlowInputs(BaseTransform):
    """Pack a sample for the model.

    Gives ``dict(inputs=dict(image=...), data_samples=...)``: the image is (3, H, W) uint8 BGR, a quarter of
    the bytes of a normalised one to hand over; the preprocessor makes it RGB and float on the device, and
    draws the guidance map. What of flow, mask and guidance the sample has goes into the `FlowDataSample`.
    A sample without guidance gets the metainfo ``guidance_seed``, for points chosen on the device.

    Args:
        meta_keys: keys to keep as metainfo, where the sample has them.
    """

    def __init__(self, meta_keys: Sequence[str] = META_KEYS) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        sample = FlowDataSample(metainfo={key: results[key] for key in self.meta_keys if key in results})
        if 'flow' in results:
            sample.gt_flow = _planes(results['flow'])
        if 'flow_valid' in results:
            sample.gt_valid = torch.from_numpy(np.ascontiguousarray(results['flow_valid']))
        if 'guidance_points' in results:
            sample.guidance_points = torch.from_numpy(results['guidance_points'])
            sample.guidance_vectors = torch.from_numpy(results['guidance_vectors'])
        else:
            sample.set_metainfo(dict(guidance_seed=int(np.random.randint(2**31))))
        return dict(inputs=dict(image=_planes(results['img'])), data_samples=sample)

    def __repr__(self) -> str:
        return f'PackFlowInputs(meta_keys={self.meta_keys})'


def _planes(array: np.ndarray) -> torch.Tensor:
    """(H, W, C) array to a contiguous (C, H, W) tensor."""
    planes = np.empty((array.shape[2], *array.shape[:2]), dtype=array.dtype)
    cv2.split(array, list(planes))  # several times faster than a transposed copy
    return torch.from_numpy(planes)
