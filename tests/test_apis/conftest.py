import numpy as np
import pytest
import torch
from mmengine.config import Config

from cmp_mm.apis import CMPInferencer
from cmp_mm.registry import MODELS


@pytest.fixture(scope='session')
def tiny_config() -> Config:
    """A network of stride 8 that takes milliseconds: two stages of a ResNet-18."""
    return Config(
        dict(
            model=dict(
                type='CMP',
                backbone=dict(type='ResNet', depth=18, num_stages=2, out_indices=(1,)),
                neck=dict(type='ConvNeck', in_channels=128, out_channels=16),
                guidance_encoder=dict(type='GuidanceEncoder', stride=8),
                decoder=dict(type='PlainDecoder', in_channels=32, combo=(1, 2), out_channels=42),
                codec=dict(type='QuantizedFlowCodec', num_bins=21, max_flow=50.0),
                loss=dict(type='QuantizedFlowLoss'),
            )
        )
    )


@pytest.fixture(scope='session')
def weights(tiny_config, tmp_path_factory):
    """A checkpoint of that network: random, with a head large enough for flow that is not all zero."""
    torch.manual_seed(0)
    model = MODELS.build(tiny_config.model)
    with torch.no_grad():
        model.decoder.head.weight.mul_(20)
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    torch.save(dict(meta=dict(iter=1), state_dict=model.state_dict()), path)
    return path


@pytest.fixture
def make_inferencer(tiny_config, weights):
    """A `CMPInferencer` of the tiny network with the options given."""
    return lambda **options: CMPInferencer(tiny_config, weights, 'cpu', **options)


@pytest.fixture
def inferencer(make_inferencer) -> CMPInferencer:
    return make_inferencer()


@pytest.fixture
def image() -> np.ndarray:
    """(45, 61, 3) uint8 RGB noise: sides that no stride divides."""
    return np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)


class ByHand:
    """Stands for an inferencer whose flow is a function of the arrows, and remembers what it was asked."""

    def __init__(self, flow):
        self.flow, self.asked, self.encoded = flow, [], 0

    def encode(self, image, working_size=None, **_):
        from cmp_mm.apis import EncodedImage

        self.encoded += 1
        size = tuple(image.shape[:2])
        return EncodedImage((torch.from_numpy(image),), size, tuple(working_size or size))

    def check_arrows(self, size, arrows, correction):
        pass

    def check_takes_pictures(self):
        pass

    def propagate(self, image, arrows, **_):
        from cmp_mm.apis import EncodedImage, parse_arrows

        size = image.size if isinstance(image, EncodedImage) else tuple(image.shape[:2])
        sets = parse_arrows(arrows, size)
        self.asked += sets
        return torch.stack([self.flow(one, size) for one in sets])


@pytest.fixture
def by_hand():
    return ByHand
