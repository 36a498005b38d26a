"""Pictures while training: what the network propagates, on training batches and on validation images."""

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from mmengine.visualization import Visualizer
from torch.utils.data import DataLoader

from cmp_mm.registry import HOOKS
from cmp_mm.structures import FlowDataSample


@HOOKS.register_module()
class FlowVisualizationHook(Hook):
    """Hands image, guidance, target and prediction to the runner's visualizer.

    A training picture costs one prediction in evaluation mode without gradients; neither the weights nor the
    statistics of batch normalisation nor any random number changes, so a run ends the same with or without.

    Args:
        interval: iterations between training pictures; 0 draws none.
        num_train: images of the batch that are drawn each time.
        num_val: images that are drawn at each validation or test, spread evenly over the set (its share of
            the set on the main process), the same ones every time.

    Raises:
        ValueError: a number is negative.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 1000, num_train: int = 2, num_val: int = 4) -> None:
        for name, value in (('interval', interval), ('num_train', num_train), ('num_val', num_val)):
            if value < 0:
                raise ValueError(f'{name} is {value}; expected 0 or more')
        self.interval, self.num_train, self.num_val = interval, num_train, num_val
        self._wanted: dict[int, int] = {}
        self._seen = 0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Predict and draw the first images of the batch, every ``interval`` iterations."""
        if not self.interval or not self.num_train or (runner.iter + 1) % self.interval:
            return
        if not is_main_process():
            return
        batch = {
            'inputs': {key: value[: self.num_train] for key, value in data_batch['inputs'].items()},
            'data_samples': data_batch['data_samples'][: self.num_train],
        }
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        modes = {module: module.training for module in model.modules()}
        try:
            model.eval()
            with torch.no_grad():
                predicted = model.val_step(batch)
        finally:
            for module, training in modes.items():
                module.training = training
        for number, sample in enumerate(predicted):
            self._draw(runner.visualizer, f'train_{number}', batch, number, sample, runner.iter + 1)

    def before_val_epoch(self, runner: Runner) -> None:
        """Choose the images to draw."""
        self._choose(runner.val_dataloader)

    def before_test_epoch(self, runner: Runner) -> None:
        """Choose the images to draw; warn where the main process has fewer than are wanted."""
        self._choose(runner.test_dataloader)
        available = len(runner.test_dataloader.dataset)
        if len(self._wanted) < min(self.num_val, available):
            print_log(
                f'{len(self._wanted)} of {self.num_val} images are drawn: the main process, which draws, has '
                f'no more of the {available}; fewer processes draw more',
                'current',
                logging.WARNING,
            )

    def _choose(self, dataloader: DataLoader) -> None:
        # Neighbours in a set are frames of one video: the first few would all look the same.
        mine = math.ceil(len(dataloader.dataset) / get_world_size())
        places = np.unique(np.linspace(0, mine - 1, self.num_val).round().astype(int))
        self._wanted = {place: number for number, place in enumerate(places.tolist())}
        self._seen = 0

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[FlowDataSample] | None = None,
    ) -> None:
        """Draw those of the batch that were chosen."""
        self._draw_outputs(runner, 'val', data_batch, outputs)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[FlowDataSample] | None = None,
    ) -> None:
        """Draw those of the batch that were chosen."""
        self._draw_outputs(runner, 'test', data_batch, outputs)

    def _draw_outputs(
        self, runner: Runner, mode: str, data_batch: dict, outputs: Sequence[FlowDataSample]
    ) -> None:
        if not is_main_process():
            return
        # Where nothing trains, runner.iter would build the training loop and read its whole data set.
        step = runner.iter if isinstance(runner._train_loop, BaseLoop) else 0
        for number, sample in enumerate(outputs):
            if self._seen in self._wanted:
                name = f'{mode}_{self._wanted[self._seen]}'
                self._draw(runner.visualizer, name, data_batch, number, sample, step)
            self._seen += 1

    @staticmethod
    def _draw(
        visualizer: Visualizer, name: str, batch: dict, number: int, sample: FlowDataSample, step: int
    ) -> None:
        image = batch['inputs']['image'][number].cpu().numpy()  # (3, H, W) uint8 BGR
        rgb = np.ascontiguousarray(image[::-1].transpose(1, 2, 0))
        visualizer.add_datasample(name, rgb, sample, step=step)
