"""Validation of predicted flow beside what interpolating the guidance alone would give."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from cmp_mm.registry import METRICS, TASK_UTILS

from .flow_errors import ERROR_NAMES, flow_error_sums
from .interpolation import INTERPOLATIONS, correct_at_points, interpolate_guidance

NETWORK = 'cmp'
CORRECTED = 'corrected'


@METRICS.register_module()
class FlowMetric(BaseMetric):
    """Errors of the predicted flow, also corrected, and of interpolated guidance, per pixel over the set.

    Every valid pixel of the set counts the same, however images fall into batches and processes. The
    interpolations do not depend on the network: they are computed once per image, not at each validation.

    Keys: ``cmp/epe``, then ``corrected/epe`` where asked for, then ``<baseline>/epe`` of each baseline,
    then the same for ``fl`` (percent of pixels over 3 px and 5 %), ``angular`` (degrees) and ``bin_acc``
    (percent of right bins, mean of both axes; only with a codec), and ``guidance_points`` (mean number per
    image). See `flow_error_sums`.

    Args:
        codec: config of the network's flow codec; None leaves ``bin_acc`` out.
        baselines: methods of `interpolate_guidance` to compare with.
        corrected: also measure the flow that meets its points, of `correct_at_points`.
        collect_device: 'cpu' or 'gpu', for collecting from several processes.
        collect_dir: folder for collecting on the CPU; None is a temporary one.

    Raises:
        ValueError: a baseline is unknown.
    """

    # Empty, not None: the keys are complete as they are, and None would warn.
    default_prefix = ''

    def __init__(
        self,
        codec: dict | None = None,
        baselines: Sequence[str] = ('nearest', 'idw', 'zero'),
        corrected: bool = False,
        collect_device: str = 'cpu',
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, collect_dir=collect_dir)
        for name in baselines:
            if name not in INTERPOLATIONS:
                raise ValueError(f'baseline is {name!r}; expected one of {", ".join(INTERPOLATIONS)}')
        self.baselines = tuple(baselines)
        self.corrected = corrected
        self.codec = TASK_UTILS.build(codec) if codec is not None else None
        self._baseline_sums: dict[bytes, dict[str, np.ndarray]] = {}

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Add the error sums of a batch.

        Args:
            data_batch: not used.
            data_samples: one dict per image with ``pred_flow`` and ``gt_flow`` (2, H, W), and optionally
                ``gt_valid`` (H, W), ``pred_bins`` (2, H, W), ``guidance_points`` and ``guidance_vectors``
                (P, 2).

        Raises:
            ValueError: prediction and target differ in size.
        """
        for sample in data_samples:
            target, flow = sample['gt_flow'].cpu().float(), sample['pred_flow'].cpu().float()
            if flow.shape != target.shape:
                found, expected = tuple(flow.shape), tuple(target.shape)
                raise ValueError(f'predicted flow has shape {found}; expected {expected}, as its target')
            valid = sample.get('gt_valid')
            valid = valid.cpu().bool() if valid is not None else None
            target_bins = self.codec.encode(target[None])[0] if self.codec is not None else None
            bins = sample.get('pred_bins')
            bins = bins.cpu() if bins is not None else self._bins(flow)
            sums = {NETWORK: flow_error_sums(flow, target, valid, bins, target_bins)}
            points = sample.get('guidance_points', torch.zeros(0, 2)).cpu().numpy()
            vectors = sample.get('guidance_vectors', torch.zeros(0, 2)).cpu().numpy()
            if self.corrected:
                met = correct_at_points(flow.permute(1, 2, 0).numpy(), points, vectors)
                met = torch.from_numpy(met).permute(2, 0, 1)
                sums[CORRECTED] = flow_error_sums(met, target, valid, self._bins(met), target_bins)
            sums.update(self._interpolated(points, vectors, target, valid, target_bins))
            pixels = int(valid.sum()) if valid is not None else target[0].numel()
            self.results.append(dict(pixels=pixels, points=len(points), sums=sums))

    def _bins(self, flow: torch.Tensor) -> torch.Tensor | None:
        return self.codec.encode(flow[None])[0] if self.codec is not None else None

    def _interpolated(
        self,
        points: np.ndarray,
        vectors: np.ndarray,
        target: torch.Tensor,
        valid: torch.Tensor | None,
        target_bins: torch.Tensor | None,
    ) -> dict[str, np.ndarray]:
        """Baseline -> error sums, remembered from one validation to the next."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (points, vectors, target.numpy(), valid.numpy() if valid is not None else np.zeros(0)):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array))
        key = digest.digest()
        if key not in self._baseline_sums:
            size = tuple(target.shape[1:])
            found = {}
            for name in self.baselines:
                flow = torch.from_numpy(interpolate_guidance(points, vectors, size, name)).permute(2, 0, 1)
                found[name] = flow_error_sums(flow, target, valid, self._bins(flow), target_bins)
            self._baseline_sums[key] = found
        return self._baseline_sums[key]

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Average over all pixels of all images, and log the comparison as one sentence.

        Args:
            results: one entry per image, of all processes.

        Returns:
            Metrics by key, network first. NaN where no pixel of the set is valid.
        """
        names = (NETWORK, *((CORRECTED,) if self.corrected else ()), *self.baselines)
        pixels = sum(result['pixels'] for result in results)
        with np.errstate(invalid='ignore', divide='ignore'):
            means = {
                name: sum((result['sums'][name] for result in results), np.zeros(len(ERROR_NAMES)))
                / np.float64(pixels)
                for name in names
            }
        metrics = {}
        for number, error in enumerate(ERROR_NAMES):
            if error == 'bin_acc' and self.codec is None:
                continue
            metrics.update({f'{name}/{error}': float(means[name][number]) for name in names})
        metrics['guidance_points'] = sum(result['points'] for result in results) / max(len(results), 1)
        first, *others = (f'{name} {metrics[f"{name}/epe"]:.3f}' for name in names)
        print_log(' | '.join([f'{first} px', *others]) + ' (EPE)', logger='current')
        return metrics
