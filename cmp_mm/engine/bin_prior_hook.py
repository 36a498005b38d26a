"""A start that knows how often things move how far."""

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from cmp_mm.registry import HOOKS

_EVEN_SHARE = 1e-3  # of the prior: bins that did not occur in the samples may yet


@HOOKS.register_module()
class BinPriorHook(Hook):
    """Starts the bias of the decoder's head at the logarithm of how often each bin of flow occurs.

    With a bias of zero a training first has to learn that most pixels hardly move (as of rare classes:
    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 3.3). Not in the reference. A run
    that is resumed, or begins with the weights of another (``load_from``), keeps the bias it has.

    Args:
        num_samples: samples of the training set to count in, the same ones for every seed.

    Raises:
        ValueError: ``num_samples`` is below 1, the model predicts raw flow, or its decoder has several heads.
    """

    def __init__(self, num_samples: int = 64) -> None:
        if num_samples < 1:
            raise ValueError(f'BinPriorHook: num_samples is {num_samples}; expected at least 1')
        self.num_samples = num_samples

    def before_train(self, runner: Runner) -> None:
        """Count, and set the bias."""
        if runner.iter > 0 or runner._load_from:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if model.codec is None:
            raise ValueError('BinPriorHook: the model has no codec, it predicts raw flow; leave the hook out')
        head = getattr(model.decoder, 'head', None)
        if head is None:
            name = type(model.decoder).__name__
            raise ValueError(f'BinPriorHook: {name} has no single head; leave the hook out')
        dataset = runner.train_dataloader.dataset
        chosen = np.random.default_rng(0).permutation(len(dataset))[: self.num_samples]
        counts = torch.zeros(2, model.codec.num_bins)
        for index in chosen:
            sample = dataset[int(index)]['data_samples']
            bins = model.codec.encode(sample.gt_flow[None])[0]
            valid = sample.gt_valid if 'gt_valid' in sample else torch.ones(bins.shape[1:], dtype=torch.bool)
            for axis in range(2):
                counts[axis] += torch.bincount(bins[axis][valid], minlength=model.codec.num_bins)
        total = counts.sum(dim=1, keepdim=True).clamp(min=1)
        prior = (counts / total + _EVEN_SHARE / model.codec.num_bins) / (1 + _EVEN_SHARE)
        with torch.no_grad():
            head.bias.copy_(prior.log().flatten())
        most = ', '.join(
            f'{share:.0%} of {axis}' for axis, share in zip('uv', prior.amax(dim=1), strict=True)
        )
        runner.logger.info(f'Bins as in {len(chosen)} samples: the most frequent have {most}')
