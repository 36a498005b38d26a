from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope, Registry

from cmp_mm.registry import MODELS
from cmp_mm.structures import FlowDataSample

MODEL_CONFIGS = Path(__file__).parents[2] / 'configs' / '_base_' / 'models'


@pytest.fixture
def model_cfg():
    """Config of a model file, its ResNet-50 replaced by a ResNet-18 to keep tests quick."""

    def load(name: str = 'cmp_resnet50_plain', light: bool = True) -> Config:
        cfg = Config.fromfile(MODEL_CONFIGS / f'{name}.py').model
        if light and cfg.backbone.type == 'ResNet':
            cfg.backbone.depth = 18
            cfg.neck.in_channels = 512
            if 'skip_channels' in cfg.decoder:
                cfg.decoder.skip_channels = (*cfg.decoder.skip_channels[:-1], 64)
        return cfg

    return load


@pytest.fixture
def build(model_cfg):
    """Build a model from a model file, with changes given as ``part=dict(...)``."""

    def make(name: str = 'cmp_resnet50_plain', **changes):
        torch.manual_seed(0)
        cfg = Config(dict(model=model_cfg(name)))
        cfg.merge_from_dict(dict(model=changes))
        return MODELS.build(cfg.model)

    return make


@pytest.fixture
def flow_batch():
    """A packed batch as the data loader gives it: images of the sizes given, one vector in each."""

    def make(*sizes: tuple[int, int], flow: float = 3.0) -> dict:
        generator = torch.Generator().manual_seed(0)
        images, samples = [], []
        for height, width in sizes:
            images.append(torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8))
            sample = FlowDataSample()
            sample.gt_flow = torch.full((2, height, width), flow)
            sample.guidance_points = torch.tensor([[height // 2, width // 3]])
            sample.guidance_vectors = torch.tensor([[flow, -flow]])
            samples.append(sample)
        return dict(inputs=dict(image=images), data_samples=samples)

    return make


@pytest.fixture
def network_inputs():
    """Normalised image and a guidance map with one vector, for ``model(inputs)``."""

    def make(height: int, width: int, batch: int = 1) -> dict:
        generator = torch.Generator().manual_seed(height * width)
        guidance = torch.zeros(batch, 4, height, width)
        guidance[:, :, height // 2, width // 3] = torch.tensor([5.0, -2.0, 1.0, 1.0])
        return dict(image=torch.randn(batch, 3, height, width, generator=generator), guidance=guidance)

    return make


@pytest.fixture
def other_package():
    """The model registry of some other package, whose scope is the default one during the test."""
    registry = Registry('model', parent=MMENGINE_MODELS, scope='other_package')
    with DefaultScope.overwrite_default_scope('other_package'):
        yield registry
    del MMENGINE_MODELS.children['other_package']
