"""RAFT (Teed and Deng, *RAFT: Recurrent All-Pairs Field Transforms*, ECCV 2020), from torchvision."""

import os

import numpy as np

from .base import FlowEstimator, check_frames, pick_device

STRIDE = 8
MIN_SIDE = 128  # below, the last level of the correlation pyramid is empty


class RAFTFlow(FlowEstimator):
    """RAFT of torchvision, an extra.

    Args:
        model: 'large' (default) or 'small'.
        weights: 'default' downloads torchvision's; else the path of a state dict of the model.
        device: 'auto', 'cpu', 'cuda', 'cuda:1', ...
        num_flow_updates: refinement steps.

    Raises:
        ImportError: torchvision is missing or does not work with the installed torch.
        ValueError: unknown model, or weights of another network.
        OSError: the weights cannot be read.
    """

    def __init__(
        self,
        model: str = 'large',
        weights: str | os.PathLike = 'default',
        device: str = 'auto',
        num_flow_updates: int = 12,
    ) -> None:
        if model not in ('large', 'small'):
            raise ValueError(f'RAFT model is {model!r}; expected large or small')
        try:
            from torchvision.models import optical_flow
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch build
            raise ImportError(
                f"flow estimator 'raft' needs torchvision, the extra 'raft' of cmp_mm ({error}); "
                f'install it with: {install_command()}'
            ) from None
        build = getattr(optical_flow, f'raft_{model}')
        if weights == 'default':
            network = build(weights='DEFAULT')
        else:
            network = build(weights=None)
            _load(network, weights, f'RAFT {model}')
        self._device = pick_device(device)
        self._network = network.eval().requires_grad_(False).to(self._device)
        self._num_flow_updates = num_flow_updates

    def __call__(self, frame0: np.ndarray, frame1: np.ndarray) -> np.ndarray:
        import torch
        import torch.nn.functional as F

        check_frames(frame0, frame1)
        height, width = frame0.shape[:2]
        frames = torch.from_numpy(np.stack((frame0, frame1))).to(self._device)
        frames = frames.permute(0, 3, 1, 2).float() / 127.5 - 1  # what its weights were trained on
        below, right = (max(-side % STRIDE, MIN_SIDE - side) for side in (height, width))
        frames = F.pad(frames, (0, right, 0, below), mode='replicate')
        with torch.inference_mode():
            flow = self._network(frames[:1], frames[1:], num_flow_updates=self._num_flow_updates)[-1]
        return flow[0, :, :height, :width].permute(1, 2, 0).float().cpu().contiguous().numpy()


def install_command() -> str:
    """Return the pip command that installs the torchvision of the torch that is installed.

    torchvision 0.(15 + x) goes with torch 2.x. The three '=' also replace a torch built for the CPU only,
    for which there is no torchvision.
    """
    from importlib.metadata import version

    release = version('torch').split('+')[0]
    minor = int(release.split('.')[1])
    return f"pip install 'torch==={release}' 'torchvision==0.{15 + minor}.*'"


def _load(network, path: str | os.PathLike, what: str) -> None:
    """Load a bare state dict, as data only, and refuse one of another network."""
    import torch

    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except OSError:
        raise
    except Exception:  # torch answers broken bytes with a dozen kinds of errors; some advise to trust them
        raise ValueError(f'{path}: not a weights file, or one that holds more than tensors') from None
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError):
        raise ValueError(f'{path}: not the weights of {what}; the keys or shapes differ') from None
