"""From a packed batch to the network's inputs, on the device."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from cmp_mm.guidance import check_batchable, sample_guidance_batched
from cmp_mm.registry import MODELS
from cmp_mm.structures import FlowBatch, FlowDataSample


@MODELS.register_module()
class FlowDataPreprocessor(BaseDataPreprocessor):
    """Normalises images, pads them to one size and draws the guidance map, all on the device.

    The host sends uint8 images and a few guidance vectors; float images and the dense map never cross the
    bus.

    Args:
        mean: of each channel in RGB order, in 0..255.
        std: likewise.
        bgr_to_rgb: the images come in mmcv's BGR order.
        non_blocking: copy to the device asynchronously.
        guidance: choose the guidance points here, on the device, for samples that come without: dict of
            ``strategies`` and ``max_points`` as of :class:`SampleGuidance`, which is then left out of the
            pipeline, so that the data workers only decode and crop. None: points come with the samples.
        channels_last: hand over image and guidance map in torch's channels_last layout, which tensor cores
            and a CPU's vector units read; the network's convolutions keep to it, and :class:`CMP` puts its
            weights in it too.

    Raises:
        ValueError: not 3 values of mean or std, bad strategies, or another key in ``guidance``.
    """

    def __init__(
        self,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        bgr_to_rgb: bool = True,
        non_blocking: bool = False,
        guidance: dict | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__(non_blocking)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if guidance is not None:
            unknown = sorted(set(guidance) - {'strategies', 'max_points'})
            if unknown or 'strategies' not in guidance:
                raise ValueError(
                    'FlowDataPreprocessor: guidance must be a dict of strategies and max_points; got '
                    f'{", ".join(map(repr, guidance)) or "an empty one"}.'
                )
            limit = guidance.get('max_points', -1)
            check_batchable(guidance['strategies'], limit)
            # Plain dicts: a config brings ConfigDicts.
            guidance = dict(
                strategies=[dict(strategy) for strategy in guidance['strategies']],
                max_points=tuple(limit) if isinstance(limit, (list, tuple)) else limit,
            )
        self.guidance = guidance
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(
                f'FlowDataPreprocessor: mean and std need 3 values, one per channel of RGB; got {len(mean)} '
                f'and {len(std)}.'
            )
        self.bgr_to_rgb = bgr_to_rgb
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch.

        Args:
            data: ``inputs``: dict of ``image``, a list of (3, H, W) uint8 or float tensors in 0..255, or one
                (N, 3, H, W) tensor; ``data_samples``: list of FlowDataSample, a FlowBatch, or absent.
            training: has no effect; part of mmengine's interface.

        Returns:
            ``inputs``: dict of ``image``, (N, 3, H, W) float32 normalised RGB, and ``guidance``,
            (N, 4, H, W) float32 = u, v in pixels, mask, mask. Smaller images are padded at the right and
            bottom with zeros, the mean colour. ``data_samples``: list of N samples whose ``img_shape`` is the
            (height, width) before that padding, and whose fields stay at that size; or the FlowBatch.

        Raises:
            ValueError: a guidance point outside its image.
        """
        if isinstance(data.get('data_samples'), FlowBatch):
            return self._whole_batch(data['inputs']['image'], data['data_samples'])
        # Before the copy to the device, where looking at a value would wait for all work queued there.
        for image, sample in zip(data['inputs']['image'], data.get('data_samples') or (), strict=False):
            if 'guidance_points' in sample:
                _check_inside(sample.guidance_points, image.shape[-2:])
        data = self.cast_data(data)
        images = data['inputs']['image']
        samples = data.get('data_samples') or [FlowDataSample() for _ in images]
        for sample, image in zip(samples, images, strict=True):
            sample.set_metainfo(dict(img_shape=tuple(image.shape[-2:])))
        if self.guidance is not None:
            self._sample_guidance(samples)
        size = tuple(max(image.shape[axis] for image in images) for axis in (-2, -1))
        if len({(image.shape, image.dtype) for image in images}) == 1:
            # One operation on the batch instead of one on each image: launching them would take longer.
            image = self._normalize(torch.stack(tuple(images)))
        else:
            image = torch.stack([pad_to(self._normalize(image), size) for image in images])
        inputs = dict(image=image, guidance=guidance_maps(samples, size, image))
        return dict(inputs=self._laid_out(inputs), data_samples=samples)

    def _laid_out(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value.contiguous(memory_format=self.memory_format) for key, value in inputs.items()}

    def _whole_batch(self, image: Tensor, batch: FlowBatch) -> dict:
        """:meth:`forward` where the data worker put the batch together: no work image by image."""
        size = tuple(image.shape[-2:])
        batch = replace(batch, metainfo=tuple(dict(info, img_shape=size) for info in batch.metainfo))
        if batch.counts is not None:
            _check_inside(batch.guidance_points, size)
        image = image.to(self.device, non_blocking=self._non_blocking)
        batch = batch.to(self.device, non_blocking=self._non_blocking)
        if self.guidance is not None and batch.counts is None and batch.gt_flow is not None:
            seeds = [info.get('guidance_seed') for info in batch.metainfo]
            batch = replace(batch, **self._choose(batch.gt_flow, batch.gt_valid, seeds))
        image = self._normalize(image)
        guidance = image.new_zeros(len(image), 4, *size)
        if batch.counts is not None:
            of_each = _image_of_each(batch.counts, image.device)
            scatter_guidance(guidance, of_each, batch.guidance_points, batch.guidance_vectors)
        return dict(inputs=self._laid_out(dict(image=image, guidance=guidance)), data_samples=batch)

    def _sample_guidance(self, samples: Sequence[FlowDataSample]) -> None:
        """Give guidance to the samples that have flow but no points; those of one size in one batch."""
        by_size: dict[tuple[int, ...], list[FlowDataSample]] = {}
        for sample in samples:
            if 'gt_flow' in sample and 'guidance_points' not in sample:
                by_size.setdefault(tuple(sample.gt_flow.shape), []).append(sample)
        for alike in by_size.values():
            flow = torch.stack([sample.gt_flow for sample in alike])
            valid = None
            if any('gt_valid' in sample for sample in alike):
                everywhere = torch.ones_like(flow[0, 0], dtype=torch.bool)
                valid = torch.stack([sample.get('gt_valid', everywhere) for sample in alike])
            seeds = [sample.metainfo.get('guidance_seed') for sample in alike]
            chosen = self._choose(flow, valid, seeds)
            counts = list(chosen['counts'])
            points, vectors = (chosen[f'guidance_{key}'].split(counts) for key in ('points', 'vectors'))
            for sample, at, vector in zip(alike, points, vectors, strict=True):
                sample.guidance_points = at
                sample.guidance_vectors = vector

    def _choose(self, flow: Tensor, valid: Tensor | None, seeds: Sequence[int | None]) -> dict:
        """Guidance of a batch of flows (N, 2, H, W): the fields that a FlowBatch has for it."""
        # The seed is what the data set drew for the sample: the same after a resume, with any worker count.
        found = sample_guidance_batched(
            flow, seeds=None if None in seeds else seeds, valid=valid, **self.guidance
        )
        counts, points = tuple(map(len, found)), torch.cat(found)
        row, column = points.unbind(1)
        vectors = flow[_image_of_each(counts, flow.device), :, row, column]
        return dict(guidance_points=points, guidance_vectors=vectors, counts=counts)

    def _normalize(self, image: Tensor) -> Tensor:
        if self.bgr_to_rgb:
            image = image.flip(-3)
        return (image.float() - self.mean) / self.std


def _check_inside(points: Tensor, size: Sequence[int]) -> None:
    outside = ((points < 0) | (points >= points.new_tensor(tuple(size)))).any(dim=1)
    if outside.any():
        raise ValueError(
            f'guidance: point (row, column) = {tuple(points[outside][0].tolist())} lies outside the image of '
            f'{size[0]}x{size[1]}.'
        )


def pad_to(x: Tensor, size: Sequence[int], value: float | bool = 0) -> Tensor:
    """Pad (..., H, W) at the right and bottom to ``size`` = (height, width)."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]), value=value)


def guidance_maps(samples: Sequence[FlowDataSample], size: Sequence[int], like: Tensor) -> Tensor:
    """Scatter the guidance vectors of a batch.

    Args:
        samples: with ``guidance_points`` (P, 2) (row, column) and ``guidance_vectors`` (P, 2) (u, v), or
            without, which is no guidance.
        size: (height, width) of the maps.
        like: a tensor of the dtype and device wanted.

    Returns:
        (N, 4, height, width): u, v, mask, mask; zero but at the points.
    """
    guidance = like.new_zeros(len(samples), 4, *size)
    empty = torch.zeros(0, 2, dtype=torch.int64, device=like.device)
    points = [sample.get('guidance_points', empty) for sample in samples]
    if any(map(len, points)):
        image = _image_of_each([len(at) for at in points], like.device)
        vectors = [sample.guidance_vectors for sample, at in zip(samples, points, strict=True) if len(at)]
        scatter_guidance(guidance, image, torch.cat(points), torch.cat(vectors))
    return guidance


def scatter_guidance(guidance: Tensor, image: Tensor, points: Tensor, vectors: Tensor) -> None:
    """Write guidance into its maps (N, 4, H, W).

    Args:
        guidance: where to; zeros elsewhere.
        image: (P,) the image of each point.
        points: (P, 2) (row, column).
        vectors: (P, 2) (u, v).
    """
    row, column = points.long().unbind(1)
    guidance[image, :2, row, column] = vectors.to(guidance.dtype)
    guidance[image, 2:, row, column] = 1


def _image_of_each(counts: Sequence[int], device: torch.device) -> Tensor:
    """(P,) int64: the image that each of the points, put together, belongs to, given how many each has."""
    image = np.repeat(np.arange(len(counts)), counts)
    return torch.from_numpy(image).to(device, non_blocking=True)


def stack_flow(
    samples: Sequence[FlowDataSample] | FlowBatch, size: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Ground truth of a batch, padded to one size.

    Args:
        samples: with ``gt_flow`` (2, H, W) and optionally ``gt_valid`` (H, W); or put together already.
        size: (height, width) to pad to.

    Returns:
        (N, 2, height, width) flow in pixels and (N, height, width) bool, False in the padding; the mask is
        None where all of the batch is valid by construction.

    Raises:
        ValueError: a sample without ``gt_flow``.
    """
    if isinstance(samples, FlowBatch) and samples.gt_flow is not None:
        flow, valid = samples.gt_flow, samples.gt_valid
        if valid is None and tuple(flow.shape[-2:]) != tuple(size):
            valid = torch.ones_like(flow[:, 0], dtype=torch.bool)
        return pad_to(flow, size), None if valid is None else pad_to(valid, size, value=False)
    if any('gt_flow' not in sample for sample in samples):
        raise ValueError('loss: a data sample has no gt_flow; the pipeline needs LoadFlow.')
    flow = torch.stack([pad_to(sample.gt_flow, size) for sample in samples])
    if all('gt_valid' not in s and s.gt_flow.shape[-2:] == tuple(size) for s in samples):
        return flow, None
    valid = [
        pad_to(
            sample.gt_valid if 'gt_valid' in sample else torch.ones_like(sample.gt_flow[0], dtype=torch.bool),
            size,
            value=False,
        )
        for sample in samples
    ]
    return flow, torch.stack(valid)
