"""From packed samples to a batch, in the data worker."""

from collections.abc import Sequence

from mmengine.dataset import pseudo_collate
from torch.utils.data import default_collate

from cmp_mm.registry import FUNCTIONS
from cmp_mm.structures import FlowBatch


@FUNCTIONS.register_module()
def collate_flow(samples: Sequence[dict]) -> dict:
    """Put packed samples together; in a config ``collate_fn=dict(type='cmp_mm.collate_flow')``.

    Args:
        samples: as :class:`PackFlowInputs` gives them: dicts of ``inputs``, a dict of ``image`` (3, H, W),
            and ``data_samples``, a FlowDataSample.

    Returns:
        ``inputs``: dict of ``image`` (N, 3, H, W); ``data_samples``: a :class:`FlowBatch`. Where the samples
        differ in size or in what they hold, lists of N each, as mmengine's ``pseudo_collate``.
    """
    images = [sample['inputs']['image'] for sample in samples]
    if len({(image.shape, image.dtype) for image in images}) == 1:
        batch = FlowBatch.stack([sample['data_samples'] for sample in samples])
        if batch is not None:
            return dict(inputs=dict(image=default_collate(images)), data_samples=batch)
    return pseudo_collate(samples)
