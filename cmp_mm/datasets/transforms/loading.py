"""Loading the image and the flow of a sample. The second frame is not needed, so it is not read."""

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from cmp_mm.datasets.bad_samples import BadSampleError
from cmp_mm.datasets.files import read_file
from cmp_mm.datasets.image_header import check_image_header
from cmp_mm.flow import FlowFormatError, decode_flow
from cmp_mm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Read ``img_path``, a JPEG, PNG or PPM (P6), by OpenCV.

    Sets ``img`` (H, W, 3) uint8 BGR, ``ori_shape`` and ``img_shape`` (H, W). The orientation tag of a camera
    is not applied, as it was not when the flow was computed. Uses the sample's ``backend_args`` and
    ``img_root`` where the dataset gave them.

    Args:
        backend_args: mmengine file backend for samples that bring none.

    Raises:
        BadSampleError: the file cannot be read, is not a whole image, or differs in size from ``flow``.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        path = results['img_path']
        data = read_file(path, results.get('backend_args') or self.backend_args, results.get('img_root'))
        try:
            size = check_image_header(data)
            img = cv2.imdecode(
                np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
            )
        except (ValueError, cv2.error) as error:
            raise BadSampleError(f'image {path} cannot be decoded: {error}') from None
        if img is None or img.shape[:2] != size:
            raise BadSampleError(f'image {path} cannot be decoded')
        results.update(img=img, ori_shape=size, img_shape=size)
        _check_sizes(results)
        return results

    def __repr__(self) -> str:
        return f'LoadImage(backend_args={self.backend_args})'


@TRANSFORMS.register_module()
class LoadFlow(BaseTransform):
    """Read ``flow_path`` in the format ``flow_format``; see `cmp_mm.flow.decode_flow` for the formats.

    Sets ``flow`` (H, W, 2) float32 pixels, finite everywhere, and, only where the file marks unknown pixels
    or holds vectors that are not finite, ``flow_valid`` (H, W) bool. Uses the sample's ``backend_args`` and
    ``flow_root`` where the dataset gave them.

    Args:
        backend_args: mmengine file backend for samples that bring none.

    Raises:
        BadSampleError: a file cannot be read, is not a whole flow, or differs in size from ``img``.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        path, fmt = results['flow_path'], results['flow_format']
        backend_args = results.get('backend_args') or self.backend_args
        root = results.get('flow_root')
        is_pair = not isinstance(path, str)
        data = tuple(read_file(one, backend_args, root) for one in (path if is_pair else (path,)))
        try:
            flow, valid = decode_flow(data if is_pair else data[0], fmt, results['flow_bound'])
        except FlowFormatError as error:
            raise BadSampleError(f'flow {_name(path)} cannot be decoded: {error}') from None
        results['flow'] = flow
        _check_sizes(results)
        if valid is not None:
            results['flow_valid'] = valid
        return results

    def __repr__(self) -> str:
        return f'LoadFlow(backend_args={self.backend_args})'


def _check_sizes(results: dict) -> None:
    """Refuse image and flow, once both are there, that do not belong together."""
    if 'img' not in results or 'flow' not in results:
        return
    (height, width), (rows, columns) = results['img'].shape[:2], results['flow'].shape[:2]
    if (height, width) != (rows, columns):
        raise BadSampleError(
            f'flow {_name(results.get("flow_path"))} is {columns} x {rows} pixels; its image '
            f'{results.get("img_path")} is {width} x {height}'
        )


def _name(path: str | list[str] | tuple[str, ...] | None) -> str:
    """One file, or the two of a flow in a pair of images."""
    return ', '.join(path) if isinstance(path, (list, tuple)) else str(path)
