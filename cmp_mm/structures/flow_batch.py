"""The samples of a batch put together: few large tensors instead of many small ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import default_collate

from .flow_data_sample import FlowDataSample

# A sample that holds anything else stays one of a list.
_PLANES = {'gt_flow', 'gt_valid'}
_GUIDANCE = {'guidance_points', 'guidance_vectors'}
STACKED = (*sorted(_PLANES), *sorted(_GUIDANCE))


@dataclass(frozen=True)
class FlowBatch:
    """What N samples of one size carry, field by field.

    From a data worker a batch comes tensor by tensor, each at a price that does not depend on its size, and
    so it goes to the device: two dozen of them for each dozen of samples cost more than a training step of
    AlexNet. Iterated or indexed it gives :class:`FlowDataSample` objects, whose tensors are views.

    Attributes:
        metainfo: that of each sample.
        gt_flow: (N, 2, H, W) float32 pixels, or None.
        gt_valid: (N, H, W) bool, or None where the flow is known everywhere.
        guidance_points: (P, 2) int64 (row, column), those of all images one after the other, or None.
        guidance_vectors: (P, 2) float32 (u, v), likewise.
        counts: how many of the P are each image's; None without guidance.
    """

    metainfo: tuple[dict, ...]
    gt_flow: Tensor | None = None
    gt_valid: Tensor | None = None
    guidance_points: Tensor | None = None
    guidance_vectors: Tensor | None = None
    counts: tuple[int, ...] | None = None

    @classmethod
    def stack(cls, samples: Sequence[FlowDataSample]) -> 'FlowBatch | None':
        """The samples put together; None where they differ in size or in what they hold, or hold more."""
        present = set(samples[0].keys())
        alike = all(
            set(sample.keys()) == present
            and all(sample.get(key).shape == samples[0].get(key).shape for key in present & _PLANES)
            for sample in samples
        )
        if not alike or present - {*STACKED} or len(present & _GUIDANCE) == 1:
            return None
        fields = {key: [sample.get(key) for sample in samples] for key in present}
        counts = tuple(map(len, fields['guidance_points'])) if present & _GUIDANCE else None
        # In a data worker default_collate puts them together in the memory that is handed over.
        joined = {
            key: default_collate(values) if key in _PLANES else torch.cat(values)
            for key, values in fields.items()
        }
        return cls(metainfo=tuple(sample.metainfo for sample in samples), counts=counts, **joined)

    def __len__(self) -> int:
        return len(self.metainfo)

    def __getitem__(self, index: int | slice) -> FlowDataSample | list[FlowDataSample]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        sample = FlowDataSample(metainfo=self.metainfo[index])
        for key in ('gt_flow', 'gt_valid'):
            value = getattr(self, key)
            if value is not None:
                sample.set_data({key: value[index]})
        if self.counts is not None:
            first = sum(self.counts[:index])
            for key in ('guidance_points', 'guidance_vectors'):
                sample.set_data({key: getattr(self, key)[first : first + self.counts[index]]})
        return sample

    def __iter__(self) -> Iterator[FlowDataSample]:
        return (self[index] for index in range(len(self)))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> 'FlowBatch':
        """The batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> 'FlowBatch':
        """The batch in page-locked memory; a ``DataLoader`` with ``pin_memory=True`` calls it."""
        return self._each(Tensor.pin_memory)

    def _each(self, function: Callable[[Tensor], Tensor]) -> 'FlowBatch':
        tensors = {key: getattr(self, key) for key in STACKED}
        return replace(self, **{key: function(value) for key, value in tensors.items() if value is not None})
