"""Any model of ptlflow (https://github.com/hmorimitsu/ptlflow), LiteFlowNet of the paper among them."""

import numpy as np

from .base import FlowEstimator, check_frames, pick_device

INSTALL = "pip install 'ptlflow>=0.4'"


class PTLFlow(FlowEstimator):
    """A model of ptlflow 0.4 or newer, an extra.

    Args:
        model: name of the model there, for instance 'liteflownet'.
        weights: name of a checkpoint ptlflow knows for it (downloaded), or a path; 'things' by default, for
            FlyingThings3D is what most models have in common.
        device: 'auto', 'cpu', 'cuda', ...

    Raises:
        ImportError: ptlflow is missing.
        ValueError: ptlflow knows no such model or checkpoint.
    """

    def __init__(self, model: str, weights: str = 'things', device: str = 'auto') -> None:
        try:
            import ptlflow
        except (
            ImportError,
            RuntimeError,
        ) as error:  # RuntimeError: its torchvision is of another torch build
            raise ImportError(
                f"flow estimator 'ptlflow:{model}' needs ptlflow, the extra 'ptlflow' of cmp_mm ({error}); "
                f'install it with: {INSTALL}'
            ) from None
        self._device = pick_device(device)
        network = ptlflow.get_model(model, ckpt_path=str(weights))
        self._network = network.eval().requires_grad_(False).to(self._device)

    def __call__(self, frame0: np.ndarray, frame1: np.ndarray) -> np.ndarray:
        import torch

        check_frames(frame0, frame1)
        # Its models take (N, 2, 3, H, W) in [0, 1], BGR, and pad to their own stride.
        frames = torch.from_numpy(np.stack((frame0, frame1))[..., ::-1].copy()).to(self._device)
        frames = frames.permute(0, 3, 1, 2)[None].float() / 255
        with torch.inference_mode():
            flow = self._network({'images': frames})['flows']
        height, width = frame0.shape[:2]
        if tuple(flow.shape) != (1, 1, 2, height, width):
            raise ValueError(
                f'ptlflow returned flow of shape {tuple(flow.shape)}; expected {(1, 1, 2, height, width)}'
            )
        return flow[0, 0].permute(1, 2, 0).float().cpu().contiguous().numpy()
